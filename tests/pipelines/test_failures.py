"""What goes wrong in a run and what is left of it: servers, scenes, disks, ids; and what is told of it."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import torch
from click.testing import CliRunner, Result
from rich.console import Console

import darts_xr as dx
from darts_xr.errors import CatalogError, DeviceError, OutputError, PipelineError, RemoteReadError
from darts_xr.inference import batches, forward
from darts_xr.inference.core_network import WholeNetwork
from pipelines import console, scenes, throughput
from pipelines.aggregation import aggregate
from pipelines.cli import main
from pipelines.detection import plan
from pipelines.flow import Limits
from pipelines.records import Run, open_run
from pipelines.reports import report
from pipelines.settings import Rules
from pipelines.throughput import Bench, bench
from tests.catalog.deliveries import validate
from tests.inference.worlds import scene_of
from tests.pipelines.small import Seen, Small, digests, leftovers, listed

QUICK = Limits(delay=0.05)


@pytest.fixture(scope="module")
def undisturbed(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The first three scenes, with nothing in the way."""
    return small.detect(tmp_path_factory.mktemp("undisturbed"), small.items[:3])


def _call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def _saved(items: list[pystac.Item], folder: Path) -> Path:
    pystac.ItemCollection(items).save_object(str(folder / "items.json"))
    return folder / "items.json"


def _command(small: Small, source: Path, out: Path) -> list[str]:
    verb, _, *options = small.command(out)
    return [verb, str(source), *options]


def _corrupt(items: list[pystac.Item], folder: Path) -> list[pystac.Item]:
    """The same items with images that are none."""
    spoilt = [item.clone() for item in items]
    for item in spoilt:
        path = folder / f"{item.id}_3B_AnalyticMS_SR.tif"
        path.write_bytes(b"no image")
        item.assets["image"].href = str(path)
    return spoilt


# --- scenes and servers that fail -----------------------------------------------------------------------------


class _Flaky:
    """In place of the work on a scene: fails as often as asked, then does it."""

    def __init__(self, error: Callable[[], Exception], failures: dict[str, int]) -> None:
        self.error, self.failures, self.work = error, dict(failures), scenes.detect_scene
        self.lock = threading.Lock()

    def __call__(self, task: Any, job: Any) -> Any:
        with self.lock:
            left = self.failures.get(task.id, 0)
            self.failures[task.id] = left - 1
        if left > 0:
            raise self.error()
        return self.work(task, job)


