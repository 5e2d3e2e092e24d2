"""Scores of detections against a reference: overall, by year, by probability threshold, or of a run against a truth."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import geopandas as gpd
import pandas as pd
import shapely

import darts_xr as dx
from darts_xr.assess import Scores, pool_scores
from darts_xr.errors import PipelineError
from pipelines.aggregation import Products, read_footprints
from pipelines.records import Run


def read_vectors(path: str | os.PathLike[str]) -> gpd.GeoDataFrame:
    """Read a GeoParquet or any vector file that GDAL knows."""
    path = Path(path)
    if not path.exists():
        raise PipelineError(f"Vector file not found: {path}")
    return gpd.read_parquet(path) if path.suffix == ".parquet" else gpd.read_file(path)


def validate(
    detected: str | os.PathLike[str] | gpd.GeoDataFrame,
    reference: str | os.PathLike[str] | gpd.GeoDataFrame,
    *,
    coverage: str | os.PathLike[str] | gpd.GeoDataFrame | None = None,
    buffer: float = 0.0,
    by_year: bool = False,
) -> pd.DataFrame:
    """Score detected objects against reference objects, any overlap counts.

    Parameters
    ----------
    detected, reference, coverage : path or geopandas.GeoDataFrame
        Polygons with a CRS; ``coverage`` limits both.
    buffer : float, optional
        Metres by which the reference is grown.
    by_year : bool, optional
        One row a year of ``detected`` (column ``year``), with mean and standard deviation; the reference is taken as
        valid in all years unless it has a column ``year`` too.

    Returns
    -------
    pandas.DataFrame
        Rows by scope (``all``, or the years, ``mean``, ``std``) and by least mean probability where the detections have
        one; columns of :class:`darts_xr.assess.Scores`.

    Raises
    ------
    PipelineError
        When a file is missing, or ``by_year`` is asked of detections without years.
    """
    found, wanted, limits = (
        layer if layer is None or isinstance(layer, gpd.GeoDataFrame) else read_vectors(layer)
        for layer in (detected, reference, coverage)
    )
    if found is None or wanted is None:
        raise PipelineError("Both detections and a reference are needed.")
    if not by_year:
        rows = [{"scope": "all", **asdict(dx.match_objects(found, wanted, buffer=buffer, coverage=limits))}]
        return pd.DataFrame(rows).set_index("scope")
    if "year" not in found:
        raise PipelineError(
            "Scores by year need a column year in the detections; Level 1 and Level 2 have it."
        )
    rows = []
    for year in sorted(found["year"].unique()):
        then = wanted[wanted["year"] == year] if "year" in wanted else wanted
        seen = limits[limits["year"] == year] if limits is not None and "year" in limits else limits
        scores = dx.match_objects(found[found["year"] == year], then, buffer=buffer, coverage=seen)
        rows.append({"scope": str(year), **asdict(scores)})
    table = pd.DataFrame(rows).set_index("scope")
    ratios = table[["precision", "recall", "f1"]]
    return pd.concat([table, ratios.mean().to_frame("mean").T, ratios.std().to_frame("std").T])


def inner_footprints(run: Run) -> gpd.GeoDataFrame:
    """Footprints without the border zone, in which every object is removed by rule and none can be asked for."""
    footprints = read_footprints(run)
    border = run.record["rules"]["border"] * 3.0
    metric = footprints.to_crs(footprints.estimate_utm_crs())
    return footprints.set_geometry(metric.buffer(-border).to_crs("EPSG:4326"))


def score_images(seen: gpd.GeoDataFrame, level1: gpd.GeoDataFrame, truth: gpd.GeoDataFrame) -> Scores:
    """Score Level 1 against outlines of each image's date, all images of :func:`inner_footprints` pooled."""
    parts = []
    for row in seen.itertuples():
        if row.geometry.is_empty:
            continue
        found = level1[level1["image_id"] == row.image_id]
        parts.append(dx.match_objects(found, truth[truth["date"] == row.date], coverage=row.geometry))
    return pool_scores(parts)


def score_years(seen: gpd.GeoDataFrame, level2: gpd.GeoDataFrame, truth: gpd.GeoDataFrame) -> Scores:
    """Score Level 2 against the truth of each year, outlines of one slump on several dates joined."""
    parts = []
    for year, footprints in seen.groupby("year"):
        outlines = truth[truth["date"].isin(footprints["date"])].geometry.to_numpy()
        joined = gpd.GeoSeries(shapely.get_parts(shapely.union_all(outlines)), crs=truth.crs)
        parts.append(
            dx.match_objects(
                level2[level2["year"] == year],
                gpd.GeoDataFrame(geometry=joined),
                coverage=shapely.union_all(footprints.geometry.to_numpy()),
            )
        )
    return pool_scores(parts)


def score_run(run: Run, products: Products, truth: gpd.GeoDataFrame) -> dict[str, dict[str, Any]]:
    """Score Level 1 and Level 2 of a run against a truth and note it in ``run.json``."""
    seen = inner_footprints(run)
    scores = {
        "level1": asdict(score_images(seen, products.level1, truth)),
        "level2": asdict(score_years(seen, products.level2, truth)),
    }
    run.record["scores"] = scores
    run.save()
    return scores
