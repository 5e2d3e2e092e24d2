"""Schemas of published inventories: how each is recognised, what dates its objects, what its codes mean."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import geopandas as gpd
import numpy as np
import pandas as pd

from darts_xr.assess.periods import UNDATED, ReferenceTime

_FIRST = "First year of observed activity (1900 means prior to 1984)"
_END = "End date (2100 means still active in 2016)"
_TYPE = "Type: C-coast; L-lake; R-river; S-slope"

Prepare = Callable[[gpd.GeoDataFrame, list[str]], gpd.GeoDataFrame]


def _as_it_is(frame: gpd.GeoDataFrame, notes: list[str]) -> gpd.GeoDataFrame:
    return frame


@dataclass(frozen=True)
class Schema:
    """One published form.

    Parameters
    ----------
    name : str
        What notes call it.
    columns : frozenset of str
        Columns that it always has; a file is of this schema if it has all of them.
    time : ReferenceTime
        Columns, of the file or made by ``prepare``, that date the objects.
    prepare : callable
        Decodes columns, and notes what it left out or assumed.
    also : callable
        What a file must meet beyond its columns, where these alone could be anybody's.

    Examples
    --------
    >>> [schema.name for schema in SCHEMAS][:2]
    ['Lewkowicz and Way 2019', 'ARTS']
    """

    name: str
    columns: frozenset[str]
    time: ReferenceTime = UNDATED
    prepare: Prepare = _as_it_is
    also: Callable[[gpd.GeoDataFrame], bool] = lambda frame: True

    def fits(self, frame: gpd.GeoDataFrame) -> bool:
        """Whether a file is of this schema."""
        return self.columns <= set(frame.columns) and self.also(frame)


def _lewkowicz(frame: gpd.GeoDataFrame, notes: list[str]) -> gpd.GeoDataFrame:
    first, end = (pd.to_numeric(frame[name], errors="coerce") for name in (_FIRST, _END))
    out = frame.assign(
        first_year=first.astype("Int64"),
        last_year=end.where(end != 2100, 2016).astype("Int64"),
        active_2016=(end == 2100).to_numpy(),
        setting=frame[_TYPE].str.strip(),
    )
    notes.append(
        f"{int((first == 1900).sum())} slumps began before 1984 (code 1900), {int((end == 2100).sum())} were still "
        "active in 2016, the last year of the survey (code 2100)"
    )
    spaced = int((frame[_TYPE] != frame[_TYPE].str.strip()).sum())
    if spaced:
        notes.append(f"blanks around {spaced} code(s) of the setting dropped")
    return out


def _arts(frame: gpd.GeoDataFrame, notes: list[str]) -> gpd.GeoDataFrame:
    positive = frame["TrainClass"].astype(str).str.strip().str.lower() == "positive"
    if not positive.all():
        notes.append(f"{int((~positive).sum())} polygon(s) of background (TrainClass) left out")
    return frame[positive]


def _huang(frame: gpd.GeoDataFrame, notes: list[str]) -> gpd.GeoDataFrame:
    notes.append("drawn from images of 2020, as its readme says; the files hold no date")
    return frame.assign(drawn=np.full(len(frame), 2020, np.int64))


def _segal(frame: gpd.GeoDataFrame, notes: list[str]) -> gpd.GeoDataFrame:
    notes.append("the file holds no date; the report is of 2015")
    return frame


#: In the order in which they are tried.
SCHEMAS = (
    Schema(
        "Lewkowicz and Way 2019",
        frozenset({"Longitude", "Latitude", _TYPE, _FIRST, _END}),
        ReferenceTime(start="first_year", end="last_year"),
        _lewkowicz,
    ),
    Schema(
        "ARTS",
        frozenset({"BaseMapDate", "BaseMapSource", "CreatorLab", "TrainClass", "UID"}),
        ReferenceTime(date="BaseMapDate"),
        _arts,
    ),
    Schema(
        "DARTS Level 1",
        frozenset({"id_geohash", "image_id", "date", "year", "pval_mean", "DARTS_processing_level"}),
        ReferenceTime(date="date"),
    ),
    Schema(
        "DARTS Level 2",
        frozenset({"id_geohash", "year", "n_features_level1", "id_geohash_level1", "DARTS_processing_level"}),
        ReferenceTime(date="year"),
    ),
    Schema(
        "Segal 2015",
        frozenset({"Id", "Area_SqM", "Reference"}),
        prepare=_segal,
        also=lambda frame: bool(frame["Reference"].astype(str).str.contains("Segal").all()),
    ),
    Schema("Huang 2022", frozenset({"Id", "Notes", "Slump_ID"}), ReferenceTime(date="drawn"), _huang),
    Schema(
        "Huang 2022",
        frozenset({"Id", "Notes", "Updated", "Created_by", "Confirmed"}),
        ReferenceTime(date="drawn"),
        _huang,
    ),
    Schema(
        "sample world",
        frozenset({"date"}),
        ReferenceTime(date="date"),
        also=lambda frame: "darts_xr.sample" in str(frame.attrs.get("notice", "")),
    ),
)  # fmt: skip
