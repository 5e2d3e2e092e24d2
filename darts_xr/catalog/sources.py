"""Items out of whatever holds them: STAC APIs, static catalogues, ItemCollections, stac-geoparquet, lists."""

from __future__ import annotations

import json
import logging
import os
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlparse

import pystac
import urllib3
from pystac_client import Client
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO

from darts_xr.catalog.bands import EXTENSIONS, VIEW_EXTENSION
from darts_xr.catalog.rasters import is_url
from darts_xr.errors import CatalogError

logger = logging.getLogger(__name__)

Source = str | os.PathLike[str] | pystac.ItemCollection | pystac.Item | Iterable[pystac.Item]

_PAGE = 250  # items asked of an API at once
_BACK_OFF = 0.5  # seconds; the waits before the third and later tries are 2, 4, 8 times as long
_TIMEOUT = 30.0  # seconds for one answer
_PARQUET = (".parquet", ".geoparquet")
_STAC = pystac.get_stac_version()
_CURRENT = {*EXTENSIONS, VIEW_EXTENSION}
_STRUCTURE = ("self", "root", "parent", "collection", "item")  # links into the catalogue that an item lies in


def web() -> StacApiIO:
    """Reader of addresses and files that tries a failing server again, at most 5 times within about 8 s."""
    retry = urllib3.Retry(
        total=4,
        backoff_factor=_BACK_OFF,
        status_forcelist=(429, 500, 502, 503, 504),
        allowed_methods=None,  # searches are POST requests and change nothing
        raise_on_status=False,
        respect_retry_after_header=False,  # a server could ask for hours
    )
    return StacApiIO(timeout=_TIMEOUT, max_retries=retry)


def href_of(source: str | os.PathLike[str]) -> str:
    """Address or absolute path of a source; a folder stands for the catalog.json in it.

    Raises
    ------
    CatalogError
    """
    text = os.fspath(source)
    if is_url(text):
        return text
    if "://" in text and not text.startswith("file://"):
        raise CatalogError(f"{text}: only http(s) addresses and files can be read; download it first")
    path = Path(text.removeprefix("file://")).absolute()
    if path.is_dir():
        if not (path / "catalog.json").exists():
            raise CatalogError(
                f"the folder {path} holds no catalog.json; for a Planet delivery use planet_items(folder) or "
                "`darts-xr catalog` first"
            )
        path = path / "catalog.json"
    if not path.exists():
        raise CatalogError(
            f"{path} does not exist; give a catalogue, an ItemCollection or a stac-geoparquet file"
        )
    return str(path)


def is_geoparquet(href: str) -> bool:
    """Whether a source is stac-geoparquet, by its extension."""
    return urlparse(href).path.lower().endswith(_PARQUET)


def is_api(document: dict[str, Any]) -> bool:
    """Whether a landing page is that of a STAC API that can search."""
    links = document.get("links", [])
    return bool(document.get("conformsTo")) and any(link.get("rel") == "search" for link in links)


def read_json(href: str, reader: StacApiIO, *, cited_by: str | None = None) -> dict[str, Any]:
    """Read a JSON document.

    Raises
    ------
    CatalogError
        It cannot be fetched or is no JSON object; the message names it and the document that links to it.
    """
    origin = f", linked from {cited_by}," if cited_by else ""
    try:
        document = reader.read_json(href)
    except (OSError, APIError) as error:
        hint = "repair the link or build the catalogue again" if cited_by else "check the address"
        raise CatalogError(f"{href}{origin} cannot be read: {error}; {hint}") from error
    except ValueError as error:
        raise CatalogError(f"{href}{origin} is not valid JSON: {error}; build the catalogue again") from error
    if not isinstance(document, dict):
        raise CatalogError(f"{href}{origin} is not a STAC document; expected a JSON object")
    return document


