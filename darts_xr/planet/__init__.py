"""What Planet delivers: names, usable-data masks, bands, metadata files, and where a scene holds valid pixels.

In: a folder as Planet delivers it. Out: a ``pystac.ItemCollection`` (:func:`planet_items`). The rules of the masks
(:data:`MASK_RULES`, :func:`valid_mask`) are here for every stage that reads a mask.
"""

from darts_xr.planet.deliveries import planet_items
from darts_xr.planet.masks import MASK_CLASSES, MASK_RULES, MaskRule, mask_class, valid_mask
from darts_xr.planet.names import product_type, scene_datetime

__all__ = [
    "MASK_CLASSES",
    "MASK_RULES",
    "MaskRule",
    "mask_class",
    "planet_items",
    "product_type",
    "scene_datetime",
    "valid_mask",
]
