from __future__ import annotations

import math

import geopandas as gpd
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from darts_xr.assess import Scores, match_objects, threshold_sweep
from darts_xr.errors import CRSError, AssessmentError
from tests.helpers import real_data

CRS = "EPSG:3571"  # metres, and the projection of the comparison itself


def squares(*corners: tuple[float, float, float], **columns: list[float]) -> gpd.GeoDataFrame:
    shapes = [shapely.box(x, y, x + side, y + side) for x, y, side in corners]
    return gpd.GeoDataFrame(columns, geometry=shapes, crs=CRS)


def test_counts_and_ratios() -> None:
    truth = squares((0, 0, 10), (100, 0, 10), (200, 0, 10))
    found = squares((5, 5, 10), (-5, -5, 10), (105, 5, 3), (500, 0, 10))
    got = match_objects(found, truth)
    assert got == Scores(
        tp=3, fp=1, fn=1, precision=0.75, recall=2 / 3, f1=2 * 0.75 * (2 / 3) / (0.75 + 2 / 3),
        n_detected=4, n_reference=3, reference_found=2,
    )  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 12), st.integers(0, 12), st.sampled_from([0, 30]))
def test_scores_equal_a_plain_double_loop(seed: int, n: int, m: int, buffer: int) -> None:
    rng = np.random.default_rng(seed)
    found = squares(*[(x, y, 20) for x, y in rng.uniform(0, 200, (n, 2))])
    truth = squares(*[(x, y, 20) for x, y in rng.uniform(0, 200, (m, 2))])
    grown = truth.geometry.buffer(buffer)
    hits = [[bool(a.intersects(b)) for b in grown] for a in found.geometry]
    got = match_objects(found, truth, buffer=buffer)
    assert got.tp == sum(any(row) for row in hits)
    assert got.reference_found == sum(any(column) for column in zip(*hits, strict=True))
    assert (got.tp + got.fp, got.reference_found + got.fn) == (n, m)


def test_perfect_detection_scores_one_and_a_useless_one_zero() -> None:
    truth = squares((0, 0, 10))
    assert match_objects(truth, truth).f1 == 1
    assert match_objects(squares((100, 0, 10)), truth).f1 == 0


def test_ratios_of_an_empty_side_are_zero_as_the_paper_prints_them_and_nan_where_both_are_empty() -> None:
    one, none = squares((0, 0, 10)), squares((0, 0, 10)).iloc[:0]
    for scores in (match_objects(none, one), match_objects(one, none)):
        assert (scores.precision, scores.recall, scores.f1) == (0, 0, 0)
    nothing = match_objects(none, none)
    assert all(math.isnan(ratio) for ratio in (nothing.precision, nothing.recall, nothing.f1))


def test_buffer_in_metres_helps_points_in_any_crs() -> None:
    found = squares((0, 0, 10))
    point = gpd.GeoDataFrame(geometry=[shapely.Point(150, 5)], crs=CRS).to_crs(4326)
    assert match_objects(found, point).tp == 0
    assert match_objects(found, point, buffer=139).tp == 0
    assert match_objects(found, point, buffer=141).tp == 1


def test_reference_cut_by_the_coverage_is_neither_demanded_nor_held_against() -> None:
    seen = gpd.GeoSeries([shapely.box(0, 0, 100, 100)], crs=CRS)
    truth = squares((10, 10, 10), (95, 50, 10), (300, 0, 10))
    found = squares((15, 15, 10), (93, 52, 5), (60, 60, 5), (302, 2, 5))
    got = match_objects(found, truth, coverage=seen)
    # Found: the first is true; the second meets only the cut object; the third is false; the fourth is outside.
    assert (got.tp, got.fp, got.fn) == (1, 1, 0)
    assert (got.n_detected, got.n_reference) == (2, 1)


def test_invalid_reference_is_taken_as_its_repaired_self() -> None:
    bow = gpd.GeoDataFrame(geometry=[shapely.Polygon([(0, 0), (10, 10), (10, 0), (0, 10)])], crs=CRS)
    assert match_objects(squares((8, 4, 1)), bow).tp == 1


def test_sweep_is_one_row_per_threshold() -> None:
    truth = squares((0, 0, 10), (100, 0, 10))
    found = squares((5, 5, 10), (105, 5, 10), (300, 0, 10), pval_mean=[0.72, 0.56, 0.51])
    table = threshold_sweep(found, truth)
    assert table.threshold.tolist() == [0.5, 0.55, 0.6, 0.65, 0.7]
    assert table.true.tolist() == [2, 2, 1, 1, 1]
    assert table["false"].tolist() == [1, 0, 0, 0, 0]
    for row in table.itertuples():
        alone = match_objects(found[found.pval_mean >= row.threshold], truth)
        assert (row.precision, row.recall, row.f1) == (alone.precision, alone.recall, alone.f1)


def test_sweep_takes_level2_too() -> None:
    found = squares((0, 0, 10), pval_mean_of_mean_level1=[0.6])
    assert threshold_sweep(found, squares((0, 0, 10)), thresholds=[0.7]).detected.tolist() == [0]


def test_sweep_without_probability_is_refused() -> None:
    with pytest.raises(AssessmentError, match="pval_mean"):
        threshold_sweep(squares((0, 0, 1)), squares((0, 0, 1)))


def test_no_crs_is_refused() -> None:
    bare = squares((0, 0, 1)).set_crs(None, allow_override=True)
    with pytest.raises(CRSError, match="detected"):
        match_objects(bare, squares((0, 0, 1)))
    with pytest.raises(CRSError, match="reference"):
        match_objects(squares((0, 0, 1)), bare)


def test_negative_buffer_is_refused() -> None:
    with pytest.raises(AssessmentError, match="buffer"):
        match_objects(squares((0, 0, 1)), squares((0, 0, 1)), buffer=-1)


def test_html_names_every_field() -> None:
    shown = match_objects(squares((0, 0, 1)), squares((0, 0, 1)))._repr_html_()
    assert all(word in shown for word in ("precision", "recall", "f1", "1.000"))


@pytest.mark.realdata
def test_real_prediction_against_its_reference() -> None:
    folder = real_data("rts-inventories") / "Huang2022"
    sites = gpd.read_file(folder / "Banks_Island_slumps.shp")
    got = match_objects(sites, sites, buffer=100)
    assert got.precision == got.recall == got.f1 == 1


@pytest.mark.realdata
def test_real_inventory_of_another_crs_with_invalid_shapes_is_taken() -> None:
    path = real_data("rts-inventories") / "Segal2015" / "Banks_Island_Slumps_V2.shp"
    inventory = gpd.read_file(path)
    assert (len(inventory), (~inventory.is_valid).sum()) == (832, 4)
    moved = inventory.to_crs(4326)
    assert match_objects(moved, inventory).f1 == 1
    with pytest.raises(CRSError, match="reference"):
        match_objects(moved, inventory.set_crs(None, allow_override=True))