def static_items(href: str, document: dict[str, Any], reader: StacApiIO) -> Iterator[pystac.Item]:
    """Items of a static catalogue, an ItemCollection or a single item, each document read once.

    Raises
    ------
    CatalogError
        A link is broken or leads to something that is not STAC.
    """
    queue: deque[tuple[str, dict[str, Any] | None, str | None]] = deque([(href, document, None)])
    seen = {href}
    while queue:
        address, content, cited_by = queue.popleft()
        content = content if content is not None else read_json(address, reader, cited_by=cited_by)
        match content.get("type"):
            case "Feature":
                yield to_item(content, address)
            case "FeatureCollection":
                for feature in content.get("features", []):
                    yield to_item(feature, address)
            case "Catalog" | "Collection":
                for link in content.get("links", []):
                    if link.get("rel") in ("child", "item", "items"):
                        target = _resolve(address, str(link.get("href", "")))
                        if target in seen:
                            continue  # a catalogue may link to itself, or to an item from two sides
                        seen.add(target)
                        queue.append((target, None, address))
            case other:
                raise CatalogError(
                    f"{address} is not a STAC document: its type is {other!r}; check the address"
                )


def api_items(href: str, reader: StacApiIO, **filters: Any) -> Iterator[pystac.Item]:
    """Items of a STAC API that its search returns, page by page.

    Raises
    ------
    CatalogError
        A page cannot be had after several tries, or the pages run in a circle.
    """
    page: Any = href
    number = 0
    try:
        search = Client.open(href, stac_io=reader).search(limit=_PAGE, **filters)
        method, parameters = search.method, search.get_parameters()
        page, seen = search.url, set()
        document = reader.read_json(page, method=method, parameters=parameters)
        while True:
            number += 1
            for feature in document.get("features", []):
                yield to_item(feature, href)
            following = next((link for link in document.get("links", []) if link.get("rel") == "next"), None)
            if following is None:
                return
            signature = json.dumps(following, sort_keys=True)
            if signature in seen:
                raise CatalogError(
                    f"the search of {href} runs in a circle: page {number} links to an earlier page"
                )
            seen.add(signature)
            page = following["href"]
            document = reader.read_json(pystac.Link.from_dict(following), parameters=parameters)
    except (APIError, OSError, ValueError, KeyError) as error:
        raise CatalogError(
            f"page {number + 1} of the search of {href} cannot be had after several tries ({page}): {error}; "
            "try again later, or search a smaller area"
        ) from error


def to_item(document: dict[str, Any], address: str) -> pystac.Item:
    """Item with absolute asset addresses and without links into the catalogue that it came from.

    Raises
    ------
    CatalogError
    """
    try:
        # Links are dealt with before pystac sees them: it would follow a root link, over the network too.
        links = {link["rel"]: link["href"] for link in reversed(document["links"])}
        document["links"] = [link for link in document["links"] if link["rel"] not in _STRUCTURE]
        # Bringing an item up to date copies it deeply, which takes longer than all the rest of a search.
        current = document["stac_version"] == _STAC and set(document.get("stac_extensions", ())) <= _CURRENT
        item = pystac.Item.from_dict(document, preserve_dict=False, migrate=not current)
    except (KeyError, ValueError, TypeError, AttributeError, pystac.STACError) as error:
        name = document.get("id", "without id") if isinstance(document, dict) else "of no JSON object"
        raise CatalogError(
            f"item {name} in {address} is not valid STAC: {error!r}; build the catalogue again"
        ) from error
    own = links.get("self", address)
    base = own if is_url(own) and is_url(address) else address
    for asset in item.assets.values():
        asset.href = _resolve(base, asset.href)
    if item.collection_id:
        # STAC allows the field `collection` only beside such a link.
        collection = _resolve(base, links.get("collection", f"./{item.collection_id}.json"))
        item.add_link(pystac.Link("collection", collection, media_type=pystac.MediaType.JSON))
    return item


def _resolve(base: str, href: str) -> str:
    """Absolute form of an address found in a document at ``base``."""
    if not href:
        raise CatalogError(f"{base} holds a link or asset without address; build the catalogue again")
    if is_url(base):
        return urljoin(base, href)
    if "://" in href or href.startswith("/vsi"):
        return href.removeprefix("file://")
    return os.path.normpath(os.path.join(os.path.dirname(base), href))
