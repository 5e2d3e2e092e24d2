"""Which features are one, what they are called, and that both stay when images are added."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from shapely.geometry.base import BaseGeometry

from darts_xr.products import LEVEL1_COLUMNS, LEVEL2_COLUMNS, describe_dataset, level2, merge_level1
from tests.helpers import real_data
from tests.products.rows import box, image, random_level1

DAYS = ("2021-07-01", "2021-07-20", "2021-08-01", "2022-07-01")


def _rows(days: tuple[str, ...], n: int = 30) -> list[gpd.GeoDataFrame]:
    level1 = random_level1(5, n, days)
    return [rows.assign(id=np.arange(1, len(rows) + 1)) for _, rows in level1.groupby("image_id")]


def test_level1_ids_are_unique_and_stay_when_earlier_and_later_images_are_added():
    frames = _rows(DAYS)
    before = merge_level1(frames[1:3]).set_index("id")
    after = merge_level1(frames).set_index("id")
    assert after.index.is_unique
    assert after.index.min() > 0
    assert after.index.max() <= 2**53
    same = after.loc[before.index]
    assert same.drop(columns="geometry").equals(before.drop(columns="geometry"))
    assert (same.geometry.to_wkb() == before.geometry.to_wkb()).all()


def test_merging_what_is_merged_changes_nothing():
    level1 = merge_level1(_rows(DAYS))
    again = merge_level1([rows for _, rows in level1.groupby("year")])
    assert again.drop(columns="geometry").equals(level1.drop(columns="geometry"))


def test_objects_of_one_centroid_in_one_image_have_ids_of_their_own():
    ring = box(0).difference(box(0.25, 0.25, 0.5))
    rows = image("2021-07-19", [ring, box(0.4, 0.4, 0.2)])
    assert rows["id_geohash"].nunique() == 1
    one, other = merge_level1([rows]), merge_level1([rows.iloc[::-1].reset_index(drop=True)])
    assert one["id"].is_unique
    by_area = [frame.sort_values("area_m2")["id"].tolist() for frame in (one, other)]
    assert by_area[0] == by_area[1]


def test_level2_ids_are_unique_and_stay_when_later_images_are_added():
    frames = _rows(DAYS)
    before, after = level2(merge_level1(frames[:2])), level2(merge_level1(frames))
    assert after["id"].is_unique
    assert set(before["id"]) >= set(after.loc[after["earliest_date"] == DAYS[0], "id"])
    # Each feature is called as its earliest member, so that one that grew keeps its id.
    level1 = merge_level1(frames).set_index("id")
    assert (level1.loc[after["id"], "date"].to_numpy() == after["earliest_date"].to_numpy()).all()


def test_members_of_one_centroid_are_listed_once():
    rows = merge_level1([image("2021-07-19", [box(0)]), image("2021-08-02", [box(0)])])
    assert rows["id_geohash"].nunique() == 1
    feature = level2(rows).iloc[0]
    assert feature["id_geohash_level1"] == rows["id_geohash"][0]
    assert feature["n_features_level1"] == 2


def test_columns_are_those_of_the_paper():
    rows = merge_level1(_rows(DAYS, 3))
    assert list(rows.columns) == list(LEVEL1_COLUMNS)
    assert list(level2(rows).columns) == list(LEVEL2_COLUMNS)
    assert str(rows["id"].dtype) == str(level2(rows)["id"].dtype) == "int64"


def test_texts_on_the_data_set_reach_both_levels():
    rows = describe_dataset(merge_level1(_rows(DAYS, 3)), version="v1.2", information="Thaw slump outline")
    assert set(rows["DARTS_dataset_information"]) == {"Thaw slump outline - individual image (level1)"}
    annual = level2(rows)
    assert set(annual["DARTS_dataset_information"]) == {"Thaw slump outline - annually aggregated (level2)"}
    assert set(annual["DARTS_dataset_version"]) == {"v1.2"}


@pytest.mark.realdata
def test_real_labels_have_ids_of_their_own_where_geohashes_collide():
    folder = real_data("rts-training-labels")
    read = [gpd.read_file(path) for path in sorted(folder.glob("TrainingLabel_*.gpkg"))]
    labels = pd.concat([frame[["image_id", "image_date", "geometry"]] for frame in read], ignore_index=True)
    labels = gpd.GeoDataFrame(labels, crs=read[0].crs)
    frames = [
        image(day, shapely.make_valid(rows.geometry.to_numpy()).tolist(), tail=f"{number:04x}")
        for number, ((_, day), rows) in enumerate(labels.groupby(["image_id", "image_date"]))
    ]
    merged = merge_level1(frames)
    assert len(merged) == 3749
    assert merged["id_geohash"].duplicated(keep=False).sum() >= 683
    assert merged["id"].is_unique


# --- polygons that share an edge ------------------------------------------------------------------------------


def _on_the_ground(shapes: list[BaseGeometry]) -> list[BaseGeometry]:
    """Shapes in metres of a UTM zone, at 69°N, in longitude and latitude as the pipeline makes them."""
    from darts_xr.objects import to_crs

    frame = gpd.GeoDataFrame(geometry=shapes, crs="EPSG:32608")
    return to_crs(frame, "EPSG:4326").geometry.tolist()


@pytest.mark.parametrize("offset", [(30, 0), (-30, 0), (0, 30), (0, -30)])
def test_pixel_outlines_that_share_part_of_an_edge_are_two_features(offset: tuple[int, int]):
    east, north = 350_000, 7_700_000
    long = shapely.box(east, north, east + 30, north + 90)
    short = shapely.affinity.translate(shapely.box(east, north + 30, east + 30, north + 60), offset[0])
    if offset[1]:
        long = shapely.box(east, north, east + 90, north + 30)
        short = shapely.affinity.translate(shapely.box(east + 30, north, east + 60, north + 30), 0, offset[1])
    one, other = _on_the_ground([long, short])
    # Projected, the middle of the long edge is not on the short one's: they overlap on one side and gape on the other.
    rows = merge_level1([image("2021-07-19", [one]), image("2021-08-02", [other])])
    found = level2(rows)
    assert found["n_features_level1"].tolist() == [1, 1]
    assert set(found.geometry.to_wkb()) == {one.wkb, other.wkb}


def test_outlines_that_overlap_by_a_pixel_are_one_feature():
    one, other = _on_the_ground(
        [
            shapely.box(350_000, 7_700_000, 350_030, 7_700_030),
            shapely.box(350_027, 7_700_027, 350_060, 7_700_060),
        ]
    )
    rows = merge_level1([image("2021-07-19", [one]), image("2021-08-02", [other])])
    assert level2(rows)["n_features_level1"].tolist() == [2]
