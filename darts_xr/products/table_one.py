"""The numbers of the paper's Table 1: images, areas and features of a data set, by year and in all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely

from darts_xr.globe import area_m2
from darts_xr.products.files import write_product
from darts_xr.products.level_one import require
from darts_xr.products.level_two import overlap_groups, union_by_group

TABLE1_COLUMNS = (
    "scope", "years", "images", "level1_km2", "level2_km2", "level1_rts_km2", "level1_features", "level2_rts_km2",
    "level2_features",
)  # fmt: skip


def table1(
    level1: gpd.GeoDataFrame, level2: gpd.GeoDataFrame, coverage: Mapping[str, gpd.GeoDataFrame]
) -> pd.DataFrame:
    """Sum a data set up as Table 1 of Nitze et al. 2025 (Sci. Data 12:1512) does.

    Parameters
    ----------
    level1, level2 : geopandas.GeoDataFrame
        Features of :func:`level1` and :func:`level2`.
    coverage : mapping of str to geopandas.GeoDataFrame
        Of :func:`coverage`, for the same images.

    Returns
    -------
    pandas.DataFrame
        A row a year, then ``sum``, ``union`` and ``intersect``. ``images``; ``level1_km2``, the areas of all images
        added up (gross); ``level2_km2``, the area that was covered at least once in the year (net); ``level1_rts_km2``
        and ``level1_features``, areas and number of Level 1; the same of Level 2. In ``union`` the features of all
        years that overlap, directly or through others, are one; ``intersect`` has those of its years that lie in the
        area covered in every one of them, and of their area what lies inside. Both have no Level 1. Areas in km².
        Computed at once.

    Raises
    ------
    ProductError
        If a frame lacks columns.

    Examples
    --------
    >>> from darts_xr.products import coverage, empty_level1, level2
    >>> table1(empty_level1(), level2(empty_level1()), coverage(empty_level1()))["scope"].tolist()
    ['sum', 'union', 'intersect']
    """
    require(level1, ("year", "area_km2"), "Level 1")
    require(level2, ("year", "area_km2", "geometry"), "Level 2")
    gross = coverage["level1"].groupby("year")["area_km2"].agg(["size", "sum"])
    found1, found2 = (frame.groupby("year")["area_km2"].agg(["size", "sum"]) for frame in (level1, level2))
    rows: list[dict[str, Any]] = []
    for year, net in coverage["level2"].set_index("year")["area_km2"].items():
        rows.append(
            {
                "scope": str(year), "years": str(year), "images": int(gross["size"][year]),
                "level1_km2": gross["sum"][year], "level2_km2": net,
                "level1_rts_km2": found1["sum"].get(year, 0.0), "level1_features": int(found1["size"].get(year, 0)),
                "level2_rts_km2": found2["sum"].get(year, 0.0), "level2_features": int(found2["size"].get(year, 0)),
            }
        )  # fmt: skip
    years = ",".join(row["years"] for row in rows)
    added = TABLE1_COLUMNS[2:]
    rows.append({"scope": "sum", "years": years, **{name: sum(row[name] for row in rows) for name in added}})
    rows.append(_total("union", level2, coverage["union"], inside=False))
    rows.append(_total("intersect", level2, coverage["intersect"], inside=True))
    counts = ("images", "level1_features", "level2_features")
    table = pd.DataFrame(rows, columns=list(TABLE1_COLUMNS))
    return table.astype(dict.fromkeys(counts, "Int64")).astype(
        {name: "float64" for name in TABLE1_COLUMNS if name.endswith("_km2")}
    )


def _total(scope: str, level2: gpd.GeoDataFrame, cover: gpd.GeoDataFrame, *, inside: bool) -> dict[str, Any]:
    """One row over several years, each place once."""
    years = str(cover["years"].iloc[0])
    rows = level2[level2["year"].isin(_numbers(years))]
    shapes = rows.geometry.to_numpy()
    unique = union_by_group(shapes, overlap_groups(shapes, np.zeros(len(shapes), np.int64)))
    if inside:
        unique = shapely.intersection(unique, cover.geometry.iloc[0])
        unique = unique[shapely.area(unique) > 0]
    area = area_m2(gpd.GeoSeries(unique, crs=level2.crs)).sum() / 1e6
    return {
        "scope": scope, "years": years, "images": int(cover["n_images"].iloc[0]),
        "level2_km2": float(cover["area_km2"].iloc[0]), "level2_rts_km2": round(float(area), 6),
        "level2_features": len(unique),
    }  # fmt: skip


def _numbers(years: str) -> Iterable[int]:
    return [int(year) for year in years.split(",") if year]


def table_text(table: pd.DataFrame) -> str:
    """Return a table as CSV, areas to the square metre."""
    return table.to_csv(index=False, float_format="%.6f", lineterminator="\n")


def write_table(table: pd.DataFrame, path: str | Path) -> Path:
    """Write a table as CSV, whole or not at all.

    Raises
    ------
    ProductError
        When it cannot be written.
    """
    write_product(Path(path), lambda part: part.write_text(table_text(table), encoding="utf-8"))
    return Path(path)
