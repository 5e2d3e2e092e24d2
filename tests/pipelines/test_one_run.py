"""A product is exactly these scenes under these settings, whatever the folder went through before."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyogrio
import pystac
import pytest
import rasterio
import rioxarray

import darts_xr as dx
from darts_xr.errors import PipelineError
from darts_xr.rasters import RasterLimits
from pipelines.aggregation import Dataset, Products, aggregate, coverage
from pipelines.cautions import cautions
from pipelines.detection import plan
from pipelines.records import Record, Run, open_run
from pipelines.reports import report
from pipelines.settings import Rules
from pipelines.verification import verify
from tests.pipelines.small import RULES, Seen, Small, digests

OTHER = Rules(threshold=0.6, border=1, min_pixels=8)


@pytest.fixture(scope="module")
def three(small: Small) -> list[pystac.Item]:
    """Two scenes of one site and one of the next."""
    items = small.items
    return [items[0], items[1], items[6]]


@pytest.fixture(scope="module")
def done(small: Small, three: list[pystac.Item], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of the three with its products, for tests that copy it."""
    run = small.detect(tmp_path_factory.mktemp("done"), three)
    aggregate(run)
    return run


@pytest.fixture
def mine(done: Run, tmp_path: Path) -> Path:
    return Path(shutil.copytree(done.folder, tmp_path / "run"))


class _StopError(Exception):
    """Ends a run after its first scene."""


def _stopping(record: Record, total: int) -> None:
    raise _StopError


def _products(folder: Path) -> dict[str, str]:
    return digests(folder / "products")


def _fresh(small: Small, folder: Path, items: Any, **how: Any) -> dict[str, str]:
    aggregate(small.detect(folder, items, **how))
    return _products(folder)


def _interrupted(small: Small, folder: Path, items: Any, **how: Any) -> None:
    with pytest.raises(_StopError):
        small.detect(folder, items, on_scene=_stopping, **how)


def _no_scene_is_mixed_in(products: Products, wanted: str) -> None:
    assert set(products.level1["DARTS_AI_model_threshold"]) <= {wanted}


