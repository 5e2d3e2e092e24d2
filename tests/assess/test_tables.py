"""Scores by year, region and image, with answers that were counted by hand."""

from __future__ import annotations

import logging
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely

from darts_xr.assess import (
    Bootstrap,
    Comparison,
    MatchRule,
    ReferenceTime,
    score_all,
    score_images,
    score_years,
)
from darts_xr.errors import AssessmentError

CRS = "EPSG:3571"
FIELD = shapely.box(-1000, -1000, 1000, 1000)


def layer(*corners: tuple[float, float], side: float = 10, **columns: Any) -> gpd.GeoDataFrame:
    return gpd.GeoDataFrame(
        columns, geometry=[shapely.box(x, y, x + side, y + side) for x, y in corners], crs=CRS
    )


def seen(*years: int, field: shapely.Polygon = FIELD) -> gpd.GeoDataFrame:
    return gpd.GeoDataFrame({"year": list(years)}, geometry=[field] * len(years), crs=CRS)


def by_scope(table: pd.DataFrame) -> pd.DataFrame:
    return table.set_index("scope")


def test_a_covered_year_without_detections_counts_with_recall_zero() -> None:
    # Two slumps in each of three years; 2021 finds one, 2022 none, 2023 one: mean recall (1/2 + 0 + 1/2) / 3.
    truth = layer((0, 0), (100, 0))
    found = layer((5, 5), (105, 5), (500, 500), year=[2021, 2023, 2023])
    table = by_scope(score_years(found, truth, seen(2021, 2022, 2023)))
    assert table.loc[["2021", "2022", "2023"], "recall"].tolist() == [0.5, 0.0, 0.5]
    assert table.loc["mean", "recall"] == pytest.approx(1 / 3)
    assert table.loc["sd", "recall"] == pytest.approx(np.std([0.5, 0, 0.5], ddof=1))
    assert table.loc["2022", ["detected", "precision", "f1"]].tolist() == [0, 0.0, 0.0]
    assert table.loc["all", ["detected", "true", "false", "references", "found", "missed"]].tolist() == [
        3,
        2,
        1,
        6,
        2,
        4,
    ]


def test_a_column_called_year_dates_nothing_until_it_is_declared(caplog: pytest.LogCaptureFixture) -> None:
    inventory = layer((0, 0), (100, 0), (200, 0), year=[2016] * 3)
    found = layer((5, 5), (105, 5), (205, 5), year=[2021] * 3)
    table = score_years(found, inventory, seen(2021))
    assert by_scope(table).loc["2021", ["precision", "recall", "f1"]].tolist() == [1, 1, 1]
    assert "undated" in table.attrs["notes"][0]
    assert "undated" in caplog.text
    declared = score_years(
        found, inventory, seen(2021), comparison=Comparison(time=ReferenceTime(date="year"))
    )
    assert by_scope(declared).loc["2021", ["references", "precision"]].tolist() == [0, 0]
    assert any("of the years 2021" in note for note in declared.attrs["notes"])


def test_periods_hold_in_each_of_their_years() -> None:
    truth = layer(
        (0, 0), (100, 0), (200, 0), began=["1984", "2022-07-01", None], ended=[2021, "2023-08-01", 2023]
    )
    found = layer((5, 5), year=[2021])
    time = ReferenceTime(start="began", end="ended")
    table = score_years(found, truth, seen(2021, 2022, 2023, 2024), comparison=Comparison(time=time))
    assert by_scope(table).loc[["2021", "2022", "2023", "2024"], "references"].tolist() == [1, 1, 1, 0]
    assert any("1 object(s) of the reference have no date" in note for note in table.attrs["notes"])


def test_a_period_in_one_column_is_what_arts_writes() -> None:
    truth = layer((0, 0), when=["2021-05-01,2022-09-30"])
    table = score_years(
        layer((5, 5), year=[2022]), truth, seen(2021, 2022, 2023),
        comparison=Comparison(time=ReferenceTime(date="when")),
    )  # fmt: skip
    assert by_scope(table).loc[["2021", "2022", "2023"], "references"].tolist() == [1, 1, 0]


def test_outlines_of_several_days_of_a_year_are_one_object_of_that_year() -> None:
    truth = layer((0, 0), (2, 0), (0, 100), day=["2021-07-01", "2021-08-01", "2021-08-01"])
    time = ReferenceTime(date="day")
    table = score_years(layer((5, 5), year=[2021]), truth, seen(2021), comparison=Comparison(time=time))
    assert by_scope(table).loc["2021", ["references", "found"]].tolist() == [2, 1]


def test_an_image_is_compared_with_the_outlines_of_its_day_and_images_without_detections_count() -> None:
    truth = layer((0, 0), (100, 0), day=["2021-07-01", "2021-08-01"])
    found = layer((5, 5), (105, 5), image_id=["a", "a"])
    images = gpd.GeoDataFrame(
        {"image_id": ["a", "b"], "date": ["2021-07-01", "2021-08-01"]}, geometry=[FIELD] * 2, crs=CRS
    )
    table = by_scope(
        score_images(found, truth, images, comparison=Comparison(time=ReferenceTime(date="day")))
    )
    assert table.loc["a", ["true", "false", "found", "missed"]].tolist() == [1, 1, 1, 0]
    assert table.loc["b", ["detected", "missed"]].tolist() == [0, 1]
    assert table.loc["all", "f1"] == 0.5


