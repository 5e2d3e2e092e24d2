"""A STAC item out of a JSON document: checked, with absolute addresses."""

from __future__ import annotations

from typing import Any

import pystac

from darts_xr.addresses import cause, is_url, join, redact
from darts_xr.errors import CatalogError
from darts_xr.stac import IMAGE_EXTENSIONS, VIEW_EXTENSION

_STAC = pystac.get_stac_version()
_CURRENT = {*IMAGE_EXTENSIONS, VIEW_EXTENSION}
_STRUCTURE = ("self", "root", "parent", "collection", "item")  # links into the catalogue that an item lies in


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
        # Links are dealt with before pystac sees them: it would follow a root link, over the network too.
        links = {link["rel"]: link["href"] for link in reversed(document["links"])}
        document["links"] = [link for link in document["links"] if link["rel"] not in _STRUCTURE]
        # Bringing an item up to date copies it deeply, which takes longer than all the rest of a search.
        current = document["stac_version"] == _STAC and _CURRENT.issuperset(
            document.get("stac_extensions") or ()
        )
        _check(document)
        item = pystac.Item.from_dict(document, migrate=not current, preserve_dict=False)
        own = links.get("self", address)
        base = own if is_url(own) and is_url(address) else address
        for asset in item.assets.values():
            asset.href = join(base, asset.href)
        if item.collection_id:
            # STAC allows the field `collection` only beside such a link.
            collection = join(base, links.get("collection", f"./{item.collection_id}.json"))
            item.add_link(pystac.Link("collection", collection, media_type=pystac.MediaType.JSON))
    except CatalogError as error:
        raise CatalogError(f"item {_name(document)} in {redact(address)}: {error}") from cause(error)
    except (KeyError, ValueError, TypeError, AttributeError, pystac.STACError) as error:
        raise CatalogError(
            f"item {_name(document)} in {redact(address)} is not valid STAC: {redact(repr(error))}; "
            "build the catalogue again"
        ) from cause(error)
    return item


def _name(document: Any) -> str:
    if not isinstance(document, dict):
        return "of no JSON object"
    return str(document.get("id") or "without id")[:200]


def _check(document: dict[str, Any]) -> None:
    """Refuse what pystac lets pass and later steps would trip over."""
    kinds: dict[str, tuple[type, ...]] = {
        "id": (str,),
        "geometry": (dict, type(None)),
        "bbox": (list, tuple, type(None)),
        "properties": (dict,),
        "assets": (dict,),
        "collection": (str, type(None)),
    }
    if document["type"] != "Feature" or not document["id"]:
        raise ValueError("it is no Feature, or its id is empty")
    for field, kind in kinds.items():
        if not isinstance(document.get(field), kind):
            raise TypeError(f"its {field} is {str(document.get(field))[:40]!r}")
