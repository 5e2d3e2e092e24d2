"""Runs that are interrupted, whose workers die and whose own process is killed, against one that was left in peace."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pystac
import pytest
from click.testing import CliRunner

from pipelines.aggregation import aggregate
from pipelines.cli import main
from pipelines.records import Run, open_run
from tests.catalog import servers
from tests.pipelines.small import Small, digests, leftovers

PATIENCE = 240.0  # s; far more than needed, for the machine may be busy with other things


@pytest.fixture(scope="module")
def undisturbed(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return small.detect(tmp_path_factory.mktemp("undisturbed"))


class _Command:
    """A process that leads its own group, as a command in a terminal does."""

    def __init__(self, log: Path, *arguments: str) -> None:
        self.log = log  # a file: a pipe is held open by whichever child outlives the process
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, *arguments], stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )
        self.pid = self.process.pid

    @property
    def told(self) -> str:
        return self.log.read_text()

    def wait(self, seconds: float) -> int:
        """Exit code."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f"still at work after {seconds} s: {self.told}")


@contextmanager
def _command(log: Path, *arguments: str) -> Iterator[_Command]:
    """Start a command; in the end it and all its children are gone."""
    command = _Command(log, *arguments)
    try:
        yield command
    finally:
        family = _children(command)
        command.process.kill()
        command.process.wait()
        for child in family:
            if child.is_running():
                child.kill()


