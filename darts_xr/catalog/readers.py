"""Items out of whatever holds them, a few at a time: STAC APIs, static catalogues, JSON files, lists."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import pystac
import urllib3
from pystac_client import Client
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO
from upath import UPath

from darts_xr.addresses import cause, in_store, is_url, join, next_page, redact, store_errors
from darts_xr.catalog.items import to_item
from darts_xr.errors import CatalogError

logger = logging.getLogger(__name__)

BATCH = 256  # items made at once where the source has no pages of its own
_PAGE = 250  # items asked of an API at once
_EMPTY_PAGES = 10  # pages without items in a row, after which an API is taken to have no end
_DEPTH = 64  # catalogues inside each other, after which a catalogue is taken to have no end
_BACK_OFF = 0.5  # seconds; the waits before the third and later tries are 2, 4, 8 times as long
_TIMEOUT = 30.0  # seconds for one answer


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


def is_api(document: dict[str, Any]) -> bool:
    """Whether a landing page is that of a STAC API that can search."""
    return bool(document.get("conformsTo")) and any(link["rel"] == "search" for link in _links(document))


def read_json(href: str, reader: StacApiIO, *, cited_by: str | None = None) -> dict[str, Any]:
    """Read a JSON document.

    Raises
    ------
    CatalogError
        It cannot be fetched or is no JSON object; the message names it and the document that links to it.
    """
    name = redact(href) + (f", linked from {redact(cited_by)}," if cited_by else "")
    try:
        document = _stored(href) if in_store(href) else reader.read_json(href)
    except store_errors(APIError) as error:
        hint = "repair the link or build the catalogue again" if cited_by else "check the address"
        raise CatalogError(f"{name} cannot be read: {redact(error)}; {hint}") from cause(error)
    except (ValueError, RecursionError) as error:
        raise CatalogError(
            f"{name} is not valid JSON: {redact(error)}; build the catalogue again"
        ) from cause(error)
    if not isinstance(document, dict):
        raise CatalogError(f"{name} is not a STAC document; expected a JSON object")
    return document


def _stored(href: str) -> Any:
    """Read a JSON document of an object store."""
    user = href.partition("://")[2].partition("/")[0].rpartition("@")[0]
    if user and (":" in user or href.lower().startswith("s3")):  # others have a container's name there
        raise CatalogError(
            f"{redact(href)} holds a key or a password, which the libraries of stores write to their logs; give it as "
            "those libraries read it, such as AWS_SECRET_ACCESS_KEY in the environment"
        )
    return json.loads(UPath(href).read_bytes())


def given_batches(items: Iterable[pystac.Item]) -> Iterator[list[pystac.Item]]:
    """Items that the caller has.

    Raises
    ------
    CatalogError
        One is no item.
    """
    rest = iter(items)
    while batch := list(islice(rest, BATCH)):
        for item in batch:
            if not isinstance(item, pystac.Item):
                raise CatalogError(
                    f"the given items hold a {type(item).__name__}; make it a pystac.Item, for example with "
                    "pystac.Item.from_dict"
                )
        yield batch


def line_batches(path: str) -> Iterator[list[pystac.Item]]:
    """Items of a file that holds one JSON item a line.

    Raises
    ------
    CatalogError
        A line is no item; the message names it.
    """
    batch: list[pystac.Item] = []
    try:
        with Path(path).open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    batch.append(to_item(_parsed(line, path, number), path))
                if len(batch) == BATCH:
                    yield batch
                    batch = []
    except (OSError, UnicodeDecodeError) as error:
        raise CatalogError(f"{path} cannot be read: {error}; write it again") from error
    if batch:
        yield batch


def _parsed(line: str, path: str, number: int) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CatalogError(f"line {number} of {path} is not valid JSON: {error}; write it again") from error


def static_batches(href: str, document: dict[str, Any], reader: StacApiIO) -> Iterator[list[pystac.Item]]:
    """Items of a static catalogue, an ItemCollection or a single item, each document read once, link by link.

    Raises
    ------
    CatalogError
        A link is broken, leads to something that is not STAC, or the catalogues in it do not end.
    """
    seen = {href}
    yield from _items_of(href, document, reader)
    levels = [_followed(href, document)]
    del document
    while levels:
        target, cited_by = next(levels[-1], (None, ""))
        if target is None:
            levels.pop()
        elif target not in seen:  # a catalogue may link to itself, or to an item from two sides
            seen.add(target)
            found = read_json(target, reader, cited_by=cited_by)
            yield from _items_of(target, found, reader)
            levels.append(_followed(target, found))
            if len(levels) > _DEPTH:
                raise CatalogError(
                    f"{redact(href)} has catalogues inside each other to a depth of more than {_DEPTH}, the last "
                    f"is {redact(target)}; give one of the inner ones"
                )


def _items_of(address: str, content: dict[str, Any], reader: StacApiIO) -> Iterator[list[pystac.Item]]:
    match content.get("type"):
        case "Feature":
            yield [to_item(content, address)]
        case "FeatureCollection":
            if not is_url(address) and any(link["rel"] == "next" for link in _links(content)):
                logger.warning("%s is one saved page of a search; the pages after it are not read", address)
            for page in _pages(content, address, address, reader) if is_url(address) else [content]:
                features = iter(_features(page, address))
                while batch := [to_item(feature, address) for feature in islice(features, BATCH)]:
                    yield batch
        case "Catalog" | "Collection":
            pass
        case other:
            raise CatalogError(
                f"{redact(address)} is not a STAC document: its type is {str(other)[:40]!r}; check the address"
            )


def _followed(address: str, content: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Where a catalogue's links lead, and the catalogue's address."""
    if content["type"] not in ("Catalog", "Collection"):
        return iter(())
    hrefs = [
        str(link.get("href", "")) for link in _links(content) if link["rel"] in ("child", "item", "items")
    ]
    return ((join(address, href), address) for href in hrefs)


