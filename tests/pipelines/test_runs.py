"""Runs that go on: what is done again and why, what is refused, and who holds the folder."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import geopandas as gpd
import pytest
import shapely

import darts_xr as dx
from darts_xr.errors import OutputError, PipelineError, RunLockedError
from pipelines.aggregation import aggregate
from pipelines.detection import plan
from pipelines.flow import Limits
from pipelines.folder import RunFolder
from pipelines.records import Run, open_run
from pipelines.reports import report
from pipelines.settings import Rules
from tests.inference.worlds import lively
from tests.pipelines.small import RULES, Seen, Small, digests, leftovers, listed, times

FIRST, LAST = 0, 6  # of two sites


@pytest.fixture(scope="module")
def two(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of two scenes of two sites, for tests that leave it as it is or copy it."""
    items = small.items
    return small.detect(tmp_path_factory.mktemp("two"), [items[FIRST], items[LAST]])


@pytest.fixture
def mine(two: Run, tmp_path: Path) -> Path:
    """A copy of that run's folder."""
    return Path(shutil.copytree(two.folder, tmp_path / "run"))


@pytest.fixture
def pair(small: Small) -> list:
    items = small.items
    return [items[FIRST], items[LAST]]


def _touch(path: str | Path) -> None:
    about = os.stat(path)
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns + 1_000_000))


def test_a_finished_run_is_left_as_it_is_and_says_so(
    small: Small, pair: list, mine: Path, caplog: pytest.LogCaptureFixture
):
    before, seen = times(mine / "scenes"), Seen()
    records = digests(mine / "records")
    with caplog.at_level(logging.INFO, logger="pipelines"):
        run = small.detect(mine, pair, on_scene=seen)
    assert times(mine / "scenes") == before
    assert digests(mine / "records") == records
    assert not seen.done
    assert seen.skipped == {item.id: "done before" for item in pair}
    assert caplog.text.count("done before") == 2
    assert run.record["state"] == "complete"
    assert run.record["counts"]["done"] == 2


def _other_network(folder: Path) -> Path:
    import torch

    from darts_xr.inference import Architecture, save_checkpoint

    architecture = Architecture("Unet", "resnet18", 3, (16, 8, 8), 3)
    torch.manual_seed(1)
    save_checkpoint(
        folder / "other.safetensors", lively(architecture.build(), 1), name="other", architecture=architecture,
        bands=dx.cube.select_bands(["red", "nir", "slope"]), tile=256, margin=16, training={}, licence="MIT",
    )  # fmt: skip
    return folder / "other.safetensors"


@pytest.mark.parametrize("what", ["parameters", "tile", "checkpoints"])
def test_other_rules_tiles_and_networks_do_all_scenes_again(
    small: Small, pair: list, mine: Path, tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture
):
    if what == "parameters":
        changes = {"rules": Rules(threshold=0.6, border=1, min_pixels=8)}
    elif what == "tile":
        what, changes = (
            "parameters",
            {"models": dx.load_ensemble(small.model, device="cpu", tile=64, margin=32)},
        )
    else:
        changes = {"models": [_other_network(tmp_path)]}
    before, seen = digests(mine / "scenes"), Seen()
    small.detect(mine, pair, on_scene=seen, **changes)
    assert sorted(seen.done) == sorted(item.id for item in pair)
    assert caplog.text.count(f"again, since its {what} changed") == 2
    assert digests(mine / "scenes") != before
    again = Seen()
    small.detect(mine, pair, on_scene=again, **changes)
    assert not again.done


@pytest.mark.parametrize("asset", ["image", "udm2"])
def test_a_replaced_file_of_a_scene_does_that_scene_again(
    small: Small, tmp_path: Path, asset: str, caplog: pytest.LogCaptureFixture
):
    own = small.copy(tmp_path / "world")
    pair = [own.items[FIRST], own.items[LAST]]
    own.detect(tmp_path / "run", pair)
    before = digests(tmp_path / "run" / "scenes")
    _touch(pair[1].assets[asset].href)
    seen = Seen()
    own.detect(tmp_path / "run", pair, on_scene=seen)
    assert seen.done == [pair[1].id]
    assert f"{pair[1].id} is done again, since its item changed" in caplog.text
    assert digests(tmp_path / "run" / "scenes") == before


