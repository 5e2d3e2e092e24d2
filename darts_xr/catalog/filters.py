"""The filters of a search: as users write them, in the words of a STAC API, and at work on items batch by batch."""

from __future__ import annotations

import datetime as dt
import logging
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pystac
import shapely
from numpy.typing import NDArray
from shapely.geometry import MultiPolygon
from shapely.geometry.base import BaseGeometry

from darts_xr.addresses import cause, redact
from darts_xr.catalog.items import UNREADABLE
from darts_xr.errors import CatalogError, OnError, leave_out
from darts_xr.globe import bounds_of, box_polygons, cut_at_180

logger = logging.getLogger(__name__)

Moment = str | dt.date | dt.datetime
Period = tuple[pd.Timestamp | None, pd.Timestamp | None]
_PARTIAL = re.compile(r"\d{4}(-\d{2}(-\d{2})?)?")


@dataclass(frozen=True)
class Filters:
    """The filters of a search, checked; None means "not asked"."""

    ids: list[str] | None
    period: Period | None
    max_cloud_cover: float | None
    bbox: tuple[float, ...] | None
    intersects: BaseGeometry | None

    @property
    def areas(self) -> dict[str, BaseGeometry]:
        """The areas asked for, by the name of their filter."""
        areas = {"bbox": None if self.bbox is None else _box(self.bbox), "intersects": self.intersects}
        return {name: area for name, area in areas.items() if area is not None}


def read_filters(
    *,
    bbox: Sequence[float] | None = None,
    intersects: Any = None,
    datetime: Moment | tuple[Moment | None, Moment | None] | None = None,
    max_cloud_cover: float | None = None,
    ids: str | Sequence[str] | None = None,
) -> Filters:
    """Check the filters of a search.

    Raises
    ------
    CatalogError
        One is malformed.
    """
    return Filters(
        ids=[ids] if isinstance(ids, str) else None if ids is None else list(ids),
        period=None if datetime is None else _period(datetime),
        max_cloud_cover=max_cloud_cover,
        bbox=None if bbox is None else _bbox(bbox),
        intersects=None if intersects is None else _geometry(intersects),
    )


def api_words(filters: Filters) -> dict[str, Any]:
    """Say the filters in the words of a STAC API; cloud cover stays here, as not every API knows it."""
    words: dict[str, Any] = {"ids": filters.ids}
    if filters.period is not None:
        words["datetime"] = iso(filters.period)
    if filters.intersects is not None:
        words["intersects"] = shapely.geometry.mapping(filters.intersects)
    elif filters.bbox is not None and filters.bbox[0] <= filters.bbox[2]:
        words["bbox"] = list(filters.bbox)
    elif filters.bbox is not None:
        words["intersects"] = shapely.geometry.mapping(_box(filters.bbox))  # crosses 180°
    return {key: value for key, value in words.items() if value is not None}


def describe(filters: Filters) -> str:
    """Say what an API was asked."""
    said = [
        describe_ids(filters.ids) if filters.ids is not None else "",
        f"datetime {iso(filters.period)}" if filters.period else "",
        f"bbox {list(filters.bbox)}" if filters.bbox else "",
        f"intersects {filters.intersects.wkt[:80]}" if filters.intersects is not None else "",
    ]
    return ", ".join(part for part in said if part) or "a search without filters"


def describe_ids(ids: Sequence[str]) -> str:
    """Name the first of the ids asked for."""
    return f"ids {', '.join(ids[:3])}{' …' if len(ids) > 3 else ''}"


def _bbox(values: Sequence[float]) -> tuple[float, ...]:
    numbers = tuple(float(value) for value in values)
    if len(numbers) != 4 or numbers[1] > numbers[3] or not all(np.isfinite(numbers)):
        raise CatalogError(f"bbox {list(values)} is not west, south, east, north in degrees")
    return numbers


def _box(values: tuple[float, ...]) -> BaseGeometry:
    polygons = box_polygons(bounds_of(values))
    return polygons[0] if len(polygons) == 1 else MultiPolygon(polygons)


