"""ESRI annual land cover around a scene, from STAC items with an asset ``landcover``, one a tile and year."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from typing import Any

import dask.array as da
import numpy as np
import pystac
import xarray as xr
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from darts_xr.cube.layers import band_fields, items_near, layer_sources
from darts_xr.cube.mosaic import RasterSource, open_source
from darts_xr.cube.warp import on_grid, warp_onto
from darts_xr.errors import LandCoverError, MissingBandsError

logger = logging.getLogger(__name__)

#: Classes of the ESRI annual land cover (10 m, from 2017); 0 is no data.
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
        Lazy uint8 class codes, 0 = no data. ``attrs["year"]`` is the map's year, ``attrs["requested_year"]``
        the scene's. The headers of the tiles are read if the items do not state their grid.

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
            "give a source that does, or leave the water filter out"
        )
    for item in near:
        _check_declared_classes(item)
    years = sorted({_year(item) for item in near}, key=lambda y: (abs(y - year), y))
    chosen = [item for item in near if _year(item) == years[0]]
    if years[0] != year:
        logger.warning("no land cover of %s at hand, that of %s is used", year, years[0])
    sources = layer_sources(chosen, "landcover", 0.0)
    # The tile in the scene's own zone, else the first, gives the grid; others are brought onto it.
    grids = [_tile_grid(item, source) for item, source in zip(chosen, sources, strict=True)]
    grid = next((g for g in grids if g.crs == geobox.crs), grids[0])
    grid = _crop(grid, geobox, margin)
    raw = warp_onto(sources, grid, resampling="nearest", chunks=chunks, dtype=np.uint8, nodata=0)
    tiles = ", ".join(item.id for item in chosen)
    checked = da.map_blocks(_check_classes, raw.data, tiles, dtype=np.uint8, meta=np.empty((0, 0), np.uint8))
    return on_grid(
        checked,
        grid,
        "landcover",
        long_name="ESRI annual land cover class",
        units="1",
        source="esri-landcover",
        year=years[0],
        requested_year=year,
    )


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
    if alien := sorted(values - ESRI_CLASSES.keys() - {0}):
        raise LandCoverError(
            f"{name}: classes {alien} are not of the ESRI annual land cover ({sorted(ESRI_CLASSES)}); "
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
