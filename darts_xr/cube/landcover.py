"""ESRI annual land cover around a scene, from STAC items with an asset ``landcover``, one a tile and year."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from typing import Any

import dask.array as da
import geopandas as gpd
import numpy as np
import pystac
import shapely
import xarray as xr
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling
from rasterio.features import geometry_mask
from rasterio.warp import reproject
from shapely.geometry.base import BaseGeometry

from darts_xr.cube.layers import band_fields, items_near, source_of
from darts_xr.cube.mosaic import RasterSource, open_source
from darts_xr.cube.warp import on_grid, warp_onto
from darts_xr.errors import LandCoverError, MissingBandsError
from darts_xr.globe import bounds_of, box_polygons, grid_bounds, grown

logger = logging.getLogger(__name__)

#: Ground that lies in no tile at hand, so that nothing is known of it.
UNKNOWN = 255
#: Classes of the ESRI annual land cover (10 m, from 2017); 0 is no data, which inside a tile is the open sea.
ESRI_CLASSES = {
    1: "water", 2: "trees", 4: "flooded vegetation", 5: "crops", 7: "built area", 8: "bare ground",
    9: "snow and ice", 10: "clouds", 11: "rangeland",
}  # fmt: skip


def landcover_for(
    items: Iterable[pystac.Item],
    geobox: GeoBox,
    year: int,
    *,
    margin: float = 500.0,
    chunks: Any = "auto",
) -> xr.DataArray:
    """Crop the ESRI annual land cover around a scene, in the map's own reference system.

    Parameters
    ----------
    items
        Land-cover items with an asset ``landcover``, one a tile and year.
    geobox
        The scene's pixel grid.
    year
        Year of the scene; the nearest year at hand is taken (the earlier of two equally near).
    margin
        Metres kept around the scene.
    chunks
        Chunk size in pixels.

    Returns
    -------
    DataArray (y, x)
        Lazy uint8 class codes, 0 = no data inside a tile, which is the open sea, 255 = outside every tile: unknown.
        ``attrs["year"]`` is the map's year, ``attrs["requested_year"]`` the scene's, ``attrs["synthetic"]`` is there
        where a tile is synthetic. The headers of the tiles are
        read if the items do not state their grid.

    Raises
    ------
    MissingBandsError
        If no land cover meets the scene.
    LandCoverError
        If the map has classes that the ESRI annual scheme does not know.
    """
    near = [item for item in items_near(items, geobox, None) if "landcover" in item.assets]
    if not near:
        raise MissingBandsError(
            f"no land-cover item covers the scene for {year}: "
            "give a source that does, leave the water filter out (--landcover none), or go on without it where "
            "there is none (--fill-gaps)"
        )
    for item in near:
        _check_declared_classes(item)
    chosen = tiles_of_year(near, year)
    taken = _year(chosen[0])
    if taken != year:
        logger.warning("no land cover of %s at hand, that of %s is used", year, taken)
    sources = [source_of(item, "landcover", (1,), 0.0) for item in chosen]
    # The tile in the scene's own zone, else the first, gives the grid; others are brought onto it.
    grids = [_tile_grid(item, source) for item, source in zip(chosen, sources, strict=True)]
    grid = next((g for g in grids if g.crs == geobox.crs), grids[0])
    grid = _crop(grid, geobox, margin)
    raw = warp_onto(sources, grid, resampling="nearest", chunks=chunks, dtype=np.uint8, nodata=0)
    tiles = ", ".join(item.id for item in chosen)
    ground = _ground(chosen, grids, grid)
    checked = da.map_blocks(
        _mark_unknown,
        da.map_blocks(_check_classes, raw.data, tiles, dtype=np.uint8, meta=np.empty((0, 0), np.uint8)),
        ground=ground,
        transform=grid.affine,
        dtype=np.uint8,
        meta=np.empty((0, 0), np.uint8),
    )
    synthetic = any(item.properties.get("darts:synthetic") for item in chosen)
    return on_grid(
        checked,
        grid,
        "landcover",
        long_name="ESRI annual land cover class",
        units="1",
        nodata=0,
        source="esri-landcover",
        year=taken,
        requested_year=year,
        **({"synthetic": True} if synthetic else {}),
    )


def tiles_of_year(items: Sequence[pystac.Item], year: int) -> list[pystac.Item]:
    """Tiles of a year or, where there are none, of the nearest one (the earlier of two equally near)."""
    nearest = min({_year(item) for item in items}, key=lambda y: (abs(y - year), y))
    return [item for item in items if _year(item) == nearest]


def landcover_coverage(cover: xr.DataArray, valid: xr.DataArray) -> float:
    """Share of a scene's valid pixels that lie in a tile of the land cover.

    Parameters
    ----------
    cover
        Of :func:`landcover_for`.
    valid
        The scene's mask, bool, dims (y, x).

    Returns
    -------
    float
        0 to 1, NaN if no pixel is valid. Computes both.

    Examples
    --------
    >>> landcover_coverage(landcover_for(items, grid, 2021), scene["valid"])  # doctest: +SKIP
    """
    seen = np.asarray(valid.values, bool)
    if not seen.any():
        return math.nan
    classes, there, here = np.asarray(cover.values), cover.odc.geobox, valid.odc.geobox
    if not (classes == UNKNOWN).any():
        return 1.0
    on_scene = np.full(seen.shape, UNKNOWN, np.uint8)
    reproject(
        classes,
        on_scene,
        src_transform=there.affine,
        src_crs=str(there.crs),
        dst_transform=here.affine,
        dst_crs=str(here.crs),
        resampling=Resampling.nearest,
        init_dest_nodata=False,
    )
    return float((seen & (on_scene != UNKNOWN)).sum() / seen.sum())


def _ground(items: Sequence[pystac.Item], grids: Sequence[GeoBox], grid: GeoBox) -> list[BaseGeometry]:
    """Ground of each tile in the CRS of ``grid``: of its file, as far as the item's footprint reaches."""
    around = grid.extent.buffer(abs(grid.resolution.x)).geom
    near = shapely.union_all(box_polygons(grown(grid_bounds(grid), 0.1)))
    found = []
    for item, own in zip(items, grids, strict=True):
        ground = shapely.make_valid(own.footprint(str(grid.crs), npoints=200).geom)
        stated = None
        if item.geometry is not None:
            stated = shapely.make_valid(shapely.geometry.shape(item.geometry))
        elif item.bbox is not None:
            stated = shapely.union_all(box_polygons(bounds_of(item.bbox)))
        if stated is not None:
            # Only what lies near the scene can be brought onto its map.
            inner = shapely.segmentize(shapely.intersection(stated, near), 0.01)
            outline = gpd.GeoSeries([inner], crs="EPSG:4326").to_crs(str(grid.crs)).iloc[0]
            ground = shapely.intersection(ground, shapely.make_valid(outline))
        found.append(shapely.intersection(ground, around))
    return [ground for ground in found if not ground.is_empty]


