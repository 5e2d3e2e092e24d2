"""The paper's validations, its sensitivity and gridded figures, and Table 1, on inputs with known answers."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely

from darts_xr.assess import (
    cohen_kappa,
    confirmation_table,
    error_table,
    expert_matrix,
    grid_counts,
    gridded_comparison,
    h3_density,
    h3_density_by_year,
    random_squares,
    recall_by_agreement,
    wilson,
)
from darts_xr.errors import AssessmentError
from darts_xr.globe import area_m2
from tests.helpers import real_data

CRS = "EPSG:3571"


def boxes(*bounds: tuple[float, float, float, float], crs: object = CRS, **columns: list) -> gpd.GeoDataFrame:
    return gpd.GeoDataFrame(columns, geometry=[shapely.box(*b) for b in bounds], crs=crs)


# --- 1: manual confirmation --------------------------------------------------------------------------------


def test_the_papers_own_confirmation_gives_its_precision() -> None:
    # 3,574 detections looked at, 2,003 of them true, 42 uncertain: 0.560 with the uncertain ones as wrong.
    said = pd.DataFrame(
        {"verdict": ["true"] * 2003 + ["false"] * 1529 + ["uncertain"] * 42, "region": "all of it"}
    )
    table = confirmation_table(said, by="region").set_index("scope")
    assert table.loc["all", "precision"] == pytest.approx(0.560, abs=5e-4)
    assert table.loc["all", "low"] < 0.560 < table.loc["all", "high"]
    assert table.loc["all of it", "precision_of_certain"] == pytest.approx(2003 / 3532)


def test_a_detachment_slide_is_counted_apart_and_is_no_error() -> None:
    row = confirmation_table(pd.DataFrame({"verdict": ["true", "detachment slide", "false", "false"]})).iloc[
        -1
    ]
    assert (row["true"], row["detachment_slide"], row["precision"]) == (1, 1, 0.5)


def test_verdicts_that_are_none_are_refused() -> None:
    with pytest.raises(AssessmentError, match="maybe"):
        confirmation_table(pd.DataFrame({"verdict": ["maybe"]}))
    with pytest.raises(AssessmentError, match="column verdict"):
        confirmation_table(pd.DataFrame({"said": ["true"]}))


def test_errors_by_class_and_land_cover_add_up() -> None:
    errors = pd.DataFrame(
        {
            "error_class": ["river", "river", "snow or ice", None],
            "landcover": ["water", "bare ground", "snow", None],
        }
    )
    table = error_table(errors).set_index("error_class")
    assert table.loc["all", "n"] == table.loc[:, "n"].iloc[:-1].sum() == 4
    assert table.loc["river", ["water", "bare ground"]].tolist() == [1, 1]
    assert table.loc["unclassified", ["n", "unknown"]].tolist() == [1, 1]
    assert table.loc["all", "share"] == pytest.approx(1)
    with pytest.raises(AssessmentError, match="volcano"):
        error_table(pd.DataFrame({"error_class": ["volcano"]}), landcover=None)


# --- 2: random squares -------------------------------------------------------------------------------------


def test_squares_are_inside_the_coverage_equal_in_area_apart_and_reproducible() -> None:
    seen = boxes((-140, 68, -130, 71), crs=4326)
    regions = gpd.GeoSeries(
        [shapely.box(-140, 68, -136, 71), shapely.box(-134, 68, -130, 71)], index=["west", "east"], crs=4326
    )
    squares = random_squares(seen, regions=regions, seed=3)
    assert squares.groupby("region").size().to_dict() == {"west": 10, "east": 10}
    assert area_m2(squares) == pytest.approx(1e8, rel=1e-4)
    shapes = squares.to_crs(CRS).geometry
    assert all(not a.overlaps(b) for i, a in enumerate(shapes) for b in shapes.iloc[i + 1 :])
    limits = seen.segmentize(0.01).to_crs(CRS).buffer(1).iloc[0]
    assert shapes.within(limits).all()
    again = random_squares(seen, regions=regions.iloc[[1]], seed=3)
    assert again.geometry.geom_equals(
        squares[squares["region"] == "east"].geometry.reset_index(drop=True)
    ).all()
    assert (
        not random_squares(seen, seed=4)
        .geometry.iloc[0]
        .equals(random_squares(seen, seed=3).geometry.iloc[0])
    )


def test_too_little_room_for_squares_is_told() -> None:
    with pytest.raises(AssessmentError, match="has room for 1 of 2"):
        random_squares(boxes((0, 0, 14_000, 14_000)), count=2)


# --- gridded comparison, Table 1, hexagons of land ---------------------------------------------------------


def test_gridded_classes_of_both_kinds() -> None:
    field = boxes((0, 0, 30_000, 10_000))
    spots = {0: (7, 7), 1: (3, 12), 2: (0, 1)}
    sides = [
        gpd.GeoDataFrame(
            geometry=[
                shapely.Point(cell * 10_000 + 100 + i, 500)
                for cell, n in spots.items()
                for i in range(n[side])
            ],
            crs=CRS,
        )
        for side in (0, 1)
    ]
    cells = grid_counts(*sides, field)
    cells = cells[cells.covered > 0.5]
    assert cells[["detected", "reference"]].to_numpy().tolist() == [[7, 7], [3, 12], [0, 1]]
    published, complete = (gridded_comparison(cells, classes=kind) for kind in ("published", "complete"))
    assert published.attrs == {"left_out": 1, "agreement": 0.0}
    assert complete.attrs["left_out"] == 0
    assert complete.attrs["agreement"] == pytest.approx(1 / 3)
    assert complete.loc["6-10", "6-10"] == 1
    assert published.loc[">10", "2-5"] == 1


def test_objects_that_were_not_seen_are_not_in_the_grid() -> None:
    cells = grid_counts(boxes((15_000, 0, 15_010, 10)), boxes((5, 5, 10, 10)), boxes((0, 0, 10_000, 10_000)))
    assert (cells.detected.sum(), cells.reference.sum()) == (0, 1)


def test_the_share_of_land_leaves_the_sea_out_year_by_year() -> None:
    seen = boxes((-140, 69, -138, 70), (-140, 69, -139, 70), crs=4326, year=[2021, 2022])
    slump = boxes((-139.6, 69.2, -139.5, 69.25), crs=4326, year=[2021])
    land = boxes((-140, 69, -139, 70), crs=4326)
    all_of_it, dry = h3_density(slump, seen), h3_density(slump, seen, land=land)
    assert dry.covered_area_m2.sum() == pytest.approx(all_of_it.covered_area_m2.sum() / 2, rel=1e-3)
    assert dry.rts_area_m2.sum() == pytest.approx(all_of_it.rts_area_m2.sum())
    yearly = h3_density_by_year(slump, seen, land=land)
    assert yearly.groupby("year").covered_area_m2.sum().tolist() == pytest.approx(
        [dry.covered_area_m2.sum()] * 2
    )
    assert yearly[yearly.year == 2022].share.eq(0).all()
    with pytest.raises(AssessmentError, match="coverage have no column year"):
        h3_density_by_year(slump, seen.drop(columns="year"))


# --- intervals and agreement -------------------------------------------------------------------------------


def test_wilson_bounds_are_those_of_the_textbook() -> None:
    assert wilson(0, 10) == pytest.approx((0, 0.2775), abs=1e-4)
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)  # Newcombe 1998, table I
    assert wilson(0, 0) == (0, 1)


def test_wilson_covers_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    share = rng.uniform(0.05, 0.95, 4000)  # the coverage of one share of 40 swings around 0.95
    hits = rng.binomial(40, share)
    covered = [
        low <= p <= high for p, (low, high) in zip(share, (wilson(int(h), 40) for h in hits), strict=True)
    ]
    assert 0.935 <= np.mean(covered) <= 0.965


def test_kappa_of_the_textbook() -> None:
    one = ["yes"] * 25 + ["no"] * 25  # 20 both yes, 15 both no, 5 and 10 apart: 0.4
    other = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    assert cohen_kappa(one, other) == pytest.approx(0.4)
    with pytest.raises(AssessmentError, match="same objects"):
        cohen_kappa(["yes"], [])


def test_experts_are_compared_with_the_majority_of_the_others() -> None:
    a, b = (0, 0, 10, 10), (100, 0, 110, 10)
    drawings = {"one": boxes(a, b), "two": boxes(a, b), "three": boxes(a), "four": boxes(a)}
    table = expert_matrix(drawings, models={"model": boxes(a, (500, 0, 510, 10))})
    assert np.isnan(table.loc["one", "one"])
    assert table.loc["one", "two"] == 1
    assert table.loc["three", "one"] == pytest.approx(2 / 3)  # precision 1, recall 1/2
    assert table.loc["three", "majority"] == pytest.approx(2 / 3)  # two of three others drew b
    assert table.loc["one", "majority"] == pytest.approx(2 / 3)  # one of three others drew b
    assert table.loc["model", "majority"] == pytest.approx(2 / 3)  # only a has more than two of four
    assert table.loc["one", "mean"] == pytest.approx((1 + 2 / 3 + 2 / 3) / 3)
    steps = recall_by_agreement(boxes(b), drawings)
    assert steps[["references", "found"]].to_numpy().tolist() == [[2, 1], [2, 1], [1, 0], [1, 0]]


@pytest.mark.realdata
def test_twelve_experts_of_peel_agree_as_far_as_is_documented() -> None:
    folder = real_data("rts-experts-peel") / "experts"
    drawings = {path.name: gpd.read_file(path / "Peel_digitized.shp") for path in sorted(folder.iterdir())}
    table = expert_matrix(drawings)
    assert len(table) == 12
    assert np.isnan(np.diag(table[list(drawings)].to_numpy())).all()
    assert 0.5 < table["mean"].mean() < table["majority"].mean() <= 1