def test_a_server_that_fails_twice_costs_two_more_tries(
    small: Small, undisturbed: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    items = small.items[:3]
    flaky = _Flaky(lambda: RemoteReadError("503 for image.tif"), {items[1].id: 2})
    monkeypatch.setattr(scenes, "detect_scene", flaky)
    run = small.detect(tmp_path, items, limits=QUICK)
    tries = {scene["id"]: scene["tries"] for scene in run.scenes}
    assert tries == {items[0].id: 1, items[1].id: 3, items[2].id: 1}
    (scene,) = (scene for scene in run.scenes if scene["tries"] == 3)
    assert scene["earlier_reasons"] == ["RemoteReadError: 503 for image.tif"] * 2
    assert digests(tmp_path / "scenes") == digests(undisturbed.folder / "scenes")
    assert listed(report(run))["tries"][[scene["id"] for scene in run.scenes].index(items[1].id)] == 3


def test_a_server_that_stays_away_fails_its_scene_alone(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    items = small.items[:2]
    flaky = _Flaky(lambda: ConnectionResetError("gone"), {items[0].id: 99})
    monkeypatch.setattr(scenes, "detect_scene", flaky)
    run = small.detect(tmp_path, items, limits=Limits(tries=3, delay=0.01))
    assert [(scene["id"], scene["tries"]) for scene in run.failed] == [(items[0].id, 3)]
    assert "ConnectionResetError: gone" in run.failed[0]["reason"]
    assert [scene["id"] for scene in run.done] == [items[1].id]


def _spoil_the_gpu() -> int:
    """Make this worker's process one whose GPU has failed; as long as it lives, no scene can be done there."""

    def fail(task: Any, job: Any) -> Any:
        raise DeviceError(f"{task.id}: cuda:0 failed")

    scenes.detect_scene = fail
    return os.getpid()


def test_a_worker_whose_gpu_failed_is_started_anew_and_its_scenes_are_done_there(
    small: Small, undisturbed: Run, tmp_path: Path
):
    items = small.items[:3]
    with dx.start_cluster(n_workers=1, threads_per_worker=2, dashboard_address=None) as client:
        (broken,) = client.run(_spoil_the_gpu).values()
        run = small.detect(tmp_path, items, client=client, limits=Limits(delay=0.05))
        (anew,) = client.run(os.getpid).values()
    assert anew != broken
    assert {scene["state"] for scene in run.scenes} == {"done"}
    reasons = [reason for scene in run.scenes for reason in scene["earlier_reasons"]]
    # The scenes that were in the process when it failed; none was given to it afterwards.
    assert 1 <= len(reasons) <= 2
    assert all("DeviceError" in reason and "cuda:0 failed" in reason for reason in reasons)
    assert digests(tmp_path / "scenes") == digests(undisturbed.folder / "scenes")


def test_a_gpu_that_failed_in_this_process_is_told_and_the_process_lives(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    items = small.items[:2]
    monkeypatch.setattr(
        scenes, "detect_scene", _Flaky(lambda: DeviceError("cuda:0 failed"), {items[0].id: 9})
    )
    run = small.detect(tmp_path, items, limits=Limits(tries=2, delay=0.01))
    assert [(scene["id"], scene["tries"]) for scene in run.failed] == [(items[0].id, 2)]
    assert "cuda:0 failed" in run.failed[0]["reason"]


def test_the_bare_networks_of_bench_are_given_batches_as_large_as_those_of_predict(
    small: Small, monkeypatch: pytest.MonkeyPatch
):
    ensemble = dx.load_ensemble(small.model, device="cpu")
    side = ensemble.tile + 2 * ensemble.margin
    shapes: set[tuple[int, ...]] = set()

    class Noting(torch.nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            shapes.add(tuple(pixels.shape))
            return pixels[:, :1]

    for module in (throughput, forward):
        monkeypatch.setattr(
            module, "network_of", lambda *_, **__: (WholeNetwork(Noting()), torch.device("cpu"))
        )
    for module in (throughput, batches):
        monkeypatch.setattr(module, "batch_pixels", lambda *_: 3 * side**2)
    throughput.bare_members(ensemble, side, 1)
    scene = scene_of(np.ones((2 * ensemble.tile, 2 * ensemble.tile), bool))
    dx.predict(scene, ensemble).compute()
    taken = {shape for shape in shapes if len(shape) == 4 and shape[2:] == (side, side)}
    assert max(shape[0] for shape in taken) == 3
    shapes.clear()
    throughput.bare_members(ensemble, side, 1)
    assert shapes == {(3, 3, side, side)}


@pytest.mark.parametrize(
    "error", [KeyError("odd"), RuntimeError("odd"), MemoryError("odd"), AssertionError("odd")]
)
def test_an_unforeseen_error_fails_its_scene_alone_and_the_run_goes_on(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
):
    items = small.items[:2]
    with monkeypatch.context() as patch:
        patch.setattr(scenes, "detect_scene", _Flaky(lambda: error, {items[0].id: 99}))
        run = small.detect(tmp_path, items, limits=QUICK)
    assert [scene["id"] for scene in run.failed] == [items[0].id]
    assert "odd" in run.failed[0]["reason"]
    seen = Seen()
    run = small.detect(tmp_path, items, on_scene=seen)  # the record of such a failure can be gone on from
    assert not seen.done
    run = small.detect(tmp_path, items, limits=Limits(retry_failed=True))
    assert run.record["counts"]["done"] == 2


def test_too_many_failures_end_the_run_with_the_numbers_and_it_goes_on(small: Small, tmp_path: Path):
    items = [*_corrupt(small.items[:4], tmp_path), *small.items[4:]]
    out = tmp_path / "run"
    with pytest.raises(PipelineError, match=r"stopped after [23] failed scenes, more than the 1 allowed"):
        small.detect(out, items, limits=Limits(max_failures=1))
    stopped = open_run(out)
    assert stopped.record["state"] == "too many failures"
    assert len(stopped.scenes) < 5
    assert not leftovers(out)
    run = small.detect(out, items)
    ids = [scene["id"] for scene in run.scenes]
    assert sorted(ids) == sorted(item.id for item in items)
    assert len(run.failed) == 4
    assert listed(report(run))["id"] == sorted(ids)


def test_exit_codes_and_what_the_command_says(small: Small, tmp_path: Path):
    spoilt = _corrupt(small.items[:2], tmp_path)
    source = _saved([*spoilt, small.items[2]], tmp_path)
    command = _command(small, source, tmp_path / "run")
    failed = _call(*command)
    assert failed.exit_code == 1
    for item in spoilt:
        assert f"failed {item.id}: DamagedFileError" in failed.stderr
    again = _call(*command, "--json")
    assert again.exit_code == 1  # not all is done
    assert "3 as before" in again.stderr
    told = json.loads(again.stdout)
    assert told["state"] == "complete"
    assert told["counts"]["failed"] == len(told["failed"]) == 2
    stopped = _call(*command, "--retry-failed", "--max-failures", 0)
    assert stopped.exit_code == 1
    assert "more than the 0 allowed" in stopped.stderr
    for item, whole in zip(spoilt, small.items, strict=False):
        shutil.copy(whole.assets["image"].href, item.assets["image"].href)
    assert _call(*command).exit_code == 0
    nothing = _call(*command)
    assert nothing.exit_code == 0
    assert "3 as before" in nothing.stderr


def test_two_runs_of_one_cluster_do_not_take_each_others_results(small: Small, tmp_path: Path):
    from distributed import Client

    kept: list[Any] = []
    with Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None) as client:
        submit = client.submit
        client.submit = lambda *args, **options: kept.append(submit(*args, **options)) or kept[-1]
        for border in (1, 2):  # the futures of the first run are still held, as after an error in a notebook
            run = small.detect(
                tmp_path, small.items[:1], client=client, rules=Rules(border=border, min_pixels=8)
            )
            made_by = dx.load_items(tmp_path / "catalog.json")[0].properties["darts:rules"]
            assert json.loads(made_by)["border"] == border == run.record["rules"]["border"]


# --- disks that are full or read-only -------------------------------------------------------------------------

_FILES_OF_LIMITED_SIZE = """
import json, resource, sys
import darts_xr as dx
from darts_xr.errors import OutputError
from pipelines.detection import detect
from pipelines.settings import Rules, Settings

items, model, auxiliary, out, *limits = sys.argv[1:]
ensemble = dx.load_ensemble(model, device="cpu")
for limit in map(int, limits):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        rules = Rules(border=1, min_pixels=8)
        detect(items, Settings(models=ensemble, auxiliary=auxiliary, out=f"{out}/{limit}", rules=rules))
    except OutputError as error:
        print(json.dumps(str(error)), flush=True)
    else:
        print("null", flush=True)
"""


def test_files_that_cannot_grow_are_never_left_cut_short(small: Small, undisturbed: Run, tmp_path: Path):
    source = _saved(small.items[:3], tmp_path)
    scene = undisturbed.folder / "scenes" / small.items[0].id
    sizes = sorted(path.stat().st_size for path in scene.iterdir())
    # Just short of each file, and of the first lines of the record, and of the run's summary.
    limits = {size - 1: True for size in sizes} | {100: True, 900: True, max(sizes) * 3: False}
    for limit, redone in limits.items():
        if redone:  # results of before, made with other rules
            shutil.copytree(undisturbed.folder, tmp_path / "runs" / str(limit))
            text = (tmp_path / "runs" / str(limit) / "records" / "000001.jsonl").read_text()
            path = tmp_path / "runs" / str(limit) / "records" / "000001.jsonl"
            path.write_text(text.replace('"parameters":"', '"parameters":"other'))
    before = digests(undisturbed.folder / "scenes")
    arguments = [str(source), str(small.model), str(small.world.auxiliary), str(tmp_path / "runs")]
    answer = subprocess.run(
        [sys.executable, "-c", _FILES_OF_LIMITED_SIZE, *arguments, *map(str, limits)],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    told = [json.loads(line) for line in answer.stdout.splitlines()]
    assert len(told) == len(limits)
    for limit, message in zip(limits, told, strict=True):
        out = tmp_path / "runs" / str(limit)
        assert not leftovers(out)
        assert digests(out / "scenes") == before  # the old files, or the same again
        for document in [*out.glob("*.json"), *out.glob("scenes/*/item.json")]:
            json.loads(document.read_text())
        for records in (out / "records").iterdir():
            assert all({"id", "run"} & json.loads(line).keys() for line in records.read_text().splitlines())
        if message is None:
            assert limit > max(sizes)
        else:
            assert "File too large" in message
            assert "start the same run again: it goes on where it stopped" in message
    assert told[-1] is None
    run = small.detect(tmp_path / "runs" / str(min(limits)), small.items[:3])
    assert run.record["counts"] == undisturbed.record["counts"]
    assert digests(run.folder / "scenes") == before


@contextmanager
def _small_disk(place: Path, size: str) -> Iterator[Callable[[str], None]]:
    """A disk of a few bytes; yields a function that mounts it again with other options."""
    place.mkdir()
    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], capture_output=True
    )
    if made.returncode:
        pytest.skip(f"no small disk can be mounted here: {made.stderr.decode().strip()}")

    def again(options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True)

    try:
        yield again
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_disk_stops_the_run_and_the_same_command_finishes_it_later(
    small: Small, undisturbed: Run, tmp_path: Path
):
    source = _saved(small.items[:3], tmp_path)
    with _small_disk(tmp_path / "disk", "300k") as remount:
        out = tmp_path / "disk" / "run"
        command = _command(small, source, out)
        full = _call(*command)
        assert full.exit_code == 1
        assert "OutputError" in full.stderr
        assert "No space left on device" in full.stderr
        assert "it goes on where it stopped" in " ".join(full.stderr.split())
        for name, digest in digests(out / "scenes").items() if (out / "scenes").exists() else ():
            if ".part/" not in name:  # a scene that was in flight may still be giving up
                assert digests(undisturbed.folder / "scenes")[name] == digest
        remount("size=20m")
        assert _call(*command).exit_code == 0
        assert not leftovers(out)
        assert digests(out / "scenes") == digests(undisturbed.folder / "scenes")
        assert open_run(out).record["counts"] == undisturbed.record["counts"]


def test_products_on_a_full_disk_leave_those_of_before(undisturbed: Run, tmp_path: Path):
    with _small_disk(tmp_path / "disk", "20m") as remount:
        out = Path(shutil.copytree(undisturbed.folder, tmp_path / "disk" / "run"))
        aggregate(out, name="full_synthetic")
        whole = digests(out)
        for path in (out / "products").glob("*_level1.parquet"):
            path.write_bytes(b"of before")  # what is as it should be would not be written again
        before = digests(out)
        used = sum(path.stat().st_blocks * 512 for path in out.rglob("*"))
        remount(f"size={used // 1024 + 40}k")
        failed = _call("aggregate", out, "--name", "full_synthetic")
        assert failed.exit_code == 1
        assert "could not be written" in failed.stderr
        assert digests(out) == before
        remount("size=20m")
        assert _call("aggregate", out, "--name", "full_synthetic").exit_code == 0
        assert digests(out) == whole


def test_a_read_only_folder_is_refused_before_anything_is_done(
    small: Small, undisturbed: Run, tmp_path: Path
):
    source = _saved(small.items[:3], tmp_path)
    with _small_disk(tmp_path / "disk", "20m") as remount:
        out = Path(shutil.copytree(undisturbed.folder, tmp_path / "disk" / "run"))
        before = digests(out)
        remount("ro")
        for target in (out, tmp_path / "disk" / "new"):
            refused = _call(*_command(small, source, target))
            assert refused.exit_code == 1
            assert f"{target} cannot be written: Read-only file system" in refused.stderr
        assert digests(out) == before
        remount("rw")
        assert _call(*_command(small, source, out)).exit_code == 0


def test_a_target_below_a_file_is_no_folder(small: Small, tmp_path: Path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="cannot be written"):
        small.detect(tmp_path / "file" / "run", small.items[:1])
    assert (tmp_path / "file").read_text() == "mine"


# --- plans ----------------------------------------------------------------------------------------------------


def test_a_plan_says_what_would_be_done_and_writes_nothing(
    small: Small, undisturbed: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = _saved(small.items[:3], tmp_path)
    answer = _call(*_command(small, source, tmp_path / "run"), "--dry-run", "--json")
    assert answer.exit_code == 0, answer.output
    assert not (tmp_path / "run").exists()
    told = json.loads(answer.stdout)
    ids = sorted(item.id for item in small.items[:3])
    assert told["steps"] == [{"id": item_id, "todo": True, "reason": "new"} for item_id in ids]
    assert told["scenes"] == 3
    assert told["pixels"] == 3 * 256**2
    files = [item.assets[key].href for item in small.items[:3] for key in ("image", "udm2")]
    assert told["bytes"] == sum(os.path.getsize(file) for file in files)
    assert told["seconds"] is None
    shown = _call(*_command(small, source, tmp_path / "run"), "--dry-run")
    assert "no darts-xr bench yet" in shown.stdout

    before = digests(undisturbed.folder)
    found = plan(small.items[:4], small.settings(undisturbed.folder))
    assert [step["reason"] for step in found.steps if not step["todo"]] == ["done before"] * 3
    assert [step["id"] for step in found.steps if step["todo"]] == [small.items[3].id]
    assert (found.scenes, found.pixels) == (1, 256**2)
    found = plan(small.items[:3], small.settings(undisturbed.folder, rules=Rules(threshold=0.9)))
    assert {step["reason"] for step in found.steps} == {"again, since its parameters changed"}
    assert digests(undisturbed.folder) == before


def test_the_expected_time_is_that_of_the_last_bench_with_these_networks(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    result = bench(Bench((str(small.model),), device="cpu", size=256, repeats=1))
    settings = small.settings(tmp_path / "run")
    found = plan(small.items[:3], settings)
    rate = result["measurements"][0]["per_worker"] / result["valid_share"]
    assert found.seconds == pytest.approx(3 * 256**2 / rate)
    halved = plan(small.items[:3], settings, workers=2)
    assert halved.seconds == pytest.approx(found.seconds / 2)
    assert plan(small.items[:3], replace(settings, models=("demo",))).seconds is None


# --- ids that mean harm ---------------------------------------------------------------------------------------

HOSTILE = (
    "../../escape",
    "/absolute/../path",
    "x" * 300,
    "two\nlines\r",
    "bell\x07 and \x1b[31mred",
    "<script>alert('&amp;')</script>",
    "a[/red]b [bold]$x_{$",
)


def test_hostile_ids_stay_in_the_run_folder_and_out_of_the_pages(small: Small, tmp_path: Path):
    items = [item.clone() for item in small.items]
    for item, name in zip(items, HOSTILE, strict=True):
        item.id = name
    source, out = _saved(items, tmp_path), tmp_path / "deep" / "er" / "run"
    answer = _call(*_command(small, source, out))
    assert answer.exit_code == 0, answer.output
    assert "\x1b" not in answer.output
    assert "\x07" not in answer.output
    written = {path for path in tmp_path.rglob("*") if path.is_file()} - {source}
    assert all(out in path.parents for path in written)
    assert len(list((out / "scenes").iterdir())) == len(HOSTILE)
    assert {path.parent.parent for path in out.rglob("item.json")} == {out / "scenes"}

    run = open_run(out)
    assert {scene["id"] for scene in run.scenes} == set(HOSTILE)
    page = report(run)
    assert set(listed(page)["id"]) == set(HOSTILE)
    assert "<script>alert" not in page.read_text()
    seen = Seen()
    small.detect(out, source, on_scene=seen)
    assert not seen.done

    validate(json.loads((out / "catalog.json").read_text()))
    catalog = pystac.Catalog.from_file(str(out / "catalog.json"))
    found = list(catalog.get_items(recursive=True))
    assert {item.id for item in found} == set(HOSTILE)
    for path in out.glob("scenes/*/item.json"):
        validate(json.loads(path.read_text()))
    near = [scene["id"] for scene in run.scenes if scene["id"] != HOSTILE[6]]
    cube = dx.open_cube(dx.search(out / "catalog.json", ids=near), bands=["probability"])
    assert cube.sizes["time"] == 6
    assert len(aggregate(run).coverage["level1"]) == len(HOSTILE)


def test_hostile_ids_of_failed_scenes_are_told_as_they_are(small: Small, tmp_path: Path):
    items = _corrupt(small.items[:1], tmp_path)
    items[0].id = HOSTILE[5] + HOSTILE[6]
    answer = _call(*_command(small, _saved(items, tmp_path), tmp_path / "run"))
    assert answer.exit_code == 1
    assert "a[/red]b [bold]" in answer.stderr
    page = report(tmp_path / "run").read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page


# --- the live view --------------------------------------------------------------------------------------------


def test_the_live_view_shows_scenes_pixels_and_failures(monkeypatch: pytest.MonkeyPatch):
    screen = io.StringIO()
    monkeypatch.setattr(console, "notes", Console(file=screen, force_terminal=True, width=150))
    done = {"state": "done", "pixels": 5_000_000, "counts": {"n_objects": 3}}
    with console.steps() as view:
        view.scene({"id": "first", **done, "skipped": "done before"}, 4)
        view.scene({"id": "second", **done}, 4)
        view.scene({"id": "third [/]", "state": "failed", "reason": "DamagedFileError: cut [short"}, 4)
    shown = screen.getvalue()
    last = [line for line in shown.splitlines() if "Mpx/s" in line][-1]
    assert "3/4" in last
    assert " 0.00 Mpx/s" not in last
    assert "1 as before" in last
    assert "1 failed" in last
    assert "third [/]: failed" in last
    assert "DamagedFileError: cut [short" in shown


def test_errors_of_the_command_are_shown_as_they_are(tmp_path: Path):
    answer = _call("detect", tmp_path / "[red]nothing[/].json", "--auxiliary", "neutral")
    assert answer.exit_code == 1
    assert "[red]nothing[/].json" in answer.stderr


def test_a_source_that_cannot_be_used_leaves_no_folder(small: Small, tmp_path: Path):
    (tmp_path / "none.json").write_text('{"type": "FeatureCollection", "features": []}')
    for source in (tmp_path / "none.json", tmp_path / "missing.json", tmp_path):
        with pytest.raises(CatalogError):
            small.detect(tmp_path / "run", source)
    assert not (tmp_path / "run").exists()
