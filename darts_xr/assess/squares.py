"""Validation 2: random squares inside the coverage, in which a person draws everything there is."""

from __future__ import annotations

import math

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from darts_xr.assess.match import project_union
from darts_xr.errors import AssessmentError
from darts_xr.globe import EQUAL_AREA

_TRIES = 2000  # draws a square until a region counts as too ragged


def _draw(seen: BaseGeometry, count: int, side: float, rng: np.random.Generator) -> list[shapely.Polygon]:
    """Squares of one size wholly inside a shape, none of which overlap."""
    west, south, east, north = seen.bounds
    shapely.prepare(seen)
    taken: list[shapely.Polygon] = []
    for _ in range(_TRIES):
        if len(taken) == count:
            break
        corners: NDArray[np.float64] = rng.uniform((west, south), (east, north), (256, 2))
        squares = np.asarray(shapely.box(*corners.T, *(corners + side).T), object)
        for square in squares[shapely.covers(seen, squares)]:
            if len(taken) < count and not any(square.intersects(other) for other in taken):
                taken.append(square)
    return taken


def random_squares(
    coverage: gpd.GeoDataFrame,
    *,
    regions: gpd.GeoSeries | None = None,
    count: int = 10,
    area_km2: float = 100.0,
    seed: int = 0,
) -> gpd.GeoDataFrame:
    """Draw random squares of equal area in each region, wholly inside the coverage (the paper's validation 2).

    Parameters
    ----------
    coverage : geopandas.GeoDataFrame
        What was seen.
    regions : geopandas.GeoSeries, optional
        One polygon a region, its name in the index; by default one region of all.
    count : int
        Squares a region.
    area_km2 : float
        Area of each, in the pole-centred equal-area projection.
    seed : int
        The same seed draws the same squares in a region, whatever other regions there are.

    Returns
    -------
    geopandas.GeoDataFrame
        EPSG:4326: ``id`` (region and number), ``region``, ``seed``, ``area_km2``, ``geometry``. No two of a region
        overlap. Computed at once.

    Raises
    ------
    AssessmentError
        If a region has no room for so many.
    CRSError
        If a frame has no CRS.

    Examples
    --------
    >>> import geopandas as gpd, shapely
    >>> seen = gpd.GeoDataFrame(geometry=[shapely.box(-140, 69, -135, 70)], crs=4326)
    >>> random_squares(seen, count=2, seed=7)["id"].tolist()
    ['all-01', 'all-02']
    """
    if count < 1 or not area_km2 > 0:
        raise AssessmentError(f"count and area_km2 must be above 0, got {count} and {area_km2}")
    seen, side = project_union(coverage), math.sqrt(area_km2) * 1000
    names = ["all"] if regions is None else [str(name) for name in regions.index]
    rows: list[dict[str, object]] = []
    shapes: list[shapely.Polygon] = []
    for place, name in enumerate(names):
        part = seen if regions is None else shapely.intersection(seen, project_union(regions.iloc[[place]]))
        rng = np.random.default_rng([seed, *name.encode()])
        found = [] if part.is_empty else _draw(part, count, side, rng)
        if len(found) < count:
            raise AssessmentError(
                f"region {name}: its coverage of {part.area / 1e6:,.0f} km² has room for {len(found)} of {count} "
                f"squares of {area_km2:g} km²; ask for fewer or smaller ones"
            )
        shapes += found
        rows += [
            {"id": f"{name}-{number:02d}", "region": name, "seed": seed, "area_km2": area_km2}
            for number in range(1, count + 1)
        ]
    # Straight in the equal-area projection: short pieces keep them so in longitude and latitude.
    outlines = gpd.GeoSeries(shapely.segmentize(np.array(shapes, object), side / 50), crs=EQUAL_AREA)
    return gpd.GeoDataFrame(pd.DataFrame(rows), geometry=outlines.to_crs("EPSG:4326"))