def _children(command: _Command) -> list[psutil.Process]:
    try:
        return psutil.Process(command.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _wait(condition: Callable[[], bool], command: _Command | None = None) -> None:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < PATIENCE
        if command is not None and command.process.poll() is not None:
            pytest.fail(f"ended before its time: {command.told}")
        time.sleep(0.02)


def _records(out: Path) -> int:
    """Scenes in the record so far."""
    return sum(path.read_text().count('{"id"') for path in (out / "records").glob("*.jsonl"))


# --- Ctrl-C ---------------------------------------------------------------------------------------------------

_MAIN = "from pipelines.cli import main; main()"


@pytest.mark.parametrize("where", [[], ["--cluster", "local"]], ids=["local", "cluster"])
def test_ctrl_c_finishes_the_scenes_in_flight_and_the_same_command_goes_on(
    small: Small, undisturbed: Run, tmp_path: Path, where: list[str]
):
    out, arguments = tmp_path / "run", small.command(tmp_path / "run")
    with _command(tmp_path / "log", "-c", _MAIN, *arguments, *where) as command:
        _wait(lambda: _records(out) >= 1, command)
        os.killpg(command.pid, signal.SIGINT)  # as a terminal does
        assert command.wait(PATIENCE) == 130, command.told
        told = command.told
    assert "scenes in flight are finished first" in told
    assert "the same command goes on" in told
    assert "Traceback" not in told
    assert "Restarting worker" not in told
    run = open_run(out)
    assert run.record["state"] == "interrupted"
    assert 1 <= run.record["counts"]["done"] == len(run.scenes) == _records(out) < 7
    assert all(scene["tries"] == 1 for scene in run.scenes)
    assert not leftovers(out)
    answer = CliRunner().invoke(main, arguments)
    assert answer.exit_code == 0, answer.output
    assert digests(out / "scenes") == digests(undisturbed.folder / "scenes")
    assert open_run(out).record["counts"] == undisturbed.record["counts"]


@pytest.mark.parametrize("where", [[], ["--cluster", "local"]], ids=["local", "cluster"])
def test_a_second_ctrl_c_ends_the_run_at_once(
    small: Small, undisturbed: Run, tmp_path: Path, where: list[str]
):
    out, arguments = tmp_path / "run", small.command(tmp_path / "run")
    with _command(tmp_path / "log", "-c", _MAIN, *arguments, *where) as command:
        _wait(lambda: _records(out) >= 1, command)
        family = _children(command)
        os.killpg(command.pid, signal.SIGINT)
        time.sleep(0.1)
        os.killpg(command.pid, signal.SIGINT)
        # A few seconds, on a machine that is not busy. A signal that comes when all is done and Python ends kills it
        # as such, which a shell shows as 130, too.
        assert command.wait(20) in (130, -signal.SIGINT), command.told
        _wait(lambda: not any(_alive(child) for child in family))
    run = open_run(out)
    assert run.record["state"] in ("stopped", "interrupted")
    assert {scene["state"] for scene in run.scenes} == {"done"}
    assert small.detect(out).record["counts"] == undisturbed.record["counts"]
    assert not leftovers(out)
    assert digests(out / "scenes") == digests(undisturbed.folder / "scenes")


# --- everything at once ---------------------------------------------------------------------------------------

_CHAOS = """
import os, random, signal, sys, threading, time
import darts_xr as dx
from pipelines.detection import detect
from pipelines.flow import Limits
from pipelines.settings import Rules, Settings

def kill_workers(cluster, rng, kills):
    for _ in range(kills):
        time.sleep(rng.uniform(0.2, 1.5))
        pids = [nanny.pid for nanny in list(cluster.workers.values()) if nanny.pid]
        if pids:
            os.kill(rng.choice(pids), signal.SIGKILL)
            print("killed a worker", flush=True)

items, model, auxiliary, out, seed, kills = sys.argv[1:]
ensemble = dx.load_ensemble(model, device="cpu")
with dx.start_cluster(n_workers=2, memory_limit="3GB", dashboard_address=None) as client:
    rules = Rules(border=1, min_pixels=8)
    murder = threading.Thread(target=kill_workers, args=(client.cluster, random.Random(int(seed)), int(kills)))
    started = []
    def on_scene(record, total):
        if "skipped" not in record and not started:
            started.append(murder.start())
    settings = Settings(models=ensemble, auxiliary=auxiliary, out=out, rules=rules)
    detect(items, settings, client=client, limits=Limits(delay=0.2), on_scene=on_scene)
"""


class _Grumpy:
    """A server whose first answers about images are 503."""

    def __init__(self, folder: Path, failures: int) -> None:
        self.answer, self.failures, self.failed = servers.files(folder), failures, 0
        self.lock = threading.Lock()

    def __call__(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> servers.Answer:
        with self.lock:
            if self.failed < self.failures:
                self.failed += 1
                return 503, b"come back later", {}
        return self.answer(method, path, body, headers)


def _eighteen(small: Small, folder: Path, server: str) -> Path:
    """Scenes as an ItemCollection: the rendered ones under several ids, one corrupt, one behind a server."""
    items = []
    for number in range(18):
        item = small.items[number % 7].clone()
        day, moment, _, satellite = item.id.split("_")
        item.id = f"{day}_{moment}_{number:02d}_{satellite}"
        items.append(item)
    image = Path(items[5].assets["image"].href)
    corrupt = folder / f"{items[5].id}_3B_AnalyticMS_SR.tif"
    corrupt.write_bytes(image.read_bytes()[:4000])
    items[5].assets["image"].href = str(corrupt)
    image = Path(items[2].assets["image"].href)
    items[2].assets["image"].href = f"{server}/{image.relative_to(small.world.root)}"
    pystac.ItemCollection(items).save_object(str(folder / "items.json"))
    return folder / "items.json"


@pytest.mark.slow
def test_a_run_through_chaos_gives_the_bytes_of_a_run_in_peace(small: Small, tmp_path: Path):
    grumpy = _Grumpy(small.world.root, failures=2)
    with servers.serve(grumpy) as server:
        items = _eighteen(small, tmp_path, server)
        out = tmp_path / "chaos"
        arguments = ["-c", _CHAOS, *map(str, (items, small.model, small.world.auxiliary, out))]
        with _command(tmp_path / "first", *arguments, "1", "2") as first:
            _wait(lambda: _records(out) >= 5, first)
            orphans = _children(first)
            os.kill(first.pid, signal.SIGKILL)
            first.wait(20)
            assert len(orphans) >= 2
            assert open_run(out).record["state"] == "running"
            with _command(tmp_path / "second", *arguments, "4", "2") as second:
                assert second.wait(PATIENCE) == 0, second.told
                assert "killed a worker" in second.told
            _wait(lambda: not any(_alive(orphan) for orphan in orphans))
        assert grumpy.failed == 2
        peaceful = small.detect(tmp_path / "peace", items)

    disturbed = open_run(out)
    assert disturbed.record["state"] == "complete"
    failed = json.loads(items.read_text())["features"][5]["id"]
    for run in (disturbed, peaceful):
        assert [scene["id"] for scene in run.failed] == [failed]
        assert "DamagedFileError" in run.failed[0]["reason"]
        ids = [scene["id"] for scene in run.scenes]
        assert len(ids) == len(set(ids)) == 18
        links = [link["href"] for link in json.loads((run.folder / "catalog.json").read_text())["links"][1:]]
        assert len(links) == len(set(links)) == 17
        assert not leftovers(run.folder)
    assert disturbed.record["counts"] == peaceful.record["counts"]
    assert digests(out / "scenes") == digests(tmp_path / "peace" / "scenes")
    for run in (disturbed, peaceful):
        assert len(aggregate(run, name="chaos_synthetic").level1) > 0
    assert digests(out / "products") == digests(tmp_path / "peace" / "products")
    shutil.rmtree(out)
