"""What every STAC item of darts_xr states in the same way: extensions, pixel grid, collection.

For items that this package makes itself, of deliveries, auxiliary layers and results.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pystac

_SCHEMA = "https://stac-extensions.github.io/{}/schema.json"
# The versions that odc-stac, stackstac and pystac read; eo 2 and raster 2 have no eo:bands and raster:bands,
# projection 2 has no proj:epsg, and stackstac knows no proj:code.
EO_EXTENSION = _SCHEMA.format("eo/v1.1.0")
PROJECTION_EXTENSION = _SCHEMA.format("projection/v1.2.0")
RASTER_EXTENSION = _SCHEMA.format("raster/v1.1.0")
VIEW_EXTENSION = _SCHEMA.format("view/v1.0.0")  # may not stand without an angle
FILE_EXTENSION = _SCHEMA.format("file/v2.1.0")
IMAGE_EXTENSIONS = (EO_EXTENSION, PROJECTION_EXTENSION, RASTER_EXTENSION)


def grid_fields(code: str, shape: Sequence[int], transform: Any) -> dict[str, Any]:
    """Projection fields of a raster: EPSG code in both spellings, rows and columns, affine transform."""
    return {
        "proj:code": code,
        "proj:epsg": int(code.removeprefix("EPSG:")),
        "proj:shape": [int(side) for side in shape],
        "proj:transform": [float(value) for value in tuple(transform)[:6]],
    }


def set_collection(item: pystac.Item, collection: str) -> pystac.Item:
    """Put an item into a collection by its id; STAC allows the field ``collection`` only beside a link to it.

    ``write_catalog`` puts the collection's file where the link leads.
    """
    item.collection_id = collection
    item.add_link(pystac.Link("collection", f"./{collection}.json", media_type=pystac.MediaType.JSON))
    return item
