"""Each site in each year: not covered, covered but not detected, or detected; how it grew, and which way."""

from __future__ import annotations

from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from darts_xr.globe import centroids, require_crs
from darts_xr.products.geometry import geohashes
from darts_xr.products.level_one import require
from darts_xr.products.level_two import overlap_groups, union_by_group

#: The three states of a site in a year.
NOT_COVERED, NOT_DETECTED, DETECTED = "not covered", "covered, not detected", "detected"
HISTORY_COLUMNS = (
    "site", "site_geohash", "year", "state", "covered_share", "area_m2", "growth_m2", "growth_m2_per_year", "change",
    "retreat_m", "retreat_m_per_year", "advance_azimuth_deg", "geometry",
)  # fmt: skip
_LEAST_GAIN = 36.0  # m² of new ground, four pixels, below which it has no direction

# --- array kernels -----------------------------------------------------------------------------------------


def advance_direction(first: BaseGeometry, last: BaseGeometry) -> NDArray[np.float64] | None:
    """Give the unit vector from the middle of an outline to that of the ground gained since; None without gain."""
    gained = last.difference(first)
    if gained.area < _LEAST_GAIN:
        return None
    way = shapely.get_coordinates(gained.centroid)[0] - shapely.get_coordinates(first.centroid)[0]
    length = float(np.hypot(*way))
    return way / length if length > 0 else None


def reach(shape: BaseGeometry, direction: NDArray[np.float64]) -> float:
    """How far an outline reaches in a direction."""
    return float((shapely.get_coordinates(shape) @ direction).max())


# --- labelled public function ------------------------------------------------------------------------------


def site_histories(
    level2: gpd.GeoDataFrame, covered: gpd.GeoDataFrame, *, least_covered: float = 0.9
) -> gpd.GeoDataFrame:
    """Follow each site through every year that has images, also those in which it was not detected.

    Level 2 features of any years that overlap, directly or through others, are one site, as in
    :func:`darts_xr.products.site_table`. A product beyond those of the paper.

    Parameters
    ----------
    level2 : geopandas.GeoDataFrame
        Level 2 of one or more years. With ``earliest_date`` and ``latest_date`` rates are by the days between the
        images, else by calendar years.
    covered : geopandas.GeoDataFrame
        Ground seen per year: ``coverage(…)["level2"]``, columns ``year`` and ``geometry``.
    least_covered : float
        Share of a site that must have been seen for "covered, not detected"; of less, nobody can say.

    Returns
    -------
    geopandas.GeoDataFrame
        One row a site and year, EPSG:4326, sorted by site and year: ``site`` (int64, from 1, by geohash),
        ``site_geohash``, ``year``, ``state`` ("not covered", "covered, not detected", "detected"), ``covered_share``
        (0 to 1), ``area_m2`` (NaN where not detected), ``growth_m2`` and ``growth_m2_per_year`` since the last year in
        which it was detected, ``change`` ("grew", "shrank", "same", or empty where there is no such year: slumps seldom
        shrink, so that "shrank" asks for a look at the images), ``retreat_m`` and ``retreat_m_per_year`` (how much
        further the outline reaches along the direction of advance since then), ``advance_azimuth_deg`` (that direction,
        clockwise from north, of the site: from the middle of its first outline to that of the ground gained until its
        last; NaN where it gained less than four pixels), ``geometry`` (outline of that year; empty where not detected).
        Computed at once.

        ``attrs["synthetic"]``: whether any feature is of a synthetic scene. Outlines of different years are compared as
        they lie: an offset between images counts as retreat.

    Raises
    ------
    ProductError
        If columns are missing.
    CRSError
        If a frame has no CRS.

    Examples
    --------
    >>> import geopandas as gpd, shapely
    >>> rows = gpd.GeoDataFrame(
    ...     {"year": [2021, 2023], "area_m2": [100, 130]},
    ...     geometry=[shapely.box(0, 70, 1e-3, 70.001), shapely.box(0, 70, 2e-3, 70.001)], crs=4326)
    >>> seen = gpd.GeoDataFrame({"year": [2021, 2022, 2023]}, geometry=[shapely.box(-1, 69, 1, 71)] * 3, crs=4326)
    >>> site_histories(rows, seen)[["year", "state"]].values.tolist()
    [[2021, 'detected'], [2022, 'covered, not detected'], [2023, 'detected']]
    """
    require_crs(level2, "level2")
    require_crs(covered, "covered")
    require(level2, ("year", "area_m2", "geometry"), "Level 2")
    require(covered, ("year", "geometry"), "the coverage of each year")
    rows = level2.to_crs("EPSG:4326").reset_index(drop=True)
    site = overlap_groups(rows.geometry.to_numpy(), np.zeros(len(rows), np.int64), False)
    whole = union_by_group(rows.geometry.to_numpy(), site)
    names = geohashes(whole)
    seen = covered.to_crs("EPSG:4326").dissolve("year").geometry
    found = [
        line
        for number, k in enumerate(sorted(range(len(whole)), key=lambda k: (names[k], k)), start=1)
        for line in _history(number, names[k], whole[k], rows[site == k], seen, least_covered)
    ]
    frame = pd.DataFrame(found, columns=list(HISTORY_COLUMNS))
    texts = {name: frame[name].astype("str") for name in ("site_geohash", "state", "change")}
    whole_numbers = {name: frame[name].astype(np.int64) for name in ("site", "year")}
    numbers = {
        name: frame[name].astype(np.float64)
        for name in HISTORY_COLUMNS
        if name not in (*texts, *whole_numbers, "geometry")
    }
    out = gpd.GeoDataFrame(
        frame.assign(**texts, **whole_numbers, **numbers), geometry="geometry", crs="EPSG:4326"
    )
    sources = level2["image_source"].astype(str) if "image_source" in level2 else pd.Series([], dtype="str")
    out.attrs["synthetic"] = bool(sources.str.contains("synthetic").any())
    return out


