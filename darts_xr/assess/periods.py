"""Which years a reference object is of; read from columns that were declared, never guessed from a name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from darts_xr.errors import AssessmentError
from darts_xr.globe import require_crs
from darts_xr.products.level_two import overlap_groups, union_by_group

_DAY = re.compile(r"^(\d{4})[-/.]?(\d{2})[-/.]?(\d{2})(?:[T ].*)?$")
_YEAR = re.compile(r"^(\d{4})(?:\.0+)?$")
_ALWAYS = (-9999, 9999)


@dataclass(frozen=True)
class ReferenceTime:
    """Columns that tell when a reference object was there.

    Parameters
    ----------
    date : str, optional
        Column with a day (YYYY-MM-DD), a year, or two of these with a comma between (a period): the object is of that
        year, or of each year of the period.
    start, end : str, optional
        Columns with the first and the last year or day of a period; both or none.

    Raises
    ------
    AssessmentError
        If only one of ``start`` and ``end`` is given, or both kinds are.

    Examples
    --------
    >>> ReferenceTime(start="first_year", end="last_year").declared
    True
    """

    date: str | None = None
    start: str | None = None
    end: str | None = None

    def __post_init__(self) -> None:
        if (self.start is None) != (self.end is None):
            raise AssessmentError("a period needs the column of its start and that of its end; give both")
        if self.date is not None and self.start is not None:
            raise AssessmentError(
                "give the column of a date or the columns of a period's start and end, not both"
            )

    @property
    def declared(self) -> bool:
        """Whether there is anything to go by."""
        return self.date is not None or self.start is not None


UNDATED = ReferenceTime()


def _moment(value: Any, last: bool) -> tuple[int, str] | None:
    """Year, and day if there is one, of a cell; None where it is empty. Of a list the first or the last counts."""
    if isinstance(value, (datetime, date)) and not pd.isna(value):
        return value.year, f"{value:%Y-%m-%d}"
    if value is None or (isinstance(value, float) and np.isnan(value)) or value is pd.NaT:
        return None
    texts = [text.strip() for text in str(value).split(",") if text.strip()]
    if not texts:
        return None
    text = texts[-1 if last else 0]
    if found := _YEAR.match(text):
        return int(found[1]), ""
    if found := _DAY.match(text):
        return int(found[1]), "-".join(found.groups())
    raise ValueError(f"{value!r} is no year and no date YYYY-MM-DD")


def _column(reference: pd.DataFrame, name: str, last: bool) -> list[tuple[int, str] | None]:
    if name not in reference:
        raise AssessmentError(
            f"the reference has no column {name!r}; it has {', '.join(str(c) for c in reference if c != 'geometry')}"
        )
    values = reference[name].tolist()
    cache: dict[Any, tuple[int, str] | None] = {}
    try:
        return [cache.setdefault(v, _moment(v, last)) if v not in cache else cache[v] for v in values]
    except ValueError as error:
        raise AssessmentError(f"column {name!r} of the reference: {error}; correct it first") from error


class DatedReference:
    """A reference whose objects are taken year by year, or day by day.

    Where a reference holds outlines of several days of one year, those that overlap are one object of that year.
    Objects whose declared date is missing are of no year.

    Parameters
    ----------
    reference : geopandas.GeoDataFrame
        Objects in any CRS.
    time : ReferenceTime
        The columns that date them; without any, each object is of every year.

    Raises
    ------
    CRSError
        If the reference has no CRS.
    AssessmentError
        If a column is missing or holds what is no date.

    Examples
    --------
    >>> import geopandas as gpd, shapely
    >>> truth = gpd.GeoDataFrame({"seen": [2021, 2022]}, geometry=[shapely.Point(0, 70)] * 2, crs=4326)
    >>> int(DatedReference(truth, ReferenceTime(date="seen")).of_year(2021).sum())
    1
    """

    def __init__(self, reference: gpd.GeoDataFrame, time: ReferenceTime = UNDATED) -> None:
        require_crs(reference, "reference")
        self.time = time
        n = len(reference)
        firsts: list[tuple[int, str] | None] = [(_ALWAYS[0], "")] * n
        lasts: list[tuple[int, str] | None] = [(_ALWAYS[1], "")] * n
        if time.declared:
            firsts = _column(reference, str(time.date or time.start), last=False)
            lasts = _column(reference, str(time.date or time.end), last=True)
        known = np.array(
            [a is not None and b is not None for a, b in zip(firsts, lasts, strict=True)], dtype=bool
        )
        #: How many objects have no date where one was declared.
        self.n_undated = int(n - known.sum())
        pairs = [(a, b) for a, b in zip(firsts, lasts, strict=True) if a is not None and b is not None]
        first = np.array([a[0] for a, _ in pairs], np.int64)
        last = np.array([b[0] for _, b in pairs], np.int64)
        days = np.array([a[1] if a == b else "" for a, b in pairs], dtype="U10")
        self._first, self._last, self._days = first, last, days
        shapes = reference.geometry[known].reset_index(drop=True)
        joined, of_year = self._join(shapes, first, days)
        #: All objects that any year or day asks for, in the CRS of the reference.
        self.shapes = gpd.GeoDataFrame(
            geometry=gpd.GeoSeries([*shapes.to_list(), *joined], crs=reference.crs), crs=reference.crs
        )
        self._joined_year = np.concatenate([np.full(len(shapes), -1, np.int64), of_year])

    def _join(
        self, shapes: gpd.GeoSeries, year: NDArray[np.int64], days: NDArray[np.str_]
    ) -> tuple[list[Any], NDArray[np.int64]]:
        """Outlines of years that hold several days, joined where they overlap."""
        joined: list[Any] = []
        of_year: list[int] = []
        for value in np.unique(year[days != ""]).tolist():
            rows = np.flatnonzero((days != "") & (year == value))
            if len(np.unique(days[rows])) < 2:
                continue
            outlines = np.array(shapes.iloc[rows].to_list(), object)
            outlines[~shapely.is_valid(outlines)] = shapely.make_valid(outlines[~shapely.is_valid(outlines)])
            group = overlap_groups(outlines, np.zeros(len(outlines), np.int64), False)
            union = union_by_group(outlines, group)
            joined += list(union)
            of_year += [value] * len(union)
        return joined, np.array(of_year, np.int64)

    def of_year(self, year: int) -> NDArray[np.bool_]:
        """Which of ``shapes`` are of a calendar year."""
        joined = self._joined_year == year
        plain = (self._first <= year) & (year <= self._last)
        if joined.any():
            plain &= self._days == ""
        joined[: len(plain)] |= plain
        return joined

    def of_day(self, day: str) -> NDArray[np.bool_]:
        """Which of ``shapes`` are of a day (YYYY-MM-DD); of its year where none is of that very day."""
        exact = np.zeros(len(self.shapes), bool)
        exact[: len(self._days)] = self._days == day
        return exact if exact.any() else self.of_year(int(day[:4]))

    def any_of(self, years: Iterable[int]) -> bool:
        """Whether any object is of one of these years."""
        return any(self.of_year(year).any() for year in years)
