"""Sites over the years: how large each was in every year, when it was seen, how it grew."""

from __future__ import annotations

from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from darts_xr.globe import require_crs
from darts_xr.products.geometry import area_columns, geohashes
from darts_xr.products.level_one import require
from darts_xr.products.level_two import overlap_groups, union_by_group


def site_table(level2: gpd.GeoDataFrame, *, touching: bool = False) -> gpd.GeoDataFrame:
    """Follow each site through all years of a Level 2 product.

    Level 2 features of any years that overlap, directly or through others, are one site. A product beyond
    those of the paper.

    Parameters
    ----------
    level2 : geopandas.GeoDataFrame
        Level 2 of one or more years.
    touching : bool
        Whether features that share only an edge or a corner are one site.

    Returns
    -------
    geopandas.GeoDataFrame
        One row per site, EPSG:4326, sorted by geohash: ``id`` (int64, from 1), ``id_geohash`` (of the union's
        centroid), ``n_years`` (int64), ``first_seen``, ``last_seen`` (YYYY-MM-DD), ``area_m2`` (int64, of the
        union), ``area_ha``, ``area_km2``, ``area_m2_<year>`` per year (float64, NaN where the site was not
        detected), ``growth_m2`` (last less first detected area; NaN for a single year),
        ``growth_m2_per_year`` (least-squares slope), ``geometry`` (union of all years). Computed at once.

    Raises
    ------
    ProductError
        If columns are missing.
    CRSError
        If ``level2`` has no CRS.

    Examples
    --------
    >>> import geopandas as gpd, shapely
    >>> rows = gpd.GeoDataFrame(
    ...     {"year": [2021, 2022], "area_m2": [100, 130], "earliest_date": ["2021-07-01", "2022-07-05"],
    ...      "latest_date": ["2021-08-01", "2022-07-05"]},
    ...     geometry=[shapely.box(0, 70, 1e-3, 70.001), shapely.box(0, 70, 2e-3, 70.001)], crs=4326)
    >>> site_table(rows)[["n_years", "area_m2_2021", "area_m2_2022", "growth_m2"]].values.tolist()
    [[2.0, 100.0, 130.0, 30.0]]
    """
    require_crs(level2, "level2")
    require(level2, ("year", "area_m2", "earliest_date", "latest_date", "geometry"), "Level 2")
    keys = [name for name in ("id_geohash", "id_geohash_level1") if name in level2]
    rows = level2.to_crs("EPSG:4326").sort_values(["year", *keys, "area_m2"], ignore_index=True)
    site = overlap_groups(rows.geometry.to_numpy(), np.zeros(len(rows), np.int64), touching)
    shapes = union_by_group(rows.geometry.to_numpy(), site)
    n = len(shapes)

    years = sorted({int(year) for year in rows["year"]})
    area = np.zeros((n, len(years)))
    np.add.at(area, (site, np.searchsorted(years, rows["year"])), rows["area_m2"].to_numpy(np.float64))
    seen = area > 0
    rank = np.where(seen, np.arange(len(years)), -1)
    latest = rank.max(axis=1, initial=-1)
    earliest = np.where(seen, rank, len(years)).min(axis=1, initial=len(years))
    at = np.flatnonzero(latest > earliest)
    growth = np.full(n, np.nan)
    growth[at] = area[at, latest[at]] - area[at, earliest[at]]
    columns: dict[str, Any] = {
        "id_geohash": pd.array(geohashes(shapes), dtype="str"),
        "n_years": seen.sum(axis=1).astype(np.int64),
        "first_seen": rows.groupby(site)["earliest_date"].min().to_numpy(),
        "last_seen": rows.groupby(site)["latest_date"].max().to_numpy(),
        **area_columns(gpd.GeoSeries(shapes, crs="EPSG:4326")),
        **{f"area_m2_{year}": np.where(seen[:, i], area[:, i], np.nan) for i, year in enumerate(years)},
        "growth_m2": growth,
        "growth_m2_per_year": _slope(np.array(years, np.float64), area, seen),
    }
    out = gpd.GeoDataFrame(columns, geometry=shapes, crs="EPSG:4326")
    out = out.sort_values(["id_geohash", "area_m2", "first_seen"], kind="stable", ignore_index=True)
    out.insert(0, "id", np.arange(1, n + 1, dtype=np.int64))
    return out


def _slope(
    years: NDArray[np.float64], area: NDArray[np.float64], seen: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Least-squares slope of each row's seen areas over the years; NaN below two years."""
    count = seen.sum(axis=1)
    mean_year = (seen * years).sum(axis=1) / np.maximum(count, 1)
    away = np.where(seen, years - mean_year[:, None], 0.0)
    slope = np.full(len(area), np.nan)
    np.divide((away * area).sum(axis=1), (away**2).sum(axis=1), out=slope, where=count > 1)
    return slope
