"""Other rules from the stored probability: the objects that a detection under these rules finds."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from click.testing import CliRunner
from rasterio.errors import NotGeoreferencedWarning

from darts_xr.errors import ParameterError, PipelineError
from darts_xr.percent import to_percent, undecided_percents
from pipelines import Layers, aggregate, open_run, report, rethreshold, threshold_curve
from pipelines.cli import main
from pipelines.records import Run
from pipelines.rethresholding import plot_curve
from pipelines.settings import Rules
from pipelines.verification import verify
from tests.pipelines.small import Small, digests


@pytest.fixture(scope="module")
def found(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Run:
    items = small.items[:2]
    return small.detect(tmp_path_factory.mktemp("rethreshold") / "run", items)


@pytest.fixture(scope="module")
def layers(small: Small) -> Layers:
    return Layers(landcover=small.world.auxiliary)


def _objects(run: Run) -> dict[str, gpd.GeoDataFrame]:
    return {s["id"]: gpd.read_parquet(run.home.scene(s["id"]) / "level1.parquet") for s in run.done}


def test_the_rules_of_the_run_give_the_objects_of_the_run(found: Run, layers: Layers, tmp_path: Path):
    before = digests(found.folder)
    again = rethreshold(found, tmp_path / "again", layers=layers)
    assert again.record["counts"]["n_undecided_pixels"] == 0
    old, new = _objects(found), _objects(again)
    assert sum(map(len, old.values())) > 5
    for name, rows in old.items():
        assert rows.geometry.geom_equals_exact(new[name].geometry, 1e-9).all()
        assert (rows["pval_mean"] - new[name]["pval_mean"]).abs().max() <= 0.01
    for a, b in zip(found.done, again.done, strict=True):
        assert {k: v for k, v in b["counts"].items() if k != "n_undecided_pixels"} == a["counts"]
    assert digests(found.folder) == before


def test_another_threshold_differs_from_detection_in_the_undecided_pixels_alone(
    small: Small, found: Run, layers: Layers, tmp_path: Path
):
    rules = Rules(threshold=0.52, border=1, min_pixels=1)
    direct = small.detect(tmp_path / "direct", small.items[:2], rules=rules)
    run = rethreshold(found, tmp_path / "again", layers=layers, threshold=0.52, min_pixels=1)
    differing = 0
    for scene in direct.done:
        one, two = (
            rasterio.open(r.home.scene(scene["id"]) / "binary.tif").read(1) == 1 for r in (direct, run)
        )
        differing += int(np.count_nonzero(one != two))
    # Whole objects at the border may come or go with a pixel, so the bound is on runs where none does.
    assert differing <= run.record["counts"]["n_undecided_pixels"]
    assert run.record["counts"]["n_objects"] != found.record["counts"]["n_objects"]


def test_the_new_folder_is_a_run_that_products_report_and_verify_take(
    found: Run, layers: Layers, tmp_path: Path
):
    run = rethreshold(found, tmp_path / "again", layers=layers, min_pixels=16)
    assert not verify(open_run(run.folder)).findings
    products = aggregate(run.folder, name="test_synthetic")
    assert set(products.level1["DARTS_AI_model_threshold"]) == {"0.5"}
    assert (products.level1["image_source"] == "PlanetScope (synthetic)").all()
    assert "quicklook" not in Path(report(run.folder)).read_text()
    item = json.loads((run.home.scene(run.done[0]["id"]) / "item.json").read_text())
    assert json.loads(item["properties"]["darts:rules"])["min_pixels"] == 16
    with pytest.raises(PipelineError, match="holds a run already"):
        rethreshold(found, run.folder, layers=layers)


def test_a_run_knows_its_layers_as_long_as_they_lie_where_they_lay(small: Small, tmp_path: Path):
    world = small.copy(tmp_path / "world").world
    works = gpd.read_file(world.infrastructure)
    works.to_file(tmp_path / "works.gpkg")
    run = small.detect(
        tmp_path / "run", small.items[:1], auxiliary=world.auxiliary, infrastructure=tmp_path / "works.gpkg"
    )
    again = rethreshold(run, tmp_path / "again")
    assert {**again.record["counts"], "n_undecided_pixels": 0} == run.record["counts"] | {
        "n_undecided_pixels": 0
    }
    assert again.done[0]["filters"] == run.done[0]["filters"]
    assert len(threshold_curve(again, [0.5, 0.6])) == 2
    works.iloc[:-1].to_file(tmp_path / "works.gpkg")
    with pytest.raises(
        PipelineError, match=r"another layer.*Layers\(infrastructure=…\) or --infrastructure"
    ) as info:
        rethreshold(run, tmp_path / "other")
    assert str(tmp_path / "works.gpkg") in str(info.value)
    (tmp_path / "works.gpkg").unlink()
    with pytest.raises(PipelineError, match="or none, where it lay"):
        threshold_curve(run, [0.5])


def test_a_filter_is_left_out_on_purpose_only(found: Run, tmp_path: Path):
    found = replace(found, record=found.record | {"layers": {}})  # as of a run whose layers lay in memory
    with pytest.raises(PipelineError, match=r"does not know.*--landcover none"):
        rethreshold(found, tmp_path / "again", threshold=0.6)
    run = rethreshold(found, tmp_path / "again", layers=Layers(dropped=("water",)), threshold=0.6)
    assert run.record["water_filter"] is False
    with pytest.raises(ParameterError, match="threshold"):
        rethreshold(found, tmp_path / "other", layers=Layers(dropped=("water",)), threshold=1.5)
    with pytest.raises(ParameterError, match="mask"):
        rethreshold(found, tmp_path / "other", layers=Layers(dropped=("water",)), mask_rule="udm2-2021")


def test_a_damaged_scene_fails_and_the_others_are_made(small: Small, layers: Layers, tmp_path: Path):
    copy = small.detect(tmp_path / "run", small.items[:2])
    name = copy.done[0]["id"]
    (copy.home.scene(name) / "probability.tif").write_bytes(b"no raster")
    run = rethreshold(copy, tmp_path / "again", layers=layers)
    assert [scene["id"] for scene in run.failed] == [name]
    assert "not what was written" in run.failed[0]["reason"]
    assert len(run.done) == 1


def test_the_curve_falls_with_the_threshold_and_agrees_with_the_run(found: Run, layers: Layers):
    with warnings.catch_warnings():
        warnings.simplefilter("error", NotGeoreferencedWarning)
        curve = threshold_curve(found, [0.4, 0.5, 0.6], layers=layers)
    assert curve.loc[0.5, "n_objects"] == found.record["counts"]["n_objects"]
    area = sum(rows.to_crs(rows.estimate_utm_crs()).area.sum() for rows in _objects(found).values())
    assert curve.loc[0.5, "area_m2"] == pytest.approx(area, rel=1e-3)
    assert curve.loc[0.5, "n_undecided_pixels"] == 0
    figure = plot_curve(curve, threshold=0.5)
    assert [axis.get_ylabel() for axis in figure.axes] == ["objects", "area, ha"]
    assert "synthetic" in figure.get_suptitle()


def test_the_command_writes_a_run_or_a_curve(found: Run, small: Small, tmp_path: Path):
    asked = ["rethreshold", str(found.folder), "--landcover", "none", "--json"]
    answer = CliRunner().invoke(main, [*asked, "--threshold", "0.6", "--out", str(tmp_path / "run")])
    assert answer.exit_code == 0, answer.output
    assert json.loads(answer.stdout)["counts"]["done"] == 2
    assert open_run(tmp_path / "run").record["rules"]["threshold"] == 0.6
    assert CliRunner().invoke(main, asked).exit_code == 2
    both = CliRunner().invoke(main, [*asked, "--curve", str(tmp_path / "none.csv"), "--threshold", "0.6"])
    assert both.exit_code == 2
    assert "leave out --threshold" in both.output
    answer = CliRunner().invoke(main, [*asked, "--curve", str(tmp_path / "curve.csv")])
    assert answer.exit_code == 0, answer.output
    assert len((tmp_path / "curve.csv").read_text().splitlines()) == 18


@pytest.mark.parametrize("stored_at", [0.5, 0.655, 0.7])
@pytest.mark.parametrize("threshold", [0.3, 0.497, 0.5, 0.503, 0.6449, 0.6551, 0.7])
def test_undecided_per_cents_are_those_that_stand_for_both_sides(threshold: float, stored_at: float):
    # Off the borders between two per cents, where floating point decides.
    values = (np.arange(0, 100_000) + 0.37).astype("float32") / np.float32(100_000)
    stored = to_percent(values, stored_at)
    both = sorted(set(stored[values >= threshold].tolist()) & set(stored[values < threshold].tolist()))
    assert undecided_percents(threshold, stored_at) == both
