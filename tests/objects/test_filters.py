from __future__ import annotations

from pathlib import Path

import dask.array as da
import geopandas as gpd
import numpy as np
import pytest
import shapely
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from odc.geo.xr import wrap_xr

from darts_xr.errors import CRSError, ObjectError
from darts_xr.objects import filter_infrastructure, filter_water

GRID = GeoBox.from_bbox((500_000, 7_700_000, 500_400, 7_700_300), "EPSG:32608", shape=(30, 40))


def squares(*corners: tuple[float, float, float]) -> gpd.GeoDataFrame:
    """Squares by west and south offset and side, in metres."""
    shapes = [shapely.box(5e5 + x, 7.7e6 + y, 5e5 + x + s, 7.7e6 + y + s) for x, y, s in corners]
    return gpd.GeoDataFrame({"object": range(1, len(shapes) + 1)}, geometry=shapes, crs="EPSG:32608")


def half_water() -> np.ndarray:
    cover = np.full((30, 40), 11, np.uint8)
    cover[:, 20:] = 1
    return cover


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_fraction_is_the_exact_area_fraction(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cover = rng.choice([0, 1, 2, 11], (30, 40)).astype(np.uint8)
    centres = rng.uniform([5e5 - 20, 7.7e6 - 20], [5e5 + 420, 7.7e6 + 320], (6, 2))
    shapes = shapely.buffer(shapely.points(centres), rng.uniform(2, 40, 6))
    feats = gpd.GeoDataFrame(geometry=shapes, crs="EPSG:32608")
    got = filter_water(feats, wrap_xr(da.from_array(cover, chunks=7), GRID), max_fraction=1)
    rows, columns = np.nonzero(cover <= 1)
    west, north = 5e5 + 10 * columns, 7.7e6 + 300 - 10 * rows
    water = shapely.union_all(shapely.box(west, north - 10, west + 10, north))
    beyond = shapely.difference(shapes, shapely.box(5e5, 7.7e6, 5e5 + 400, 7.7e6 + 300))
    for column, part in (
        ("water_fraction", shapely.intersection(shapes, water)),
        ("unknown_fraction", beyond),
    ):
        np.testing.assert_allclose(got[column], shapely.area(part) / shapely.area(shapes), atol=1e-9)


def test_twenty_percent_is_kept_and_more_is_not() -> None:
    feats = squares((180, 100, 25), (175, 100, 20))  # 20 % and 0 %
    feats = gpd.GeoDataFrame(geometry=[*feats.geometry, *squares((180, 100, 26)).geometry], crs=feats.crs)
    kept = filter_water(feats, wrap_xr(half_water(), GRID))
    assert kept.water_fraction.round(9).tolist() == [0.2, 0.0]
    assert kept.attrs["removed"] == {"water": 1}


def test_beyond_the_land_cover_is_unknown_and_kept() -> None:
    cover = half_water()
    cover[:, 10:20] = 255
    feats = squares((-50, 100, 60), (120, 100, 30), (20, 20, 30), (190, 100, 20))
    got = filter_water(feats, wrap_xr(cover, GRID), keep_removed=True)
    np.testing.assert_allclose(got.water_fraction, [0, 0, 0, 0.5])
    np.testing.assert_allclose(got.unknown_fraction, [50 / 60, 1, 0, 0.5])
    assert got.removed_by.tolist() == ["", "", "", "water"]
    assert got.attrs["unknown_landcover"] == 2
    assert got.attrs["removed"] == {"water": 1}


def test_open_sea_inside_a_tile_is_water() -> None:
    cover = half_water()
    cover[cover == 1] = 0
    got = filter_water(squares((190, 100, 20)), wrap_xr(cover, GRID), keep_removed=True)
    assert (got.water_fraction[0], got.unknown_fraction[0]) == (0.5, 0)


def test_features_of_another_crs_are_reprojected() -> None:
    feats = squares((180, 100, 40), (20, 100, 40))
    expected = filter_water(feats, wrap_xr(half_water(), GRID), max_fraction=1).water_fraction
    got = filter_water(feats.to_crs(4326), wrap_xr(half_water(), GRID), max_fraction=1)
    assert got.crs == "EPSG:4326"
    np.testing.assert_allclose(got.water_fraction, expected, atol=1e-4)


def test_only_chunks_under_features_are_read() -> None:
    reads: list[int] = []

    def read(block: np.ndarray) -> np.ndarray:
        reads.append(1)
        return block

    cover = da.from_array(half_water(), chunks=10).map_blocks(
        read, dtype=np.uint8, meta=np.empty((0, 0), np.uint8)
    )
    filter_water(squares((12, 12, 30)), wrap_xr(cover, GRID))
    assert 1 <= len(reads) <= 4 < cover.npartitions


def test_other_class_scheme_is_refused_by_name() -> None:
    with pytest.raises(ObjectError, match=r"\[80\].*ESRI"):
        filter_water(squares((20, 20, 30)), wrap_xr(np.full((30, 40), 80, np.uint8), GRID))


def test_missing_crs_is_an_error() -> None:
    feats = squares((20, 20, 30))
    with pytest.raises(CRSError, match="feats"):
        filter_water(feats.set_crs(None, allow_override=True), wrap_xr(half_water(), GRID))
    bare = xr.DataArray(
        half_water(), dims=("y", "x"), coords={"y": np.arange(30.0)[::-1], "x": np.arange(40.0)}
    )
    with pytest.raises(CRSError, match="landcover"):
        filter_water(feats, bare)


def test_infrastructure_removes_what_it_meets_in_any_crs(tmp_path: Path) -> None:
    feats = squares((0, 0, 30), (100, 100, 30))
    road = squares((29, 29, 5)).to_crs(4326)
    got = filter_infrastructure(feats, road)
    assert got.object.tolist() == [2]
    assert got.attrs["removed"] == {"infrastructure": 1}
    road.to_file(tmp_path / "road.gpkg")
    road.to_parquet(tmp_path / "road.parquet")
    for name in ("road.gpkg", "road.parquet"):
        assert filter_infrastructure(feats, tmp_path / name).object.tolist() == [2]


def test_removed_objects_keep_their_first_reason() -> None:
    feats = squares((0, 0, 30), (300, 100, 30), (100, 0, 30))
    marked = filter_water(feats, wrap_xr(half_water(), GRID), keep_removed=True)
    marked = filter_infrastructure(marked, squares((0, 0, 400)).iloc[[0]], keep_removed=True)
    assert marked.removed_by.tolist() == ["infrastructure", "water", "infrastructure"]
    assert marked.attrs["removed"] == {"water": 1, "infrastructure": 2}


def test_no_features_are_no_problem() -> None:
    none = squares((0, 0, 1)).iloc[:0]
    assert len(filter_water(none, wrap_xr(half_water(), GRID))) == 0
    assert len(filter_infrastructure(none, squares((0, 0, 30)))) == 0


def test_infrastructure_without_crs_is_an_error() -> None:
    bare = squares((0, 0, 30)).set_crs(None, allow_override=True)
    with pytest.raises(CRSError, match="infrastructure"):
        filter_infrastructure(squares((0, 0, 30)), bare)


def test_unreadable_infrastructure_is_named(tmp_path: Path) -> None:
    (tmp_path / "roads.gpkg").write_text("not a GeoPackage")
    with pytest.raises(ObjectError, match=r"roads\.gpkg cannot be read"):
        filter_infrastructure(squares((0, 0, 30)), tmp_path / "roads.gpkg")
