"""Density of thaw slumps on the H3 grid, and its map."""

from __future__ import annotations

from typing import Any

import geopandas as gpd
import h3
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from darts_xr.errors import AssessmentError, naming_extra
from darts_xr.globe import EQUAL_AREA, cut_at_180, require_crs


def cell_shape(cell: str) -> BaseGeometry:
    """Outline of a cell in longitude and latitude; it wraps around 180° where it crosses."""
    ring = [(lon, lat) for lat, lon in h3.cell_to_boundary(cell)]
    return shapely.Polygon(ring)


def cells_over(shape: BaseGeometry, resolution: int) -> list[str]:
    """All cells that meet a polygon in longitude and latitude, sorted."""
    cells: set[str] = set()
    for part in shapely.get_parts(shape):
        cells.update(h3.h3shape_to_cells_experimental(h3.geo_to_h3shape(part), resolution, contain="overlap"))
    return sorted(cells)


def _area_by_cell(hexagons: NDArray[np.object_], shapes: NDArray[np.object_]) -> NDArray[np.float64]:
    """Area of the shapes within each hexagon, all in one equal-area projection."""
    hexagon, other = shapely.STRtree(shapes).query(hexagons, predicate="intersects")
    within = shapely.area(shapely.intersection(hexagons[hexagon], shapes[other]))
    return np.bincount(hexagon, weights=within, minlength=len(hexagons)).astype(np.float64)


def h3_density(
    features: gpd.GeoDataFrame,
    coverage: gpd.GeoDataFrame | gpd.GeoSeries,
    *,
    resolution: int = 4,
    land: gpd.GeoDataFrame | gpd.GeoSeries | None = None,
) -> gpd.GeoDataFrame:
    """Thaw-slump area as a share of the covered area, or of the covered land, in hexagons of the H3 grid.

    Overlapping features, such as the same slump in several years, count once. Areas are taken in the
    pole-centred equal-area projection.

    Parameters
    ----------
    features : geopandas.GeoDataFrame
        Objects, in any CRS.
    coverage : geopandas.GeoDataFrame or geopandas.GeoSeries
        What was seen, such as ``coverage(...)["union"]``.
    resolution : int
        H3 resolution; 4 has cells of some 1,770 km².
    land : geopandas.GeoDataFrame or geopandas.GeoSeries, optional
        Polygons of land: the covered area is then that of the land that was seen, as in the paper's Fig. 15.

    Returns
    -------
    geopandas.GeoDataFrame
        One row per cell with any coverage, EPSG:4326, sorted by ``h3``: ``h3`` (str), ``rts_area_m2``,
        ``covered_area_m2``, ``share`` (float64, 0 to 1), ``n_features`` (int64, whose centroid is in the
        cell), ``geometry`` (split at the antimeridian). Computed at once.

    Raises
    ------
    CRSError
        If a frame has no CRS.
    AssessmentError
        If ``resolution`` is not one of H3's.

    Examples
    --------
    >>> import geopandas as gpd, shapely
    >>> seen = gpd.GeoSeries([shapely.box(-139.5, 69, -138.5, 69.4)], crs=4326)
    >>> slumps = gpd.GeoDataFrame(geometry=[shapely.box(-139, 69.2, -138.99, 69.21)], crs=4326)
    >>> cells = h3_density(slumps, seen)
    >>> len(cells), int(cells.n_features.sum())
    (4, 1)
    """
    require_crs(features, "features")
    require_crs(coverage, "coverage")
    if land is not None:
        require_crs(land, "land")
    if resolution not in range(16):
        raise AssessmentError(f"resolution must be an H3 resolution 0 to 15, got {resolution!r}")
    seen = shapely.union_all(coverage.geometry.to_crs("EPSG:4326").to_numpy())
    if land is not None:
        seen = shapely.intersection(seen, shapely.union_all(land.geometry.to_crs("EPSG:4326").to_numpy()))
    cells = cells_over(seen, resolution)
    shapes = cut_at_180(np.array([cell_shape(cell) for cell in cells], object))
    outlines = gpd.GeoSeries(shapes, crs="EPSG:4326")
    # Lines of hexagons and footprints are straight in longitude and latitude: short pieces keep them so.
    hexagons = outlines.segmentize(0.05).to_crs(EQUAL_AREA).to_numpy()
    covered = gpd.GeoSeries(shapely.get_parts(seen), crs="EPSG:4326").segmentize(0.05).to_crs(EQUAL_AREA)
    found = shapely.union_all(features.geometry.to_crs(EQUAL_AREA).to_numpy())

    seen_area = _area_by_cell(hexagons, covered.to_numpy())
    slump_area = _area_by_cell(hexagons, shapely.get_parts(found))
    points = features.geometry.to_crs(EQUAL_AREA).centroid.to_crs("EPSG:4326")
    inside = pd.Series(
        [h3.latlng_to_cell(y, x, resolution) for x, y in zip(points.x, points.y, strict=True)], dtype="str"
    )
    columns: dict[str, Any] = {
        "h3": pd.array(cells, dtype="str"),
        "rts_area_m2": slump_area,
        "covered_area_m2": seen_area,
        "share": np.divide(slump_area, seen_area, out=np.zeros(len(cells)), where=seen_area > 0),
        "n_features": inside.value_counts().reindex(cells, fill_value=0).to_numpy(np.int64),
    }
    out = gpd.GeoDataFrame(columns, geometry=outlines.to_numpy(), crs="EPSG:4326")
    return out[seen_area > 0].reset_index(drop=True)


