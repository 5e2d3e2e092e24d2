"""What every product needs to know of a polygon: its areas, its geohash, whether it is valid."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from typing import Any

import geohash
import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from darts_xr.errors import ProductError
from darts_xr.globe import area_m2, centroids

log = logging.getLogger(__name__)


def area_columns(frame: gpd.GeoDataFrame) -> dict[str, NDArray[Any]]:
    """Areas as the products state them: whole square metres, and hectares and km² derived from these."""
    whole = np.rint(area_m2(frame)).astype(np.int64)
    return {"area_m2": whole, "area_ha": whole / 1e4, "area_km2": whole / 1e6}


def geohashes(shapes: NDArray[np.object_]) -> list[str]:
    """Geohash of 12 characters of each centroid."""
    return [geohash.encode(lat, lon, 12) for lon, lat in centroids(shapes).tolist()]


def stable_ids(
    owners: Sequence[str], places: Sequence[str], shapes: NDArray[np.object_]
) -> NDArray[np.int64]:
    """Numbers that features keep whatever other features there are: made from the owner's name and the place alone.

    Of 53 bits, which all readers of numbers hold exactly. Features of one owner whose centroids have one geohash, such
    as a slump inside a ring, are told apart by the order of their outlines.
    """
    keys = np.array([f"{owner}:{place}" for owner, place in zip(owners, places, strict=True)], object)
    again = np.flatnonzero(pd.Series(keys).duplicated(keep=False))
    if again.size:
        ties = pd.DataFrame({"key": keys[again], "wkb": shapely.to_wkb(shapes[again], hex=True)})
        order = ties.sort_values(["key", "wkb"], kind="stable")
        rank = order.groupby("key").cumcount().sort_index().to_numpy()
        keys[again] = [f"{key}:{n}" for key, n in zip(ties["key"], rank, strict=True)]
    digests = [hashlib.sha256(key.encode()).digest() for key in keys]
    return np.array([1 + (int.from_bytes(d[:8], "big") >> 11) for d in digests], np.int64)


def valid_polygons(frame: gpd.GeoDataFrame, name: Callable[[int], str]) -> tuple[gpd.GeoDataFrame, list[str]]:
    """Return the frame with valid (Multi)Polygons only, and the names of the rows that were repaired.

    Self-crossing rings are cut at their crossings, points and lines in collections are dropped. A row without
    any area left is an error, never dropped in silence. ``name`` gives the name of a row by its place.
    """
    shapes = frame.geometry.to_numpy()
    kind = shapely.get_type_id(shapes)
    broken = ~shapely.is_valid(shapes) | shapely.is_empty(shapes) | ~np.isin(kind, (3, 6))
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