def _mark_unknown(
    values: NDArray[np.uint8], *, ground: Sequence[BaseGeometry], transform: Affine, block_info: Any = None
) -> NDArray[np.uint8]:
    """Tell no data inside a tile, the open sea, from cells that lie in no tile."""
    if values.all():
        return values
    (top, _), (left, _) = block_info[0]["array-location"]
    beyond = np.ones(values.shape, bool)
    if ground:
        here = transform @ Affine.translation(left, top)
        beyond = geometry_mask(ground, values.shape, here, all_touched=True)
    return np.where((values == 0) & beyond, np.uint8(UNKNOWN), values)


def _year(item: pystac.Item) -> int:
    stamp = item.common_metadata.start_datetime or item.datetime
    if stamp is None:
        raise LandCoverError(f"{item.id}: the land-cover item states no date, so its year is not known")
    return stamp.year


def _check_declared_classes(item: pystac.Item) -> None:
    asset = item.assets["landcover"]
    fields = {**item.properties, **asset.extra_fields, **(band_fields(asset) or [{}])[0]}
    _refuse({int(entry["value"]) for entry in fields.get("classification:classes", [])}, item.id)


def _check_classes(values: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
    _refuse(set(np.flatnonzero(np.bincount(values.ravel(), minlength=1)).tolist()), name)
    return values


def _refuse(values: set[int], name: str) -> None:
    if unknown := sorted(values - ESRI_CLASSES.keys() - {0}):
        raise LandCoverError(
            f"{name}: classes {unknown} are not of the ESRI annual land cover ({sorted(ESRI_CLASSES)}); "
            "give that map, or leave the water filter out"
        )


def _tile_grid(item: pystac.Item, source: RasterSource) -> GeoBox:
    """Pixel grid of a tile, from the item if it states one, else from the file's header."""
    asset = item.assets["landcover"]
    transform = item.properties.get("proj:transform") or asset.extra_fields.get("proj:transform")
    shape = item.properties.get("proj:shape") or asset.extra_fields.get("proj:shape")
    if transform and shape and source.crs:
        return GeoBox((int(shape[0]), int(shape[1])), Affine(*transform[:6]), source.crs)
    with open_source(source) as dataset:
        return GeoBox(dataset.shape, dataset.transform, str(dataset.crs or source.crs))


def _crop(grid: GeoBox, geobox: GeoBox, margin: float) -> GeoBox:
    """Pixels of ``grid``'s lattice (also beyond its edge) that hold the scene and a margin around it."""
    around = geobox.pad(math.ceil(margin / abs(geobox.resolution.x)))
    outline = grid.project(around.footprint(str(grid.crs), npoints=100)).boundingbox
    left, top = math.floor(outline.left), math.floor(outline.bottom)
    return grid.translate_pix(left, top).expand(
        (math.ceil(outline.top) - top, math.ceil(outline.right) - left)
    )
