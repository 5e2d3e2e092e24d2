"""``run.log``: all that was said of a run, in its folder, whatever becomes of it."""

from __future__ import annotations

import logging
import os
import re
import threading
from pathlib import Path

import msgpack
import pytest
from click.testing import CliRunner

from pipelines import run_log
from pipelines.cli import main
from pipelines.folder import RunFolder
from pipelines.run_log import RunLog
from pipelines.verification import verify
from tests.pipelines.small import Small, digests

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (INFO|WARNING|ERROR|DEBUG) +(\S+) \S+: ")


def _broken(small: Small, folder: Path) -> Small:
    """Two scenes of which the second has no mask that can be read."""
    own = small.copy(folder)
    next((own.world.root / "scenes" / own.items[1].id).glob("*udm2*.tif")).write_bytes(b"no image")
    return own


def _command(small: Small, out: Path, *more: str):
    only = [word for item in small.items[:2] for word in ("--only", item.id)]
    return CliRunner().invoke(main, [*small.command(out), *only, *more])


def test_it_tells_of_each_scene_and_goes_on_with_the_run(small: Small, tmp_path: Path):
    own, out = _broken(small, tmp_path / "world"), tmp_path / "run"
    assert _command(own, out).exit_code == 1
    first = (out / "run.log").read_text()
    lines = [line for line in first.splitlines() if not line.startswith("    ")]
    assert all(LINE.match(line) for line in lines), first
    assert "the run starts: darts_xr" in lines[0]
    assert "complete: 1 scene(s) done, 1 failed" in lines[-1]
    by_scene = {item.id: [line for line in lines if f" {item.id} " in line] for item in own.items[:2]}
    assert any("done, " in line and "read_and_predict" in line for line in by_scene[own.items[0].id])
    assert any("failed: " in line and "udm2" in line for line in by_scene[own.items[1].id])
    before = digests(out / "scenes")
    assert _command(own, out).exit_code == 1
    both = (out / "run.log").read_text()
    assert both.startswith(first)
    assert "the run goes on: darts_xr" in both.removeprefix(first)
    assert "done before" in both.removeprefix(first)  # at level INFO, which the terminal does not show
    assert digests(out / "scenes") == before
    assert {finding.what for finding in verify(out).findings} <= {f"scene {own.items[1].id}"}


def test_lines_of_a_process_without_the_log_travel_with_the_record(tmp_path: Path):
    log = logging.getLogger("darts_xr.test")
    with run_log.noting("20210701_a", own_process=True) as said:
        log.warning("a warning of the scene's own thread")
        with run_log.noting("20210701_b", own_process=True) as other:
            for text in (
                "a chunk of 20210701_a at s3://me:geheim@bucket", "a chunk of 20210701_b", "it names none",
            ):  # fmt: skip
                thread = threading.Thread(target=log.warning, args=(text,))
                thread.start()
                thread.join()
    assert said.warnings == ["a warning of the scene's own thread"]
    with RunLog(RunFolder(tmp_path), "a test") as here:
        here.take(msgpack.unpackb(msgpack.packb(said.lines)))
    text = (tmp_path / "run.log").read_text()
    assert "WARNING 20210701_a darts_xr.test: a warning of the scene's own thread\n" in text
    assert "WARNING 20210701_a darts_xr.test: a chunk of 20210701_a at s3://…@bucket\n" in text
    assert "20210701_b" not in text
    assert [line.scene for line in [*said.lines, *other.lines] if line.text == "it names none"] == [""]


def test_an_error_that_nobody_foresaw_is_there_with_its_traceback_and_without_secrets(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_: object) -> None:
        raise ZeroDivisionError("https://me:geheim@server/a.tif?sig=abc")

    monkeypatch.setattr("pipelines.detection._settle", fail)
    answer = _command(small, tmp_path / "run")
    assert answer.exit_code == 1
    told = (tmp_path / "run" / "run.log").read_text()
    assert "Traceback" in told
    assert "ZeroDivisionError" in told
    assert "geheim" not in told + answer.output
    assert str(tmp_path / "run" / "run.log") in answer.output
    assert "Traceback" not in answer.output


def test_what_others_chose_cannot_forge_a_line(tmp_path: Path):
    with RunLog(RunFolder(tmp_path), "a test") as said:
        said.say("done", scene="an id\nWARNING")
        logging.getLogger("darts_xr.somewhere").warning("an id\n2026-01-01T00:00:00.000Z INFO - x: \x1b[2J")
    text = (tmp_path / "run.log").read_text()
    assert "\n    2026-01-01" in text
    assert len([line for line in text.splitlines() if LINE.match(line) or not line.startswith(" ")]) == 3
    assert "an id\N{REPLACEMENT CHARACTER}WARNING run: done" in text
    assert "\x1b" not in text


@pytest.mark.parametrize("obstacle", ["a folder in its place", "a full disk"])
def test_a_log_that_cannot_be_written_stops_no_run_and_is_said_once(
    small: Small,
    tmp_path: Path,
    obstacle: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    out = tmp_path / "run"
    if obstacle == "a full disk":
        out.mkdir()
        os.symlink("/dev/full", out / "run.log")
    else:
        (out / "run.log").mkdir(parents=True)
    run = small.detect(out, small.items[:2])
    assert len(run.done) == 2
    assert caplog.text.count("the run goes on without it") == 1
    assert verify(run).findings == []


def test_in_an_object_store_it_is_sent_while_the_run_goes_on_and_goes_on_with_it(
    monkeypatch: pytest.MonkeyPatch,
):
    folder = RunFolder("memory://run-log-of-a-test")
    with RunLog(folder, "one") as said:
        said.say("kept until it is worth a request")
        assert not said.path.exists()
        monkeypatch.setattr(run_log, "_SEND_SECONDS", 0.0)
        said.say("sent", scene="20210701_a")
        assert "INFO    20210701_a run: sent" in said.path.read_text()
    with RunLog(folder, "two"):
        pass
    text = (folder.path / "run.log").read_text()
    assert text.index("the run starts: one") < text.index("the run goes on: two")