def _links(document: dict[str, Any]) -> list[dict[str, Any]]:
    links = document.get("links") or []
    return [link for link in links if isinstance(link, dict) and isinstance(link.get("rel"), str)]


def _features(page: Any, address: str) -> list[Any]:
    features = page.get("features") if isinstance(page, dict) else None
    if not isinstance(features, list):
        raise CatalogError(f"{redact(address)} has no list of features; expected a STAC ItemCollection")
    return features


def api_batches(href: str, reader: StacApiIO, **filters: Any) -> Iterator[list[pystac.Item]]:
    """Items of a STAC API that its search returns, page by page.

    Raises
    ------
    CatalogError
        A page cannot be had after several tries, is on another server, or the pages do not end.
    """
    try:
        search = Client.open(href, stac_io=reader).search(limit=_PAGE, **filters)
        page, parameters = join(href, search.url), search.get_parameters()
        first = reader.read_json(page, method=search.method, parameters=parameters)
    except (APIError, OSError, ValueError, KeyError, RecursionError, pystac.STACError) as error:
        raise _no_page(1, href, error) from cause(error)
    for document in _pages(first, page, href, reader, parameters=parameters):
        yield [to_item(feature, href) for feature in _features(document, href)]


def _pages(
    document: dict[str, Any],
    page: str,
    search: str,
    reader: StacApiIO,
    *,
    parameters: dict[str, Any] | None = None,
) -> Iterator[dict[str, Any]]:
    """Pages from the first one on; ``search`` names them in messages."""
    seen: set[int] = set()
    empty = 0
    for number in count(1):
        features = [feature for feature in _features(document, search) if isinstance(feature, dict)]
        ids = tuple((str(feature.get("collection")), str(feature.get("id"))) for feature in features)
        empty = 0 if ids else empty + 1
        following = next((link for link in _links(document) if link["rel"] == "next"), None)
        signatures = {hash(ids)} if ids else set()
        if following is not None:
            signatures.add(hash(json.dumps(following, sort_keys=True)))
        if seen & signatures:
            raise CatalogError(
                f"the search of {redact(search)} runs in a circle: page {number} is or links to an earlier page; "
                "tell its operator, or search a smaller area"
            )
        if empty > _EMPTY_PAGES:
            raise CatalogError(
                f"the search of {redact(search)} does not end: {empty} pages in a row are empty, and each "
                "links to another; tell its operator, or search a smaller area"
            )
        seen |= signatures
        yield document
        if following is None:
            return
        try:
            page = next_page(page, str(following.get("href", "")), search=search)
            link = pystac.Link.from_dict({**following, "href": page})
            document = reader.read_json(link, parameters=parameters or {})
        except (APIError, OSError, ValueError, KeyError, RecursionError) as error:
            raise _no_page(number + 1, search, error) from cause(error)


def _no_page(number: int, search: str, error: BaseException) -> CatalogError:
    return CatalogError(
        f"page {number} of the search of {redact(search)} cannot be had after several tries: {redact(error)}; "
        "try again later, or search a smaller area"
    )
