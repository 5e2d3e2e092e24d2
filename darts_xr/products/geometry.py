"""What every product needs to know of a polygon: its area, its centroid, its geohash, whether it is sound."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import geohash
import geopandas as gpd
import numpy as np
import shapely
from numpy.typing import NDArray

from darts_xr.errors import CRSError, ProductError

log = logging.getLogger(__name__)

EQUAL_AREA = "EPSG:3571"  # WGS 84, Lambert azimuthal equal area around the North Pole


def area_m2(frame: gpd.GeoDataFrame | gpd.GeoSeries) -> NDArray[np.float64]:
    """Areas in square metres, in the pole-centred equal-area projection of all products.

    Parameters
    ----------
    frame : geopandas.GeoDataFrame or geopandas.GeoSeries
        Polygons in any CRS.

    Returns
    -------
    numpy.ndarray
        float64, one area per row; computed at once.

    Raises
    ------
    CRSError
        If the frame has no CRS.

    Examples
    --------
    >>> import geopandas as gpd, shapely
    >>> area_m2(gpd.GeoSeries([shapely.box(500000, 7700000, 500300, 7700100)], crs="EPSG:32608")).round(-1)
    array([30020.])
    """
    check_crs(frame, "frame")
    return np.asarray(frame.geometry.to_crs(EQUAL_AREA).area, np.float64)


def area_columns(frame: gpd.GeoDataFrame) -> dict[str, NDArray[Any]]:
    """Areas as the products state them: whole square metres, and hectares and km² derived from these."""
    whole = np.rint(area_m2(frame)).astype(np.int64)
    return {"area_m2": whole, "area_ha": whole / 1e4, "area_km2": whole / 1e6}


def centroids(shapes: NDArray[np.object_]) -> NDArray[np.float64]:
    """Longitude and latitude of centroids; polygons that are split at the antimeridian count as one piece."""
    west, _, east, _ = shapely.bounds(shapes).T
    across = np.flatnonzero(east - west > 180)
    if len(across):
        shapes = shapes.copy()
        shapes[across] = [shapely.transform(shape, _eastward) for shape in shapes[across]]
    xy = shapely.get_coordinates(shapely.centroid(shapes))
    xy[:, 0] = np.where(xy[:, 0] > 180, xy[:, 0] - 360, xy[:, 0])
    return xy


def _eastward(xy: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack([np.where(xy[:, 0] < 0, xy[:, 0] + 360, xy[:, 0]), xy[:, 1]], axis=1)


def geohashes(shapes: NDArray[np.object_]) -> list[str]:
    """Geohash of 12 characters of each centroid."""
    return [geohash.encode(lat, lon, 12) for lon, lat in centroids(shapes).tolist()]


def check_crs(frame: gpd.GeoDataFrame | gpd.GeoSeries, name: str) -> None:
    """Refuse a frame without a CRS.

    Parameters
    ----------
    frame : geopandas.GeoDataFrame or geopandas.GeoSeries
        What to look at.
    name : str
        What the message calls it.

    Raises
    ------
    CRSError
        If the frame has no CRS.

    Examples
    --------
    >>> import geopandas as gpd
    >>> check_crs(gpd.GeoSeries([], crs=4326), "the inventory")
    """
    if frame.crs is None:
        raise CRSError(
            f"{name} has no coordinate reference system; set the right one with .set_crs(...) first"
        )


def sound_polygons(frame: gpd.GeoDataFrame, name: Callable[[int], str]) -> tuple[gpd.GeoDataFrame, list[str]]:
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
