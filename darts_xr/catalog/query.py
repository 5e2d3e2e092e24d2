"""Finding scenes: the same filters over every kind of source."""

from __future__ import annotations

import datetime as dt
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import antimeridian
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pystac
import rustac
import shapely
from numpy.typing import NDArray
from shapely.geometry import MultiPolygon, box
from shapely.geometry.base import BaseGeometry

from darts_xr.catalog.rasters import is_url
from darts_xr.catalog.sources import (
    Source,
    api_items,
    href_of,
    is_api,
    is_geoparquet,
    read_json,
    static_items,
    to_item,
    web,
)
from darts_xr.errors import CatalogError, EmptySearchError

logger = logging.getLogger(__name__)

Moment = str | dt.date | dt.datetime
Period = tuple[pd.Timestamp | None, pd.Timestamp | None]
_PARTIAL = re.compile(r"\d{4}(-\d{2}(-\d{2})?)?")


@dataclass(frozen=True)
class _Filters:
    """The filters of a search, checked; None means "not asked"."""

    ids: list[str] | None
    period: Period | None
    max_cloud_cover: float | None
    bbox: tuple[float, ...] | None
    intersects: BaseGeometry | None


@dataclass(frozen=True)
class _Columns:
    """What the filters look at, one value an item."""

    ids: NDArray[np.object_]
    start: NDArray[np.datetime64]
    end: NDArray[np.datetime64]
    cloud_cover: NDArray[np.float64]  # NaN where not stated
    geometry: NDArray[np.object_]  # None where there is none