def _geometry(value: Any) -> BaseGeometry:
    if isinstance(value, BaseGeometry):
        return value
    try:
        return shapely.geometry.shape(dict(value) if isinstance(value, Mapping) else value)
    except (AttributeError, KeyError, TypeError, ValueError, shapely.errors.ShapelyError) as error:
        raise CatalogError(
            f"intersects is neither a GeoJSON geometry nor a shapely one: {error!r}; of a file give "
            "geopandas.read_file(path).to_crs(4326).union_all()"
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


def iso(period: Period) -> str:
    """Write a period in the manner of STAC."""
    return "/".join(".." if edge is None else edge.isoformat().replace("+00:00", "Z") for edge in period)


# --- at work ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Columns:
    """What the filters look at, one value an item; None where no filter does."""

    ids: list[str]
    moments: tuple[NDArray[np.datetime64], NDArray[np.datetime64]] | None  # first and last of each item
    cloud_cover: NDArray[np.float64] | None  # NaN where not stated
    geometry: NDArray[np.object_] | None  # None where there is none


class ItemFilter:
    """The filters of one search, and what they did so far."""

    def __init__(self, filters: Filters, on_error: OnError = "raise") -> None:
        self.filters, self.on_error = filters, on_error
        self.seen = 0
        self._areas = filters.areas
        for area in self._areas.values():
            shapely.prepare(area)
        self._wanted = None if filters.ids is None else set(filters.ids)
        self._missing = set(self._wanted or ())
        self._cloud_unknown = 0
        self._given: set[int] = set()
        self._repeated: list[str] = []
        self._removed: Counter[str] = Counter()

    def select(self, items: list[pystac.Item]) -> list[pystac.Item]:
        """Those of a batch that pass all filters.

        Raises
        ------
        CatalogError
            An item states something that a filter cannot read.
        """
        try:
            columns = _columns_of_items(items, self.filters)
        except CatalogError:
            items = [item for item in items if self._is_readable(item)]
            columns = _columns_of_items(items, self.filters)
        return [item for item, kept in zip(items, self.passing(columns), strict=True) if kept]

    def _is_readable(self, item: pystac.Item) -> bool:
        """Whether the filters can read an item; one that they cannot is left out as the caller asked."""
        try:
            _columns_of_items([item], self.filters)
        except CatalogError as error:
            leave_out(item.id, error, self.on_error)
            return False
        return True

    def select_rows(self, table: pa.Table) -> pa.Table:
        """Those rows of a stac-geoparquet table that pass all filters."""
        keep = self.passing(_columns_of_table(table, self.filters))
        return table if keep.all() else table.filter(pa.array(keep))

    def passing(self, columns: Columns) -> NDArray[np.bool_]:
        """Which items of a batch pass all filters; counts what each of them removes."""
        count = len(columns.ids)
        self.seen += count
        tests: dict[str, NDArray[np.bool_]] = {}
        if self._wanted is not None and self.filters.ids is not None:
            found = np.array([item_id in self._wanted for item_id in columns.ids], dtype=bool)
            self._missing.difference_update(columns.ids)
            tests[describe_ids(self.filters.ids)] = found
        if self.filters.period is not None and columns.moments is not None:
            start, end = (_instant(edge) for edge in self.filters.period)
            inside = np.ones(count, dtype=bool)
            if start is not None:
                inside &= columns.moments[1] >= start
            if end is not None:
                inside &= columns.moments[0] <= end
            tests[f"datetime {iso(self.filters.period)}"] = inside
        if self.filters.max_cloud_cover is not None and columns.cloud_cover is not None:
            self._cloud_unknown += int(np.isnan(columns.cloud_cover).sum())
            clear = columns.cloud_cover <= self.filters.max_cloud_cover  # false for NaN
            tests[f"max_cloud_cover {self.filters.max_cloud_cover:g}"] = clear
        for name, area in self._areas.items():
            tests[name] = np.asarray(shapely.intersects(area, columns.geometry), dtype=bool)
        for name, test in tests.items():
            self._removed[name] += int((~test).sum())
        return np.logical_and.reduce(list(tests.values())) if tests else np.ones(count, dtype=bool)

    def first_time(self, item: pystac.Item) -> bool:
        """Whether an item has not passed before: of the same id, collection, time and files."""
        hrefs = tuple(asset.href for asset in item.assets.values())
        mark = hash((item.id, item.collection_id, item.datetime, hrefs))
        if mark in self._given:
            self._repeated.append(item.id)
            return False
        self._given.add(mark)
        return True

    def warn(self) -> None:
        """Say what was left out for other reasons than a filter; for the end of a search."""
        for ids, what in (
            (sorted(self._missing), "of the ids asked for are not there"),
            (self._repeated, "item(s) come more than once and are given once"),
        ):
            if ids:
                logger.warning("%d %s: %s", len(ids), what, ", ".join(ids[:10]))
        if self._cloud_unknown:
            logger.warning("%d item(s) do not state eo:cloud_cover and are left out", self._cloud_unknown)

    def report(self) -> str:
        """How many items there were and how many each filter alone removes."""
        removed = ", ".join(f"{name} removes {count}" for name, count in self._removed.items())
        return f"of {self.seen} item(s), {removed or 'no filter was set'}"


def _columns_of_items(items: Sequence[pystac.Item], filters: Filters) -> Columns:
    return Columns(
        ids=[item.id for item in items],
        moments=(_moments(items, "start_datetime"), _moments(items, "end_datetime"))
        if filters.period
        else None,
        cloud_cover=_stated(items, _cloud_cover, "float64") if filters.max_cloud_cover is not None else None,
        geometry=cut_at_180(_stated(items, _shape, "object")) if filters.areas else None,
    )


def _stated(items: Sequence[pystac.Item], read: Callable[[pystac.Item], Any], kind: str) -> NDArray[Any]:
    """Read one value of each item, into an array of NumPy's ``kind``."""
    values = np.empty(len(items), dtype=kind)
    for index, item in enumerate(items):
        try:
            values[index] = read(item)
        except UNREADABLE as error:
            raise CatalogError(
                f"item {item.id} cannot be filtered, its geometry, time or cloud cover is malformed: "
                f"{redact(repr(error))}; correct it or leave the item out"
            ) from cause(error)
    return values


def _cloud_cover(item: pystac.Item) -> float:
    value = item.properties.get("eo:cloud_cover")
    return np.nan if value is None else float(value)


def _shape(item: pystac.Item) -> Any:
    return shapely.geometry.shape(item.geometry) if item.geometry else None


def _moments(items: Sequence[pystac.Item], name: str) -> NDArray[np.datetime64]:
    def read(item: pystac.Item) -> np.datetime64:
        moment = item.datetime or getattr(item.common_metadata, name)
        if moment is None:
            return np.datetime64("NaT", "us")
        return np.datetime64(
            moment.astimezone(dt.UTC).replace(tzinfo=None) if moment.tzinfo else moment, "us"
        )

    return _stated(items, read, "datetime64[us]")


def _columns_of_table(table: pa.Table, filters: Filters) -> Columns:
    def moments(name: str) -> NDArray[np.datetime64]:
        column = table["datetime"].to_pandas()
        stated = column.fillna(table[name].to_pandas()) if name in table.column_names else column
        return pd.to_datetime(stated, utc=True).dt.tz_localize(None).to_numpy("datetime64[us]")

    cloud = geometry = None
    if filters.max_cloud_cover is not None:
        stated = table["eo:cloud_cover"].to_pandas() if "eo:cloud_cover" in table.column_names else np.nan
        cloud = np.full(table.num_rows, stated, dtype=float)
    if filters.areas:
        geometry = cut_at_180(shapely.from_wkb(table["geometry"].to_numpy(zero_copy_only=False)))
    return Columns(
        ids=table["id"].to_pylist(),
        moments=(moments("start_datetime"), moments("end_datetime")) if filters.period else None,
        cloud_cover=cloud,
        geometry=geometry,
    )


def _instant(edge: pd.Timestamp | None) -> np.datetime64 | None:
    return None if edge is None else edge.tz_localize(None).to_datetime64()
