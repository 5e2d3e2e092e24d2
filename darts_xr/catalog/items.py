"""A STAC item out of a JSON document: checked, with absolute addresses."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping
from typing import Any

import pystac
import shapely

from darts_xr.addresses import cause, is_url, join, redact
from darts_xr.errors import CatalogError
from darts_xr.globe import bounds_of
from darts_xr.stac import IMAGE_EXTENSIONS, VIEW_EXTENSION

_STAC = pystac.get_stac_version()
_CURRENT = {*IMAGE_EXTENSIONS, VIEW_EXTENSION}
_STRUCTURE = ("self", "root", "parent", "collection", "item")  # links into the catalogue that an item lies in
_MOMENTS = ("datetime", "start_datetime", "end_datetime")
_KINDS: dict[str, Any] = {
    "id": str, "geometry": dict | None, "bbox": list | tuple | None, "properties": dict, "assets": dict,
    "collection": str | None,
}  # fmt: skip
# Fields that are read as numbers: their type, and how many there may be.
_GRID_FIELDS: dict[str, tuple[type, tuple[int, ...]]] = {
    "proj:shape": (int, (2,)), "proj:transform": (float, (6, 9)), "proj:epsg": (int, (1,)),
    "gsd": (float, (1,)),
}  # fmt: skip
_LONGEST_HREF = 8192
#: What the standard library, NumPy, pystac and shapely raise where a document holds nonsense.
UNREADABLE = (
    ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError, pystac.STACError,
    shapely.errors.ShapelyError,
)  # fmt: skip


def to_item(document: Any, address: str) -> pystac.Item:
    """Item with absolute asset addresses and without links into the catalogue that it came from.

    Parameters
    ----------
    document : dict
        JSON of the item; its parts become the item's.
    address : str
        Where it was read, which relative addresses start from.

    Raises
    ------
    CatalogError
        It is not a STAC item, or names a file of this machine though it came from the web.
    """
    try:
        if not isinstance(document, dict):
            raise TypeError(f"it is {str(document)[:40]!r} and no JSON object")
        if "_links" in document and "_permissions" in document:
            raise CatalogError(
                "it is a search result of Planet's Data API, which names scenes and holds none; order them (bundle "
                "analytic_sr_udm2) and make a catalogue of the delivery with darts-xr catalog"
            )
        # Links are dealt with before pystac sees them: it would follow a root link, over the network too.
        links = {link["rel"]: link["href"] for link in reversed(document["links"])}
        document["links"] = [link for link in document["links"] if link["rel"] not in _STRUCTURE]
        check_document(document)
        # Bringing an item up to date copies it deeply, which takes longer than all the rest of a search.
        current = document["stac_version"] == _STAC and _CURRENT.issuperset(
            document.get("stac_extensions") or ()
        )
        item = pystac.Item.from_dict(document, preserve_dict=False, migrate=not current)
        own = links.get("self", address)
        base = own if is_url(own) and is_url(address) else address
        for asset in item.assets.values():
            asset.href = join(base, asset.href)
        if item.collection_id:
            # STAC allows the field `collection` only beside such a link.
            collection = join(base, links.get("collection", f"./{item.collection_id}.json"))
            item.add_link(pystac.Link("collection", collection, media_type=pystac.MediaType.JSON))
    except CatalogError as error:
        raise CatalogError(f"item {item_name(document)} in {redact(address)}: {error}") from cause(error)
    except UNREADABLE as error:
        raise CatalogError(
            f"item {item_name(document)} in {redact(address)} is not valid STAC: {redact(repr(error)[:500])}; "
            "build the catalogue again"
        ) from cause(error)
    return item


def checked_item(item: Any) -> pystac.Item:
    """Item that the caller has, as :func:`to_item` would give it; the same object where nothing was to be changed.

    Raises
    ------
    CatalogError
        It is no item, or states what no item may.
    """
    if not isinstance(item, pystac.Item):
        raise CatalogError(
            f"the given items hold a {type(item).__name__}; make it a pystac.Item, for example with "
            "pystac.Item.from_dict"
        )
    moments = [item.datetime, item.common_metadata.start_datetime, item.common_metadata.end_datetime]
    try:
        if any(
            moment is not None and moment.utcoffset() not in (None, dt.timedelta(0)) for moment in moments
        ):
            item = item.clone()
            for name in _MOMENTS:
                if (moment := item.properties.get(name)) is not None:
                    item.properties[name] = _utc(moment)
            if item.datetime is not None:
                item.datetime = item.datetime.astimezone(dt.UTC)
        _check_fields(
            {
                "id": item.id, "geometry": item.geometry, "bbox": item.bbox, "collection": item.collection_id,
                "properties": item.properties,
                "assets": {key: {"href": asset.href, **asset.extra_fields} for key, asset in item.assets.items()},
            }
        )  # fmt: skip
    except UNREADABLE as error:
        raise CatalogError(
            f"item {str(item.id)[:200]} is not valid STAC: {redact(repr(error)[:500])}; correct it or leave it out"
        ) from cause(error)
    return item


def item_name(document: Any) -> str:
    """Name an item in messages: its id, or that it has none."""
    if not isinstance(document, dict):
        return "of no JSON object"
    return redact(str(document.get("id") or "without id"))[:200]


def check_document(document: dict[str, Any]) -> None:
    """Refuse what pystac lets pass and later steps would trip over; times become UTC, as STAC wants them.

    Raises
    ------
    TypeError, ValueError, KeyError
    """
    if document["type"] != "Feature" or not document["id"]:
        raise ValueError("it is no Feature, or its id is empty")
    _check_fields(document)
    if document.get("bbox") is None and document.get("geometry") is not None:
        raise ValueError("it has a geometry and no bbox")
    properties = document["properties"]
    for name in _MOMENTS:
        if properties.get(name) is not None:
            properties[name] = _utc(properties[name])
    if properties.get("datetime") is None and not {"start_datetime", "end_datetime"} <= properties.keys():
        raise ValueError("it states no datetime")


def _utc(text: Any) -> str:
    """RFC 3339 in UTC; a lower-case z or t and any offset are valid there, no offset counts as UTC."""
    if not isinstance(text, str):
        raise TypeError(f"its datetime is {str(text)[:40]!r} and no text")
    moment = dt.datetime.fromisoformat(text.strip().upper())
    moment = moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment.astimezone(dt.UTC)
    return moment.isoformat().replace("+00:00", "Z")


def _check_fields(document: Mapping[str, Any]) -> None:
    """Refuse fields of the wrong type, numbers that are none, and addresses that cannot be."""
    for field, kind in _KINDS.items():
        if not isinstance(document.get(field), kind):
            raise TypeError(f"its {field} is {str(document.get(field))[:40]!r}")
    if document.get("bbox") is not None:
        _check_bbox(document["bbox"])
    for where in (document["properties"], *document["assets"].values()):
        if not isinstance(where, dict):
            raise TypeError(f"an asset is {str(where)[:40]!r}")
        for field, (kind, count) in _GRID_FIELDS.items():
            if (value := where.get(field)) is not None:
                _check_numbers(field, value, kind, count)
        for field in ("bands", "eo:bands", "raster:bands"):
            if not all(isinstance(band, dict) for band in where.get(field) or ()):
                raise TypeError(f"{field} is no list of bands")
        if not isinstance(where.get("proj:code"), str | None):
            raise TypeError(f"proj:code is {str(where['proj:code'])[:40]!r}")
    for key, asset in document["assets"].items():
        href = asset.get("href")
        if href is None or href == "":
            raise ValueError(f"asset {str(key)[:40]!r} is without address")
        if not isinstance(href, str) or "\0" in href or len(href) > _LONGEST_HREF:
            raise ValueError(f"asset {str(key)[:40]!r} has {str(href)[:40]!r}, which is no address of a file")


def _check_bbox(bbox: Any) -> None:
    if len(bbox) not in (4, 6) or not all(_is_number(value) for value in bbox):
        raise ValueError(f"its bbox is {str(bbox)[:80]}, not 4 or 6 numbers")
    west, south, east, north = bounds_of(bbox)
    if not -90 <= south <= north <= 90 or max(abs(west), abs(east)) > 360:
        raise ValueError(f"its bbox is {str(bbox)[:80]}, not west, south, east, north in degrees")


def _check_numbers(field: str, value: Any, kind: type, count: tuple[int, ...]) -> None:
    values = value if isinstance(value, list | tuple) else [value]
    if len(values) not in count or not all(_is_number(each) for each in values):
        raise ValueError(f"{field} is {str(value)[:80]}")
    if kind is int and not all(float(each).is_integer() and each > 0 for each in values):
        raise ValueError(f"{field} is {str(value)[:80]}, not whole numbers above 0")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