def test_changed_layers_do_the_scenes_near_them_again(
    small: Small, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    own = small.copy(tmp_path / "world")
    pair = [own.items[FIRST], own.items[LAST]]
    works = gpd.read_file(own.world.infrastructure)
    own.detect(tmp_path / "run", pair, infrastructure=works)
    _touch(own.world.root / "auxiliary" / "dem_001.tif")
    seen = Seen()
    own.detect(tmp_path / "run", pair, infrastructure=works, on_scene=seen)
    assert seen.done == [pair[1].id]
    assert "again, since its auxiliary changed" in caplog.text
    near = shapely.geometry.shape(pair[0].geometry).centroid.buffer(1e-4)
    works.loc[len(works), ["kind", "geometry"]] = ["pad", near]
    seen = Seen()
    own.detect(tmp_path / "run", pair, infrastructure=works, on_scene=seen)
    assert seen.done == [pair[0].id]
    assert "again, since its filters changed" in caplog.text


@pytest.mark.parametrize(
    "name",
    ["probability.tif", "binary.tif", "level1.parquet", "removed.parquet", "quicklook.png", "item.json", "."],
)
def test_scenes_whose_files_are_gone_are_done_again(
    small: Small, pair: list, two: Run, mine: Path, name: str, caplog: pytest.LogCaptureFixture
):
    place = mine / "scenes" / pair[0].id
    if name == ".":
        shutil.rmtree(place)
    else:
        (place / name).unlink()
    seen = Seen()
    small.detect(mine, pair, on_scene=seen)
    assert seen.done == [pair[0].id]
    assert f"{pair[0].id} is done again, since its files are gone or damaged" in caplog.text
    assert digests(mine / "scenes") == digests(two.folder / "scenes")


def test_failed_scenes_stay_failed_until_asked_for_or_repaired(small: Small, tmp_path: Path):
    own, out = small.copy(tmp_path / "world"), tmp_path / "run"
    pair = [own.items[FIRST], own.items[LAST]]
    image = Path(pair[0].assets["image"].href)
    whole = image.read_bytes()
    image.write_bytes(whole[: len(whole) // 2])
    run = own.detect(out, pair)
    assert [scene["id"] for scene in run.failed] == [pair[0].id]
    reason = run.failed[0]["reason"]

    seen = Seen()
    run = own.detect(out, pair, on_scene=seen)
    assert not seen.done
    assert seen.skipped[pair[0].id] == f"failed before: {reason}"
    assert len(run.failed) == 1

    seen = Seen()
    run = own.detect(out, pair, on_scene=seen, limits=Limits(retry_failed=True))
    assert seen.done == [pair[0].id]
    assert len(run.failed) == 1

    image.write_bytes(whole)
    seen = Seen()
    run = own.detect(out, pair, on_scene=seen)
    assert seen.done == [pair[0].id]
    assert not run.failed
    assert run.record["counts"]["done"] == 2


def test_a_scene_that_fails_where_it_was_done_before_leaves_the_catalogue(small: Small, tmp_path: Path):
    own, out = small.copy(tmp_path / "world"), tmp_path / "run"
    pair = [own.items[FIRST], own.items[LAST]]
    own.detect(out, pair)
    Path(pair[0].assets["image"].href).write_bytes(b"no image")
    run = own.detect(out, pair)
    assert [scene["id"] for scene in run.failed] == [pair[0].id]
    catalog = json.loads((out / "catalog.json").read_text())
    assert [link["href"] for link in catalog["links"][1:]] == [f"./scenes/{pair[1].id}/item.json"]
    assert len(aggregate(run).coverage["level1"]) == 1


def test_only_some_scenes_leave_the_others_alone(small: Small, pair: list, mine: Path):
    one, other = pair
    before = times(mine / "scenes" / other.id)
    shutil.rmtree(mine / "scenes" / one.id)
    seen = Seen()
    run = small.detect(mine, pair, only=[one.id], on_scene=seen)
    assert seen.done == [one.id]
    assert times(mine / "scenes" / other.id) == before
    assert [scene["id"] for scene in run.scenes] == sorted([one.id, other.id])


def test_scenes_of_other_parameters_are_not_mixed(small: Small, pair: list, mine: Path):
    before = digests(mine)
    other = {"rules": Rules(threshold=0.7), "only": [pair[0].id]}
    with pytest.raises(PipelineError, match=rf"1 scene\(s\) made with other parameters.*{pair[1].id}"):
        small.detect(mine, pair, **other)
    assert digests(mine) == before
    with pytest.raises(PipelineError, match="other parameters"):
        plan(pair, small.settings(mine, rules=other["rules"]), only=other["only"])


def test_two_items_of_one_id_are_refused_before_anything_is_done(small: Small, pair: list, tmp_path: Path):
    twin = pair[1].clone()
    twin.id = pair[0].id
    with pytest.raises(PipelineError, match=f"more than once.*{pair[0].id}"):
        small.detect(tmp_path / "run", [*pair, twin])
    assert not (tmp_path / "run" / "run.json").exists()


# --- records that a killed run left ---------------------------------------------------------------------------


def _journal(folder: Path) -> Path:
    (path,) = (folder / "records").iterdir()
    return path


def test_a_torn_last_line_is_ignored_aloud(
    small: Small, pair: list, two: Run, mine: Path, caplog: pytest.LogCaptureFixture
):
    text = _journal(mine).read_text()
    _journal(mine).write_text(text[:-30])
    torn = json.loads(text.splitlines()[-1])["id"]
    seen = Seen()
    run = small.detect(mine, pair, on_scene=seen)
    assert seen.done == [torn]
    assert "killed while it wrote the last line" in caplog.text
    assert run.record["counts"] == two.record["counts"]
    seen = Seen()
    small.detect(mine, pair, on_scene=seen)
    assert not seen.done


def test_a_last_line_without_its_end_counts_where_it_is_whole(small: Small, pair: list, mine: Path):
    _journal(mine).write_text(_journal(mine).read_text().rstrip("\n"))
    seen = Seen()
    small.detect(mine, pair, on_scene=seen)
    assert not seen.done


@pytest.mark.parametrize(
    "damage", [b"{", b"\x00\x00", b"[1, 2]", b'{"id": "x", "state": "done"}', b"7", b"\xff\xfe"]
)
def test_a_line_that_does_not_fit_is_named_and_its_scene_done_again(
    small: Small, pair: list, mine: Path, damage: bytes, caplog: pytest.LogCaptureFixture
):
    lines = _journal(mine).read_bytes().splitlines()
    lost = json.loads(lines[1])["id"]
    _journal(mine).write_bytes(b"\n".join([lines[0], damage, *lines[2:]]) + b"\n")
    seen = Seen()
    run = small.detect(mine, pair, on_scene=seen)
    assert "000001.jsonl line 2: " in caplog.text
    assert seen.done == [lost]
    assert run.record["counts"]["done"] == 2


def test_a_killed_run_can_be_read_aggregated_and_reported(two: Run, mine: Path):
    record = json.loads((mine / "run.json").read_text())
    for key in ("scenes", "counts", "seconds", "synthetic"):
        del record[key]
    (mine / "run.json").write_text(json.dumps(record | {"state": "running"}))
    run = open_run(mine)
    assert run.record["counts"] == two.record["counts"]
    assert run.scenes == two.scenes
    assert len(aggregate(mine).coverage["level1"]) == 2
    assert listed(report(mine))["id"] == [scene["id"] for scene in two.scenes]


def test_what_a_killed_run_left_half_written_is_swept(small: Small, pair: list, two: Run, mine: Path):
    (mine / ".run.json.part").write_text("{")
    half = mine / "scenes" / f".{pair[0].id}.0123abcd.part"
    (half / ".binary.tif.xyz").mkdir(parents=True)
    (half / "probability.tif").write_bytes(b"II*")
    small.detect(mine, pair)
    assert not leftovers(mine)
    assert digests(mine / "scenes") == digests(two.folder / "scenes")


# --- one run at a time ----------------------------------------------------------------------------------------

_HOLD = """
import sys, time
from pipelines.folder import RunFolder
with RunFolder(sys.argv[1]).locked():
    print("held", flush=True)
    time.sleep(120)
"""


def test_a_folder_belongs_to_one_run_until_its_process_is_gone(small: Small, pair: list, tmp_path: Path):
    out = tmp_path / "run"
    holder = subprocess.Popen([sys.executable, "-c", _HOLD, str(out)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        began = time.monotonic()
        with pytest.raises(RunLockedError, match=f"{out} is in use"):
            small.detect(out, pair[:1])
        assert time.monotonic() - began < 3
        assert not (out / "run.json").exists()
    finally:
        holder.kill()
        holder.wait(20)
    assert small.detect(out, pair[:1]).record["counts"]["done"] == 1


def test_a_folder_is_free_again_after_a_run_that_failed(small: Small, pair: list, mine: Path):
    with pytest.raises(PipelineError, match="other parameters"):
        small.detect(mine, pair, rules=Rules(threshold=0.9), only=[pair[0].id])
    assert small.detect(mine, pair, rules=RULES).record["state"] == "complete"


def test_plan_needs_no_lock(small: Small, pair: list, tmp_path: Path):
    with RunFolder(tmp_path / "run").locked():
        found = plan(pair, small.settings(tmp_path / "run"))
    assert found.scenes == 2


def test_a_scene_swept_away_while_it_was_written_never_takes_the_place_of_a_whole_one(tmp_path: Path):
    folder = RunFolder(tmp_path)
    with folder.scene_part("a", {"1", "2"}) as part:
        (part / "1").write_text("whole")
        (part / "2").write_text("whole")

    def write_and_lose() -> None:
        with folder.scene_part("a", {"1", "2"}) as part:
            (part / "1").write_text("new")
            folder.sweep()  # of the run that was started after this one's had been stopped
            part.mkdir()  # as writers of files do
            (part / "2").write_text("new")

    with pytest.raises(OutputError, match="taken away"):
        write_and_lose()
    assert {path.read_text() for path in (tmp_path / "scenes" / "a").iterdir()} == {"whole"}
    assert not leftovers(tmp_path)


def test_a_run_shows_itself_in_a_few_lines(small: Small, tmp_path: Path):
    run = small.detect(tmp_path / "run")
    head, *failures = repr(run).splitlines()
    objects = sum(scene["counts"]["n_objects"] for scene in run.done)
    assert f"{len(run.done)} done with {objects} object(s), 0 failed" in head
    assert str(tmp_path / "run") in head
    assert failures == []
    broken = [
        {"id": f"scene{n}", "state": "failed", "reason": "https://me:secret@host/a.tif is gone"}
        for n in range(7)
    ]
    lines = repr(Run(run.home, {**run.record, "scenes": broken})).splitlines()
    assert lines[1] == "  scene0: https://…@host/a.tif is gone"
    assert lines[-1] == "  and 2 more, in .failed"