@pytest.mark.parametrize(("cut", "references", "false"), [("leave-out", 1, 1), ("count", 2, 1)])
def test_the_two_ways_with_references_that_the_rim_cuts(cut: Any, references: int, false: int) -> None:
    truth = layer((0, 0), (995, 0))
    found = layer((5, 5), (990, 0), (500, 500), year=[2021] * 3)
    table = score_years(found, truth, seen(2021), comparison=Comparison(rule=MatchRule(cut=cut)))
    row = by_scope(table).loc["2021"]
    assert (row["references"], row["false"]) == (references, false)
    assert row["detected"] == (2 if cut == "leave-out" else 3)


def test_each_year_has_its_own_coverage() -> None:
    truth = layer((0, 0), (500, 0))
    halves = gpd.GeoDataFrame(
        {"year": [2021, 2022]},
        geometry=[shapely.box(-100, -100, 100, 100), shapely.box(400, -100, 600, 100)], crs=CRS,
    )  # fmt: skip
    found = layer((5, 5), (505, 5), (505, 5), year=[2021, 2021, 2022])
    table = by_scope(score_years(found, truth, halves))
    assert table.loc["2021", ["detected", "references", "f1"]].tolist() == [1, 1, 1]
    assert table.loc["2022", ["detected", "references", "f1"]].tolist() == [1, 1, 1]


def test_regions_have_rows_of_their_own() -> None:
    truth = layer((0, 0), (500, 0))
    regions = gpd.GeoSeries(
        [shapely.box(-100, -100, 100, 100), shapely.box(400, -100, 600, 100)], index=["west", "east"], crs=CRS
    )
    table = score_years(layer((5, 5), year=[2021]), truth, seen(2021, 2022), regions=regions)
    assert table["region"].unique().tolist() == ["west", "east"]
    recall = table.set_index(["region", "scope"])["recall"]
    assert (recall["west", "2021"], recall["east", "2021"]) == (1, 0)
    assert recall["west", "mean"] == 0.5


def test_counts_are_integers_and_each_score_follows_from_its_row() -> None:
    table = score_years(layer((5, 5), (105, 5), year=[2021, 2021]), layer((0, 0), (200, 0)), seen(2021))
    row = by_scope(table).loc["2021"]
    assert str(table["detected"].dtype) == "Int64"
    assert row["precision"] == row["true"] / row["detected"]
    assert row["recall"] == row["found"] / row["references"]
    assert row["f1"] == 2 * row["precision"] * row["recall"] / (row["precision"] + row["recall"])


@pytest.mark.parametrize(
    ("reference", "coverage", "word"),
    [
        (layer((50_000, 0)), seen(2021), "none of the 1 reference objects is inside the coverage"),
        (layer((0, 0), (5000, 0), (6000, 0)), seen(2021), "only 1 of 3 reference objects"),
        (layer((50_000, 0)), None, "lie apart"),
    ],
)
def test_inputs_that_do_not_fit_together_are_named(
    reference: gpd.GeoDataFrame, coverage: Any, word: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        table = score_years(layer((5, 5), year=[2021]), reference, coverage)
    assert any(word in note for note in table.attrs["notes"])
    assert word in caplog.text


def test_objects_without_years_are_scored_together() -> None:
    table = score_all(layer((5, 5), (500, 0)), layer((0, 0)), seen(2021))
    assert table[["detected", "true", "found"]].iloc[0].tolist() == [2, 1, 1]


def test_scores_by_year_without_any_year_are_refused() -> None:
    with pytest.raises(AssessmentError, match="column year"):
        score_years(layer((0, 0)), layer((0, 0)))


@pytest.mark.parametrize(
    "time", [{"start": "a"}, {"date": "a", "start": "b", "end": "c"}], ids=["half a period", "both kinds"]
)
def test_contradicting_declarations_are_refused(time: dict[str, str]) -> None:
    with pytest.raises(AssessmentError, match="both"):
        ReferenceTime(**time)


def test_a_declared_column_must_be_there_and_hold_dates() -> None:
    found = layer((0, 0), year=[2021])
    with pytest.raises(AssessmentError, match="no column 'when'"):
        score_years(found, layer((0, 0)), comparison=Comparison(time=ReferenceTime(date="when")))
    with pytest.raises(AssessmentError, match="'soon'"):
        score_years(
            found, layer((0, 0), when=["soon"]), comparison=Comparison(time=ReferenceTime(date="when"))
        )


def test_bootstrap_intervals_hold_the_score_and_are_reproducible() -> None:
    rng = np.random.default_rng(0)
    corners = [(float(x), float(y)) for x, y in rng.uniform(-90_000, 90_000, (120, 2))]
    truth = layer(*corners)
    found = layer(*corners[:90], *[(x + 500, y) for x, y in corners[90:]], year=[2021] * 120)
    field = seen(2021, field=shapely.box(-1e5, -1e5, 1e5, 1e5))
    tables = [
        by_scope(score_years(found, truth, field, comparison=Comparison(bootstrap=Bootstrap(draws=300))))
        for _ in range(2)
    ]
    row = tables[0].loc["2021"]
    assert row["f1_low"] < row["f1"] < row["f1_high"]
    # A score of 0.75 of 120 independent objects has a standard error of 0.04.
    assert 0.08 < row["f1_high"] - row["f1_low"] < 0.30
    pd.testing.assert_frame_equal(*tables)


def test_intervals_of_one_block_are_not_invented() -> None:
    comparison = Comparison(bootstrap=Bootstrap())
    table = by_scope(
        score_years(layer((5, 5), year=[2021]), layer((0, 0)), seen(2021), comparison=comparison)
    )
    assert np.isnan(table.loc["2021", "f1_low"])
