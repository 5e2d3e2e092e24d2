from __future__ import annotations

from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio
import rasterio.warp
import shapely
from affine import Affine
from scipy import ndimage

from darts_xr.planet import planet_items
from tests.catalog.deliveries import SCENE, udm2_pixels, validate, write_tif
from tests.helpers import real_data


def make_item(
    folder: Path, valid: np.ndarray, *, crs: str = "EPSG:32603", corner: tuple[float, float]
) -> pystac.Item:
    """An item whose image holds data where ``valid`` says so."""
    grid = Affine(3, 0, corner[0], 0, -3, corner[1])
    ramp = np.arange(valid.shape[1]) % 500 + 400  # an image of one value is refused
    image = np.broadcast_to(valid * ramp, (4, *valid.shape)).astype("uint16")
    write_tif(folder / f"{SCENE}_3B_AnalyticMS_SR.tif", image, crs=crs, transform=grid, compress="deflate")
    mask = udm2_pixels(valid.shape, collar=0, cloud_rows=0)
    write_tif(folder / f"{SCENE}_3B_udm2.tif", mask, crs=crs, transform=grid, compress="deflate")
    (item,) = planet_items(folder)
    validate(item)
    return item


def pixel_centres(valid: np.ndarray, item: pystac.Item) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.nonzero(valid)
    grid = Affine(*item.properties["proj:transform"])
    x, y = grid.c + grid.a * (columns + 0.5), grid.f + grid.e * (rows + 0.5)
    lon, lat = rasterio.warp.transform(item.properties["proj:code"], "EPSG:4326", x, y)
    return np.array(lon), np.array(lat)


def rotated_swath(size: int) -> np.ndarray:
    y, x = np.mgrid[:size, :size] - size / 2
    return (np.abs(0.97 * x + 0.26 * y) < 0.4 * size) & (np.abs(0.97 * y - 0.26 * x) < 0.35 * size)


@pytest.mark.parametrize("size", [300, 2500])
def test_footprint_covers_a_rotated_swath_closely(tmp_path: Path, size: int) -> None:
    valid = rotated_swath(size)
    item = make_item(tmp_path, valid, corner=(500_000, 7_300_000))
    outline = shapely.geometry.shape(item.geometry)
    assert shapely.contains_xy(outline, *pixel_centres(valid, item)).all()
    assert shapely.get_num_coordinates(outline) <= 60
    in_utm = shapely.geometry.shape(rasterio.warp.transform_geom("EPSG:4326", "EPSG:32603", item.geometry))
    assert in_utm.area / (9 * valid.sum()) < (1.02 if size == 300 else 1.01)


def test_footprint_fills_holes_and_covers_scattered_parts(tmp_path: Path) -> None:
    noise = ndimage.gaussian_filter(np.random.default_rng(4).standard_normal((400, 400)), 4)
    for name, valid in {"holes": noise > -0.05, "specks": noise > 0.12}.items():
        item = make_item(tmp_path / name, valid, corner=(500_000, 7_300_000))
        outline = shapely.geometry.shape(item.geometry)
        assert outline.is_valid
        assert shapely.contains_xy(outline, *pixel_centres(valid, item)).all()
        assert shapely.get_num_coordinates(outline) <= 100
        assert all(len(part.interiors) == 0 for part in shapely.get_parts(outline))


def test_footprint_across_the_antimeridian_is_cut(tmp_path: Path) -> None:
    # Zone 1 begins at 180°; this scene's west lies in Chukotka, its east in Alaska's longitudes.
    x, y = rasterio.warp.transform("EPSG:4326", "EPSG:32601", [180.0], [66.0])
    valid = np.ones((300, 300), bool)
    item = make_item(tmp_path, valid, crs="EPSG:32601", corner=(x[0] - 450, y[0] + 450))
    outline = shapely.geometry.shape(item.geometry)
    assert outline.geom_type == "MultiPolygon"
    assert outline.is_valid
    assert item.bbox is not None
    assert item.bbox[0] > 179.9
    assert item.bbox[2] < -179.9
    assert outline.area < 0.01
    assert shapely.intersects_xy(outline, *pixel_centres(valid, item)).mean() > 0.999


def test_footprint_at_82_north_covers_what_it_should(tmp_path: Path) -> None:
    x, y = rasterio.warp.transform("EPSG:4326", "EPSG:32617", [-82.0], [82.0])
    valid = np.ones((4000, 4000), bool)
    item = make_item(tmp_path, valid, crs="EPSG:32617", corner=(x[0] - 6000, y[0] + 6000))
    edge = np.zeros_like(valid)
    edge[[0, -1]] = edge[:, [0, -1]] = True
    outline = shapely.geometry.shape(item.geometry)
    assert shapely.contains_xy(outline, *pixel_centres(edge, item)).all()
    assert shapely.get_num_coordinates(outline) <= 64


@pytest.mark.realdata
def test_footprint_of_the_real_scene_is_within_a_percent() -> None:
    (item,) = planet_items(real_data("planetscope-deering-ak"))
    with rasterio.open(item.assets["image"].href) as source:
        valid = source.read().any(axis=0)
    outline = shapely.geometry.shape(item.geometry)
    assert shapely.contains_xy(outline, *pixel_centres(valid, item)).all()
    in_utm = shapely.geometry.shape(rasterio.warp.transform_geom("EPSG:4326", "EPSG:32603", item.geometry))
    assert 1 <= in_utm.area / (9 * valid.sum()) < 1.01
