"""The picture of a result shows its outlines where they lie, whatever the scene and its name."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np
import odc.geo.xr  # noqa: F401  registers .odc
import pytest
import shapely
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords
from PIL import Image

from darts_xr.products.quicklook import write_quicklook


def _scene(shape: tuple[int, int]) -> xr.Dataset:
    grid = GeoBox(shape, Affine(3, 0, 500_000, 0, -3, 7_800_000), "EPSG:32606")
    bands = {name: (("y", "x"), np.full(shape, 400, np.uint16)) for name in ("red", "green", "blue")}
    return xr.Dataset({**bands, "valid": (("y", "x"), np.ones(shape, bool))}, coords=xr_coords(grid))


def _like(pixels: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return np.argwhere((np.abs(pixels.astype(int) - colour) < 60).all(axis=-1))


def test_outlines_lie_on_both_panels(tmp_path: Path) -> None:
    scene = _scene((500, 500))
    scene["valid"][:, 400:] = False
    probability = xr.zeros_like(scene["valid"], dtype=np.float32).where(scene["valid"])
    square = shapely.box(500_300, 7_799_100, 500_600, 7_799_700)  # rows 100 to 300, columns 100 to 200
    outlines = gpd.GeoDataFrame(geometry=[shapely.MultiPolygon([square])], crs="EPSG:32606").to_crs(4326)
    path = write_quicklook(
        scene, probability, outlines, tmp_path / "a.png", title="scene\r\n$x$ 北 (synthetic)"
    )
    pixels = np.asarray(Image.open(path))
    for colour, left in (((255, 235, 0), 0), ((0, 235, 255), 514)):  # a panel and the gap between the two
        found = _like(pixels, colour)
        top, first = found.min(axis=0)
        height, width = found.max(axis=0) - (top, first)
        assert (height, width) == (pytest.approx(200, abs=2), pytest.approx(100, abs=2))
        assert first - left == pytest.approx(114, abs=2)
    grey = (pixels == 217).all(axis=-1)
    assert grey.sum() == pytest.approx(2 * 500 * 100, rel=0.01)


@pytest.mark.parametrize("shape", [(1, 1), (1, 700), (40, 3)])
def test_small_scenes_without_objects_have_a_picture(tmp_path: Path, shape: tuple[int, int]) -> None:
    scene = _scene(shape)
    scene["valid"][:] = False
    probability = xr.full_like(scene["valid"], np.nan, dtype=np.float32)
    none = gpd.GeoDataFrame(geometry=[], crs="EPSG:4326")
    path = write_quicklook(scene, probability, none, tmp_path / "a.png", title="")
    with Image.open(path) as picture:
        assert min(picture.size) >= 80