def h3_density_by_year(
    features: gpd.GeoDataFrame,
    coverage: gpd.GeoDataFrame,
    *,
    resolution: int = 4,
    land: gpd.GeoDataFrame | gpd.GeoSeries | None = None,
) -> gpd.GeoDataFrame:
    """Hexagons of :func:`h3_density` for each year, within what was seen in that year.

    Nitze et al. 2025 (Sci. Data 12:1512), Fig. 15.

    Parameters
    ----------
    features, coverage : geopandas.GeoDataFrame
        Objects and what was seen, both with a column ``year``. A covered year without objects has cells of share 0.
    resolution, land
        As in :func:`h3_density`.

    Returns
    -------
    geopandas.GeoDataFrame
        One row per year and cell: ``year`` (int64) and the columns of :func:`h3_density`. Computed at once.

    Raises
    ------
    CRSError
        If a frame has no CRS.
    AssessmentError
        If a frame has no column ``year``.

    Examples
    --------
    >>> import geopandas as gpd, shapely
    >>> field = shapely.box(-139.5, 69, -138.5, 69.4)
    >>> seen = gpd.GeoDataFrame({"year": [2021, 2022]}, geometry=[field, field], crs=4326)
    >>> slumps = gpd.GeoDataFrame({"year": [2021]}, geometry=[shapely.box(-139, 69.2, -138.99, 69.21)], crs=4326)
    >>> h3_density_by_year(slumps, seen).groupby("year").n_features.sum().to_dict()
    {2021: 1, 2022: 0}
    """
    for name, frame in (("features", features), ("coverage", coverage)):
        if "year" not in frame:
            raise AssessmentError(f"{name} have no column year; Level 2 and its coverage have it")
    parts = []
    for year, seen in coverage.groupby("year", sort=True):
        cells = h3_density(features[features["year"] == year], seen, resolution=resolution, land=land)
        cells.insert(0, "year", np.full(len(cells), int(year), np.int64))
        parts.append(cells)
    return gpd.GeoDataFrame(pd.concat(parts, ignore_index=True))


def plot_density(cells: gpd.GeoDataFrame, *, ax: Any = None, cmap: str = "magma_r") -> Any:
    """Draw hexagons on a polar map, coloured by the share of thaw slumps.

    Parameters
    ----------
    cells : geopandas.GeoDataFrame
        Result of :func:`h3_density`.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a new figure.
    cmap : str
        Name of a Matplotlib colour map.

    Returns
    -------
    matplotlib.axes.Axes
        The axes, in the pole-centred equal-area projection (metres).

    Raises
    ------
    CRSError
        If ``cells`` have no CRS.

    Examples
    --------
    >>> import geopandas as gpd, matplotlib, shapely
    >>> matplotlib.use("Agg")
    >>> seen = gpd.GeoSeries([shapely.box(-139.5, 69, -138.5, 69.4)], crs=4326)
    >>> slumps = gpd.GeoDataFrame(geometry=[shapely.box(-139, 69.2, -138.99, 69.21)], crs=4326)
    >>> axes = plot_density(h3_density(slumps, seen))
    """
    require_crs(cells, "cells")
    with naming_extra("viz", "a picture"):
        import matplotlib.pyplot as plt  # heavy, and only this function needs it

    if ax is None:
        _, ax = plt.subplots(figsize=(7, 7), layout="constrained")
    percent = cells.assign(percent=cells["share"] * 100).to_crs(EQUAL_AREA)
    percent.plot(
        "percent", ax=ax, cmap=cmap, legend=True, legend_kwds={"label": "thaw slumps (% of covered area)"}
    )
    ax.set_aspect("equal")
    ax.set_axis_off()
    return ax
