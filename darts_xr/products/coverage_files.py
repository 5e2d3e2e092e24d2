"""What was seen: the footprint of each image, and how often and in which years each place was covered."""

from __future__ import annotations

from collections.abc import Iterable

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
import xarray as xr
from shapely.geometry.base import BaseGeometry

from darts_xr.errors import ProductError
from darts_xr.globe import require_crs
from darts_xr.objects import vectorize
from darts_xr.products.geometry import area_columns, valid_polygons
from darts_xr.products.level_one import require


def valid_polygon(valid: xr.DataArray) -> BaseGeometry:
    """Outline of the valid pixels of a scene, exact to the pixel.

    Computes; chunk by chunk, and only runs of pixels leave a chunk.

    Parameters
    ----------
    valid : xarray.DataArray
        Boolean, dims ``(y, x)``, true where the scene was seen; lazy or not.

    Returns
    -------
    shapely.Polygon or shapely.MultiPolygon
        Valid geometry with holes in EPSG:4326, split at the antimeridian; empty if no pixel is valid.

    Raises
    ------
    CRSError
        If ``valid`` has no CRS.

    Examples
    --------
    >>> import geopandas as gpd, numpy as np
    >>> from odc.geo.geobox import GeoBox
    >>> from odc.geo.xr import wrap_xr
    >>> box = GeoBox.from_bbox((500000, 7700000, 500300, 7700300), "EPSG:32608", shape=(100, 100))
    >>> outline = valid_polygon(wrap_xr(np.ones((100, 100), bool), box))
    >>> gpd.GeoSeries([outline], crs=4326).to_crs(32608).area.round(3).tolist()
    [90000.0]
    """
    outline = vectorize(valid.astype("int32"))
    return outline.geometry.iloc[0] if len(outline) else shapely.MultiPolygon()


def coverage(
    footprints: gpd.GeoDataFrame,
    *,
    years: Iterable[int] | None = None,
    intersect_years: Iterable[int] | None = None,
) -> dict[str, gpd.GeoDataFrame]:
    """Coverage of the images, in the four kinds of the published data set.

    After Nitze et al. 2025 (Sci. Data 12:1512), Table 4.

    Parameters
    ----------
    footprints : geopandas.GeoDataFrame
        One row per image: ``image_id``, ``date``, ``year``, ``geometry`` (empty where nothing was valid).
    years : iterable of int, optional
        Calendar years to look at; by default all.
    intersect_years : iterable of int, optional
        Years of ``"intersect"``; by default all of ``years`` that have an image.

    Returns
    -------
    dict of geopandas.GeoDataFrame
        ``"level1"``: the footprints (``image_id``, ``date``, ``year``); ``"level2"``: their union per year
        (``year``, ``n_images``); ``"union"``: what was covered at least once (``years``, ``n_images``);
        ``"intersect"``: what was covered in every year (``years``, ``n_images``). Each with ``area_m2``
        (int64), ``area_ha``, ``area_km2`` (float64), and ``geometry`` in EPSG:4326.

    Raises
    ------
    ProductError
        If columns are missing, an image occurs twice, or a year has no image.
    CRSError
        If ``footprints`` have no CRS.

    Examples
    --------
    >>> import geopandas as gpd, shapely
    >>> seen = gpd.GeoDataFrame(
    ...     {"image_id": ["a", "b"], "date": ["2021-07-01", "2022-07-01"], "year": [2021, 2022]},
    ...     geometry=[shapely.box(-140, 70, -139, 71), shapely.box(-139.5, 70, -138, 71)], crs=4326)
    >>> cover = coverage(seen)
    >>> cover["intersect"][["years", "n_images"]].values.tolist()
    [['2021,2022', 2]]
    """
    if not isinstance(footprints, gpd.GeoDataFrame):
        raise ProductError(
            f"footprints are a {type(footprints).__name__}, not a GeoDataFrame with image_id, date, year and geometry; "
            "darts_xr.products.valid_polygon(scene.valid) gives the geometry of a scene"
        )
    require_crs(footprints, "footprints")
    require(footprints, ("image_id", "date", "year", "geometry"), "the table of footprints")
    twice = footprints["image_id"].duplicated()
    if twice.any():
        raise ProductError(
            f"image {footprints['image_id'][twice].iloc[0]} has more than one footprint; keep one row each"
        )
    rows = footprints[["image_id", "date", "year", "geometry"]].to_crs("EPSG:4326")
    if years is not None:
        rows = rows[rows["year"].isin(list(years))]
    rows = rows.sort_values(["date", "image_id"], ignore_index=True)
    filled = ~(rows.geometry.is_empty | rows.geometry.isna())
    sound, _ = valid_polygons(rows[filled], rows["image_id"][filled].tolist().__getitem__)
    rows.loc[filled, "geometry"] = sound.geometry
    rows.loc[~filled, "geometry"] = shapely.MultiPolygon()

    present = sorted({int(year) for year in rows["year"]})
    annual = {year: shapely.union_all(rows.geometry[rows["year"] == year].to_numpy()) for year in present}
    wanted = present if intersect_years is None else sorted(set(intersect_years))
    unknown = [year for year in wanted if year not in annual]
    if unknown:
        raise ProductError(f"no image of the years {unknown}, but of {present}; choose among these")
    every = shapely.intersection_all([annual[year] for year in wanted]) if wanted else shapely.MultiPolygon()
    counts = rows.groupby("year").size()
    return {
        "level1": _with_areas(rows),
        "level2": _frame(
            {"year": np.array(present, np.int64), "n_images": [int(counts[y]) for y in present]},
            [_polygonal(shape) for shape in annual.values()],
        ),
        "union": _total(present, int(counts.sum()), shapely.union_all(list(annual.values()))),
        "intersect": _total(wanted, int(sum(counts[y] for y in wanted)), every),
    }


def _total(years: list[int], images: int, shape: BaseGeometry) -> gpd.GeoDataFrame:
    text = pd.array([",".join(map(str, years))], dtype="str")
    return _frame({"years": text, "n_images": [images]}, [_polygonal(shape)])


def _polygonal(shape: BaseGeometry) -> BaseGeometry:
    """Drop the points and lines that an intersection of touching footprints leaves."""
    parts = shapely.get_parts(shape)
    if (shapely.get_type_id(parts) == 3).all():
        return shape if len(parts) else shapely.MultiPolygon()
    return shapely.MultiPolygon(list(parts[shapely.get_type_id(parts) == 3]))


def _frame(columns: dict[str, object], shapes: list[BaseGeometry]) -> gpd.GeoDataFrame:
    frame = gpd.GeoDataFrame(columns, geometry=shapes, crs="EPSG:4326")
    frame["n_images"] = frame["n_images"].astype(np.int64)
    return _with_areas(frame)


def _with_areas(frame: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    out = frame.assign(**area_columns(frame))
    return out[[name for name in out if name != "geometry"] + ["geometry"]]
