"""Filters by outside knowledge: water fraction from a land cover, human infrastructure."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import dask.array as da
import geopandas as gpd
import numpy as np
import odc.geo.xr  # noqa: F401  (registers .odc)
import shapely
import xarray as xr
from affine import Affine
from numpy.typing import NDArray

from darts_xr.cube.landcover import ESRI_CLASSES, UNKNOWN
from darts_xr.errors import ObjectError
from darts_xr.globe import require_crs
from darts_xr.objects.label import check_grid
from darts_xr.objects.outline import apply

log = logging.getLogger(__name__)

# ESRI 10 m annual land cover: water is class 1; no data (0) inside a tile is open sea and counts as water.
_WATER = (0, 1)

# --- array kernels -----------------------------------------------------------------------------------------


def _cells(
    shapes: NDArray[np.object_], transform: Affine
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Shape index, row and column of every raster cell in the bounding boxes of the shapes."""
    west, south, east, north = shapely.bounds(shapes).T
    column, row = apply(
        ~transform, np.stack([west, west, east, east]), np.stack([south, north, south, north])
    )
    left, top = np.floor(column.min(axis=0)).astype(np.int64), np.floor(row.min(axis=0)).astype(np.int64)
    width = np.ceil(column.max(axis=0)).astype(np.int64) - left
    height = np.ceil(row.max(axis=0)).astype(np.int64) - top
    count = width * height
    shape = np.repeat(np.arange(len(shapes)), count)
    at = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    return shape, top[shape] + at // width[shape], left[shape] + at % width[shape]


def _cell_boxes(
    rows: NDArray[np.int64], columns: NDArray[np.int64], transform: Affine
) -> NDArray[np.object_]:
    x, y = apply(transform, columns[:, None] + np.array([0, 0, 1, 1]), rows[:, None] + np.array([0, 1, 1, 0]))
    return np.asarray(shapely.polygons(np.stack([x, y], axis=-1)))


# --- labelled public functions -----------------------------------------------------------------------------


def filter_water(
    feats: gpd.GeoDataFrame,
    landcover: xr.DataArray,
    *,
    max_fraction: float = 0.2,
    keep_removed: bool = False,
) -> gpd.GeoDataFrame:
    """Remove objects that lie in water.

    An object is removed if more than ``max_fraction`` of its area is water or has no data inside a land-cover
    tile (the open sea has none), after Nitze et al. 2025 (Sci. Data 12:1512), who take the ESRI annual land
    cover of the scene's year. Ground outside every tile is unknown: that is no water, so an object there is
    kept, and counted where it might have been removed had all its unknown part been water. Fractions are of
    exact areas, not of cell centres. Computes: reads the land cover in the windows of the objects only.

    Parameters
    ----------
    feats : geopandas.GeoDataFrame
        Objects, in any CRS.
    landcover : xarray.DataArray
        ESRI land-cover classes, dims ``(y, x)``, on its own grid and CRS; lazy or not. 0 and NaN are no data,
        the value 255 (see :func:`darts_xr.cube.landcover_for`) and cells outside of the raster unknown.
    max_fraction : float
        Largest water fraction that is kept.
    keep_removed : bool
        Keep removed objects, with the reason in the column ``removed_by`` ("" for kept ones).

    Returns
    -------
    geopandas.GeoDataFrame
        ``feats`` with the columns ``water_fraction`` and ``unknown_fraction`` (float64, 0 to 1), in their own
        CRS; ``attrs["removed"]`` counts the objects removed by ``"water"``, ``attrs["unknown_landcover"]``
        those kept although water and unknown ground together exceed ``max_fraction``.

    Raises
    ------
    CRSError
        If ``feats`` or ``landcover`` have no CRS.
    ObjectError
        If ``landcover`` holds values that are not ESRI classes.

    Examples
    --------
    >>> import geopandas as gpd, numpy as np, shapely
    >>> from odc.geo.geobox import GeoBox
    >>> from odc.geo.xr import wrap_xr
    >>> box = GeoBox.from_bbox((0, 0, 40, 40), "EPSG:32608", resolution=10)
    >>> cover = np.full((4, 4), 11, "uint8")
    >>> cover[:, 2:] = 1
    >>> feats = gpd.GeoDataFrame(geometry=[shapely.box(5, 5, 25, 15), shapely.box(0, 0, 22, 10)], crs=32608)
    >>> filter_water(feats, wrap_xr(cover, box)).water_fraction.round(3).tolist()
    [0.091]
    """
    require_crs(feats, "feats")
    if not isinstance(landcover, xr.DataArray):
        raise ObjectError(
            f"landcover is a {type(landcover).__name__}, not a map of classes: darts_xr.cube.landcover_for(items, "
            "grid, year) makes one; leave the filter out where there is none"
        )
    if landcover.ndim == 3 and landcover.shape[0] == 1:
        landcover = landcover[0]
    geobox = check_grid(landcover, "landcover")
    shapes = feats.geometry.to_crs(geobox.crs.proj).to_numpy()
    fraction = unknown = np.zeros(len(feats))
    if len(feats):
        fraction, unknown = _fractions(shapes, landcover, geobox.affine)
    out = feats.assign(water_fraction=fraction, unknown_fraction=unknown)
    unsure = (fraction <= max_fraction) & (fraction + unknown > max_fraction)
    if unsure.any():
        log.warning("%d object(s) are kept that lie where the land cover is not known", unsure.sum())
    out.attrs = {**feats.attrs, "unknown_landcover": int(unsure.sum())}
    return mark_removed(out, fraction > max_fraction, "water", keep_removed)


