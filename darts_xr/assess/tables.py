"""Tables of scores: by region and year, by image, with mean, spread and intervals; each score follows from its row."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from shapely.geometry.base import BaseGeometry

from darts_xr.assess.bootstrap import Bootstrap, f1_interval
from darts_xr.assess.match import (
    ANY_OVERLAP,
    Matching,
    MatchRule,
    Pairs,
    Scores,
    pool_scores,
    project_each,
    project_union,
)
from darts_xr.assess.periods import UNDATED, DatedReference, ReferenceTime
from darts_xr.assess.scored import Scored
from darts_xr.errors import AssessmentError
from darts_xr.globe import require_crs

log = logging.getLogger(__name__)

#: Columns of every table, in their order.
SCORE_COLUMNS = (
    "detected", "true", "false", "precision", "references", "found", "missed", "recall", "f1",
)  # fmt: skip
_COUNTS = ("detected", "true", "false", "references", "found", "missed")
_RATIOS = ("precision", "recall", "f1")


@dataclass(frozen=True)
class Comparison:
    """How two sets of objects are compared; what all tables share.

    Parameters
    ----------
    buffer : float
        Metres on the ground within which a detection meets the reference.
    rule : MatchRule
        Overlap, one-to-one pairs, the rim of the coverage.
    time : ReferenceTime
        Columns that date the reference.
    bootstrap : Bootstrap, optional
        Adds the columns ``f1_low`` and ``f1_high``; by default none.

    Examples
    --------
    >>> Comparison(buffer=200.0).rule.cut
    'leave-out'
    """

    buffer: float = 0.0
    rule: MatchRule = ANY_OVERLAP
    time: ReferenceTime = UNDATED
    bootstrap: Bootstrap | None = None


PLAIN = Comparison()


def score_row(scores: Scores) -> dict[str, float]:
    """One row of a table: detections and references apart, so that each score follows from its row."""
    return {
        "detected": scores.n_detected,
        "true": scores.tp,
        "false": scores.fp,
        "precision": scores.precision,
        "references": scores.n_reference,
        "found": scores.reference_found,
        "missed": scores.fn,
        "recall": scores.recall,
        "f1": scores.f1,
    }


def as_table(rows: Iterable[Mapping[str, object]]) -> pd.DataFrame:
    """Rows of scores as a table: counts are integers, also beside rows that have none (mean and sd)."""
    table = pd.DataFrame([dict(row) for row in rows])
    return table.astype({name: "Int64" for name in _COUNTS if name in table})


def summary_rows(table: pd.DataFrame) -> list[dict[str, object]]:
    """Mean and sample standard deviation of the ratios; rows with nothing on both sides are skipped."""
    ratios = table[list(_RATIOS)].astype(float)
    return [{str(k): v for k, v in row.items()} for row in (ratios.mean(), ratios.std(ddof=1))]


# --- the coverage of each year -----------------------------------------------------------------------------


def covered_years(
    coverage: gpd.GeoDataFrame | None, detected: pd.DataFrame
) -> dict[int, BaseGeometry | None]:
    """Tell what was seen in each year, in the equal-area projection.

    Parameters
    ----------
    coverage : geopandas.GeoDataFrame, optional
        With a column ``year``, as the coverage products ``level1`` and ``level2`` have it, one union a year. With
        ``years`` or ``coverage_period`` (``"2021,2022"``), as the products ``union`` and ``intersect`` have it, or
        with none of these, the same for all years.
    detected : pandas.DataFrame
        Objects with a column ``year``, which names the years where the coverage does not.

    Returns
    -------
    dict of int to shapely geometry or None
        By year; None where no coverage was given.

    Raises
    ------
    AssessmentError
        If neither side has years.
    """
    if coverage is not None and "year" in coverage:
        return {int(year): project_union(part) for year, part in coverage.groupby("year", sort=True)}
    whole = None if coverage is None else project_union(coverage)
    named = next((c for c in ("years", "coverage_period") if coverage is not None and c in coverage), None)
    if coverage is not None and named is not None:
        years = sorted({int(year) for text in coverage[named] for year in str(text).split(",")})
        log.warning(
            "the coverage does not tell its years apart (%s %s): each of them is taken to be covered wholly",
            named, ", ".join(map(str, years)),
        )  # fmt: skip
        return dict.fromkeys(years, whole)
    if "year" not in detected:
        raise AssessmentError(
            "Scores by year need a column year in the coverage or in the detections; Level 1 and Level 2 have it."
        )
    log.warning(
        "no coverage by year is given: only years with detections are scored, covered years without any are not"
    )
    return {int(year): whole for year in sorted(detected["year"].unique())}


def year_table(
    detected: gpd.GeoDataFrame,
    dated: DatedReference,
    seen_by_year: Mapping[int, BaseGeometry | None],
    *,
    regions: gpd.GeoSeries | None = None,
    comparison: Comparison = PLAIN,
) -> tuple[pd.DataFrame, Scored]:
    """Score years within what was seen in each; see :func:`score_years`.

    Parameters
    ----------
    detected : geopandas.GeoDataFrame
        Objects, with a column ``year`` or of every year.
    dated : DatedReference
        The reference.
    seen_by_year : mapping of int to shapely geometry or None
        From :func:`covered_years`.
    regions, comparison
        As in :func:`score_years`.

    Returns
    -------
    tuple
        The table, and which objects were scored at all.
    """
    pairs = Pairs(detected, dated.shapes, buffer=comparison.buffer, rule=comparison.rule)
    detected_year = detected["year"].to_numpy() if "year" in detected else None
    parts = (
        {"": None} if regions is None else dict(zip(regions.index.astype(str), _each(regions), strict=True))
    )
    rows: list[dict[str, object]] = []
    scored = Scored(pairs)
    for region, area in parts.items():
        matched: list[Matching] = []
        label = {} if regions is None else {"region": region}
        yearly: list[dict[str, object]] = []
        for year, seen in seen_by_year.items():
            wanted = dated.of_year(year)
            found = np.ones(len(detected), bool) if detected_year is None else detected_year == year
            part = pairs.match(found, wanted, _both(seen, area))
            scored.add(found, wanted, part)
            matched.append(part)
            interval = f1_interval([part], pairs, comparison.bootstrap)
            yearly.append({**label, "scope": str(year), **score_row(part.scores), **interval})
        pooled = pool_scores(part.scores for part in matched)
        mean, spread = summary_rows(pd.DataFrame(yearly))
        interval = f1_interval(matched, pairs, comparison.bootstrap)
        rows += [
            *yearly,
            {**label, "scope": "all", **score_row(pooled), **interval},
            {**label, "scope": "mean", **mean},
            {**label, "scope": "sd", **spread},
        ]
    return as_table(rows), scored


# --- labelled public functions -----------------------------------------------------------------------------


def score_years(
    detected: gpd.GeoDataFrame,
    reference: gpd.GeoDataFrame,
    coverage: gpd.GeoDataFrame | None = None,
    *,
    regions: gpd.GeoSeries | None = None,
    comparison: Comparison = PLAIN,
) -> pd.DataFrame:
    """Scores by region and year, each year within its own coverage, with mean and standard deviation over the years.

    Nitze et al. 2025 (Sci. Data 12:1512), Table 7, validations 2 to 4.

    Parameters
    ----------
    detected : geopandas.GeoDataFrame
        Objects with a column ``year``, such as Level 2.
    reference : geopandas.GeoDataFrame
        Inventory of points or polygons.
    coverage : geopandas.GeoDataFrame, optional
        What was seen, by ``year``; both sides are limited to it. A covered year without detections is a row.
    regions : geopandas.GeoSeries, optional
        One polygon a region, its name in the index; by default one region of all.
    comparison : Comparison
        Buffer, matching rule, columns that date the reference, intervals.

    Returns
    -------
    pandas.DataFrame
        ``region`` (with ``regions``), ``scope`` (a year, ``all`` for the years pooled, ``mean``, ``sd`` of the
        years), ``detected``, ``true``, ``false`` (Int64), ``precision``, ``references``, ``found``, ``missed``
        (Int64), ``recall``, ``f1``, with a bootstrap ``f1_low`` and ``f1_high``. Precision is 0 in a year without
        detections where the reference holds objects, as the paper prints it. ``attrs["notes"]`` says what the inputs
        lack. Computed at once.

    Raises
    ------
    CRSError
        If a frame has no CRS.
    AssessmentError
        If no side has years, or a declared column is missing.

    Examples
    --------
    >>> import geopandas as gpd, shapely
    >>> slump, field = shapely.box(0, 70, 0.01, 70.01), shapely.box(-1, 69, 1, 71)
    >>> seen = gpd.GeoDataFrame({"year": [2021, 2022]}, geometry=[field, field], crs=4326)
    >>> found = gpd.GeoDataFrame({"year": [2021]}, geometry=[slump], crs=4326)
    >>> table = score_years(found, gpd.GeoDataFrame(geometry=[slump], crs=4326), seen)
    >>> table[["scope", "recall"]].values.tolist()[:2], float(table.recall.iloc[3])
    ([['2021', 1.0], ['2022', 0.0]], 0.5)
    """
    require_crs(detected, "detected")
    dated = DatedReference(reference, comparison.time)
    seen_by_year = covered_years(coverage, detected)
    table, scored = year_table(detected, dated, seen_by_year, regions=regions, comparison=comparison)
    table.attrs["notes"] = scored.notes(dated, seen_by_year)
    return table


def score_all(
    detected: gpd.GeoDataFrame,
    reference: gpd.GeoDataFrame,
    coverage: gpd.GeoDataFrame | None = None,
    *,
    comparison: Comparison = PLAIN,
) -> pd.DataFrame:
    """Scores of objects that are of no year, all of them against all of the reference.

    Parameters
    ----------
    detected, reference, coverage : geopandas.GeoDataFrame
        Objects, inventory, and what was seen.
    comparison : Comparison
        Buffer, matching rule, intervals; dates are not looked at.

    Returns
    -------
    pandas.DataFrame
        One row, with the columns of :func:`score_years`. Computed at once.

    Raises
    ------
    CRSError
        If a frame has no CRS.

    Examples
    --------
    >>> import geopandas as gpd, shapely
    >>> one = gpd.GeoDataFrame(geometry=[shapely.Point(0, 70)], crs=4326)
    >>> score_all(one, one).f1.tolist()
    [1.0]
    """
    pairs = Pairs(detected, reference, buffer=comparison.buffer, rule=comparison.rule)
    part = pairs.match(seen=None if coverage is None else project_union(coverage))
    interval = f1_interval([part], pairs, comparison.bootstrap)
    table = as_table([{"scope": "all", **score_row(part.scores), **interval}])
    scored = Scored(pairs)
    scored.add(np.ones(len(detected), bool), np.ones(len(reference), bool), part)
    table.attrs["notes"] = scored.notes(None, ())
    return table


def score_images(
    level1: gpd.GeoDataFrame,
    reference: gpd.GeoDataFrame,
    footprints: gpd.GeoDataFrame,
    *,
    comparison: Comparison = PLAIN,
) -> pd.DataFrame:
    """Scores of Level 1, each image against the reference of its day within its own footprint, and all together.

    Parameters
    ----------
    level1 : geopandas.GeoDataFrame
        Objects with ``image_id``.
    reference : geopandas.GeoDataFrame
        Inventory. An image is compared with the outlines of its own day where the reference dates by days and has any
        of that one, else with those of its year.
    footprints : geopandas.GeoDataFrame
        ``image_id``, ``date`` and outline of what was valid; images without detections count.
    comparison : Comparison
        Buffer, matching rule, columns that date the reference, intervals.

    Returns
    -------
    pandas.DataFrame
        ``scope`` (an image id, ``all`` pooled, ``mean``, ``sd`` of the images) and the columns of
        :func:`score_years`. Computed at once.

    Raises
    ------
    CRSError
        If a frame has no CRS.
    AssessmentError
        If a declared column is missing.

    Examples
    --------
    >>> import geopandas as gpd, shapely
    >>> slump, field = shapely.box(0, 70, 0.01, 70.01), shapely.box(-1, 69, 1, 71)
    >>> seen = gpd.GeoDataFrame({"image_id": ["a"], "date": ["2021-07-01"]}, geometry=[field], crs=4326)
    >>> found = gpd.GeoDataFrame({"image_id": ["a"]}, geometry=[slump], crs=4326)
    >>> score_images(found, gpd.GeoDataFrame(geometry=[slump], crs=4326), seen).f1.iloc[0]
    np.float64(1.0)
    """
    require_crs(level1, "level1")
    require_crs(footprints, "footprints")
    dated = DatedReference(reference, comparison.time)
    pairs = Pairs(level1, dated.shapes, buffer=comparison.buffer, rule=comparison.rule)
    # Numbers, since texts are slow to compare, once an image.
    number, names = pd.factorize(level1["image_id"])
    number_of = {str(name): place for place, name in enumerate(names)}
    outlines = project_each(footprints)
    rows: list[dict[str, object]] = []
    matched: list[Matching] = []
    scored = Scored(pairs)
    days = footprints["date"].astype(str).tolist()
    wanted_on = {day: dated.of_day(day) for day in sorted(set(days))}
    for image_id, day, place in zip(footprints["image_id"], days, range(len(footprints)), strict=True):
        if footprints.geometry.iloc[place].is_empty:
            continue
        found = number == number_of.get(str(image_id), -2)
        part = pairs.match(found, wanted_on[day], outlines[place])
        scored.add(found, wanted_on[day], part)
        matched.append(part)
        rows.append({"scope": str(image_id), **score_row(part.scores)})
    pooled = pool_scores(part.scores for part in matched)
    mean, spread = summary_rows(pd.DataFrame(rows, columns=["scope", *SCORE_COLUMNS]))
    interval = f1_interval(matched, pairs, comparison.bootstrap)
    rows += [
        {"scope": "all", **score_row(pooled), **interval},
        {"scope": "mean", **mean},
        {"scope": "sd", **spread},
    ]
    table = as_table(rows)
    years = sorted({int(day[:4]) for day in days})
    table.attrs["notes"] = scored.notes(dated, years)
    return table


def _each(regions: gpd.GeoSeries) -> list[BaseGeometry]:
    if regions.index.has_duplicates:
        name = regions.index[regions.index.duplicated()][0]
        raise AssessmentError(f"region {name!r} occurs more than once; dissolve its polygons first")
    return [project_union(regions.iloc[[place]]) for place in range(len(regions))]


def _both(seen: BaseGeometry | None, region: BaseGeometry | None) -> BaseGeometry | None:
    if seen is None or region is None:
        return seen if region is None else region
    return shapely.intersection(seen, region)
