"""Scenes as STAC items: deliveries, STAC APIs, catalogues and files come in, items go out.

In: a folder as Planet delivers it (:func:`planet_items`), or whatever holds STAC items already
(:func:`search`, :func:`load_items`): the address of a STAC API, a static catalogue, an ItemCollection, a
stac-geoparquet file. Out: a ``pystac.ItemCollection``, sorted by id, whose asset addresses are absolute, or
one item after the other (:func:`iter_items`), and on request a static catalogue (:func:`write_catalog`) or a
stac-geoparquet file (:func:`write_stac_geoparquet`). Later stages ask :func:`image_asset`, :func:`mask_asset` and
:func:`normalize_item` what an item offers, whoever wrote it. Pixels are not read here.
"""

from darts_xr.catalog.assets import ImageAsset, MaskAsset, image_asset, mask_asset, normalize_item
from darts_xr.catalog.query import iter_items, load_items, search
from darts_xr.catalog.writers import write_catalog, write_stac_geoparquet

__all__ = [
    "ImageAsset",
    "MaskAsset",
    "image_asset",
    "iter_items",
    "load_items",
    "mask_asset",
    "normalize_item",
    "search",
    "write_catalog",
    "write_stac_geoparquet",
]
