"""Places on the globe: longitude and latitude, boxes and cuts at 180°, the equal-area projection around the pole."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import antimeridian
import geopandas as gpd
import numpy as np
import rasterio.warp
import shapely
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from rasterio.crs import CRS
from shapely.geometry import MultiPolygon, Polygon, box
from shapely.geometry.base import BaseGeometry

from darts_xr.errors import CRSError, ParameterError

#: West, south, east, north in degrees; west > east where the box crosses 180° (RFC 7946).
Bounds = tuple[float, float, float, float]

EQUAL_AREA = "EPSG:3571"  # WGS 84, Lambert azimuthal equal area around the North Pole
_BEND = 0.5  # metres that a straight edge in UTM may stray in longitude and latitude: a sixth of a pixel
_EARTH = 6_378_137.0


def require_crs(frame: gpd.GeoDataFrame | gpd.GeoSeries, name: str) -> None:
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
    ParameterError
        If it is no frame.

    Examples
    --------
    >>> import geopandas as gpd
    >>> require_crs(gpd.GeoSeries([], crs=4326), "the inventory")
    """
    if not isinstance(frame, gpd.GeoDataFrame | gpd.GeoSeries):
        raise ParameterError(
            f"{name} is a {type(frame).__name__}, not a GeoDataFrame; read a file first, for example with "
            "darts_xr.assess.read_inventory(path).features"
        )
    if frame.crs is None:
        raise CRSError(
            f"{name} has no coordinate reference system; set the right one with .set_crs(...) first"
        )


@lru_cache(maxsize=64)
def transformer(source: str, target: str) -> Transformer:
    """Give the transformation between two CRS, x and longitude first; made once, since that takes milliseconds."""
    return Transformer.from_crs(source, target, always_xy=True)


# --- boxes in degrees --------------------------------------------------------------------------------------


def bounds_of(bbox: Sequence[float]) -> Bounds:
    """West, south, east, north of a STAC or GeoJSON ``bbox``, which may state heights too."""
    half = len(bbox) // 2
    west, south, east, north = *bbox[:2], *bbox[half : half + 2]
    return float(west), float(south), float(east), float(north)


def box_polygons(bounds: Bounds) -> list[Polygon]:
    """Polygon of a box in degrees, two where it crosses 180°."""
    west, south, east, north = bounds
    if west <= east:
        return [box(west, south, east, north)]
    return [box(west, south, 180, north), box(-180, south, east, north)]


def boxes_meet(a: Bounds, b: Bounds) -> bool:
    """Whether two boxes in degrees overlap or touch."""
    if a[1] > b[3] or b[1] > a[3]:
        return False
    width_a, width_b = (360.0 if x[2] - x[0] >= 360 else (x[2] - x[0]) % 360 for x in (a, b))
    return (b[0] - a[0]) % 360 <= width_a or (a[0] - b[0]) % 360 <= width_b


def grown(bounds: Bounds, degrees: float) -> Bounds:
    """Box grown by so many degrees of latitude on each side, by as many metres along longitude."""
    west, south, east, north = bounds
    south, north = max(-90.0, south - degrees), min(90.0, north + degrees)
    nearest_pole = min(89.9, max(abs(south), abs(north)))
    wide = degrees / math.cos(math.radians(nearest_pole))
    if (east - west) % 360 + 2 * wide >= 360 or east - west >= 360:
        return (-180.0, south, 180.0, north)
    west, east = ((value + 180) % 360 - 180 for value in (west - wide, east + wide))
    return (west, south, east, north)


def grid_bounds(geobox: GeoBox) -> Bounds:
    """Box in degrees around a pixel grid.

    Raises
    ------
    CRSError
        If the grid has no CRS.
    """
    if geobox.crs is None:
        raise CRSError("a pixel grid has no coordinate reference system, so its place is not known")
    height, width = geobox.shape
    rim_y, rim_x = np.linspace(0, height, 33), np.linspace(0, width, 33)
    column = np.concatenate([rim_x, rim_x, 0 * rim_y, 0 * rim_y + width])
    row = np.concatenate([0 * rim_x, 0 * rim_x + height, rim_y, rim_y])
    x, y = geobox.affine @ (column, row)  # type: ignore[operator]
    lon, lat = transformer(str(geobox.crs.to_wkt()), "EPSG:4326").transform(x, y)
    middle = math.degrees(math.atan2(np.sin(np.radians(lon)).sum(), np.cos(np.radians(lon)).sum()))
    offset = (lon - middle + 180) % 360 - 180
    if offset.max() - offset.min() > 180:  # around a pole
        return (-180.0, float(lat.min()), 180.0, 90.0)
    west, east = ((middle + float(o) + 180) % 360 - 180 for o in (offset.min(), offset.max()))
    return (west, float(lat.min()), east, float(lat.max()))


