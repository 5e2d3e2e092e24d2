"""Expected area without a threshold: the sum of probability times pixel area, cell by cell."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import rasterio.features
import shapely
import xarray as xr
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import Proj
from shapely.geometry.base import BaseGeometry

from darts_xr.assess.density import cell_shape, cells_over
from darts_xr.catalog import search
from darts_xr.cube import open_cube
from darts_xr.errors import AssessmentError
from darts_xr.globe import cut_at_180

_BLOCK = 1024  # pixels a side that are in memory at once, for all images of a year

# --- array kernel ------------------------------------------------------------------------------------------


def _mean_over_images(probability: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean over the images that saw a pixel; NaN where none did."""
    seen = np.isfinite(probability)
    count = seen.sum(axis=0)
    total = np.where(seen, probability, 0).sum(axis=0)
    return np.divide(total, count, out=np.full(total.shape, np.nan, total.dtype), where=count > 0)


def _pixel_area(grid: GeoBox) -> float:
    """Area of a pixel on the ground, in the middle of a grid; UTM is up to 0.2 % off."""
    projection = Proj(str(grid.crs))
    x, y = grid.extent.centroid.coords[0]
    lon, lat = projection(x, y, inverse=True)
    return float(abs(grid.resolution.x * grid.resolution.y) / projection.get_factors(lon, lat).areal_scale)


# --- streaming ---------------------------------------------------------------------------------------------


def _blocks(cube: xr.DataArray, outline: BaseGeometry) -> Iterator[tuple[NDArray[np.float32], float]]:
    """Probability of the pixels inside an outline (degrees) and their area, block by block."""
    whole = cube.odc.geobox
    shape = gpd.GeoSeries([outline], crs="EPSG:4326").segmentize(0.02).to_crs(str(whole.crs)).iloc[0]
    height, width = whole.shape
    for top in range(0, height, _BLOCK):
        for left in range(0, width, _BLOCK):
            window = np.s_[top : min(top + _BLOCK, height), left : min(left + _BLOCK, width)]
            grid = whole[window]
            if not shapely.intersects(shape, shapely.box(*grid.extent.boundingbox.bbox)):
                continue
            inside = rasterio.features.geometry_mask(
                [shape], grid.shape, grid.affine, invert=True, all_touched=False
            )
            mean = _mean_over_images(cube.isel(y=window[0], x=window[1]).values)
            yield mean[inside], _pixel_area(grid)


def expected_area(
    source: Any,
    *,
    resolution: int = 4,
    pixel: float | None = None,
    calibrate: Callable[[NDArray[np.float32]], NDArray[np.floating]] | None = None,
    on_cell: Callable[[str, int], None] | None = None,
) -> gpd.GeoDataFrame:
    """Sum up the expected thaw-slump area of each hexagon and year: Σ p × pixel area, with no threshold at all.

    Where several images of a year saw a pixel, their mean probability counts. The cubes are opened cell by cell, and
    no more than a block of 1024² pixels of all images of a year is in memory.

    Parameters
    ----------
    source : source
        A run folder's ``catalog.json``, or anything that :func:`darts_xr.search` takes.
    resolution : int
        H3 resolution of the cells.
    pixel : float, optional
        Pixel side in metres at which the probability is sampled (nearest); by default that of the images.
    calibrate : callable, optional
        Turns the networks' probability into one that holds; by default it is taken as it is. The sum is only as good
        as this: a network that says 0.02 where nothing is adds 2 % of the area.
    on_cell : callable, optional
        Called with each cell and year before it is summed.

    Returns
    -------
    geopandas.GeoDataFrame
        One row per cell and year with any valid pixel, EPSG:4326: ``h3``, ``year`` (int64), ``expected_area_m2``,
        ``seen_area_m2``, ``share`` (0 to 1), ``images`` (int64), ``geometry``. Computed at once.

    Raises
    ------
    EmptySearchError
        If the source holds no item.
    AssessmentError
        If ``resolution`` is not one of H3's.

    Examples
    --------
    >>> expected_area("run/catalog.json")  # doctest: +SKIP
    """
    if resolution not in range(16):
        raise AssessmentError(f"resolution must be an H3 resolution 0 to 15, got {resolution!r}")
    items = [item for item in search(source) if item.geometry is not None]
    outlines = np.array([shapely.geometry.shape(item.geometry or {}) for item in items], dtype=object)
    years = np.array([item.datetime.year if item.datetime else 0 for item in items])
    tree = shapely.STRtree(outlines)
    rows: list[dict[str, object]] = []
    shapes: list[BaseGeometry] = []
    for cell in cells_over(shapely.union_all(outlines), resolution):
        whole = cut_at_180(np.array([cell_shape(cell)], object))[0]
        near = tree.query(whole, predicate="intersects")
        for year in sorted(set(years[near].tolist())):
            of_year = near[years[near] == year]
            if on_cell is not None:
                on_cell(cell, year)
            total, seen = 0.0, 0.0
            for part in shapely.get_parts(whole):
                chosen = [items[i] for i in of_year if shapely.intersects(outlines[i], part)]
                if not chosen:
                    continue
                bounds = shapely.intersection(part, shapely.union_all(outlines[of_year])).bounds
                cube = open_cube(chosen, bbox=bounds, resolution=pixel, chunks=_BLOCK)["probability"]
                for values, area in _blocks(cube, part):
                    known = values[np.isfinite(values)]
                    total += (
                        float((known if calibrate is None else calibrate(known)).sum(dtype=np.float64)) * area
                    )
                    seen += len(known) * area
            if seen:
                rows.append(
                    {
                        "h3": cell, "year": year, "expected_area_m2": total, "seen_area_m2": seen,
                        "share": total / seen, "images": len(of_year),
                    }
                )  # fmt: skip
                shapes.append(whole)
    columns = ["h3", "year", "expected_area_m2", "seen_area_m2", "share", "images"]
    frame = pd.DataFrame(rows, columns=columns).astype({"year": "int64", "images": "int64"})
    return gpd.GeoDataFrame(frame, geometry=gpd.GeoSeries(shapes, crs="EPSG:4326"), crs="EPSG:4326")
