"""Scenes as STAC items: STAC APIs, catalogues and files come in, items go out.

In: whatever holds STAC items (:func:`search`, :func:`load_items`): the address of a STAC API, a static catalogue, an
ItemCollection, a stac-geoparquet file, or the items of :func:`darts_xr.planet_items`. Out: a ``pystac.ItemCollection``,
sorted by id, whose asset addresses are absolute, or one item after the other (:func:`iter_items`), and on request a
static catalogue (:func:`write_catalog`) or a stac-geoparquet file (:func:`write_stac_geoparquet`).
:func:`scene_files` opens what an item offers, whoever wrote it, and checks image and mask.
"""

from darts_xr.catalog.assets import (
    ImageAsset,
    MaskAsset,
    SceneFiles,
    image_asset,
    mask_asset,
    normalize_item,
    scene_files,
)
from darts_xr.catalog.query import iter_items, load_items, search
from darts_xr.catalog.writers import write_catalog, write_stac_geoparquet

__all__ = [
    "ImageAsset",
    "MaskAsset",
    "SceneFiles",
    "image_asset",
    "iter_items",
    "load_items",
    "mask_asset",
    "normalize_item",
    "scene_files",
    "search",
    "write_catalog",
    "write_stac_geoparquet",
]
