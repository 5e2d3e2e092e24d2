"""The synthetic auxiliary layers: elevation, Landsat trends and land cover, each on a grid of its own."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from scipy import ndimage

from darts_xr.sample.landscape import DEM_YEAR, TREND_YEAR, Landscape, cut, feature_window
from darts_xr.sample.noise import FloatArray, smooth_noise
from darts_xr.sample.shapes import Blob

DEM_NODATA = -9999.0
# Change of brightness, greenness, wetness on the 8-bit scale.
_SLUMP_TREND = (38.0, -40.0, -28.0)
_DRAINED_TREND = (32.0, 34.0, -45.0)
_COARSE = 32  # px; coordinates of a warped grid are exact this often and linear between


def site_coordinates(grid: GeoBox, crs: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coordinates of a grid's pixel centres in another CRS, each (h, w)."""
    h, w = grid.shape
    rows = np.append(np.arange(0, h - 1, _COARSE), h - 1) if h > 1 else np.array([0])
    cols = np.append(np.arange(0, w - 1, _COARSE), w - 1) if w > 1 else np.array([0])
    places = np.meshgrid(
        grid.transform.c + (cols + 0.5) * grid.transform.a, grid.transform.f + (rows + 0.5) * grid.transform.e
    )
    x, y = Transformer.from_crs(grid.crs, crs, always_xy=True).transform(*places)
    i = np.interp(np.arange(h), rows, np.arange(rows.size))
    j = np.interp(np.arange(w), cols, np.arange(cols.size))
    cells = np.meshgrid(i, j, indexing="ij")
    return ndimage.map_coordinates(x, cells, order=1), ndimage.map_coordinates(y, cells, order=1)


def elevation_block(land: Landscape, grid: GeoBox, crs: str) -> FloatArray:
    """Elevation in metres on a grid of any CRS, with the errors and voids of a stereo model, (h, w) float32."""
    x, y = site_coordinates(grid, crs)
    step = 6.0  # m; the relief has no detail under 48 m
    gx = np.arange(x.min() - 4 * step, x.max() + 5 * step, step)
    gy = np.arange(y.max() + 4 * step, y.min() - 5 * step, -step)
    smooth = land.relief(gx, gy)
    height = ndimage.map_coordinates(
        smooth, [(gy[0] - y) / step, (x - gx[0]) / step], order=3, mode="nearest"
    )
    height = land.add_features(height.astype(np.float32), x, y, DEM_YEAR)
    cols, rows = np.arange(grid.shape[1]) + 0.5, np.arange(grid.shape[0]) + 0.5
    px, py = grid.transform.c + cols * grid.transform.a, grid.transform.f + rows * grid.transform.e
    height += 0.10 * smooth_noise(px, py, 9, land.seed + 61) + 0.03 * smooth_noise(px, py, 2, land.seed + 62)
    height[smooth_noise(px, py, 45, land.seed + 63) > 3.3] = DEM_NODATA
    return height


def _cover(
    blob: Blob, x: NDArray[np.floating], y: NDArray[np.floating], cell: float
) -> tuple[tuple[slice, slice], NDArray[np.floating]] | None:
    window = feature_window(blob, x, y, cell)
    if window is None:
        return None
    return window, np.clip(0.5 + blob.depth(*cut(x, y, window)) / cell, 0, 1)


def trends_block(land: Landscape, grid: GeoBox, crs: str) -> NDArray[np.uint8]:
    """Tasseled-Cap trends as 8-bit stretch, 127 = no change, (3, h, w): brightness, greenness, wetness.

    Slumps brighten and lose greenness and wetness; burns and drained lakes do so just as strongly.
    """
    fine = grid.zoom_out(1 / 3)
    x, y = site_coordinates(fine, crs)
    change = np.zeros((3, *fine.shape), dtype=np.float32)
    rng = np.random.default_rng([land.seed, 71])
    changes = [(slump.at(TREND_YEAR), rng.uniform(0.35, 1.25), _SLUMP_TREND) for slump in land.slumps]
    for patch in (*land.burns, *land.disturbances):
        kind = _SLUMP_TREND if rng.random() < 0.6 else _DRAINED_TREND
        changes.append((patch.outline, rng.uniform(0.35, 1.25), kind))
    for blob, strength, kind in changes:
        covered = None if blob is None else _cover(blob, x, y, 10.0)
        if covered is not None:
            change[(slice(None), *covered[0])] += strength * np.array(kind)[:, None, None] * covered[1]
    h, w = grid.shape
    change = change.reshape(3, h, 3, w, 3).mean(axis=(2, 4))
    px, py = (np.asarray(grid.coords[axis].values, np.float64) for axis in ("x", "y"))
    for k in range(3):
        change[k] += 4.0 * smooth_noise(px, py, 200, land.seed + 72 + k)
        change[k] += 2.0 * smooth_noise(px, py, 33, land.seed + 75 + k)
    return np.clip(np.rint(127.5 + change), 1, 255).astype(np.uint8)


def landcover_block(
    land: Landscape, x: NDArray[np.float64], y: NDArray[np.float64], year: int
) -> NDArray[np.uint8]:
    """Land cover in ESRI's classes (1 water, 7 built, 8 bare, 11 rangeland), (h, w) uint8."""
    classes = np.full((y.size, x.size), 11, np.uint8)
    cell = float(x[1] - x[0])
    gx, gy = x[None], y[:, None]
    rng = np.random.default_rng([land.seed, 81])  # one draw for all years, so that classes persist
    outlines = [(s.outline, 8, 0.4) for s in land.rocks] + [(s.outline, 1, 0.6) for s in land.ponds]
    outlines += [(p.outline, 7, 0.8) for p in land.pads]
    slumps = [(slump.at(year + 0.6), 8, 0.3) for slump in land.slumps]
    for blob, value, chance in [*outlines, *slumps]:
        mapped = rng.random() < chance
        if blob is None or not mapped or blob.area < 900:
            continue
        covered = _cover(blob, gx, gy, cell)
        if covered is not None:
            classes[covered[0]][covered[1] > 0.6] = value
    classes[land.water(x, y) > 0.5] = 1
    return classes
