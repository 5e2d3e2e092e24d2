"""Parts of a pixel grid: a box in degrees or slices of rows and columns."""

from __future__ import annotations

import math

import odc.geo.xr  # noqa: F401  registers .odc
import shapely
import xarray as xr
from odc.geo.geobox import GeoBox

from darts_xr.errors import CRSError, WindowError
from darts_xr.globe import Bounds, box_polygons, grid_bounds, grown, transformer

#: West, south, east, north in degrees, or slices of rows and columns.
SceneWindow = Bounds | tuple[slice, slice]


def window_pixels(like: xr.DataArray, window: SceneWindow | None) -> tuple[slice, slice]:
    """Rows and columns of a window on a grid, cut to the grid; all of them for None.

    Parameters
    ----------
    like : xarray.DataArray
        Dims (y, x); for a box in degrees with a CRS.
    window : tuple of float, tuple of slice or None
        West, south, east, north in degrees (west > east across 180°): all pixels that the box touches. Or slices of
        rows and columns, as ``isel`` takes them, without a step.

    Raises
    ------
    WindowError
        If the window has no pixel on the grid, or slices have a step.
    CRSError
        If a box is given and the grid has no CRS.

    Examples
    --------
    >>> import numpy as np
    >>> window_pixels(xr.DataArray(np.zeros((50, 40)), dims=("y", "x")), (slice(10, 20), slice(-5, None)))
    (slice(10, 20, None), slice(35, 40, None))
    """
    shape = like.sizes["y"], like.sizes["x"]
    if window is None:
        return slice(0, shape[0]), slice(0, shape[1])
    if len(window) == 2:
        rows, cols = (part.indices(length) for part, length in zip(window, shape, strict=True))
        if (rows[2], cols[2]) != (1, 1):
            raise WindowError(f"a window's slices go pixel by pixel, got {window}; thin the result instead")
    else:
        rows, cols = ((*part, 1) for part in _of_box(like, window))
    if rows[0] >= rows[1] or cols[0] >= cols[1]:
        raise WindowError(f"the window {window} holds no pixel of the scene of {shape[0]} × {shape[1]} px")
    return slice(*rows[:2]), slice(*cols[:2])


def _of_box(like: xr.DataArray, bounds: Bounds) -> tuple[tuple[int, int], tuple[int, int]]:
    """First and last (exclusive) row and column of the pixels that a box in degrees touches."""
    grid: GeoBox | None = like.odc.geobox
    if grid is None or grid.crs is None:
        raise CRSError(
            "a window in degrees needs a scene with a coordinate reference system; "
            "keep its spatial_ref coordinate, or give slices of rows and columns"
        )
    to_grid = transformer("EPSG:4326", str(grid.crs.to_wkt())).transform
    around = box_polygons(
        grown(grid_bounds(grid), 0.01)
    )  # what lies farther may have no place in the grid's CRS
    found = []
    for part in (piece & whole for piece in box_polygons(bounds) for whole in around):
        if part.is_empty or part.area == 0:
            continue
        longest = max(part.bounds[2] - part.bounds[0], part.bounds[3] - part.bounds[1])
        ring = shapely.get_coordinates(shapely.segmentize(part, longest / 32))
        column, row = ~grid.affine @ to_grid(*ring.T)  # type: ignore[operator]
        top, left = max(0, math.floor(row.min())), max(0, math.floor(column.min()))
        bottom, right = min(grid.shape[0], math.ceil(row.max())), min(grid.shape[1], math.ceil(column.max()))
        if top < bottom and left < right:
            found.append((top, bottom, left, right))
    if not found:
        return (0, 0), (0, 0)
    tops, bottoms, lefts, rights = zip(*found, strict=True)
    return (min(tops), max(bottoms)), (min(lefts), max(rights))
