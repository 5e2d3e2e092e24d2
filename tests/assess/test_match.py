from __future__ import annotations

import itertools
import math

import geopandas as gpd
import numpy as np
import pyproj
import pytest
import shapely
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from darts_xr.assess import (
    MatchRule,
    Scores,
    buffer_curve,
    match_objects,
    probability_densities,
    threshold_sweep,
)
from darts_xr.errors import AssessmentError, CRSError
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
    apart = np.array([[a.distance(b) for b in truth.geometry] for a in found.geometry]).reshape(n, m)
    # A buffer is measured on the ground, which the plane of this count misses by up to 0.01 m.
    assume(buffer == 0 or not (np.abs(apart - buffer) < 0.05).any())
    hits = (apart <= buffer).tolist()
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


# --- rules, distances, and an independent count ------------------------------------------------------------


def test_least_iou_and_one_to_one_pairs() -> None:
    truth = squares((0, 0, 10), (100, 0, 10))
    found = squares((0, 0, 10), (8, 0, 10), (100, 5, 10))
    assert match_objects(found, truth).tp == 3
    strict = match_objects(found, truth, rule=MatchRule(min_iou=0.5))
    assert (strict.tp, strict.reference_found) == (1, 1)
    third = match_objects(found, truth, rule=MatchRule(min_iou=1 / 3))
    assert (third.tp, third.reference_found) == (2, 2)
    single = match_objects(found, truth, rule=MatchRule(one_to_one=True))
    assert (single.tp, single.fp, single.reference_found) == (2, 1, 2)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 5), st.integers(0, 5))
def test_one_to_one_forms_as_many_pairs_as_any_assignment(seed: int, n: int, m: int) -> None:
    rng = np.random.default_rng(seed)
    found = squares(*[(x, y, 40) for x, y in rng.uniform(0, 150, (n, 2))])
    truth = squares(*[(x, y, 40) for x, y in rng.uniform(0, 150, (m, 2))])
    meets = np.array([[a.intersects(b) for b in truth.geometry] for a in found.geometry], bool).reshape(n, m)
    if n > m:
        meets = meets.T
    orders = itertools.permutations(range(max(n, m)), min(n, m))
    best = max((sum(meets[i, j] for i, j in enumerate(order)) for order in orders), default=0)
    got = match_objects(found, truth, rule=MatchRule(one_to_one=True))
    assert got.tp == got.reference_found == best


@pytest.mark.parametrize("bearing", [0, 45, 90, 180, 270])
@pytest.mark.parametrize("place", [(-135, 60), (-119, 72), (60, 82), (179.999, 68), (-180, 82)])
def test_a_buffer_is_metres_on_the_ground_wherever_it_is(place: tuple[float, float], bearing: float) -> None:
    geod = pyproj.Geod(ellps="WGS84")
    point = gpd.GeoDataFrame(geometry=[shapely.Point(place)], crs=4326)
    for metres, hit in ((199.8, 1), (200.2, 0)):
        lon, lat, _ = geod.fwd(*place, bearing, metres)
        found = gpd.GeoDataFrame(geometry=[shapely.Point(lon, lat)], crs=4326)
        assert match_objects(found, point, buffer=200).tp == hit


_SHAPES = st.sampled_from(["point", "square", "two", "touching", "hole", "empty"])


def _shape(kind: str, x: float, y: float) -> shapely.Geometry:
    square = shapely.box(x, y, x + 40, y + 40)
    return {
        "point": shapely.Point(x, y),
        "square": square,
        "two": shapely.MultiPolygon([square, shapely.box(x + 300, y, x + 340, y + 40)]),
        "touching": shapely.box(x + 40, y, x + 80, y + 40),  # shares an edge with a square at (x, y)
        "hole": square.difference(shapely.box(x + 10, y + 10, x + 30, y + 30)),
        "empty": shapely.Polygon(),
    }[kind]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(_SHAPES, st.integers(0, 8), st.integers(0, 8)), max_size=9),
    st.lists(st.tuples(_SHAPES, st.integers(0, 8), st.integers(0, 8)), max_size=9),
    st.sampled_from([0.0, 35.0, 95.0]),
    st.sampled_from(["EPSG:32601", "EPSG:32660", "EPSG:3995"]),  # both sides of 180°, and around the pole
)
def test_scores_equal_brute_force_for_any_shapes_also_at_180_degrees_and_near_the_pole(
    left: list[tuple[str, int, int]], right: list[tuple[str, int, int]], buffer: float, crs: str
) -> None:
    # At 82° N, where the zones' rims are 180°; in EPSG:3995 some 870 km from the pole, on the meridian of 180°.
    starts = {"EPSG:32601": (453_400.0, 9_105_000.0), "EPSG:32660": (546_500.0, 9_105_000.0)}
    x0, y0 = starts.get(crs, (0.0, 871_000.0))
    sides = [
        gpd.GeoDataFrame(geometry=[_shape(kind, x0 + 40 * i, y0 + 40 * j) for kind, i, j in side], crs=crs)
        for side in (left, right)
    ]
    # The count is made in the given projection; that of the comparison turns and stretches by less than 2 %, and
    # distances here are multiples of 40 m or their diagonals, never within 2 % of a buffer.
    near = [
        [not a.is_empty and not b.is_empty and a.distance(b) <= buffer for b in sides[1].geometry]
        for a in sides[0].geometry
    ]
    hits = np.array(near, bool).reshape(len(left), len(right))
    if buffer == 0:  # shapes that share an edge only: let both sides be rounded alike
        sides = [side.to_crs(CRS) for side in sides]
        hits = np.array(
            [[bool(a.intersects(b)) for b in sides[1].geometry] for a in sides[0].geometry], bool
        ).reshape(len(left), len(right))
    got = match_objects(sides[0], sides[1], buffer=buffer)
    assert (got.tp, got.reference_found) == (int(hits.any(axis=1).sum()), int(hits.any(axis=0).sum()))
    assert (got.n_detected, got.n_reference) == (len(left), len(right))