def _fractions(
    shapes: NDArray[np.object_], landcover: xr.DataArray, transform: Affine
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Shares of water and of unknown ground in each shape."""
    if not np.isfinite(shapely.bounds(shapes)).all():
        raise ObjectError(
            f"some objects have no place in the CRS of landcover {landcover.name!r}; take the land cover of their "
            "region, and remove objects without geometry"
        )
    shape, row, column = _cells(shapes, transform)
    height, width = landcover.shape
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    data = landcover.data
    if isinstance(data, da.Array):
        read = data.vindex[row[inside], column[inside]].compute()  # touches only the chunks of these cells
    else:
        read = np.asarray(data)[row[inside], column[inside]]
    if np.issubdtype(read.dtype, np.floating):
        read = np.where(np.isnan(read), 0, read)
    strange = np.setdiff1d(read, [0, UNKNOWN, *ESRI_CLASSES])
    if strange.size:
        raise ObjectError(
            f"landcover {landcover.name!r} holds the values {strange[:8].tolist()}, which are not classes of "
            f"the ESRI annual land cover {sorted(ESRI_CLASSES)}; recode it to water 1, land 11, no data 0, unknown "
            f"{UNKNOWN}"
        )
    water, unknown = np.zeros(len(shape), bool), np.ones(len(shape), bool)
    water[inside], unknown[inside] = np.isin(read, _WATER), read == UNKNOWN
    cells = shape, row, column
    return _share(water, shapes, cells, transform), _share(unknown, shapes, cells, transform)


def _share(
    those: NDArray[np.bool_],
    shapes: NDArray[np.object_],
    cells: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]],
    transform: Affine,
) -> NDArray[np.float64]:
    """Share of each shape's area that lies in the chosen ones of the cells around it."""
    shape, row, column = cells
    chosen = np.bincount(shape, weights=those, minlength=len(shapes))
    count = np.bincount(shape, minlength=len(shapes))
    fraction = (chosen == count).astype(np.float64)
    # Areas are needed only where an object's box holds both kinds of cells, and only of the chosen ones.
    mixed = those & ((chosen > 0) & (chosen < count))[shape]
    part = shapely.intersection(shapes[shape[mixed]], _cell_boxes(row[mixed], column[mixed], transform))
    area = np.bincount(shape[mixed], weights=shapely.area(part), minlength=len(shapes))
    return np.asarray(np.minimum(fraction + area / shapely.area(shapes), 1.0))


def filter_infrastructure(
    feats: gpd.GeoDataFrame,
    infrastructure: gpd.GeoDataFrame | str | Path,
    *,
    keep_removed: bool = False,
) -> gpd.GeoDataFrame:
    """Remove objects that meet human infrastructure, however slightly.

    The last filter of Nitze et al. 2025 (Sci. Data 12:1512), who take the Arctic Coastal Human Impact layer
    (SACHI): any intersection removes an object, without a buffer.

    Parameters
    ----------
    feats : geopandas.GeoDataFrame
        Objects, in any CRS.
    infrastructure : geopandas.GeoDataFrame or path
        Infrastructure of any geometry type, or a file that geopandas reads.
    keep_removed : bool
        Keep removed objects, with the reason in the column ``removed_by`` ("" for kept ones).

    Returns
    -------
    geopandas.GeoDataFrame
        ``feats`` without the removed ones; ``attrs["removed"]`` counts them by ``"infrastructure"``.

    Raises
    ------
    CRSError
        If one of the two has no CRS.
    ObjectError
        If the file cannot be read.

    Examples
    --------
    >>> import geopandas as gpd, shapely
    >>> feats = gpd.GeoDataFrame(geometry=[shapely.box(0, 0, 1, 1), shapely.box(5, 5, 6, 6)], crs=4326)
    >>> road = gpd.GeoDataFrame(geometry=[shapely.LineString([(0.5, -1), (0.5, 2)])], crs=4326)
    >>> left = filter_infrastructure(feats, road)
    >>> len(left), left.attrs["removed"]
    (1, {'infrastructure': 1})
    """
    require_crs(feats, "feats")
    if not isinstance(infrastructure, gpd.GeoDataFrame):
        infrastructure = _read(infrastructure, feats)
    require_crs(infrastructure, "infrastructure")
    here = infrastructure.geometry.to_crs(feats.crs)
    hit = np.zeros(len(feats), bool)
    if len(here) and len(feats):
        hit[here.sindex.query(feats.geometry, predicate="intersects")[0]] = True
    out = feats.copy()
    return mark_removed(out, hit, "infrastructure", keep_removed)


def _read(path: str | Path, feats: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    path = Path(path)
    read = gpd.read_parquet if path.suffix in (".parquet", ".geoparquet") else gpd.read_file
    try:
        return read(path)
    except Exception as error:
        raise ObjectError(f"infrastructure file {path.name} cannot be read: {error}") from error


def mark_removed(
    feats: gpd.GeoDataFrame, hit: NDArray[np.bool_], reason: str, keep_removed: bool
) -> gpd.GeoDataFrame:
    """Drop or mark the hit objects and count them; objects that an earlier filter marked are not counted."""
    before = feats["removed_by"].to_numpy() if "removed_by" in feats else np.full(len(feats), "", object)
    hit = hit & (before == "")
    removed: dict[str, Any] = {**feats.attrs.get("removed", {}), reason: int(hit.sum())}
    log.info("%d of %d objects removed by %s", removed[reason], len(feats), reason)
    attrs = {**feats.attrs, "removed": removed}
    if keep_removed or "removed_by" in feats:
        feats = feats.assign(removed_by=np.where(hit, reason, before))
    if not keep_removed:
        feats = feats[~hit].reset_index(drop=True)
    feats.attrs = attrs
    return feats
