"""Beside Level 1: the objects that a rule or a person removed, with the reason; how far the networks disagreed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import xarray as xr

from darts_xr.errors import ProductError
from darts_xr.globe import require_crs
from darts_xr.objects.filters import mark_removed
from darts_xr.objects.polygons import STATISTICS, vectorize
from darts_xr.products.geometry import area_columns, geohashes, valid_polygons
from darts_xr.products.level_one import level1

REMOVED_COLUMNS = (
    "removed_by", "id_geohash", "date", "year", "area_m2", "image_source", "image_id", "n_pixels", "water_fraction",
    *STATISTICS, "geometry",
)  # fmt: skip


def removed_objects(
    feats: gpd.GeoDataFrame, scene: xr.Dataset | xr.DataArray | Mapping[str, Any]
) -> gpd.GeoDataFrame:
    """Objects of one image that a rule or a filter removed, with the reason.

    Parameters
    ----------
    feats : geopandas.GeoDataFrame
        Objects of ``vectorize(…, keep_removed=True)``, filtered with ``keep_removed=True``.
    scene : xarray.Dataset, xarray.DataArray or mapping
        As for :func:`level1`.

    Returns
    -------
    geopandas.GeoDataFrame
        One row per removed object, EPSG:4326: ``removed_by`` ("border", "small", "water", "infrastructure" or
        "reviewer"), ``n_pixels`` (int64), ``water_fraction`` (NaN without a water filter), and of Level 1 geohash,
        date, area, image and statistics. Every detected object is either here or in Level 1.

    Raises
    ------
    ProductError
        If ``feats`` do not say what was removed.

    Examples
    --------
    >>> import shapely
    >>> feats = gpd.GeoDataFrame(
    ...     {f"pval_{s}": [0.5] for s in ("mean", "std", "min", "max", "p25", "p50", "p75")}
    ...     | {"n_pixels": [20], "removed_by": ["small"]},
    ...     geometry=[shapely.box(-139, 69, -138.998, 69.001)], crs=4326)
    >>> rows = removed_objects(feats, {"item_id": "20210719_201500_1034", "time": "2021-07-19T20:15:00Z"})
    >>> rows[["removed_by", "n_pixels"]].values.tolist()
    [['small', 20]]
    """
    if "removed_by" not in feats:
        raise ProductError("feats do not say what was removed; vectorize and filter with keep_removed=True")
    gone = feats[feats["removed_by"] != ""].reset_index(drop=True)
    rows = level1(gone.drop(columns="removed_by"), scene)
    water = gone["water_fraction"] if "water_fraction" in gone else np.full(len(gone), np.nan)
    extra = {
        "removed_by": pd.array(gone["removed_by"], dtype="str"),
        "n_pixels": gone["n_pixels"].to_numpy(np.int64),
    }
    out = rows.assign(**extra, water_fraction=np.asarray(water, np.float64))
    return out[list(REMOVED_COLUMNS)]


def filter_rejected(
    feats: gpd.GeoDataFrame, rejected: Iterable[tuple[str, int]], *, keep_removed: bool = False
) -> gpd.GeoDataFrame:
    """Remove objects of one image that a reviewer rejected.

    Parameters
    ----------
    feats : geopandas.GeoDataFrame
        Objects of the image, in any CRS.
    rejected : iterable of (str, int)
        ``id_geohash`` and ``area_m2`` of each in Level 1.
    keep_removed : bool
        Keep removed objects, with the reason in the column ``removed_by`` ("" for kept ones).

    Returns
    -------
    geopandas.GeoDataFrame
        ``feats`` without them; ``attrs["removed"]`` counts them by ``"reviewer"``, ``attrs["unknown_rejected"]`` lists
        geohashes that no object has with that area: other rules or networks found another outline there, or none.

    Raises
    ------
    CRSError
        If ``feats`` have no CRS.

    Examples
    --------
    >>> import shapely
    >>> feats = gpd.GeoDataFrame(geometry=[shapely.box(-139, 69, -138.998, 69.001)], crs=4326)
    >>> left = filter_rejected(feats, [("bum0t10j093r", 8926), ("bum0t10j0000", 900)])
    >>> len(left), left.attrs
    (0, {'unknown_rejected': ['bum0t10j0000'], 'removed': {'reviewer': 1}})
    """
    require_crs(feats, "feats")
    wanted = set(rejected)
    shapes, _ = valid_polygons(feats.to_crs("EPSG:4326"), lambda i: f"row {i}")
    areas = np.asarray(area_columns(shapes)["area_m2"]).tolist()
    keys = list(zip(geohashes(shapes.geometry.to_numpy()), areas, strict=True))
    out = feats.copy()
    out.attrs = {**feats.attrs, "unknown_rejected": sorted(place for place, _ in wanted - set(keys))}
    return mark_removed(out, np.array([key in wanted for key in keys], bool), "reviewer", keep_removed)


def member_spread(
    rows: gpd.GeoDataFrame, feats: gpd.GeoDataFrame, labels: xr.DataArray, spread: xr.DataArray
) -> gpd.GeoDataFrame:
    """How far the networks of an ensemble disagreed inside each object of Level 1.

    Parameters
    ----------
    rows : geopandas.GeoDataFrame
        Level 1 of the image.
    feats : geopandas.GeoDataFrame
        The objects that it was made of, in its order, with the column ``object``.
    labels : xarray.DataArray
        Their numbers.
    spread : xarray.DataArray
        ``spread`` of :func:`darts_xr.inference.predict_members`: largest minus smallest member, 0 to 1, dims
        ``(y, x)``. Computes.

    Returns
    -------
    geopandas.GeoDataFrame
        ``id``, ``id_geohash``, ``image_id`` of each row, ``spread_mean`` and ``spread_max`` (float64, 0 to 1) over its
        pixels, ``geometry``.

    Examples
    --------
    >>> side = member_spread(rows, feats, labels, prediction["spread"])  # doctest: +SKIP
    """
    found = vectorize(labels, spread, crs=None).set_index("object")
    kept = feats[feats["removed_by"] == ""] if "removed_by" in feats else feats
    of_each = found.loc[kept["object"]]
    return rows[["id", "id_geohash", "image_id", "geometry"]].assign(
        spread_mean=of_each["pval_mean"].to_numpy(), spread_max=of_each["pval_max"].to_numpy()
    )[["id", "id_geohash", "image_id", "spread_mean", "spread_max", "geometry"]]
