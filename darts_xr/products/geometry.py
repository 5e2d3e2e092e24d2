"""What every product needs to know of a polygon: its areas, its geohash, whether it is valid."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from darts_xr.errors import ProductError
from darts_xr.globe import area_m2, centroids

log = logging.getLogger(__name__)


_GEOHASH_LETTERS = np.frombuffer(b"0123456789bcdefghjkmnpqrstuvwxyz", np.uint8)
_GEOHASH_LENGTH = 12  # letters of 5 bits: 30 bits of longitude and 30 of latitude, alternating
# Shifts and masks that set the lower 30 bits of a number apart, one bit free after each.
_SPREAD = (
    (16, 0x0000FFFF0000FFFF), (8, 0x00FF00FF00FF00FF), (4, 0x0F0F0F0F0F0F0F0F), (2, 0x3333333333333333),
    (1, 0x5555555555555555),
)  # fmt: skip
# GEOS and PROJ work without Python's lock. More threads than two gain little: what is between is Python's own.
_THREADS = 2
_FEW = 4000  # rows of a thread's turn: done sooner than threads start, and their numbers stay near the core


def threaded(function: Callable[..., Any], *arrays: Any) -> Any:
    """Apply an elementwise function of arrays to slices of them in two threads; the same numbers as in one."""
    n = len(arrays[0])
    if n <= _FEW:
        return function(*arrays)
    slices = [slice(begin, begin + _FEW) for begin in range(0, n, _FEW)]
    with ThreadPoolExecutor(_THREADS) as pool:
        parts = pool.map(lambda part: function(*(array[part] for array in arrays)), slices)
        return np.concatenate(list(parts))


def area_columns(frame: gpd.GeoDataFrame | gpd.GeoSeries) -> dict[str, NDArray[Any]]:
    """Areas as the products state them: whole square metres, and hectares and km² derived from these."""
    whole = np.rint(threaded(area_m2, frame.geometry)).astype(np.int64)
    return {"area_m2": whole, "area_ha": whole / 1e4, "area_km2": whole / 1e6}


def geohashes(shapes: NDArray[np.object_]) -> list[str]:
    """Geohash of 12 characters of each centroid."""
    return encode_geohashes(threaded(centroids, shapes))


def encode_geohashes(lonlat: NDArray[np.float64]) -> list[str]:
    """Geohash of 12 characters of points (n, 2), longitude first, in degrees from -540 to 540.

    The texts are those of python-geohash, but for points less than 1e-12 degrees from the equator or the first
    meridian: there it shifts by more bits than a number has.

    Raises
    ------
    ProductError
        If a latitude is beyond a pole.
    """
    longitude, latitude = lonlat.T
    longitude = np.where(longitude < -180, longitude + 360, longitude)
    longitude = np.where(longitude >= 180, longitude - 360, longitude)
    outside = ~(np.abs(latitude) <= 90)
    if outside.any():
        lon, lat = lonlat[np.argmax(outside)]
        raise ProductError(
            f"a polygon's centroid is at longitude {lon}, latitude {lat}; correct its coordinates"
        )
    # The pole itself belongs to the northernmost cell.
    latitude = np.minimum(latitude, np.nextafter(90.0, 0.0))
    code = (_fixed_point(longitude, 180.0) << np.uint64(1)) | _fixed_point(latitude, 90.0)
    shifts = np.arange(5 * (_GEOHASH_LENGTH - 1), -1, -5, dtype=np.uint64)
    letters = _GEOHASH_LETTERS[(code[:, None] >> shifts & np.uint64(31)).astype(np.intp)]
    return letters.view(f"S{_GEOHASH_LENGTH}")[:, 0].astype(str).tolist()  # type: ignore[no-any-return]


def _fixed_point(degrees: NDArray[np.float64], half: float) -> NDArray[np.uint64]:
    """Give the number of the cell, of 2**30 from -half to half, in every other bit."""
    # By way of 63 bits cut towards zero, as python-geohash does, which shows just west and south of a cell's rim.
    cell = (degrees / half * 2.0**63).astype(np.int64) >> 34
    bits = (cell + 2**29).astype(np.uint64)
    for shift, mask in _SPREAD:
        bits = (bits | bits << np.uint64(shift)) & np.uint64(mask)
    return bits


def stable_ids(
    owners: Sequence[str],
    places: Sequence[str],
    shapes: NDArray[np.object_],
    wanted: NDArray[np.integer] | None = None,
) -> NDArray[np.int64]:
    """Numbers that features keep whatever other features there are: made from the owner's name and the place alone.

    Of all features, or of those that are wanted. Of 53 bits, which all readers of numbers hold exactly. Features of one
    owner whose centroids share a geohash, such as a slump inside a ring, are told apart by the order of their outlines.
    """
    keys = np.array([f"{owner}:{place}" for owner, place in zip(owners, places, strict=True)], object)
    again = np.flatnonzero(pd.Series(keys).duplicated(keep=False))
    if again.size:
        ties = pd.DataFrame({"key": keys[again], "wkb": shapely.to_wkb(shapes[again], hex=True)})
        order = ties.sort_values(["key", "wkb"], kind="stable")
        rank = order.groupby("key").cumcount().sort_index().to_numpy()
        keys[again] = [f"{key}:{n}" for key, n in zip(ties["key"], rank, strict=True)]
    asked = keys if wanted is None else keys[wanted]
    digests = b"".join([hashlib.sha256(key.encode()).digest() for key in asked.tolist()])
    begins = np.frombuffer(digests, ">u8").reshape(-1, 4)[:, 0]
    return 1 + (begins >> np.uint64(11)).astype(np.int64)


def valid_polygons(frame: gpd.GeoDataFrame, name: Callable[[int], str]) -> tuple[gpd.GeoDataFrame, list[str]]:
    """Return the frame with valid (Multi)Polygons only, and the names of the rows that were repaired.

    Self-crossing rings are cut at their crossings, points and lines in collections are dropped. A row without
    any area left is an error, never dropped in silence. ``name`` gives the name of a row by its place.
    """
    shapes = frame.geometry.to_numpy()
    kind = shapely.get_type_id(shapes)
    broken = ~threaded(shapely.is_valid, shapes) | shapely.is_empty(shapes) | ~np.isin(kind, (3, 6))
    if not broken.any():
        return frame, []
    shapes = shapes.copy()
    for i in np.flatnonzero(broken):
        parts = (
            shapely.get_parts(shapely.make_valid(shapes[i])) if shapes[i] is not None else np.empty(0, object)
        )
        parts = np.concatenate([shapely.get_parts(parts), np.empty(0, object)])
        polygons = parts[shapely.area(parts) > 0] if len(parts) else parts
        if len(polygons) == 0:
            raise ProductError(
                f"feature {name(int(i))} has no polygon with an area ({shapely.to_wkt(shapes[i])}); "
                "remove the row or give it its outline"
            )
        shapes[i] = shapely.union_all(polygons)
    repaired = [name(i) for i in np.flatnonzero(broken).tolist()]
    log.warning("%d invalid geometries repaired: %s", len(repaired), ", ".join(repaired[:10]))
    attrs = frame.attrs
    out = frame.set_geometry(gpd.GeoSeries(shapes, index=frame.index, crs=frame.crs))
    out.attrs = attrs
    return out, repaired