def test_an_interrupted_run_with_other_rules_mixes_nothing(
    small: Small, three: list[pystac.Item], mine: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    _interrupted(small, mine, three, rules=OTHER)
    run = open_run(mine)
    assert run.record["rules"]["threshold"] == 0.6
    old = {scene_id for scene_id, reason in run.left_out.items() if "parameters changed" in reason}
    assert old
    assert all(scene["id"] not in old for scene in run.done)
    with pytest.raises(PipelineError, match="would be left out of the products") as refused:
        aggregate(mine, strict=True)
    assert min(old) in str(refused.value)
    if run.done:
        _no_scene_is_mixed_in(aggregate(mine), "0.6")
        assert "left out of the products" in caplog.text
        some = next((mine / "products").glob("*_level1.parquet"))
        assert old <= json.loads(gpd.read_parquet(some).attrs["left_out"]).keys()
    shutil.rmtree(mine / "products")
    run = small.detect(mine, three, rules=OTHER)
    assert not run.left_out
    aggregate(run, strict=True)
    assert _products(mine) == _fresh(small, tmp_path / "fresh", three, rules=OTHER)


def test_going_back_to_the_settings_of_before_takes_what_is_still_there(
    small: Small, three: list[pystac.Item], mine: Path, done: Run
):
    _interrupted(small, mine, three, rules=OTHER)
    small.detect(mine, three)
    aggregate(mine, strict=True)
    assert _products(mine) == _products(done.folder)


def test_scenes_that_left_the_source_are_named_and_in_no_product(
    small: Small, three: list[pystac.Item], mine: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    run = small.detect(mine, three[:2])
    gone = three[2].id
    assert f"1 scene(s) of this run are not in the source and will be in no product: {gone}" in caplog.text
    assert run.left_out == {gone: "not in the source"}
    assert open_run(mine).left_out == run.left_out
    assert gone in report(mine).read_text().partition("In no product")[2]
    assert gone not in (mine / "catalog.json").read_text()
    with pytest.raises(PipelineError, match=rf"left out.*{gone} \(not in the source\)"):
        aggregate(mine, strict=True)
    products = aggregate(mine)
    assert products.left_out == {gone: "not in the source"}
    assert gone not in set(products.coverage["level1"]["image_id"])
    fresh = _fresh(small, tmp_path / "fresh", three[:2])
    assert {name: _products(mine)[name] for name in fresh} == fresh


def test_a_scene_that_comes_back_to_the_source_is_taken_as_it_is(
    small: Small, three: list[pystac.Item], mine: Path, done: Run
):
    small.detect(mine, three[:2])
    seen = Seen()
    small.detect(mine, three, on_scene=seen)
    assert not seen.done
    aggregate(mine, strict=True)
    assert _products(mine) == _products(done.folder)


def test_scenes_that_left_the_source_are_removed_on_request(
    small: Small, three: list[pystac.Item], mine: Path, caplog: pytest.LogCaptureFixture
):
    with pytest.raises(PipelineError, match="whole source"):
        small.detect(mine, three, only=[three[0].id], prune=True)
    run = small.detect(mine, three[:2], prune=True)
    assert "1 scene(s) that are not in the source were removed" in caplog.text
    assert not (mine / "scenes" / three[2].id).exists()
    assert not run.left_out
    aggregate(open_run(mine), strict=True)
    # Also where those scenes were made with other rules, which is refused otherwise.
    with pytest.raises(PipelineError, match="--prune"):
        small.detect(mine, three[:1], rules=OTHER)
    assert len(small.detect(mine, three[:1], rules=OTHER, prune=True).done) == 1


def test_a_choice_of_scenes_says_nothing_of_the_others(small: Small, three: list[pystac.Item], mine: Path):
    run = small.detect(mine, three, only=[three[0].id])
    assert not run.left_out
    assert len(run.done) == 3


def _other_elevation(small: Small, folder: Path) -> list[pystac.Item]:
    """The auxiliary layers with a steeper relief."""
    own = small.copy(folder)
    for path in own.world.root.glob("auxiliary/dem_*.tif"):
        with rasterio.open(path) as file:
            profile, values = file.profile, file.read()
        with rasterio.open(path, "w", **(profile | {"driver": "GTiff"})) as file:
            file.write(np.where(values == profile["nodata"], values, values * 3))
    return list(dx.load_items(own.world.auxiliary))


def test_an_exchanged_auxiliary_source_mixes_nothing(
    small: Small, three: list[pystac.Item], mine: Path, tmp_path: Path
):
    steeper = _other_elevation(small, tmp_path / "steeper")
    _interrupted(small, mine, three, auxiliary=steeper)
    left = open_run(mine).left_out
    assert any("auxiliary changed" in reason for reason in left.values())
    with pytest.raises(PipelineError, match="auxiliary changed"):
        aggregate(mine, strict=True)
    small.detect(mine, three, auxiliary=steeper)
    shutil.rmtree(mine / "products")
    aggregate(mine, strict=True)
    assert _products(mine) == _fresh(small, tmp_path / "fresh", three, auxiliary=steeper)


def test_scenes_that_were_not_reached_are_named(small: Small, three: list[pystac.Item], tmp_path: Path):
    _interrupted(small, tmp_path / "run", three)
    run = open_run(tmp_path / "run")
    assert set(run.left_out.values()) == {"not done yet"}
    assert {*run.left_out, *(scene["id"] for scene in run.scenes)} == {item.id for item in three}
    run = small.detect(tmp_path / "run", three)
    assert not run.left_out


# --- what an input is -----------------------------------------------------------------------------------------


def test_a_delivery_that_was_moved_is_the_same(small: Small, tmp_path: Path):
    own = small.copy(tmp_path / "here")
    out = tmp_path / "run"
    first = own.detect(out, own.items[:2])
    shutil.move(tmp_path / "here", tmp_path / "there")
    moved = Small(type(own.world)(tmp_path / "there"), own.model)
    seen = Seen()
    run = moved.detect(out, moved.items[:2], on_scene=seen)
    assert not seen.done
    assert run.scenes == first.scenes


def test_a_delivery_with_checksums_is_the_same_whatever_its_times(small: Small, tmp_path: Path):
    own = small.copy(tmp_path / "here")
    items = list(dx.catalog.add_checksums(own.items[:2]))
    own.detect(tmp_path / "run", items)
    image = Path(items[0].assets["image"].href)
    image.touch()
    seen = Seen()
    own.detect(tmp_path / "run", items, on_scene=seen)
    assert not seen.done


def test_content_counts_where_times_lie(small: Small, tmp_path: Path):
    own = small.copy(tmp_path / "here")
    pair = own.items[:2]
    own.detect(tmp_path / "run", pair, checksums=True)
    image = Path(pair[0].assets["image"].href)
    before, content = image.stat(), bytearray(image.read_bytes())
    for place in range(len(content) // 2, len(content) // 2 + 64):
        content[place] ^= 0xFF
    image.write_bytes(content)
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))
    steps = {step["id"]: step for step in plan(pair, own.settings(tmp_path / "run", checksums=True)).steps}
    assert steps[pair[0].id]["reason"] == "again, since its item changed"
    assert not steps[pair[1].id]["todo"]


# --- what a product says --------------------------------------------------------------------------------------


def _attrs(products: Products) -> dict[str, str]:
    return dict(gpd.read_parquet(next(p for p in products.files if p.name.endswith("_level2.parquet"))).attrs)


def test_products_say_which_filters_ran(small: Small, three: list[pystac.Item], done: Run, tmp_path: Path):
    attrs = _attrs(aggregate(done))
    water = json.loads(attrs["filters"])["water"]
    assert water["scenes"] == water["of_scenes"] == 3
    assert water["layers"][0].startswith("esri-landcover 20")
    assert json.loads(attrs["rules"])["max_water"] == 0.2
    assert attrs["left_out"] == "none"
    assert "neutral" not in attrs.get("cautions", "")
    bare = small.detect(tmp_path / "bare", three[:1], landcover=None, auxiliary="neutral")
    attrs = _attrs(aggregate(bare))
    assert attrs["filters"] == "none"
    assert "max_water" not in json.loads(attrs["rules"])
    assert attrs["cautions"] == "elevation is neutral, not measured, in 1 of 1 scene(s)"
    assert attrs["cautions"] in report(bare).read_text()


def test_demo_networks_on_a_scene_that_is_not_synthetic_are_shouted_out(
    small: Small, three: list[pystac.Item], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    item = three[0].clone()
    del item.properties["darts:synthetic"]
    run = small.detect(tmp_path / "run", [item])
    caution = "demo networks, trained on synthetic scenes only"
    assert caution in caplog.text
    assert run.done[0]["demo_networks"] is True
    assert any(caution in line for line in run.done[0]["warnings"])
    assert caution in report(run).read_text()
    products = aggregate(run)
    assert caution in _attrs(products)["cautions"]
    level1 = gpd.read_parquet(run.home.scene(item.id) / "level1.parquet")
    assert len(level1) > 0
    assert all(caution in text for text in level1["DARTS_AI_model_version"])


def test_synthetic_scenes_of_demo_networks_are_fine(done: Run):
    digest = done.record["checkpoints"][0]["sha256"]
    level1 = gpd.read_parquet(done.home.scene(done.done[0]["id"]) / "level1.parquet")
    assert set(level1["DARTS_AI_model_version"]) == {f"quick@{digest[:8]}"}


def test_coverage_of_auxiliary_layers_reaches_product_and_report(done: Run):
    scenes = [dict(scene, auxiliary_coverage={"slope": 0.5 + 0.25 * k}) for k, scene in enumerate(done.done)]
    run = Run(done.home, {**done.record, "scenes": scenes})
    assert cautions(run.done) == [
        "slope covers only 50.0% of the valid pixels of one scene, 75.0% on average"
    ]


def test_a_layer_filled_on_purpose_in_one_scene_hides_no_gap_of_another(done: Run):
    first, *others = done.done
    scenes = [
        dict(first, neutral=["trends"], auxiliary_coverage={"trends": 0.0, "elevation": 0.4}),
        *(dict(scene, auxiliary_coverage={"trends": 1.0, "elevation": 1.0}) for scene in others),
    ]
    said = cautions(scenes)
    assert said[0] == f"trends is neutral, not measured, in 1 of {len(scenes)} scene(s)"
    assert said[1].startswith("elevation covers only 40.0%")
    assert len(said) == 2


def test_products_are_called_and_dated_as_asked(small: Small, three: list[pystac.Item], mine: Path):
    years = sorted({int(item.datetime.year) for item in three if item.datetime})
    products = aggregate(
        mine, name="mine", intersect_years=years[:1], dataset=Dataset("v1.2", "Thaw slump outline")
    )
    names = {path.name for path in products.files}
    assert f"mine_coverage_{years[0]}_intersect.parquet" in names
    assert set(products.level2["DARTS_dataset_version"]) == {"v1.2"}
    assert products.coverage["intersect"]["years"].tolist() == [str(years[0])]


def test_connectivity_and_water_are_rules_of_a_run(small: Small, three: list[pystac.Item], tmp_path: Path):
    by_rule = {
        connectivity: small.detect(
            tmp_path / str(connectivity), three[:1],
            rules=Rules(border=1, min_pixels=8, connectivity=connectivity, max_water=1.0),  # type: ignore[arg-type]
        ).record["counts"]
        for connectivity in (8, 4, "legacy")
    }  # fmt: skip
    assert by_rule[4]["n_detected"] > by_rule[8]["n_detected"]
    assert by_rule["legacy"]["n_detected"] == by_rule[8]["n_detected"]
    assert by_rule[8]["n_removed_water"] == 0


def test_removed_objects_lie_beside_the_kept_ones(done: Run):
    reasons: set[str] = set()
    for scene in done.done:
        removed = gpd.read_parquet(done.home.scene(scene["id"]) / "removed.parquet")
        kept = gpd.read_parquet(done.home.scene(scene["id"]) / "level1.parquet")
        assert len(removed) + len(kept) == scene["counts"]["n_detected"]
        for rule, count in removed["removed_by"].value_counts().items():
            assert scene["counts"][f"n_removed_{rule}"] == count
        reasons |= set(removed["removed_by"])
    assert {"border", "small"} <= reasons


def test_members_disagreement_is_a_column_of_a_side_table(
    small: Small, three: list[pystac.Item], tmp_path: Path
):
    run = small.detect(tmp_path / "run", three[:1], members=True)
    place = run.home.scene(three[0].id)
    side, rows = gpd.read_parquet(place / "spread.parquet"), gpd.read_parquet(place / "level1.parquet")
    assert side["id"].tolist() == rows["id"].tolist()
    assert (side["spread_max"] == 0).all()  # a single network agrees with itself


def test_the_stored_probability_gives_the_runs_objects(done: Run):
    rules = RULES
    for scene in done.done:
        place = done.home.scene(scene["id"])
        stored = rioxarray.open_rasterio(place / "probability.tif").squeeze("band", drop=True)
        labels = dx.label_objects(
            stored, threshold=rules.threshold, border=rules.border, min_pixels=rules.min_pixels
        )
        with rasterio.open(place / "binary.tif") as file:
            binary = file.read(1)
        feats = dx.vectorize(labels, stored)
        counts = scene["counts"]
        assert int(labels.n_detected) == counts["n_detected"]
        assert len(feats) == counts["n_objects"] + counts["n_removed_water"]
        np.testing.assert_array_equal(labels.values > 0, binary == 1)


def test_coverage_alone_joins_the_set_that_is_there(mine: Path):
    before = verify(mine)
    assert before.findings == []
    coverage(mine)
    assert verify(mine).findings == []
    made = json.loads(next((mine / "products").glob("*_manifest_*.json")).read_text())
    assert any("_features_" in name for name in made["files"])
    gpkg = next((mine / "products").glob("*_level1.gpkg"))
    assert pyogrio.read_info(gpkg)["dataset_metadata"]["left_out"] == "none"


def test_limits_that_widen_keep_what_is_done_and_limits_that_narrow_look_again(small: Small, tmp_path: Path):
    one = small.items[:1]
    small.detect(tmp_path, one)
    wider, seen = RasterLimits(pixel_size=(1.0, 12.0)), Seen()
    small.detect(tmp_path, one, raster_limits=wider, on_scene=seen)
    assert seen.skipped == {one[0].id: "done before"}
    narrower = small.detect(tmp_path, one, raster_limits=RasterLimits(pixel_size=(1.0, 2.5)))
    assert "3" in narrower.failed[0]["reason"]
    assert "pixel" in narrower.failed[0]["reason"]
    assert not narrower.done
    again = small.detect(tmp_path, one)
    assert [scene["state"] for scene in again.scenes] == ["done"]
