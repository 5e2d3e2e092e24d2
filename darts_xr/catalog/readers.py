"""Items out of whatever holds them, a few at a time: STAC APIs, static catalogues, JSON files, lists."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pystac
import requests
import urllib3
from requests.adapters import HTTPAdapter
from upath import UPath

from darts_xr.addresses import cause, file_name, in_store, is_url, join, next_page, redact, store_errors
from darts_xr.catalog.items import checked_item, item_name, to_item
from darts_xr.errors import CatalogError, OnError, leave_out

if TYPE_CHECKING:
    from pystac_client.stac_api_io import StacApiIO

logger = logging.getLogger(__name__)

BATCH = 256  # items made at once where the source has no pages of its own
_PAGE = 250  # items asked of an API at once
_EMPTY_PAGES = 10  # pages without items in a row, after which an API is taken to have no end
_DEPTH = 64  # catalogues inside each other, after which a catalogue is taken to have no end
_BACK_OFF = 0.5  # seconds; the waits before the third and later tries are 2, 4, 8 times as long
_TIMEOUT = 30.0  # seconds until an answer begins, and between two parts of it
_LONGEST = 300.0  # seconds for one whole answer
_LARGEST = 256 << 20  # bytes of one answer, unpacked: some 50,000 items
_CHUNK = 1 << 16
_MOST_PAGES = 20_000  # of one search: five million items


class _LimitedAdapter(HTTPAdapter):
    """Reads whole answers, but none that is too large or takes too long, however slowly or well packed it comes."""

    def send(self, *args: Any, **kwargs: Any) -> requests.Response:
        """Send a request and read its answer.

        Raises
        ------
        requests.RequestException
            Among others where a limit is passed.
        """
        began, body = time.monotonic(), bytearray()
        answer = super().send(*args, **{**kwargs, "stream": True})
        try:
            while chunk := answer.raw.read1(_CHUNK, decode_content=True):
                body += chunk
                if len(body) > _LARGEST:
                    raise requests.exceptions.ContentDecodingError(
                        f"the answer is larger than {_LARGEST >> 20} MiB; search a smaller area"
                    )
                if time.monotonic() - began > _LONGEST:
                    raise requests.exceptions.ReadTimeout(f"the answer takes longer than {_LONGEST:.0f} s")
        except urllib3.exceptions.HTTPError as error:
            raise requests.exceptions.ConnectionError(error) from error
        finally:
            answer.close()
        answer._content, answer._content_consumed = bytes(body), True
        return answer


class Reader:
    """Reads JSON documents: files at once, addresses with further tries.

    What addresses need is loaded with the first one. Beside JupyterLab it takes seconds to load, and most catalogues
    are files.
    """

    @cached_property
    def web(self) -> StacApiIO:
        """Reader of addresses that tries a failing server again, at most 5 times within about 8 s."""
        from pystac_client.stac_api_io import StacApiIO

        retry = urllib3.Retry(
            total=4,
            backoff_factor=_BACK_OFF,
            status_forcelist=(429, 500, 502, 503, 504),
            allowed_methods=None,  # searches are POST requests and change nothing
            raise_on_status=False,
            respect_retry_after_header=False,  # a server could ask for hours
        )
        reader = StacApiIO(timeout=_TIMEOUT)
        for scheme in ("http://", "https://"):
            reader.session.mount(scheme, _LimitedAdapter(max_retries=retry))
        return reader

    def read_json(self, source: str | pystac.Link, **options: Any) -> Any:
        """Read a document; what a server refuses is an ``OSError``, too."""
        if isinstance(source, str) and not is_url(source):
            return json.loads(Path(source).read_bytes())
        web = self.web
        from pystac_client.exceptions import APIError

        try:
            return web.read_json(source, **options)
        except APIError as error:
            raise OSError(str(error)) from error


def is_api(document: dict[str, Any]) -> bool:
    """Whether a landing page is that of a STAC API that can search."""
    return bool(document.get("conformsTo")) and any(link["rel"] == "search" for link in _links(document))


def read_json(href: str, reader: Reader, *, cited_by: str | None = None) -> dict[str, Any]:
    """Read a JSON document.

    Raises
    ------
    CatalogError
        It cannot be fetched or is no JSON object; the message names it and the document that links to it.
    """
    name = redact(href) + (f", linked from {redact(cited_by)}," if cited_by else "")
    try:
        document = _stored(href) if in_store(href) else reader.read_json(href)
    except store_errors() as error:
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


def items_of(documents: Iterable[Any], address: str, on_error: OnError) -> list[pystac.Item]:
    """Items of JSON documents; one that is none is left out as the caller asked."""
    items = []
    for document in documents:
        try:
            items.append(to_item(document, address))
        except CatalogError as error:
            leave_out(item_name(document), error, on_error)
    return items


def given_batches(items: Iterable[pystac.Item], on_error: OnError) -> Iterator[list[pystac.Item]]:
    """Items that the caller has.

    Raises
    ------
    CatalogError
        One is no item, unless ``on_error`` takes it.
    """
    rest = iter(items)
    while batch := list(islice(rest, BATCH)):
        kept = []
        for item in batch:
            try:
                kept.append(checked_item(item))
            except CatalogError as error:
                leave_out(str(getattr(item, "id", type(item).__name__)), error, on_error)
        yield kept


def line_batches(path: str, on_error: OnError) -> Iterator[list[pystac.Item]]:
    """Items of a file that holds one JSON item a line.

    Raises
    ------
    CatalogError
        A line is no item, unless ``on_error`` takes it; the message names it.
    """
    try:
        with Path(path).open(encoding="utf-8") as file:
            lines = ((number, line) for number, line in enumerate(file, 1) if line.strip())
            while batch := list(islice(lines, BATCH)):
                documents = []
                for number, line in batch:
                    try:
                        documents.append(_parsed(line, path, number))
                    except CatalogError as error:
                        leave_out(f"line {number}", error, on_error)
                yield items_of(documents, path, on_error)
    except (OSError, UnicodeDecodeError) as error:
        raise CatalogError(f"{path} cannot be read: {error}; write it again") from error


def _parsed(line: str, path: str, number: int) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CatalogError(f"line {number} of {path} is not valid JSON: {error}; write it again") from error


def static_batches(
    href: str, document: dict[str, Any], reader: Reader, on_error: OnError
) -> Iterator[list[pystac.Item]]:
    """Items of a static catalogue, an ItemCollection or a single item, each document read once, link by link.

    Raises
    ------
    CatalogError
        A link is broken or leads to something that is not STAC, unless ``on_error`` takes it; or the catalogues in it
        do not end.
    """
    seen = {href}
    yield from _items_of(href, document, reader, on_error)
    levels = [_followed(href, document)]
    del document
    while levels:
        target, cited_by = next(levels[-1], (None, ""))
        if target is None:
            levels.pop()
        elif target not in seen:  # a catalogue may link to itself, or to an item from two sides
            seen.add(target)
            try:
                found = read_json(target, reader, cited_by=cited_by)
            except CatalogError as error:
                leave_out(file_name(target), error, on_error)
                continue
            yield from _items_of(target, found, reader, on_error)
            levels.append(_followed(target, found))
            if len(levels) > _DEPTH:
                raise CatalogError(
                    f"{redact(href)} has catalogues inside each other to a depth of more than {_DEPTH}, the last "
                    f"is {redact(target)}; give one of the inner ones"
                )


def _items_of(
    address: str, content: dict[str, Any], reader: Reader, on_error: OnError
) -> Iterator[list[pystac.Item]]:
    match content.get("type"):
        case "Feature":
            yield items_of([content], address, on_error)
        case "FeatureCollection":
            if not is_url(address) and any(link["rel"] == "next" for link in _links(content)):
                logger.warning("%s is one saved page of a search; the pages after it are not read", address)
            for page in _pages(content, address, address, reader) if is_url(address) else [content]:
                features = iter(_features(page, address))
                while batch := list(islice(features, BATCH)):
                    yield items_of(batch, address, on_error)
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


def api_batches(href: str, reader: Reader, on_error: OnError, **filters: Any) -> Iterator[list[pystac.Item]]:
    """Items of a STAC API that its search returns, page by page.

    Raises
    ------
    CatalogError
        A page cannot be had after several tries, is on another server, or the pages do not end.
    """
    from pystac_client import Client
    from pystac_client.exceptions import APIError

    try:
        search = Client.open(href, stac_io=reader.web).search(limit=_PAGE, **filters)
        page, parameters = join(href, search.url), search.get_parameters()
        first = reader.read_json(page, method=search.method, parameters=parameters)
    except (APIError, OSError, ValueError, KeyError, RecursionError, pystac.STACError) as error:
        raise _no_page(1, href, error) from cause(error)
    for document in _pages(first, page, href, reader, parameters=parameters):
        yield items_of(_features(document, href), href, on_error)


def _pages(
    document: dict[str, Any],
    page: str,
    search: str,
    reader: Reader,
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
        if number > _MOST_PAGES:
            raise CatalogError(
                f"the search of {redact(search)} does not end: it has more than {_MOST_PAGES:,} pages; search a "
                "smaller area"
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
        except (OSError, ValueError, KeyError, RecursionError) as error:
            raise _no_page(number + 1, search, error) from cause(error)


def _no_page(number: int, search: str, error: BaseException) -> CatalogError:
    return CatalogError(
        f"page {number} of the search of {redact(search)} cannot be had after several tries: {redact(error)}; "
        "try again later, or search a smaller area"
    )