def test_a_slump_across_180_degrees_is_met_from_either_side() -> None:
    cut = shapely.MultiPolygon([shapely.box(179.99, 68, 180, 68.01), shapely.box(-180, 68, -179.99, 68.01)])
    truth = gpd.GeoDataFrame(geometry=[cut], crs=4326)
    halves = [shapely.box(179.995, 68.002, 179.998, 68.004), shapely.box(-179.998, 68.002, -179.995, 68.004)]
    found = gpd.GeoDataFrame(geometry=halves, crs=4326)
    got = match_objects(found, truth)
    assert (got.tp, got.reference_found) == (2, 1)


def test_a_buffer_with_a_least_iou_is_refused() -> None:
    with pytest.raises(AssessmentError, match="exclude each other"):
        match_objects(squares((0, 0, 1)), squares((0, 0, 1)), buffer=10, rule=MatchRule(min_iou=0.5))


@pytest.mark.parametrize("rule", [{"min_iou": 1.5}, {"cut": "clip"}])
def test_a_rule_out_of_range_is_refused(rule: dict) -> None:
    with pytest.raises(AssessmentError, match=next(iter(rule))):
        MatchRule(**rule)


def test_recall_never_falls_with_the_buffer() -> None:
    rng = np.random.default_rng(1)
    points = gpd.GeoDataFrame(geometry=gpd.points_from_xy(*rng.uniform(0, 5000, (2, 60))), crs=CRS)
    found = squares(*[(x, y, 30) for x, y in rng.uniform(0, 5000, (80, 2))])
    curve = buffer_curve(found, points)
    assert curve.buffer.tolist() == [0, 100, 200, 300, 400, 500]
    assert curve.recall.is_monotonic_increasing
    assert curve.precision.is_monotonic_increasing
    assert curve.recall.iloc[0] < curve.recall.iloc[-1]


def test_densities_integrate_to_one_for_each_kind() -> None:
    truth = squares((0, 0, 10), (100, 0, 10))
    found = squares((5, 5, 10), (105, 5, 10), (300, 0, 10), (400, 0, 10), pval_mean=[0.9, 0.8, 0.5, 0.55])
    table = probability_densities(found, truth, bins=4)
    width = table.high - table.low
    assert (table.true * width).sum() == pytest.approx(1)
    assert (table["false"] * width).sum() == pytest.approx(1)
    assert table.true.iloc[0] == 0
    assert table["false"].iloc[0] > 0


@pytest.mark.realdata
@pytest.mark.parametrize("kind", ["plain", "postprocessed"])
def test_ellesmere_equals_an_independent_count(kind: str) -> None:
    folder = real_data("rts-dem-predictions-ellesmere")
    found = gpd.read_file(folder / f"polygons_prediction_{kind}.geojson")
    truth = gpd.read_file(folder / "polygons_reference_postprocessed.geojson")
    curve = buffer_curve(found, truth)
    assert curve.recall.is_monotonic_increasing
    # Counted object by object in the files' own projection, corrected for its scale there (EPSG:3413, 79 to 80° N).
    lat = float(truth.to_crs(4326).total_bounds[[1, 3]].mean())
    scale = (
        pyproj.Proj("EPSG:3413").get_factors(float(truth.to_crs(4326).total_bounds[0]), lat).meridional_scale
    )
    apart = np.array([[a.distance(b) for b in truth.geometry] for a in found.geometry]) / scale
    for row in curve.itertuples():
        hits = apart <= row.buffer
        assert (row.true, row.found) == (int(hits.any(axis=1).sum()), int(hits.any(axis=0).sum()))
    plain = match_objects(found, truth)
    hits = np.array([[bool(a.intersects(b)) for b in truth.geometry] for a in found.geometry])
    assert (plain.tp, plain.reference_found) == (int(hits.any(axis=1).sum()), int(hits.any(axis=0).sum()))
