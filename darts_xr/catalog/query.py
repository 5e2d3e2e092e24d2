"""Finding scenes: the same filters over every kind of source."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pystac
import rustac
import shapely

from darts_xr.addresses import href_of, is_geoparquet, is_lines, is_remote, is_url, redact
from darts_xr.catalog.filters import ItemFilter, Moment, api_words, describe, read_filters
from darts_xr.catalog.readers import (
    Reader,
    api_batches,
    given_batches,
    is_api,
    items_of,
    line_batches,
    read_json,
    static_batches,
)
from darts_xr.errors import CatalogError, EmptySearchError, OnError

Source = str | os.PathLike[str] | pystac.ItemCollection | pystac.Item | Iterable[pystac.Item]

_ROWS = 1024  # rows of a table that are looked at together


def search(
    source: Source,
    *,
    bbox: Sequence[float] | None = None,
    intersects: Any = None,
    datetime: Moment | tuple[Moment | None, Moment | None] | None = None,
    max_cloud_cover: float | None = None,
    ids: str | Sequence[str] | None = None,
    on_error: OnError = "raise",
) -> pystac.ItemCollection:
    """Find items in a STAC API, a catalogue or a file; all filters must hold.

    Parameters
    ----------
    source : str, path, pystac.ItemCollection, pystac.Item or iterable of pystac.Item
        Address of a STAC API; address (``https://``, ``s3://`` and other object stores) or path of a catalogue, a
        collection, an ItemCollection or an item; path of a stac-geoparquet file or of JSON lines (``.ndjson``); a
        folder with a ``catalog.json``; or the items themselves. An item that comes twice, with the same time and
        files, is given once, with a warning.
    bbox : sequence of 4 floats, optional
        West, south, east, north in degrees; west > east crosses 180°.
    intersects : GeoJSON mapping or shapely geometry, optional
        In longitude and latitude. Items that touch it are found.
    datetime : str, date, datetime or pair of these, optional
        A moment or a period: ``"2021"``, ``"2021-07"``, ``"2021-07-01/2021-08-31"``, ``"2021-07-01/.."``;
        ends are included, a day means all of it.
    max_cloud_cover : float, optional
        Per cent. Items that do not state their cloud cover are left out, with a warning.
    ids : str or sequence of str, optional
        Scene ids; those that are not found are named in a warning.
    on_error : {"raise", "skip"} or callable
        What an item that is no valid STAC does: raise its error, or be left out with a warning; a function is given its
        id and the error instead of the warning.

    Returns
    -------
    pystac.ItemCollection
        Sorted by id; asset addresses are absolute.

    Raises
    ------
    EmptySearchError
        No item is left; the message says how many each filter alone removes.
    CatalogError
        The source cannot be read, or a filter is malformed.

    Examples
    --------
    >>> import datetime, pystac
    >>> july = pystac.Item("july", None, None, datetime.datetime(2021, 7, 15), {"eo:cloud_cover": 12.0})
    >>> june = pystac.Item("june", None, None, datetime.datetime(2021, 6, 15), {"eo:cloud_cover": 80.0})
    >>> [item.id for item in search([july, june], datetime="2021-06/2021-08", max_cloud_cover=20)]
    ['july']
    """
    selection = ItemFilter(
        read_filters(
            bbox=bbox, intersects=intersects, datetime=datetime, max_cloud_cover=max_cloud_cover, ids=ids
        ),
        on_error,
    )
    href = href_of(source) if isinstance(source, (str, os.PathLike)) else None
    # What waits for a network or for the caller's own work does not gain from it.
    with nullcontext() if href is None or is_remote(href) else _uncollected():
        found = sorted(_stream(source, selection), key=_item_id)
        if found:
            return pystac.ItemCollection(found, clone_items=False)
    name = "the given items" if href is None else redact(href)
    if href is not None and is_url(href) and not selection.seen:
        raise EmptySearchError(f"{name} returned no item for {describe(selection.filters)}; widen the search")
    raise EmptySearchError(f"no item of {name} matches: {selection.report()}; widen the search")


def iter_items(
    source: Source,
    *,
    bbox: Sequence[float] | None = None,
    intersects: Any = None,
    datetime: Moment | tuple[Moment | None, Moment | None] | None = None,
    max_cloud_cover: float | None = None,
    ids: str | Sequence[str] | None = None,
    on_error: OnError = "raise",
) -> Iterator[pystac.Item]:
    """Items of a source one after the other, as :func:`search` finds them, without holding all in memory.

    A STAC API is read page by page, a stac-geoparquet file some rows at a time, a static catalogue link by
    link, a file of JSON lines line by line; an ItemCollection file is parsed whole.

    Parameters
    ----------
    source, bbox, intersects, datetime, max_cloud_cover, ids, on_error
        As for :func:`search`.

    Yields
    ------
    pystac.Item
        In the order of the source; none where nothing matches.

    Raises
    ------
    CatalogError
        A filter is malformed or the source does not exist, at once; or a part of it cannot be read, then.

    Examples
    --------
    >>> import datetime, pystac
    >>> days = [datetime.datetime(2021, 7, day) for day in (14, 15)]
    >>> items = (pystac.Item(f"july-{day:%d}", None, None, day, {}) for day in days)
    >>> next(iter_items(items, datetime="2021-07-15")).id
    'july-15'
    """
    selection = ItemFilter(
        read_filters(
            bbox=bbox, intersects=intersects, datetime=datetime, max_cloud_cover=max_cloud_cover, ids=ids
        ),
        on_error,
    )
    return _stream(source, selection)


def load_items(source: Source) -> pystac.ItemCollection:
    """All items of a source, sorted by id.

    Parameters
    ----------
    source : str, path, pystac.ItemCollection, pystac.Item or iterable of pystac.Item
        As for :func:`search`. A STAC API is paged through to its end.

    Returns
    -------
    pystac.ItemCollection

    Raises
    ------
    EmptySearchError
        The source holds no item.
    CatalogError
        It cannot be read.

    Examples
    --------
    >>> import datetime, pystac
    >>> july = pystac.Item("july", None, None, datetime.datetime(2021, 7, 15), {"eo:cloud_cover": 12.0})
    >>> june = pystac.Item("june", None, None, datetime.datetime(2021, 6, 15), {"eo:cloud_cover": 80.0})
    >>> [item.id for item in load_items([june, july])]
    ['july', 'june']
    """
    return search(source)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Keep the garbage collector away while items are made that all stay.

    An item is some fifty small objects, and the collector would walk through all that were made before again
    and again: more than half of the time of a search.
    """
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def _item_id(item: Any) -> str:
    return str(item.id)


def _stream(source: Source, selection: ItemFilter) -> Iterator[pystac.Item]:
    if isinstance(source, (str, os.PathLike)):
        batches = _batches(href_of(source), selection)
    else:
        batches = map(
            selection.select,
            given_batches([source] if isinstance(source, pystac.Item) else source, selection.on_error),
        )
    return _once(batches, selection)


def _once(batches: Iterable[list[pystac.Item]], selection: ItemFilter) -> Iterator[pystac.Item]:
    for batch in batches:
        yield from filter(selection.first_time, batch)
    selection.warn()


def _batches(href: str, selection: ItemFilter) -> Iterator[list[pystac.Item]]:
    """Items of an address or file that pass the filters."""
    if is_geoparquet(href):
        yield from _table_batches(href, selection)
    elif is_lines(href):
        yield from map(selection.select, line_batches(_on_disk(href), selection.on_error))
    else:
        reader = Reader()
        document = read_json(href, reader)
        if is_url(href) and is_api(document):
            yield from map(
                selection.select,
                api_batches(href, reader, selection.on_error, **api_words(selection.filters)),
            )
        else:
            yield from map(selection.select, static_batches(href, document, reader, selection.on_error))


def _on_disk(href: str) -> str:
    if is_remote(href):
        raise CatalogError(f"{redact(href)}: tables and JSON lines are read from disk; download it first")
    return href


def _table_batches(href: str, selection: ItemFilter) -> Iterator[list[pystac.Item]]:
    """Filter on the columns, so that only items that match are built."""
    try:
        with pq.ParquetFile(_on_disk(href)) as file:
            for rows in file.iter_batches(_ROWS):
                table = selection.select_rows(pa.Table.from_batches([rows]))
                if table.num_rows:
                    documents = rustac.from_arrow(table)["features"]
                    yield items_of(map(_plain, documents), href, selection.on_error)
    except (
        *(pa.ArrowException, OSError, LookupError, TypeError, ValueError, AttributeError),
        *(rustac.RustacError, shapely.errors.ShapelyError),
    ) as error:
        raise CatalogError(f"{href} is not readable as stac-geoparquet: {error!r}; write it again") from error


def _plain(document: dict[str, Any]) -> dict[str, Any]:
    """Undo what the columns of a table did to an item: tuples, and whole numbers as floats."""
    if document.get("bbox") is not None:
        document["bbox"] = list(document["bbox"])
    for asset in document.get("assets", {}).values():
        for band in asset.get("bands", ()):
            if isinstance(band.get("nodata"), float) and band["nodata"].is_integer():
                band["nodata"] = int(band["nodata"])
    return document
