"""Gridded comparison: how many objects each side has in each cell, in classes, as a confusion matrix (Fig. 16e)."""

from __future__ import annotations

from typing import Literal

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from darts_xr.assess.match import Coverage, project, project_union
from darts_xr.errors import AssessmentError
from darts_xr.globe import EQUAL_AREA

#: Least count of each class. The paper's leave out 6 to 10.
_CLASSES = {
    "published": (("0", 0, 0), ("1", 1, 1), ("2-5", 2, 5), (">10", 11, np.inf)),
    "complete": (("0", 0, 0), ("1", 1, 1), ("2-5", 2, 5), ("6-10", 6, 10), (">10", 11, np.inf)),
}


def _counts(shapes: NDArray[np.object_], cell: float) -> pd.Series:
    points = shapely.get_coordinates(shapely.centroid(shapes[~shapely.is_empty(shapes)]))
    index = np.floor(points / cell).astype(np.int64)
    return pd.DataFrame(index, columns=["column", "row"]).value_counts().rename("n")


def grid_counts(
    detected: gpd.GeoDataFrame, reference: gpd.GeoDataFrame, coverage: Coverage, *, cell: float = 10_000.0
) -> gpd.GeoDataFrame:
    """Count objects of both sides in the square cells of a grid, in which each cell was seen at least in part.

    Parameters
    ----------
    detected, reference : geopandas.GeoDataFrame
        Objects; each counts in the cell of its centroid.
    coverage : geopandas.GeoDataFrame, geopandas.GeoSeries or shapely geometry
        What was seen; objects whose centroid is outside do not count.
    cell : float
        Side of a cell in metres, in the pole-centred equal-area projection.

    Returns
    -------
    geopandas.GeoDataFrame
        One row per cell with any coverage, in EPSG:3571: ``detected``, ``reference`` (int64), ``covered`` (share of the
        cell, 0 to 1), ``geometry``. Computed at once.

    Raises
    ------
    AssessmentError
        If ``cell`` is not above 0.
    CRSError
        If a frame has no CRS.

    Examples
    --------
    >>> import geopandas as gpd, shapely
    >>> field = gpd.GeoSeries([shapely.box(0, 0, 20_000, 10_000)], crs=3571)
    >>> one = gpd.GeoDataFrame(geometry=[shapely.Point(5, 5)], crs=3571)
    >>> grid_counts(one, one, field)[["detected", "reference"]].values.tolist()
    [[1, 1], [0, 0]]
    """
    if not cell > 0:
        raise AssessmentError(f"cell must be above 0 m, got {cell!r}")
    seen = project_union(coverage)
    west, south, east, north = np.floor(np.array(seen.bounds) / cell).astype(np.int64)
    lattice = np.meshgrid(np.arange(west, east + 1), np.arange(south, north + 1))
    columns, rows = (axis.ravel() for axis in lattice)
    squares = shapely.box(columns * cell, rows * cell, (columns + 1) * cell, (rows + 1) * cell)
    shapely.prepare(seen)
    meets = shapely.intersects(seen, squares)
    columns, rows, squares = columns[meets], rows[meets], squares[meets]
    covered = shapely.area(shapely.intersection(seen, squares)) / cell**2
    index = pd.MultiIndex.from_arrays([columns, rows])
    sides = {}
    for name, frame in (("detected", detected), ("reference", reference)):
        shapes = project(frame, name)
        inside = shapes[shapely.intersects(seen, shapely.centroid(shapes))]
        sides[name] = _counts(inside, cell).reindex(index, fill_value=0).to_numpy(np.int64)
    out = gpd.GeoDataFrame({**sides, "covered": covered}, geometry=squares, crs=EQUAL_AREA)
    return out[covered > 0].reset_index(drop=True)


def gridded_comparison(
    cells: pd.DataFrame, *, classes: Literal["published", "complete"] = "complete"
) -> pd.DataFrame:
    """Confusion matrix of the classes of counts (Nitze et al. 2025, Sci. Data 12:1512, Fig. 16e).

    Parameters
    ----------
    cells : pandas.DataFrame
        From :func:`grid_counts`.
    classes : {"complete", "published"}
        ``"published"`` has the paper's classes 0, 1, 2-5, >10, which leave 6 to 10 out; ``"complete"`` has 6-10 too.

    Returns
    -------
    pandas.DataFrame
        Rows are classes of the reference, columns those of the detections, int64 numbers of cells.
        ``attrs["left_out"]`` counts cells of which a side is in no class; ``attrs["agreement"]`` is the share on the
        diagonal of the others.

    Raises
    ------
    AssessmentError
        If ``classes`` is unknown.

    Examples
    --------
    >>> import pandas as pd
    >>> cells = pd.DataFrame({"detected": [0, 3, 7], "reference": [0, 1, 7]})
    >>> gridded_comparison(cells, classes="published").attrs
    {'left_out': 1, 'agreement': 0.5}
    """
    if classes not in _CLASSES:
        raise AssessmentError(f"classes must be one of {', '.join(_CLASSES)}, got {classes!r}")
    kinds = _CLASSES[classes]
    place = {side: _class_of(cells[side].to_numpy(), kinds) for side in ("reference", "detected")}
    known = (place["reference"] >= 0) & (place["detected"] >= 0)
    matrix = np.zeros((len(kinds), len(kinds)), np.int64)
    np.add.at(matrix, (place["reference"][known], place["detected"][known]), 1)
    names = [name for name, _, _ in kinds]
    out = pd.DataFrame(matrix, index=pd.Index(names, name="reference"), columns=names)
    agreement = float(np.trace(matrix) / matrix.sum()) if matrix.sum() else float("nan")
    out.attrs = {"left_out": int((~known).sum()), "agreement": agreement}
    return out


def _class_of(counts: NDArray[np.int64], kinds: tuple[tuple[str, float, float], ...]) -> NDArray[np.int64]:
    out = np.full(len(counts), -1, np.int64)
    for number, (_, least, most) in enumerate(kinds):
        out[(counts >= least) & (counts <= most)] = number
    return out
