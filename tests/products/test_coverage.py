from __future__ import annotations

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from darts_xr.errors import CRSError, ProductError
from darts_xr.globe import area_m2
from darts_xr.products import coverage, valid_polygon
from tests.helpers import real_data
from tests.objects.fields import chunkings, labelled

# The rows of the paper's Table 1: Level 1 area (km²), images, Level 2 area, Level 1 RTS area and number, Level 2
# RTS area and number.
TABLE_1 = pd.DataFrame(
    {
        2018: (121_468, 350, 65_671, 43.82, 5_083, 32.42, 3_539),
        2019: (121_673, 364, 66_324, 65.05, 5_999, 46.74, 3_988),
        2020: (154_008, 439, 70_959, 81.26, 7_417, 53.62, 4_335),
        2021: (2_468_881, 5_927, 1_197_632, 223.79, 29_237, 146.41, 19_733),
        2022: (2_586_401, 5_858, 1_098_728, 329.41, 35_176, 159.44, 19_947),
        2023: (2_898_801, 4_231, 1_386_600, 266.10, 36_537, 153.38, 22_966),
    },
    index=["l1_km2", "images", "l2_km2", "l1_rts_km2", "l1_n", "l2_rts_km2", "l2_n"],
).T


def seen(*rows: tuple[str, int, float, float]) -> gpd.GeoDataFrame:
    """Footprints of one degree's height by image, year, west and east."""
    return gpd.GeoDataFrame(
        {
            "image_id": [r[0] for r in rows],
            "date": [f"{r[1]}-07-01" for r in rows],
            "year": [r[1] for r in rows],
        },
        geometry=[shapely.box(r[2], 70, r[3], 71) for r in rows],
        crs=4326,
    )


FOOTPRINTS = seen(("a", 2021, 0, 2), ("b", 2021, 1, 3), ("c", 2022, 2, 4), ("d", 2023, 0, 9))


def test_four_kinds_and_their_areas() -> None:
    cover = coverage(FOOTPRINTS)
    degree = area_m2(gpd.GeoSeries([shapely.box(0, 70, 1, 71)], crs=4326))[0]
    expected = {"level1": [2, 2, 2, 9], "level2": [3, 2, 9], "union": [9], "intersect": [1]}
    for kind, widths in expected.items():
        np.testing.assert_allclose(cover[kind].area_m2 / degree, widths, rtol=0.02)
    assert cover["level2"][["year", "n_images"]].to_numpy().tolist() == [[2021, 2], [2022, 1], [2023, 1]]
    assert cover["union"].years.tolist() == ["2021,2022,2023"]
    for frame in cover.values():
        assert frame.crs == "EPSG:4326"
        assert list(frame.columns)[-4:] == ["area_m2", "area_ha", "area_km2", "geometry"]
        assert frame.area_m2.dtype == np.int64


def test_years_can_be_chosen() -> None:
    cover = coverage(FOOTPRINTS, years=(2021, 2022), intersect_years=(2021, 2022))
    assert cover["level1"].image_id.tolist() == ["a", "b", "c"]
    assert shapely.equals(cover["intersect"].geometry[0], shapely.box(2, 70, 3, 71))
    assert shapely.equals(
        coverage(FOOTPRINTS, intersect_years=[2023])["intersect"].geometry[0], shapely.box(0, 70, 9, 71)
    )


def test_footprints_that_only_touch_have_an_empty_intersection() -> None:
    cover = coverage(seen(("a", 2021, 0, 1), ("b", 2022, 1, 2)))
    assert cover["intersect"].geometry[0].is_empty
    assert cover["intersect"].area_m2.tolist() == [0]


def test_all_masked_image_is_counted_with_an_empty_footprint() -> None:
    rows = FOOTPRINTS.copy()
    rows.loc[2, "geometry"] = shapely.MultiPolygon()
    cover = coverage(rows)
    assert cover["level1"].area_m2[2] == 0
    assert cover["level2"].n_images.tolist() == [2, 1, 1]


def test_no_images_give_empty_products() -> None:
    cover = coverage(FOOTPRINTS.iloc[:0])
    assert [len(cover[kind]) for kind in ("level1", "level2", "union", "intersect")] == [0, 0, 1, 1]
    assert cover["union"].geometry[0].is_empty


def test_an_image_twice_is_refused() -> None:
    with pytest.raises(ProductError, match="image a has more than one footprint"):
        coverage(pd.concat([FOOTPRINTS, FOOTPRINTS.iloc[[0]]]))


def test_year_without_image_is_refused() -> None:
    with pytest.raises(ProductError, match=r"\[2017\]"):
        coverage(FOOTPRINTS, intersect_years=[2017])


def test_missing_columns_are_named() -> None:
    with pytest.raises(ProductError, match="image_id"):
        coverage(FOOTPRINTS.drop(columns="image_id"))


def test_no_crs_is_refused() -> None:
    with pytest.raises(CRSError, match="footprints"):
        coverage(FOOTPRINTS.set_crs(None, allow_override=True))


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_footprint_is_exact_to_the_pixel(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 50)), data.draw(st.integers(1, 50))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    valid = ndimage.uniform_filter(rng.random((height, width)), 3) > data.draw(st.sampled_from([0.4, 0.5, 1]))
    mask = labelled(valid, (data.draw(chunkings(height)), data.draw(chunkings(width))))
    outline = valid_polygon(mask)
    assert outline.is_valid
    back = gpd.GeoSeries([outline], crs=4326).to_crs(32608).area[0]
    assert back == pytest.approx(9 * valid.sum(), rel=1e-6)
    assert outline.wkb == valid_polygon(labelled(valid)).wkb


def test_footprint_of_a_large_frame_follows_its_straight_edges() -> None:
    mask = labelled(np.ones((8000, 8), bool)).isel(x=slice(0, 8))
    mask = mask.assign_coords(x=mask.x)
    area = gpd.GeoSeries([valid_polygon(mask)], crs=4326).to_crs(32608).area[0]
    assert area == pytest.approx(9 * 8000 * 8, rel=1e-4)


def test_empty_mask_gives_an_empty_geometry() -> None:
    assert valid_polygon(labelled(np.zeros((9, 9), bool), 4)).is_empty


@pytest.mark.realdata
def test_published_union_coverage_has_the_published_area() -> None:
    path = real_data("darts-v1-coverage") / "DARTS_NitzeEtAl_v1_coverage_2018_2023_union.parquet"
    assert round(area_m2(gpd.read_parquet(path)).sum() / 1e6) == 1_636_692


def test_sums_of_table_1() -> None:
    total = TABLE_1.sum().round(2)
    assert total.tolist() == [8_351_232, 17_169, 3_885_914, 1_009.43, 119_449, 592.01, 74_508]