def _moment(year: int, rows: gpd.GeoDataFrame) -> float:
    """Middle of a site's images of a year, in years; the calendar year where no dates are given."""
    if not {"earliest_date", "latest_date"} <= set(rows.columns):
        return float(year)
    days = pd.to_datetime([rows["earliest_date"].min(), rows["latest_date"].max()])
    return float(year + (days.dayofyear.to_numpy().mean() - 1) / 365.25)


def _history(
    number: int, name: str, whole: BaseGeometry, rows: gpd.GeoDataFrame, seen: gpd.GeoSeries, least: float
) -> list[tuple[Any, ...]]:
    """Rows of one site."""
    years = sorted({*seen.index.tolist(), *rows["year"].tolist()})
    lon, lat = centroids(np.array([whole]))[0]
    # Metres around the site itself, so that distances are true.
    local = f"+proj=laea +lat_0={lat} +lon_0={lon} +datum=WGS84 +units=m"
    outlines = {year: shapely.union_all(part.geometry.to_numpy()) for year, part in rows.groupby("year")}
    metric = dict(
        zip(outlines, gpd.GeoSeries(list(outlines.values()), crs="EPSG:4326").to_crs(local), strict=True)
    )
    moments = {year: _moment(year, part) for year, part in rows.groupby("year")}
    first, last = min(outlines), max(outlines)
    direction = advance_direction(metric[first], metric[last])
    azimuth = np.nan if direction is None else float(np.degrees(np.arctan2(*direction)) % 360)
    found: list[tuple[Any, ...]] = []
    before: int | None = None
    for year in years:
        share = whole.intersection(seen.loc[year]).area / whole.area if year in seen.index else 0.0
        area = growth = retreat = np.nan
        state = NOT_DETECTED if share >= least else NOT_COVERED
        if year in outlines:
            state, area = DETECTED, float(rows.loc[rows["year"] == year, "area_m2"].sum())
            if before is not None:
                growth = area - float(rows.loc[rows["year"] == before, "area_m2"].sum())
                if direction is not None:
                    retreat = reach(metric[year], direction) - reach(metric[before], direction)
        span = moments[year] - moments[before] if year in outlines and before is not None else np.nan
        shape = outlines.get(year, shapely.MultiPolygon())
        found.append(
            (
                number,
                name,
                year,
                state,
                share,
                area,
                growth,
                growth / span,
                "" if np.isnan(growth) else "grew" if growth > 0 else "shrank" if growth < 0 else "same",
                retreat,
                retreat / span,
                azimuth,
                shape,
            )
        )
        before = year if year in outlines else before
    return found
