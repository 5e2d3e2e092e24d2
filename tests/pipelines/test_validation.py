"""Scores of a run against a reference: right by default, whatever is given."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
from click.testing import CliRunner, Result
from pyproj import Proj

import darts_xr as dx
from darts_xr.assess import Comparison, MatchRule, ReferenceTime, expected_area, random_squares
from darts_xr.errors import AssessmentError, EmptySearchError, PipelineError
from darts_xr.sample import SampleWorld, read_truth
from pipelines.aggregation import Products, read_footprints
from pipelines.assessment_report import write_report
from pipelines.cli import main
from pipelines.records import Run
from pipelines.validation import PER_IMAGE, PER_YEAR, inner_footprints, reference_time, score_run, validate


def call(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def pooled_f1(tables: dict[str, Any], title: str) -> float:
    return next(row["f1"] for row in tables[title] if row["scope"] == "all")


def test_validate_of_a_run_gives_the_f1_of_the_demo_by_default(
    run: Run, products: Products, world: SampleWorld
) -> None:
    scores = score_run(run, products, read_truth(world))  # what the demo prints
    said = call("validate", run.folder, world.truth, "--json")
    assert said.exit_code == 0, said.output
    tables = json.loads(said.stdout)["tables"]
    assert pooled_f1(tables, PER_IMAGE) == scores["level1"]["f1"] > 0.8
    assert pooled_f1(tables, PER_YEAR) == scores["level2"]["f1"] > 0.8
    shown = call("validate", run.folder, world.truth)
    assert f"{scores['level2']['f1']:.3f}" in shown.stdout
    assert "dated by date" in shown.stdout


@pytest.mark.parametrize("level", ["level1", "level2"])
def test_a_product_in_the_folder_of_a_run_is_scored_as_the_run_is(
    run: Run, products: Products, world: SampleWorld, level: str
) -> None:
    path = next(p for p in products.files if f"features_2021_{level}.gpkg" in str(p))
    title = PER_IMAGE if level == "level1" else PER_YEAR
    whole = validate(run, world.truth).tables[title].set_index("scope")
    alone = validate(path, world.truth).tables[title].set_index("scope")
    pd.testing.assert_series_equal(whole.loc["all"], alone.loc["all"])


def test_a_product_elsewhere_takes_the_coverage_beside_it(
    products: Products, world: SampleWorld, tmp_path: Path
) -> None:
    for path in products.files:
        shutil.copy(path, tmp_path)
    result = validate(next(tmp_path.glob("*features*level2.parquet")), world.truth)
    assert any("coverage_2021_level2.parquet" in note for note in result.notes)
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(next(tmp_path.glob("*features*level2.parquet")), bare)
    alone = validate(next(bare.glob("*.parquet")), world.truth)
    assert any("no coverage" in note for note in alone.notes)
    counts = [r.tables[PER_YEAR].set_index("scope").loc["2021", "references"] for r in (result, alone)]
    assert counts[0] < counts[1]


def test_a_truth_that_lost_its_schema_is_undated_and_says_so(
    run: Run, world: SampleWorld, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain = gpd.GeoDataFrame(read_truth(world))
    plain.attrs = {}
    plain.to_parquet(tmp_path / "plain.parquet")
    undated = validate(run, tmp_path / "plain.parquet")
    assert "undated" in undated.warnings[0]
    declared = validate(run, tmp_path / "plain.parquet", time=ReferenceTime(date="date"))
    assert pooled_f1(_rows(declared), PER_IMAGE) == pooled_f1(_rows(validate(run, world.truth)), PER_IMAGE)


def _rows(result: Any) -> dict[str, list[dict]]:
    return {title: table.to_dict("records") for title, table in result.tables.items()}


def test_references_cut_by_the_rim_are_counted_on_demand(run: Run, world: SampleWorld) -> None:
    ours = validate(run, world.truth)
    papers = validate(run, world.truth, comparison=Comparison(rule=MatchRule(cut="count")))
    asked = [r.tables[PER_YEAR].set_index("scope").loc["all", "references"] for r in (ours, papers)]
    assert asked[0] < asked[1]


def test_the_border_zone_is_as_wide_as_the_rule_says_on_the_ground(run: Run) -> None:
    whole, inner = read_footprints(run), inner_footprints(run)
    crs = whole.estimate_utm_crs()
    for before, after in zip(whole.to_crs(crs).geometry, inner.to_crs(crs).geometry, strict=True):
        assert after.hausdorff_distance(before) >= 30 - 0.1
        assert after.boundary.distance(before.boundary) == pytest.approx(30, abs=0.2)


def test_options_on_dates_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(PipelineError, match="give one"):
        reference_time("date", None, True)
    with pytest.raises(PipelineError, match="two columns"):
        reference_time(None, "start", False)
    assert reference_time(None, "a, b", False) == ReferenceTime(start="a", end="b")
    assert reference_time(None, None, False) is None


def test_missing_files_are_named(run: Run, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"no\.gpkg"):
        validate(run, tmp_path / "no.gpkg")
    with pytest.raises(PipelineError, match=r"no\.gpkg"):
        validate(tmp_path / "no.gpkg", read_footprints(run))
    refused = call("validate", run.folder, tmp_path / "no.gpkg")
    assert refused.exit_code == 1
    assert "no.gpkg" in refused.stderr


def test_the_report_holds_its_numbers_three_times_and_needs_no_other_file(
    run: Run, world: SampleWorld, tmp_path: Path
) -> None:
    result = validate(run, world.truth)
    page = write_report(result, tmp_path).read_text()
    assert not re.search(r"(src|href)\s*=\s*[\"']?https?:", page)
    assert page.count("<svg") == 4
    metrics = pd.read_parquet(tmp_path / "metrics.parquet")
    facts = json.loads((tmp_path / "metrics.json").read_text())
    of_years = metrics[(metrics["table"] == PER_YEAR) & (metrics["scope"] == "all")].iloc[0]
    assert of_years["f1"] == pooled_f1(facts["tables"], PER_YEAR)
    objects = gpd.read_parquet(tmp_path / "objects.parquet")
    assert (objects["state"] == "true").sum() == of_years["true"]
    assert (objects["state"] == "missed").sum() == of_years["missed"]


def test_scores_by_region_and_year_from_files(run: Run, world: SampleWorld, tmp_path: Path) -> None:
    west, south, east, north = read_footprints(run).total_bounds
    middle = (west + east) / 2
    halves = gpd.GeoDataFrame(
        {"part": ["west", "east"]},
        geometry=[shapely.box(west, south, middle, north), shapely.box(middle, south, east, north)], crs=4326,
    )  # fmt: skip
    halves.to_file(tmp_path / "halves.gpkg")
    said = call(
        "validate",
        run.folder,
        world.truth,
        "--regions",
        tmp_path / "halves.gpkg",
        "--region-name",
        "part",
        "--json",
    )
    assert said.exit_code == 0, said.output
    rows = json.loads(said.stdout)["tables"][PER_YEAR]
    assert {(row["region"], row["scope"]) for row in rows} >= {("west", "2021"), ("east", "mean")}
    refused = call("validate", run.folder, world.truth, "--regions", tmp_path / "halves.gpkg")
    assert refused.exit_code == 1
    assert "part" in refused.stderr


# --- the verbs of assess -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "word"),
    [
        (["points", "RUN", "TRUTH", "--buffers", "0,200"], "Scores by buffer"),
        (["sensitivity", "RUN", "TRUTH"], "Scores by least mean probability"),
        (["grid", "RUN", "TRUTH", "--cell", "500"], "Cells, complete classes, 0 left out"),
        (["experts", "TRUTH", "TRUTH", "INFRASTRUCTURE", "--model", "TRUTH"], "F1"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_each_verb_prints_and_writes_its_tables(
    run: Run, world: SampleWorld, tmp_path: Path, verb: list[str], word: str
) -> None:
    names = {"RUN": run.folder, "TRUTH": world.truth, "INFRASTRUCTURE": world.infrastructure}
    if verb[0] == "experts":  # a folder an expert
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            shutil.copy(world.truth, tmp_path / name / "drawn.gpkg")
        verb = ["experts", str(tmp_path / "a" / "drawn.gpkg"), str(tmp_path / "b" / "drawn.gpkg"), *verb[2:]]
    arguments = [str(names.get(part, part)) for part in verb]
    said = call("assess", *arguments, "--out", tmp_path / "out", "--json")
    assert said.exit_code == 0, said.output
    assert word in json.loads(said.stdout)
    assert list((tmp_path / "out").glob("*.csv"))
    shown = call("assess", *arguments)
    assert "…" not in shown.stdout


def test_squares_are_drawn_reviewed_and_scored(run: Run, world: SampleWorld, tmp_path: Path) -> None:
    coverage = tmp_path / "coverage.gpkg"
    read_footprints(run).to_file(coverage)
    drawn = call(
        "assess", "squares", coverage, "--count", 2, "--area", 0.04, "--out", tmp_path / "squares", "--json"
    )
    assert drawn.exit_code == 0, drawn.output
    squares = gpd.read_file(tmp_path / "squares.gpkg")
    assert sorted(squares["id"]) == ["all-01", "all-02"]
    scored = call(
        "validate",
        run.folder,
        world.truth,
        "--regions",
        tmp_path / "squares.gpkg",
        "--region-name",
        "id",
        "--json",
    )
    assert scored.exit_code == 0, scored.output
    expected = random_squares(gpd.read_file(coverage), count=2, area_km2=0.04)
    assert squares.to_crs(3571).area.sum() == pytest.approx(expected.to_crs(3571).area.sum(), rel=1e-6)


def test_verdicts_of_a_file_are_counted(run: Run, products: Products, tmp_path: Path) -> None:
    rows = products.level1.assign(verdict="true", error_class="", landcover="bare ground")
    rows.loc[0, ["verdict", "error_class"]] = "false", "river"
    rows.to_file(tmp_path / "said.gpkg")
    said = call("assess", "confirm", tmp_path / "said.gpkg", "--land-cover", "landcover", "--json")
    assert said.exit_code == 0, said.output
    tables = json.loads(said.stdout)
    assert tables["Confirmation"][-1]["false"] == 1
    assert tables["False detections"][0] == {"error_class": "river", "n": 1, "share": 1.0, "bare ground": 1}


def test_density_and_expected_area_are_written(run: Run, tmp_path: Path) -> None:
    assert (
        call("assess", "density", run.folder, "--resolution", 7, "--out", tmp_path / "density").exit_code == 0
    )
    cells = gpd.read_parquet(tmp_path / "density.parquet")
    assert (cells["share"] > 0).any()
    assert call("assess", "area", run.folder, "--resolution", 7, "--out", tmp_path / "area").exit_code == 0
    assert len(gpd.read_parquet(tmp_path / "area.parquet")) == len(cells)


# --- expected area -----------------------------------------------------------------------------------------


def test_expected_area_is_the_sum_of_probability_times_pixel_area(run: Run) -> None:
    (item, *_) = dx.load_items(run.folder / "catalog.json")
    with rasterio.open(run.home.scene(item.id) / "probability.tif") as data:
        percent = data.read(1)
        crs, pixel = data.crs, abs(data.transform.a * data.transform.e)
        x, y = data.xy(percent.shape[0] // 2, percent.shape[1] // 2)
    projection = Proj(crs)
    pixel /= projection.get_factors(*projection(x, y, inverse=True)).areal_scale
    seen = percent != 255
    cells = expected_area([item], resolution=6)
    assert cells["expected_area_m2"].sum() == pytest.approx(percent[seen].sum() / 100 * pixel, rel=1e-3)
    assert cells["seen_area_m2"].sum() == pytest.approx(seen.sum() * pixel, rel=1e-3)
    halved = expected_area([item], resolution=6, calibrate=lambda p: p / 2)
    assert halved["expected_area_m2"].sum() == pytest.approx(cells["expected_area_m2"].sum() / 2)


def test_images_of_a_year_are_averaged_not_added(run: Run) -> None:
    items = list(dx.load_items(run.folder / "catalog.json"))
    both = expected_area(items, resolution=5)
    alone = [expected_area([item], resolution=5)["expected_area_m2"].sum() for item in items]
    assert min(alone) * 0.5 < both["expected_area_m2"].sum() < sum(alone)
    assert both["images"].max() == len(items)
    assert np.isfinite(both["share"]).all()


def test_no_items_and_no_resolution_are_refused() -> None:
    with pytest.raises(AssessmentError, match="resolution"):
        expected_area([], resolution=16)
    with pytest.raises(EmptySearchError):
        expected_area([])


def test_a_cube_of_a_box_holds_all_of_the_box(run: Run) -> None:
    (item, *_) = dx.load_items(run.folder / "catalog.json")
    whole = dx.open_cube([item])["probability"]
    boxed = dx.open_cube([item], bbox=shapely.geometry.shape(item.geometry).bounds)["probability"]
    assert int(boxed.notnull().sum()) == int(whole.notnull().sum())


def test_a_file_without_detections_scores_zero_and_is_no_error(
    products: Products, world: SampleWorld, tmp_path: Path
) -> None:
    for path in products.files:
        if "coverage" in str(path):
            shutil.copy(path, tmp_path)
    name = next(Path(p).name for p in products.files if "features_2021_level2.parquet" in str(p))
    products.level2.iloc[:0].to_parquet(tmp_path / name)
    row = validate(tmp_path / name, world.truth).tables[PER_YEAR].set_index("scope").loc["2021"]
    assert (row["detected"], row["precision"], row["recall"], row["f1"]) == (0, 0, 0, 0)
    assert row["missed"] == row["references"] > 0
