"""What a search asks for: filters as users write them, checked and said in the words of a STAC API."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import shapely
from shapely.geometry import MultiPolygon, box
from shapely.geometry.base import BaseGeometry

from darts_xr.errors import CatalogError

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


def iso(period: Period) -> str:
    """Write a period in the manner of STAC."""
    return "/".join(".." if edge is None else edge.isoformat().replace("+00:00", "Z") for edge in period)
