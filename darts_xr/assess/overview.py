"""The paper's Table 1 of any set of products: what was seen and what was found, a year."""

from __future__ import annotations

from collections.abc import Mapping

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from darts_xr.globe import area_m2
from darts_xr.products.level_two import overlap_groups, union_by_group


def overview(
    level1: gpd.GeoDataFrame, level2: gpd.GeoDataFrame, coverage: Mapping[str, gpd.GeoDataFrame]
) -> pd.DataFrame:
    """Areas and numbers by year, and over all years, as Table 1 of Nitze et al. 2025 (Sci. Data 12:1512) has them.

    Parameters
    ----------
    level1, level2 : geopandas.GeoDataFrame
        Objects per image and per year.
    coverage : mapping of str to geopandas.GeoDataFrame
        ``level1``, ``level2``, ``union``, ``intersect``, from :func:`darts_xr.coverage`.

    Returns
    -------
    pandas.DataFrame
        A row per covered year, then ``sum``, ``union`` (places covered at least once; slumps of all years dissolved)
        and ``intersect`` (places covered in every year; the dissolved slumps that meet them): ``scope``,
        ``level1_area_km2``, ``images``, ``level2_area_km2``, ``level1_rts_km2``, ``level1_n``, ``level2_rts_km2``,
        ``level2_n``. Areas are of the pole-centred equal-area projection; what a row has not is missing.
        Computed at once.

    Raises
    ------
    CRSError
        If a frame has no CRS.

    Examples
    --------
    >>> import darts_xr as dx, geopandas as gpd, shapely
    >>> seen = gpd.GeoDataFrame(
    ...     {"image_id": ["a"], "date": ["2021-07-01"], "year": [2021]}, geometry=[shapely.box(0, 70, 1, 71)], crs=4326)
    >>> slump = gpd.GeoDataFrame({"year": [2021]}, geometry=[shapely.box(0.1, 70.1, 0.2, 70.2)], crs=4326)
    >>> table = overview(slump, slump, dx.coverage(seen))
    >>> table[["scope", "level2_n"]].values.tolist()
    [['2021', 1], ['sum', 1], ['union', 1], ['intersect', 1]]
    """
    per_image, per_year = coverage["level1"], coverage["level2"]
    rows = []
    for year in sorted(int(year) for year in per_year["year"]):
        images, seen = (frame[frame["year"] == year] for frame in (per_image, per_year))
        first, second = (frame[frame["year"] == year] for frame in (level1, level2))
        rows.append({"scope": str(year), **_row(images, seen, first, second)})
    whole = _row(per_image, per_year, level1, level2)
    sites = _dissolved(level2)
    table = pd.DataFrame([*rows, {"scope": "sum", **whole}])
    for name in ("union", "intersect"):
        seen = coverage[name]
        met = sites[_meets(sites, seen)] if name == "intersect" else sites
        extra = {
            "scope": name, "level2_area_km2": _km2(seen), "level2_rts_km2": _km2(met), "level2_n": len(met),
        }  # fmt: skip
        table = pd.concat([table, pd.DataFrame([extra])], ignore_index=True)
    return table.astype(dict.fromkeys(("images", "level1_n", "level2_n"), "Int64"))


def _row(
    images: gpd.GeoDataFrame, seen: gpd.GeoDataFrame, level1: gpd.GeoDataFrame, level2: gpd.GeoDataFrame
) -> dict[str, float]:
    return {
        "level1_area_km2": _km2(images), "images": len(images), "level2_area_km2": _km2(seen),
        "level1_rts_km2": _km2(level1), "level1_n": len(level1),
        "level2_rts_km2": _km2(level2), "level2_n": len(level2),
    }  # fmt: skip


def _km2(frame: gpd.GeoDataFrame) -> float:
    return float(area_m2(frame).sum()) / 1e6 if len(frame) else 0.0


def _dissolved(level2: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """Slumps of all years joined where they overlap."""
    shapes = np.array(level2.geometry.to_numpy(), object)
    union = union_by_group(shapes, overlap_groups(shapes, np.zeros(len(shapes), np.int64)))
    return gpd.GeoDataFrame(geometry=gpd.GeoSeries(union, crs=level2.crs), crs=level2.crs)


def _meets(sites: gpd.GeoDataFrame, seen: gpd.GeoDataFrame) -> NDArray[np.bool_]:
    place = shapely.union_all(seen.geometry.to_crs(sites.crs).to_numpy())
    shapely.prepare(place)
    return np.asarray(shapely.intersects(place, sites.geometry.to_numpy()))
