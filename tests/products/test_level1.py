from __future__ import annotations

import geohash
import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
import xarray as xr

from darts_xr.errors import CRSError, ProductError
from darts_xr.globe import area_m2
from darts_xr.products import empty_level1, level1, merge_level1
from tests.products.rows import box, feats, image

# "str" with pandas 3, "object" before
TEXT = str(pd.Series(["x"]).dtype)

TABLE_5 = {
    "id": "int64",
    "id_geohash": TEXT,
    "date": TEXT,
    "year": "int64",
    "area_m2": "int64",
    "area_ha": "float64",
    "area_km2": "float64",
    "image_source": TEXT,
    "image_id": TEXT,
    "pval_mean": "float64",
    "pval_std": "float64",
    "pval_min": "float64",
    "pval_max": "float64",
    "pval_p25": "float64",
    "pval_p50": "float64",
    "pval_p75": "float64",
    "DARTS_dataset_version": TEXT,
    "DARTS_dataset_information": TEXT,
    "DARTS_processing_level": TEXT,
    "DARTS_AI_model_version": TEXT,
    "DARTS_AI_model_threshold": TEXT,
    "geometry": "geometry",
}
SCENE = {"item_id": "20210719_201500_1034", "time": "2021-07-19T20:15:00Z"}


def test_columns_types_and_order_are_those_of_table_5() -> None:
    for frame in (image("2021-07-19", [box(0), box(5)]), empty_level1()):
        assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == TABLE_5
        assert list(frame.columns) == list(TABLE_5)
        assert frame.crs == "EPSG:4326"


def test_values_are_those_of_the_scene() -> None:
    got = level1(feats([box(0), box(5)]), SCENE)
    row = got.iloc[1]
    assert (row.id, row.date, row.year, row.image_id) == (2, "2021-07-19", 2021, "20210719_201500_1034")
    assert row.DARTS_dataset_information == "RTS footprint - individual image (level1)"
    assert row.DARTS_processing_level == "level1"
    assert row.image_source == "PlanetScope"
    assert row.area_ha == row.area_m2 / 1e4
    assert row.area_km2 == row.area_m2 / 1e6
    lat, lon = geohash.decode(row.id_geohash)
    assert (lon, lat) == pytest.approx((-139 + 5.5e-3, 69 + 0.5e-3), abs=1e-6)


def test_dataset_and_its_attributes_are_taken_as_scene() -> None:
    scene = xr.Dataset(attrs={**SCENE, "constellation": "planetscope", "synthetic": True})
    objects = feats([box(0)])
    objects.attrs = {"ensemble": "RTS_v6", "threshold": 0.55}
    row = level1(objects, scene).iloc[0]
    assert row.image_source == "PlanetScope (synthetic)"
    assert row.DARTS_AI_model_version == "RTS_v6"
    assert row.DARTS_AI_model_threshold == "0.55"


def test_features_in_the_scenes_crs_are_reprojected() -> None:
    square = shapely.box(500_000, 7_700_000, 500_300, 7_700_100)
    got = level1(feats([square], crs="EPSG:32608"), SCENE)
    assert got.crs == "EPSG:4326"
    assert got.area_m2[0] == pytest.approx(30_000 * 1.0008, rel=1e-4)


def test_local_day_does_not_count() -> None:
    late = {"item_id": "20210720_001500_1034", "time": "2021-07-19T17:15:00-07:00"}
    assert level1(feats([box(0)]), late).date[0] == "2021-07-20"


def test_rows_marked_as_removed_are_left_out() -> None:
    objects = feats([box(0), box(5)]).assign(removed_by=["water", ""])
    assert level1(objects, SCENE).id.tolist() == [1]


def test_geohash_of_a_polygon_split_at_the_antimeridian_is_at_180() -> None:
    split = shapely.MultiPolygon(
        [shapely.box(179.999, 67, 180, 67.001), shapely.box(-180, 67, -179.998, 67.001)]
    )
    _, lon = geohash.decode(level1(feats([split]), SCENE).id_geohash[0])
    assert lon == pytest.approx(-179.9995, abs=1e-4)


def test_self_crossing_ring_is_repaired_and_reported() -> None:
    crossing = shapely.Polygon([(-139, 69), (-138.999, 69.001), (-138.999, 69), (-139, 69.001)])
    got = level1(feats([box(0), crossing]), SCENE)
    assert got.is_valid.all()
    assert got.attrs["repaired"] == ["20210719_201500_1034 row 1"]


