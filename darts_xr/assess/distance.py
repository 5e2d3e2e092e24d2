"""Distances on the ground between shapes that are given in the pole-centred projection, which stretches them."""

from __future__ import annotations

import math

import numpy as np
import shapely
from numpy.typing import NDArray

from darts_xr.globe import EQUAL_AREA, transformer

_CELL = 400_000.0  # m; an equidistant projection around a cell's centre is true to 4e-4 in all of it


def stretch(shapes: NDArray[np.object_]) -> float:
    """How much longer than on the ground a distance can be in the pole-centred equal-area projection.

    Along a parallel that projection stretches by 1/cos(c/2), c being the angle to the pole: by 3.5 % at 60° N.

    Examples
    --------
    >>> import numpy as np, shapely
    >>> from darts_xr.globe import transformer
    >>> point = transformer("EPSG:4326", "EPSG:3571").transform(-135, 60)
    >>> round(stretch(np.array([shapely.Point(point)], object)), 2)
    1.04
    """
    corners = np.abs(shapely.bounds(shapes)).reshape(-1, 2) if len(shapes) else np.zeros((0, 2))
    farthest = float(np.nanmax(np.hypot(*corners.T), initial=0.0))  # m from the pole
    half_angle = math.asin(min(farthest / (2 * 6_371_000.0), 0.999))
    return 1.005 / math.cos(half_angle)  # the earth is no sphere, but nearly one


def _block(shapes: NDArray[np.object_]) -> NDArray[np.int64]:
    """Column and row of the cell that each shape's middle is in."""
    west, south, east, north = shapely.bounds(shapes).T
    return np.floor(np.stack([(west + east) / 2, (south + north) / 2], axis=1) / _CELL).astype(np.int64)


def pair_distance(
    some: NDArray[np.object_], others: NDArray[np.object_], left: NDArray[np.intp], right: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Metres on the ground between ``some[left]`` and ``others[right]``, pairs that are near each other.

    Each pair is measured in an azimuthal equidistant projection around the cell of 400 km that it is in.

    Parameters
    ----------
    some, others : numpy.ndarray
        Shapes in the pole-centred equal-area projection.
    left, right : numpy.ndarray
        The pairs.

    Returns
    -------
    numpy.ndarray
        float64, one distance a pair.

    Examples
    --------
    >>> import numpy as np, shapely
    >>> from darts_xr.globe import transformer
    >>> at = transformer("EPSG:32608", "EPSG:3571").transform
    >>> one, two = (np.array([shapely.Point(at(x, 6_700_000))], object) for x in (500_000, 500_200))
    >>> first = np.zeros(1, int)
    >>> pair_distance(one, two, first, first).round(1)  # UTM shrinks by 0.04 %
    array([200.1])
    """
    out = np.zeros(len(left))
    if not len(left):
        return out
    cells, cell = np.unique(_block(others[right]), axis=0, return_inverse=True)
    order = np.argsort(cell.ravel(), kind="stable")
    ends = np.cumsum(np.bincount(cell.ravel(), minlength=len(cells)))
    for number, members in enumerate(np.split(order, ends[:-1])):
        local = _equidistant((cells[number] + 0.5) * _CELL)
        out[members] = shapely.distance(
            _moved(some, left[members], local), _moved(others, right[members], local)
        )
    return out


def _moved(shapes: NDArray[np.object_], index: NDArray[np.intp], crs: str) -> NDArray[np.object_]:
    """Shapes in another projection, each moved once however often it is named."""
    named, place = np.unique(index, return_inverse=True)
    project = transformer(EQUAL_AREA, crs).transform
    moved = shapely.transform(shapes[named], lambda xy: np.stack(project(xy[:, 0], xy[:, 1]), axis=1))
    return np.asarray(moved[place.ravel()])


def _equidistant(centre: NDArray[np.float64]) -> str:
    lon, lat = transformer(EQUAL_AREA, "EPSG:4326").transform(*centre)
    return f"+proj=aeqd +lon_0={lon:.4f} +lat_0={lat:.4f} +datum=WGS84"
