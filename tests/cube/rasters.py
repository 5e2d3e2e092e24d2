"""Small synthetic rasters and items for the tests of warps and auxiliary layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import rasterio
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import Transformer

Pattern = Callable[[Any, Any], Any]


def scene_at(lon: float, lat: float, shape: tuple[int, int] = (120, 100), zone: int | None = None) -> GeoBox:
    """Grid of 3 m pixels with its middle at a place, in the UTM zone of that place unless another is asked."""
    epsg = 32600 + (zone or int((lon + 180) // 6) % 60 + 1)
    x, y = Transformer.from_crs(4326, epsg, always_xy=True).transform(lon, lat)
    left, top = round(x / 3) * 3 - shape[1] // 2 * 3, round(y / 3) * 3 + shape[0] // 2 * 3
    return GeoBox(shape, Affine(3, 0, left, 0, -3, top), f"EPSG:{epsg}")


def source_grid(scene: GeoBox, crs: str, step: float, margin: int = 40) -> GeoBox:
    """North-up grid in another reference system that holds the scene and a margin of pixels."""
    box = scene.footprint(crs, npoints=100).boundingbox
    left, top = math.floor(box.left / step) * step, math.ceil(box.top / step) * step
    shape = (math.ceil((top - box.bottom) / step), math.ceil((box.right - left) / step))
    return GeoBox(shape, Affine(step, 0, left, 0, -step, top), crs).pad(margin)


def centres(grid: GeoBox) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coordinates of all pixel centres, in the grid's own reference system."""
    v, u = np.mgrid[: grid.shape[0], : grid.shape[1]] + 0.5
    a = grid.affine
    return a.a * u + a.b * v + a.c, a.d * u + a.e * v + a.f


def seen_from(scene: GeoBox, crs: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coordinates of the scene's pixel centres in another reference system, exactly."""
    x, y = Transformer.from_crs(str(scene.crs), crs, always_xy=True).transform(*centres(scene))
    return x, y


def write(path: Path, values: NDArray[Any], grid: GeoBox | None, nodata: float | None = None) -> Path:
    """Write bands (y, x) or (band, y, x); without a grid, without CRS."""
    bands = values if values.ndim == 3 else values[None]
    place: dict[str, Any] = {"crs": str(grid.crs), "transform": grid.affine} if grid is not None else {}
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=bands.shape[0],
        height=bands.shape[1],
        width=bands.shape[2],
        dtype=bands.dtype,
        nodata=nodata,
        tiled=True,
        blockxsize=128,
        blockysize=128,
        **place,
    ) as file:
        file.write(bands)
    return path


def item(
    name: str,
    key: str,
    path: Path | str,
    near: GeoBox | None = None,
    bands: list[dict[str, Any]] | None = None,
    when: datetime | None = None,
    **properties: Any,
) -> pystac.Item:
    """Item with one asset, its box around a grid."""
    box = near.footprint("EPSG:4326").boundingbox.bbox if near is not None else None
    made = pystac.Item(
        name, None, list(box) if box else None, when or datetime(2020, 1, 1, tzinfo=UTC), properties
    )
    made.add_asset(key, pystac.Asset(str(path), extra_fields={"bands": bands} if bands else {}))
    return made