def test_collection_keeps_its_polygons() -> None:
    mixed = shapely.GeometryCollection(
        [box(0), shapely.Point(-139, 69), shapely.MultiPolygon([box(5), box(7)])]
    )
    got = level1(feats([mixed]), SCENE)
    assert got.geometry[0].geom_type == "MultiPolygon"
    assert got.area_m2[0] == pytest.approx(3 * area_m2(gpd.GeoSeries([box(0)], crs=4326))[0], abs=2)


@pytest.mark.parametrize("shape", [shapely.Point(-139, 69), shapely.Polygon(), None])
def test_geometry_without_area_is_refused_by_name(shape: object) -> None:
    objects = feats([box(0), box(1)]).set_geometry([box(0), shape], crs=4326)
    with pytest.raises(ProductError, match="row 1 has no polygon with an area"):
        level1(objects, SCENE)


def test_no_crs_is_refused() -> None:
    with pytest.raises(CRSError, match="feats has no coordinate reference system"):
        level1(feats([box(0)]).set_crs(None, allow_override=True), SCENE)


@pytest.mark.parametrize(
    "item_id", ["20210720_201500_1034", "20210720_201500_44_241d", "4706735_4472312_2021-07-20_1034"]
)
def test_date_outside_the_scene_id_is_refused(item_id: str) -> None:
    with pytest.raises(ProductError, match="its id names the date 2021-07-20, its metadata 2021-07-19"):
        level1(feats([box(0)]), {**SCENE, "item_id": item_id})


def test_scene_without_date_is_refused() -> None:
    with pytest.raises(ProductError, match="no time"):
        level1(feats([box(0)]), {"item_id": "20210719_201500_1034"})


def test_scene_with_a_strange_date_is_refused() -> None:
    with pytest.raises(ProductError, match="is no time"):
        level1(feats([box(0)]), {**SCENE, "time": "nineteen"})


def test_objects_without_statistics_are_refused() -> None:
    with pytest.raises(ProductError, match="pval_mean"):
        level1(gpd.GeoDataFrame(geometry=[box(0)], crs=4326), SCENE)


def test_merge_does_not_depend_on_the_order_of_images() -> None:
    frames = [image("2021-08-02", [box(0), box(3)]), image("2021-07-01", [box(1)]), empty_level1()]
    merged = merge_level1(frames)
    assert merged.to_wkb().equals(merge_level1(frames[::-1]).to_wkb())
    assert merged.id.tolist() == merge_level1(frames[::-1]).id.tolist()
    assert merged.date.tolist() == ["2021-07-01", "2021-08-02", "2021-08-02"]


def test_merge_sums_what_was_removed() -> None:
    a, b = image("2021-08-02", [box(0)]), image("2021-07-01", [box(1)])
    a.attrs["removed"], b.attrs["removed"] = {"water": 2}, {"water": 1, "small": 4}
    assert merge_level1([a, b]).attrs["removed"] == {"water": 3, "small": 4}


def test_the_same_image_twice_is_refused() -> None:
    one = image("2021-07-01", [box(1)])
    with pytest.raises(ProductError, match="more than once"):
        merge_level1([one, one])


def test_areas_do_not_depend_on_longitude() -> None:
    west, east = (gpd.GeoSeries([shapely.box(x, 70, x + 0.1, 70.1)], crs=4326) for x in (-139, 41))
    np.testing.assert_allclose(area_m2(west), area_m2(east), rtol=1e-10)


def test_areas_are_those_of_projected_polygons() -> None:
    with_hole = shapely.box(-139, 69, -138.9, 69.1).difference(shapely.box(-138.96, 69.03, -138.93, 69.06))
    parts = shapely.MultiPolygon([box(0), box(3)])
    shapes = [
        *shapely.buffer(shapely.points(np.linspace(-179, 179, 50), 70), 1e-3),
        with_hole,
        parts,
        box(0, side=7),
    ]
    for crs in ("EPSG:4326", "EPSG:3571", "EPSG:32608"):
        frame = gpd.GeoSeries(shapes, crs="EPSG:4326").to_crs(crs)
        np.testing.assert_allclose(area_m2(frame), frame.to_crs("EPSG:3571").area, rtol=1e-12)
