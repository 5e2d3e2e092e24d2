"""Object scores on whole scenes, by the matcher that scores every product of this project."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict

import geopandas as gpd
import pandas as pd
import shapely
import xarray as xr

from darts_xr.assess import Scores, match_objects, pool_scores
from darts_xr.cube.metadata import metadata_of
from darts_xr.inference import Ensemble, predict
from darts_xr.objects import label_objects, vectorize
from darts_xr.products import valid_polygon
from darts_xr.training.patches import LabelledScene

_BORDER = 10  # px, as in a detection
_MIN_PIXELS = 32


def score_objects(
    ensemble: Ensemble, scenes: Iterable[LabelledScene], *, threshold: float = 0.5, calibrated: bool = False
) -> tuple[Scores, pd.DataFrame]:
    """Detect in whole scenes and compare with their outlines, object by object.

    Parameters
    ----------
    ensemble : Ensemble
        The networks.
    scenes : iterable of LabelledScene
        Scenes that taught them nothing.
    threshold : float
        Least probability of an object's pixels.
    calibrated : bool
        See :func:`darts_xr.predict`.

    Returns
    -------
    tuple of Scores and pandas.DataFrame
        All scenes pooled, and one row a scene with ``scene``, ``region`` and the fields of ``Scores``. Objects near the
        border and small ones are removed, and none is asked for there. Computed at once.

    Examples
    --------
    >>> scores, table = score_objects(load_ensemble("demo"), scenes)  # doctest: +SKIP
    """
    parts, rows = [], []
    for labelled in scenes:
        scene = labelled.scene
        prob = predict(scene, ensemble, calibrated=calibrated).compute()
        assert isinstance(prob, xr.DataArray)  # without members=True
        found = vectorize(
            label_objects(prob, threshold=threshold, border=_BORDER, min_pixels=_MIN_PIXELS), prob
        )
        outlines = labelled.outlines
        if "kind" in outlines:
            outlines = outlines[outlines["kind"] == "slump"]
        scores = match_objects(found, outlines, coverage=_asked(scene, labelled))
        parts.append(scores)
        rows.append({"scene": metadata_of(scene)["item_id"], "region": labelled.region, **asdict(scores)})
    return pool_scores(parts), pd.DataFrame(rows)


def _asked(scene: xr.Dataset, labelled: LabelledScene) -> gpd.GeoSeries:
    """Ground on which objects are asked for: what was seen and labelled, without the border zone."""
    grid = scene.odc.geobox
    seen = gpd.GeoSeries([valid_polygon(scene["valid"])], crs="EPSG:4326").to_crs(str(grid.crs))
    inner = seen.buffer(-_BORDER * abs(grid.resolution.x))
    if labelled.footprint is not None:
        known = gpd.GeoSeries([labelled.footprint], crs="EPSG:4326").to_crs(str(grid.crs))
        inner = inner.intersection(known, align=False)
    return gpd.GeoSeries(
        [shape if not shape.is_empty else shapely.Polygon() for shape in inner], crs=inner.crs
    )
