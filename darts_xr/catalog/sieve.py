"""The filters of a search at work on items and on rows of tables, batch by batch, and what each removes."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import Any

import antimeridian
import numpy as np
import pandas as pd
import pyarrow as pa
import pystac
import shapely
from numpy.typing import NDArray

from darts_xr.catalog.addresses import cause, redact
from darts_xr.catalog.filters import Filters, describe_ids, iso
from darts_xr.errors import CatalogError

logger = logging.getLogger(__name__)

_LIBRARIES = (pystac.STACError, shapely.errors.ShapelyError)


@dataclass(frozen=True)
class Columns:
    """What the filters look at, one value an item; None where no filter does."""

    ids: list[str]
    moments: tuple[NDArray[np.datetime64], NDArray[np.datetime64]] | None  # first and last of each item
    cloud_cover: NDArray[np.float64] | None  # NaN where not stated
    geometry: NDArray[np.object_] | None  # None where there is none


class Sieve:
    """The filters of one search, and what they did so far."""

    def __init__(self, filters: Filters) -> None:
        self.filters = filters
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

    def sift(self, items: list[pystac.Item]) -> list[pystac.Item]:
        """Those of a batch that pass all filters.

        Raises
        ------
        CatalogError
            An item states something that a filter cannot read.
        """
        keep = self.passing(_columns_of_items(items, self.filters))
        return [item for item, kept in zip(items, keep, strict=True) if kept]

    def sift_table(self, table: pa.Table) -> pa.Table:
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
        geometry=_stated(items, _shape, "object") if filters.areas else None,
    )


def _stated(items: Sequence[pystac.Item], read: Callable[[pystac.Item], Any], kind: str) -> NDArray[Any]:
    """Read one value of each item, into an array of NumPy's ``kind``."""
    values = np.empty(len(items), dtype=kind)
    for index, item in enumerate(items):
        try:
            values[index] = read(item)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, *_LIBRARIES) as error:
            raise CatalogError(
                f"item {item.id} cannot be filtered, its geometry, time or cloud cover is malformed: "
                f"{redact(repr(error))}; correct it or leave the item out"
            ) from cause(error)
    return values


def _cloud_cover(item: pystac.Item) -> float:
    value = item.properties.get("eo:cloud_cover")
    return np.nan if value is None else float(value)


def _shape(item: pystac.Item) -> Any:
    return _cut(shapely.geometry.shape(item.geometry)) if item.geometry else None


def _moments(items: Sequence[pystac.Item], name: str) -> NDArray[np.datetime64]:
    def read(item: pystac.Item) -> np.datetime64:
        moment = item.datetime or getattr(item.common_metadata, name)
        if moment is None:
            return np.datetime64("NaT", "us")
        return np.datetime64(moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment, "us")

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
        geometry = shapely.from_wkb(table["geometry"].to_numpy(zero_copy_only=False))
        bounds = shapely.bounds(geometry)
        for index in np.flatnonzero(bounds[:, 2] - bounds[:, 0] > 180):
            geometry[index] = _cut(geometry[index])
    return Columns(
        ids=table["id"].to_pylist(),
        moments=(moments("start_datetime"), moments("end_datetime")) if filters.period else None,
        cloud_cover=cloud,
        geometry=geometry,
    )


def _cut(geometry: Any) -> Any:
    """Cut a ring that others have wrapped around 180°, which a plane would take for the whole globe."""
    west, _, east, _ = geometry.bounds
    if east - west > 180 and geometry.geom_type == "Polygon":
        return antimeridian.fix_polygon(geometry, fix_winding=False)
    return geometry


def _instant(edge: pd.Timestamp | None) -> np.datetime64 | None:
    return None if edge is None else edge.tz_localize(None).to_datetime64()