def search(
    source: Source,
    *,
    bbox: Sequence[float] | None = None,
    intersects: Any = None,
    datetime: Moment | tuple[Moment | None, Moment | None] | None = None,
    max_cloud_cover: float | None = None,
    ids: str | Sequence[str] | None = None,
) -> pystac.ItemCollection:
    """Find items in a STAC API, a catalogue or a file; all filters must hold.

    Parameters
    ----------
    source : str, path, pystac.ItemCollection, pystac.Item or iterable of pystac.Item
        Address of a STAC API; address or path of a catalogue, a collection, an ItemCollection or an item;
        path of a stac-geoparquet file; a folder with a ``catalog.json``; or the items themselves.
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
    filters = _Filters(
        ids=[ids] if isinstance(ids, str) else None if ids is None else list(ids),
        period=None if datetime is None else _period(datetime),
        max_cloud_cover=max_cloud_cover,
        bbox=None if bbox is None else _bbox(bbox),
        intersects=None if intersects is None else _geometry(intersects),
    )
    if isinstance(source, (str, os.PathLike)):
        href = href_of(source)
        name = href
        if is_geoparquet(href):
            found, report = _search_geoparquet(href, filters)
        else:
            reader = web()
            document = read_json(href, reader)
            if is_url(href) and is_api(document):
                candidates = list(api_items(href, reader, **_api_filters(filters)))
                if not candidates:
                    raise EmptySearchError(
                        f"the STAC API {href} returned no item for {_describe(filters)}; widen it"
                    )
            else:
                candidates = list(static_items(href, document, reader))
            found, report = _search_items(candidates, filters)
    else:
        name = "the given items"
        given = [source] if isinstance(source, pystac.Item) else list(source)
        found, report = _search_items(given, filters)
    if not found:
        raise EmptySearchError(f"no item of {name} matches: {report}; widen the search")
    return pystac.ItemCollection(sorted(found, key=_item_id), clone_items=False)


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


def _item_id(item: Any) -> str:
    return str(item.id)


def _search_items(items: list[pystac.Item], filters: _Filters) -> tuple[list[pystac.Item], str]:
    keep, report = _apply(_columns_of_items(items), filters)
    return [item for item, kept in zip(items, keep, strict=True) if kept], report


def _search_geoparquet(href: str, filters: _Filters) -> tuple[list[pystac.Item], str]:
    """Filter on the columns, so that only items that match are built."""
    if is_url(href):
        raise CatalogError(f"{href}: stac-geoparquet is read from disk; download it first")
    try:
        table = pq.read_table(href)
        keep, report = _apply(_columns_of_table(table), filters)
        documents = rustac.from_arrow(table.filter(pa.array(keep)))["features"] if keep.any() else []
    except (pa.ArrowException, OSError, KeyError, rustac.RustacError) as error:
        raise CatalogError(f"{href} is not readable as stac-geoparquet: {error!r}; write it again") from error
    return [to_item(_plain(document), href) for document in documents], report


def _plain(document: dict[str, Any]) -> dict[str, Any]:
    """Undo what the columns of a table did to an item: tuples, and whole numbers as floats."""
    if document.get("bbox") is not None:
        document["bbox"] = list(document["bbox"])
    for asset in document.get("assets", {}).values():
        for band in asset.get("bands", ()):
            if isinstance(band.get("nodata"), float) and band["nodata"].is_integer():
                band["nodata"] = int(band["nodata"])
    return document


def _columns_of_items(items: Sequence[pystac.Item]) -> _Columns:
    def moments(name: str) -> NDArray[np.datetime64]:
        stated = [item.datetime or getattr(item.common_metadata, name) for item in items]
        return _utc(pd.Series([pd.NaT if moment is None else pd.Timestamp(moment) for moment in stated]))

    cloud = [item.properties.get("eo:cloud_cover") for item in items]
    return _Columns(
        ids=np.array([item.id for item in items], dtype=object),
        start=moments("start_datetime"),
        end=moments("end_datetime"),
        cloud_cover=np.array([np.nan if value is None else value for value in cloud], dtype=float),
        geometry=_cut([shapely.geometry.shape(item.geometry) if item.geometry else None for item in items]),
    )


def _columns_of_table(table: pa.Table) -> _Columns:
    def moments(name: str) -> NDArray[np.datetime64]:
        column = table["datetime"].to_pandas()
        return _utc(column.fillna(table[name].to_pandas()) if name in table.column_names else column)

    rows = table.num_rows
    cloud = table["eo:cloud_cover"].to_pandas() if "eo:cloud_cover" in table.column_names else [np.nan] * rows
    return _Columns(
        ids=table["id"].to_numpy(zero_copy_only=False),
        start=moments("start_datetime"),
        end=moments("end_datetime"),
        cloud_cover=np.asarray(cloud, dtype=float),
        geometry=_cut(shapely.from_wkb(table["geometry"].to_numpy(zero_copy_only=False))),
    )


def _cut(geometry: Any) -> NDArray[np.object_]:
    """Cut the rings that others have wrapped around 180°, which a plane would take for the whole globe."""
    shapes = np.empty(len(geometry), dtype=object)
    shapes[:] = geometry
    bounds = shapely.bounds(shapes)
    for index in np.flatnonzero((bounds[:, 2] - bounds[:, 0] > 180) & (shapely.get_type_id(shapes) == 3)):
        shapes[index] = antimeridian.fix_polygon(shapes[index], fix_winding=False)
    return shapes


def _utc(moments: pd.Series[Any]) -> NDArray[np.datetime64]:
    return pd.to_datetime(moments, utc=True).dt.tz_localize(None).to_numpy("datetime64[us]")


def _apply(columns: _Columns, filters: _Filters) -> tuple[NDArray[np.bool_], str]:
    """Which items pass all filters, and a sentence on how many each of them removes."""
    count = len(columns.ids)
    tests: dict[str, NDArray[np.bool_]] = {}
    if filters.ids is not None:
        tests[_describe_ids(filters.ids)] = np.isin(columns.ids, np.array(filters.ids, dtype=object))
        missing = sorted(set(filters.ids) - set(columns.ids.tolist()))
        if missing:
            logger.warning("%d of the ids asked for are not there: %s", len(missing), ", ".join(missing[:10]))
    if filters.period is not None:
        start, end = (_utc_end(edge) for edge in filters.period)
        inside = np.ones(count, dtype=bool)
        if start is not None:
            inside &= columns.end >= start
        if end is not None:
            inside &= columns.start <= end
        tests[f"datetime {_iso(filters.period)}"] = inside
    if filters.max_cloud_cover is not None:
        stated = ~np.isnan(columns.cloud_cover)
        if not stated.all():
            logger.warning("%d item(s) do not state eo:cloud_cover and are left out", int((~stated).sum()))
        tests[f"max_cloud_cover {filters.max_cloud_cover:g}"] = stated & (
            columns.cloud_cover <= filters.max_cloud_cover
        )
    areas = {"bbox": None if filters.bbox is None else _box(filters.bbox), "intersects": filters.intersects}
    for name, area in areas.items():
        if area is not None:
            shapely.prepare(area)
            tests[name] = np.asarray(shapely.intersects(area, columns.geometry), dtype=bool)
    keep = np.logical_and.reduce(list(tests.values())) if tests else np.ones(count, dtype=bool)
    removed = ", ".join(f"{name} removes {int((~test).sum())}" for name, test in tests.items())
    return keep, f"of {count} item(s), {removed or 'no filter was set'}"


def _api_filters(filters: _Filters) -> dict[str, Any]:
    """Say the filters in the words of a STAC API; cloud cover stays here, as not every API knows it."""
    words: dict[str, Any] = {"ids": filters.ids}
    if filters.period is not None:
        words["datetime"] = _iso(filters.period)
    if filters.intersects is not None:
        words["intersects"] = shapely.geometry.mapping(filters.intersects)
    elif filters.bbox is not None and filters.bbox[0] <= filters.bbox[2]:
        words["bbox"] = list(filters.bbox)
    elif filters.bbox is not None:
        words["intersects"] = shapely.geometry.mapping(_box(filters.bbox))  # crosses 180°
    return {key: value for key, value in words.items() if value is not None}


def _describe(filters: _Filters) -> str:
    said = [
        _describe_ids(filters.ids) if filters.ids is not None else "",
        f"datetime {_iso(filters.period)}" if filters.period else "",
        f"bbox {list(filters.bbox)}" if filters.bbox else "",
        f"intersects {filters.intersects.wkt[:80]}" if filters.intersects is not None else "",
    ]
    return ", ".join(part for part in said if part) or "a search without filters"


def _describe_ids(ids: Sequence[str]) -> str:
    return f"ids {', '.join(ids[:3])}{' …' if len(ids) > 3 else ''}"


def _bbox(values: Sequence[float]) -> tuple[float, ...]:
    numbers = tuple(float(value) for value in values)
    if len(numbers) != 4 or numbers[1] > numbers[3] or not all(np.isfinite(numbers)):
        raise CatalogError(f"bbox {list(values)} is not west, south, east, north in degrees")
    return numbers


def _box(values: tuple[float, ...]) -> BaseGeometry:
    west, south, east, north = values
    if west <= east:
        return box(west, south, east, north)
    return MultiPolygon([box(west, south, 180, north), box(-180, south, east, north)])


def _geometry(value: Any) -> BaseGeometry:
    if isinstance(value, BaseGeometry):
        return value
    try:
        return shapely.geometry.shape(dict(value) if isinstance(value, Mapping) else value)
    except (AttributeError, KeyError, TypeError, ValueError, shapely.errors.ShapelyError) as error:
        raise CatalogError(
            f"intersects is neither a GeoJSON geometry nor a shapely one: {error!r}"
        ) from error


def _period(value: Moment | tuple[Moment | None, Moment | None]) -> Period:
    if isinstance(value, tuple):
        edges: list[Moment | None] = list(value)
    elif isinstance(value, str):
        edges = list(value.split("/"))
    else:
        edges = [value]
    try:
        if len(edges) == 1:
            return _edge(edges[0], 0), _edge(edges[0], 1)
        start, end = edges
        period = _edge(start, 0), _edge(end, 1)
    except ValueError as error:
        raise CatalogError(
            f"datetime {value!r} is not understood ({error}); write 2021-07-01/2021-08-31, 2021-07 or a time"
        ) from error
    if period[0] is not None and period[1] is not None and period[0] > period[1]:
        raise CatalogError(f"datetime {value!r} ends before it starts")
    return period


def _edge(moment: Moment | None, side: int) -> pd.Timestamp | None:
    """First (side 0) or last (side 1) instant that a moment covers; None for an open end."""
    if moment is None or moment in ("", ".."):
        return None
    if isinstance(moment, dt.date) and not isinstance(moment, dt.datetime):
        moment = moment.isoformat()
    if isinstance(moment, str) and _PARTIAL.fullmatch(moment):
        span = pd.Period(moment)
        instant = (span.start_time, span.end_time.floor("us"))[side]
    else:
        instant = pd.Timestamp(moment)
    return instant.tz_localize(dt.UTC) if instant.tz is None else instant.tz_convert(dt.UTC)


def _utc_end(instant: pd.Timestamp | None) -> np.datetime64 | None:
    return None if instant is None else instant.tz_localize(None).to_datetime64()


def _iso(period: Period) -> str:
    return "/".join(".." if edge is None else edge.isoformat().replace("+00:00", "Z") for edge in period)
