"""Bits that flip in images, masks, outputs, records and products: none changes a product in silence."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import darts_xr as dx
from darts_xr.catalog import add_checksums, check_files, write_catalog
from darts_xr.errors import DamagedFileError, MissingFileError, PipelineError
from darts_xr.stac import FILE_EXTENSION
from pipelines.aggregation import aggregate
from pipelines.cli import main
from pipelines.flow import Limits
from pipelines.folder import RunFolder
from pipelines.manifest import manifests
from pipelines.records import RecordLog, Run, open_run
from pipelines.results import read_results
from pipelines.verification import verify
from tests.catalog.deliveries import validate
from tests.pipelines.small import Seen, Small, digests

# Together 1,000 flips.
INPUTS, OUTPUTS, RECORDS, SUMMARIES, PRODUCTS = 400, 250, 250, 50, 50


@pytest.fixture(scope="module")
def own(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Small:
    """Scenes that are spoiled and repaired."""
    return small.copy(tmp_path_factory.mktemp("own") / "world")


@pytest.fixture(scope="module")
def pair(own: Small) -> list[pystac.Item]:
    """Two scenes of two sites, with checksums."""
    return list(add_checksums([own.items[0], own.items[6]]))


@pytest.fixture(scope="module")
def whole(own: Small, pair: list[pystac.Item], tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = own.detect(tmp_path_factory.mktemp("whole"), pair)
    aggregate(run)
    return run


@pytest.fixture
def mine(whole: Run, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole.folder, tmp_path / "run"))


@contextmanager
def _flipped(path: Path, rng: np.random.Generator) -> Iterator[None]:
    """One bit of a file is another one, and neither size nor time tell."""
    about, content = path.stat(), path.read_bytes()
    place, bit = int(rng.integers(len(content))), int(rng.integers(8))
    spoiled = bytearray(content)
    spoiled[place] ^= 1 << bit
    path.write_bytes(spoiled)
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
    try:
        yield
    finally:
        path.write_bytes(content)
        os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))


def test_flips_in_images_and_masks_are_found_by_their_checksums(pair: list[pystac.Item]):
    rng = np.random.default_rng(0)
    files = [(item, key) for item in pair for key in ("image", "udm2")]
    for k in range(INPUTS):
        item, key = files[k % len(files)]
        path = Path(item.assets[key].href)
        with _flipped(path, rng), pytest.raises(DamagedFileError, match=rf"{path.name} \({key}\)"):
            check_files(item)
    assert all(check_files(item) >= 2 for item in pair)


def test_a_scene_whose_file_does_not_match_its_checksum_fails_by_name(
    own: Small, pair: list[pystac.Item], tmp_path: Path
):
    rng = np.random.default_rng(1)
    for key in ("image", "udm2"):
        with _flipped(Path(pair[0].assets[key].href), rng):
            run = own.detect(tmp_path / key, pair)
        assert [scene["id"] for scene in run.failed] == [pair[0].id]
        assert "is not the file that the catalogue describes" in run.failed[0]["reason"]
        assert len(run.done) == 1


def test_a_layer_that_does_not_match_its_checksum_fails_its_scenes_by_name(
    own: Small, pair: list[pystac.Item], tmp_path: Path
):
    layers = list(add_checksums(dx.load_items(own.world.auxiliary)))
    (dem,) = own.world.root.glob("auxiliary/dem_001.tif")
    with _flipped(dem, np.random.default_rng(2)):
        run = own.detect(tmp_path / "run", pair, auxiliary=layers)
    assert [scene["id"] for scene in run.failed] == [pair[1].id]
    assert "dem_001.tif" in run.failed[0]["reason"]


def test_flips_in_outputs_are_found_when_files_are_read(mine: Path):
    rng, run = np.random.default_rng(3), open_run(mine)
    for k in range(OUTPUTS):
        scene = run.done[k % 2]
        name = list(scene["outputs"])[k % len(scene["outputs"])]
        with _flipped(mine / "scenes" / scene["id"] / name, rng):
            assert run.home.differing(scene["id"], scene["outputs"], content=True) == [name]
            if name in ("item.json", "level1.parquet"):  # what products are made of
                assert read_results(run).left_out == {scene["id"]: f"its {name} is not what was written"}
    assert read_results(run).left_out == {}


def test_flips_in_records_are_named_and_never_believed(mine: Path, caplog: pytest.LogCaptureFixture):
    rng, folder = np.random.default_rng(4), RunFolder(mine)
    (path,) = (mine / "records").iterdir()
    before, described = RecordLog(folder).read(), RecordLog(folder).settings()
    for _ in range(RECORDS):
        caplog.clear()
        with _flipped(path, rng):
            found, said = RecordLog(folder).read(), RecordLog(folder).settings()
        assert found.items() <= before.items()
        assert said in (described, None)
        assert found != before or said is None or not caplog.text
        if found != before:
            assert "its scene is done again" in caplog.text


def test_flips_in_the_summary_are_named_and_it_is_rebuilt(mine: Path, caplog: pytest.LogCaptureFixture):
    rng, before = np.random.default_rng(5), open_run(mine)
    for _ in range(SUMMARIES):
        caplog.clear()
        with _flipped(mine / "run.json", rng):
            run = open_run(mine)
        assert run.scenes == before.scenes
        assert {key: run.record[key] for key in ("rules", "checkpoints", "counts")} == {
            key: before.record[key] for key in ("rules", "checkpoints", "counts")
        }
        assert (
            run.record["state"] == before.record["state"] or "it is rebuilt from the records" in caplog.text
        )


def test_flips_in_products_are_found_and_mended(mine: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.CRITICAL)
    rng, before = np.random.default_rng(6), digests(mine / "products")
    names = sorted(before)
    (manifest,) = manifests(RunFolder(mine))
    for k in range(PRODUCTS):
        path = mine / "products" / names[k % len(names)]
        with _flipped(path, rng):
            if path.suffix == ".json":
                found = manifests(RunFolder(mine))
                assert found == [] or found[0].text() == manifest.text()  # a blank became another blank
            else:
                assert manifest.sound(path.name) is None
    for path in (mine / "products").iterdir():
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    assert len(verify(mine).findings) >= 1
    aggregate(mine)
    assert digests(mine / "products") == before


# --- verify, and what it leads to -----------------------------------------------------------------------------


def _call(*arguments: object) -> Any:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_verify_says_what_to_do_again_and_that_mends_it(
    own: Small, pair: list[pystac.Item], whole: Run, mine: Path
):
    good = _call("verify", mine, "--json")
    assert good.exit_code == 0, good.output
    assert json.loads(good.stdout) == {
        "scenes": 2,
        "products": len(digests(mine / "products")),
        "findings": [],
    }

    rng = np.random.default_rng(7)
    place = mine / "scenes" / pair[0].id
    with _flipped(place / "probability.tif", rng):
        spoiled = (place / "probability.tif").read_bytes()
        times = place.joinpath("probability.tif").stat()
    (place / "probability.tif").write_bytes(spoiled)
    os.utime(place / "probability.tif", ns=(times.st_atime_ns, times.st_mtime_ns))
    (mine / "scenes" / pair[1].id / "removed.parquet").unlink()
    next((mine / "products").glob("*_union.gpkg")).unlink()
    bad = _call("verify", mine, "--json")
    assert bad.exit_code == 1
    findings = {finding["what"]: finding for finding in json.loads(bad.stdout)["findings"]}
    assert "probability.tif" in findings[f"scene {pair[0].id}"]["reason"]
    assert "removed.parquet" in findings[f"scene {pair[1].id}"]["reason"]
    assert "--verify" in findings[f"scene {pair[0].id}"]["redo"]
    assert any("union.gpkg" in what and "aggregate" in f["redo"] for what, f in findings.items())
    assert "Not as it was written" in _call("verify", mine).output

    seen = Seen()
    own.detect(mine, pair, on_scene=seen)  # at first sight the flipped file is as it was
    assert seen.done == [pair[1].id]
    seen = Seen()
    own.detect(mine, pair, on_scene=seen, limits=Limits(verify=True))
    assert seen.done == [pair[0].id]
    aggregate(mine)
    assert verify(mine).findings == []
    assert digests(mine / "scenes") == digests(whole.folder / "scenes")
    assert digests(mine / "products") == digests(whole.folder / "products")


def test_a_copied_run_whose_files_have_new_times_is_the_same(own: Small, pair: list[pystac.Item], mine: Path):
    for path in (mine / "scenes").rglob("*.*"):
        path.touch()
    seen = Seen()
    own.detect(mine, pair, on_scene=seen)
    assert not seen.done


def test_products_of_damaged_scenes_are_refused_or_lack_them_by_name(
    pair: list[pystac.Item], mine: Path, caplog: pytest.LogCaptureFixture
):
    (mine / "scenes" / pair[0].id / "level1.parquet").write_bytes(b"PAR1")
    with pytest.raises(PipelineError, match=rf"{pair[0].id} \(its level1.parquet is not what was written\)"):
        aggregate(mine, strict=True)
    products = aggregate(mine)
    assert products.left_out == {pair[0].id: "its level1.parquet is not what was written"}
    assert f"{pair[0].id} is left out" in caplog.text
    assert set(products.coverage["level1"]["image_id"]) == {pair[1].id}
    stale = [f for f in verify(mine).findings if "settings than the run has now" in f.reason]
    assert stale == []  # the products are what can be made of this run


def test_products_of_an_older_run_are_named_by_verify(own: Small, pair: list[pystac.Item], mine: Path):
    own.detect(mine, [*pair, own.items[1]])
    reasons = [finding.reason for finding in verify(mine).findings]
    assert reasons == ["made of other scenes or settings than the run has now"]


def test_a_lost_summary_is_rebuilt_and_written_anew(
    own: Small, pair: list[pystac.Item], whole: Run, mine: Path, caplog: pytest.LogCaptureFixture
):
    (mine / "run.json").unlink()
    run = open_run(mine)
    assert "run.json is missing; it is rebuilt from the records" in caplog.text
    assert run.scenes == whole.scenes
    aggregate(run, strict=True)
    assert digests(mine / "products") == digests(whole.folder / "products")
    assert [finding.what for finding in verify(mine).findings] == ["run.json"]
    own.detect(mine, pair)
    assert verify(mine).findings == []


# --- records of any content -----------------------------------------------------------------------------------

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_change_of_a_record_is_named_and_loses_no_other_scene(
    whole: Run, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
):
    from pipelines.digests import sealed

    lines = next((whole.folder / "records").iterdir()).read_bytes().splitlines()  # type: ignore[union-attr]
    documents = [json.loads(line) for line in lines]
    at = data.draw(st.integers(1, len(documents) - 1))
    changed = dict(documents[at])
    changed.pop("check")
    for _ in range(data.draw(st.integers(1, 3))):
        key = data.draw(st.sampled_from(sorted(changed)) | st.text(max_size=4)) if changed else "id"
        if data.draw(st.booleans()):
            changed.pop(key, None)
        else:
            changed[key] = data.draw(_JSON)
    folder = _records_folder(tmp_path_factory)
    # Also with a checksum of its own, as another program might write it.
    text = json.dumps(sealed(changed) if data.draw(st.booleans()) else changed)
    rest = [json.dumps(document) for k, document in enumerate(documents) if k != at]
    (folder / "records" / "000001.jsonl").write_text("\n".join([*rest, text]) + "\n", encoding="utf-8")
    found = RecordLog(RunFolder(folder)).read()
    good = {document["id"] for k, document in enumerate(documents) if k != at and "id" in document}
    assert good <= found.keys() or changed.get("id") in good
    from pipelines.records import summary

    total = summary(found)  # whatever is taken for a record can be added up
    assert total["counts"]["scenes"] == len(found) - len(total["left_out"])


_folders: list[Path] = []


def _records_folder(factory: pytest.TempPathFactory) -> Path:
    if not _folders:
        folder = factory.mktemp("records")
        (folder / "records").mkdir()
        _folders.append(folder)
    return _folders[0]


# --- checksums ------------------------------------------------------------------------------------------------


def test_checksums_survive_a_catalogue_and_leave_items_alone(
    own: Small, pair: list[pystac.Item], tmp_path: Path
):
    assert "file:checksum" not in own.items[0].assets["image"].extra_fields
    path = write_catalog(pair, tmp_path, title="Test", description="A test.")
    for item in dx.load_items(path):
        assert item.assets["image"].extra_fields["file:checksum"].startswith("1220")
        assert check_files(item) >= 2
        assert FILE_EXTENSION in item.stac_extensions
        validate(item)


def test_a_file_that_is_gone_has_no_checksum(own: Small, pair: list[pystac.Item]):
    item = own.items[0].clone()
    item.assets["image"].href = "/nowhere/a.tif"
    with pytest.raises(MissingFileError, match=r"/nowhere/a\.tif"):
        list(add_checksums([item]))
    stated = pair[0].clone()
    stated.assets["image"].href = "/nowhere/a.tif"
    with pytest.raises(MissingFileError, match=r"/nowhere/a\.tif"):
        check_files(stated)


def test_the_catalog_verb_states_checksums_on_request(own: Small, tmp_path: Path):
    answer = _call(
        "catalog", own.world.root / "scenes", "--checksums", "--out", tmp_path / "c.json", "--json"
    )
    assert answer.exit_code == 0, answer.output
    assert all(
        "file:checksum" in item.assets["udm2"].extra_fields for item in dx.load_items(tmp_path / "c.json")
    )