def grid_outline(geobox: GeoBox) -> BaseGeometry:
    """Polygon in degrees around a pixel grid, its edges followed and cut at 180°; around a pole its box.

    Raises
    ------
    CRSError
        If the grid has no CRS.
    """
    bounds = grid_bounds(geobox)
    if bounds[2] - bounds[0] >= 360 or geobox.crs is None or geobox.crs.geographic:
        return shapely.union_all(box_polygons(bounds))
    outer = geobox.boundingbox.bbox
    ring = shapely.segmentize(box(*outer), max(outer[2] - outer[0], outer[3] - outer[1]) / 32)
    x, y = shapely.get_coordinates(ring).T
    degrees = np.stack(transformer(str(geobox.crs.to_wkt()), "EPSG:4326").transform(x, y), axis=1).round(7)
    return antimeridian.fix_polygon(Polygon(degrees), fix_winding=True)


# --- shapes in degrees -------------------------------------------------------------------------------------


def to_lonlat(geometry: BaseGeometry, crs: CRS) -> BaseGeometry:
    """Polygons of a projected CRS in EPSG:4326, with bent edges followed and cut at 180°."""
    x, y = geometry.centroid.coords[0]
    latitude = math.radians(rasterio.warp.transform(crs, "EPSG:4326", [x], [y])[1][0])
    longest = math.sqrt(8 * _EARTH * _BEND / max(abs(math.tan(latitude)), 0.1))  # a chord and its height
    parts: list[Polygon] = []
    for part in shapely.get_parts(shapely.orient_polygons(shapely.segmentize(geometry, longest))):
        rings = [
            np.column_stack(rasterio.warp.transform(crs, "EPSG:4326", *ring.coords.xy)).round(7)
            for ring in (part.exterior, *part.interiors)
        ]
        # Counter-clockwise in UTM and so on the globe, though a ring that wraps around 180° hides it.
        fixed = antimeridian.fix_polygon(Polygon(rings[0], rings[1:]), fix_winding=False)
        parts.extend(shapely.get_parts(fixed))
    return parts[0] if len(parts) == 1 else MultiPolygon(parts)


def lonlat_bbox(geometry: BaseGeometry) -> list[float]:
    """Bounding box of a footprint; west is larger than east where it crosses 180° (RFC 7946)."""
    return [float(value) for value in antimeridian.bbox(geometry)]


def _wraps(shapes: Any) -> NDArray[np.bool_]:
    """Whether shapes in degrees span more than half the globe: they cross 180° and jump to the other side."""
    west, _, east, _ = shapely.bounds(shapes).T
    return np.asarray(east - west > 180)


def cut_at_180(shapes: NDArray[np.object_]) -> NDArray[np.object_]:
    """Polygons in degrees, those cut that wrap around 180°, which a plane would take for the whole globe.

    Parameters
    ----------
    shapes : numpy.ndarray
        Polygons, MultiPolygons or None; shapes that are cut at 180° already stay as they are.

    Returns
    -------
    numpy.ndarray
        A copy where one was cut.
    """
    across = [i for i in np.flatnonzero(_wraps(shapes)) if not _is_cut(shapes[i])]
    if not across:
        return shapes
    shapes = shapes.copy()
    for i in across:
        shapes[i] = shapely.geometry.shape(antimeridian.fix_shape(shapes[i], fix_winding=False))
    return shapes


def _is_cut(shape: BaseGeometry) -> bool:
    return not _wraps(shapely.get_parts(shape)).any()


def centroids(shapes: NDArray[np.object_]) -> NDArray[np.float64]:
    """Longitude and latitude of centroids; polygons that are cut at 180° count as one piece."""
    across = np.flatnonzero(_wraps(shapes))
    if len(across):
        shapes = shapes.copy()
        shapes[across] = [shapely.transform(shape, _eastward) for shape in shapes[across]]
    xy = shapely.get_coordinates(shapely.centroid(shapes))
    xy[:, 0] = np.where(xy[:, 0] > 180, xy[:, 0] - 360, xy[:, 0])
    return xy


def _eastward(xy: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack([np.where(xy[:, 0] < 0, xy[:, 0] + 360, xy[:, 0]), xy[:, 1]], axis=1)


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
    require_crs(frame, "frame")
    geometry = frame.geometry
    shapes = geometry.to_numpy()
    # Most polygons are one ring: its sum needs no projected polygon, which takes longer to make than all the rest.
    plain = (shapely.get_type_id(shapes) == 3) & (shapely.get_num_interior_rings(shapes) == 0)
    plain &= ~shapely.is_empty(shapes)
    area = np.empty(len(shapes))
    area[~plain] = geometry[~plain].to_crs(EQUAL_AREA).area
    area[plain] = _ring_areas(shapes[plain], transformer(geometry.crs.to_string(), EQUAL_AREA))
    return area


def _ring_areas(shapes: NDArray[np.object_], project: Transformer) -> NDArray[np.float64]:
    """Areas of projected polygons without holes, by GEOS's own sum in its own order."""
    count = shapely.get_num_coordinates(shapes)
    last = np.cumsum(count) - 1
    first = last - count + 1
    x, y = project.transform(*shapely.get_coordinates(shapes).T)
    term = x - np.repeat(x[first], count)
    term[1:-1] *= y[:-2] - y[2:]
    term[first], term[last] = 0.0, 0.0
    ring = np.repeat(np.arange(len(shapes)), count)
    return np.abs(np.bincount(ring, term, len(shapes)) / 2)
