"""Drawings of several experts of one place: how far they agree, and where a model stands among them."""

from __future__ import annotations

from collections.abc import Mapping

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely

from darts_xr.assess.match import ANY_OVERLAP, MatchRule, Pairs, project
from darts_xr.errors import AssessmentError
from darts_xr.globe import EQUAL_AREA


def agreement_layer(drawings: Mapping[str, gpd.GeoDataFrame]) -> gpd.GeoDataFrame:
    """Cut the ground by how many experts marked it.

    Parameters
    ----------
    drawings : mapping of str to geopandas.GeoDataFrame
        By expert, polygons in any CRS.

    Returns
    -------
    geopandas.GeoDataFrame
        Pieces that do not overlap, in EPSG:3571: ``experts`` (int64, 1 to all), ``geometry``. Computed at once.

    Raises
    ------
    AssessmentError
        If there are fewer than two experts.
    CRSError
        If a drawing has no CRS.

    Examples
    --------
    >>> import geopandas as gpd, shapely
    >>> one, two = (gpd.GeoDataFrame(geometry=[shapely.box(x, 0, x + 10, 10)], crs=3571) for x in (0, 5))
    >>> agreement_layer({"a": one, "b": two}).groupby("experts").geometry.apply(lambda g: g.area.sum()).to_dict()
    {1: 100.0, 2: 50.0}
    """
    if len(drawings) < 2:
        raise AssessmentError(f"agreement needs two or more experts, got {len(drawings)}")
    marked = [shapely.union_all(project(frame, f"drawing {name}")) for name, frame in drawings.items()]
    lines = shapely.union_all([shape.boundary for shape in marked])
    pieces = np.array(shapely.get_parts(shapely.polygonize([lines])), object)
    inside = shapely.point_on_surface(pieces)
    for shape in marked:
        shapely.prepare(shape)
    count = np.sum([shapely.intersects(shape, inside) for shape in marked], axis=0).astype(np.int64)
    out = gpd.GeoDataFrame({"experts": count}, geometry=pieces, crs=EQUAL_AREA)
    return out[count > 0].reset_index(drop=True)


def marked_by(layer: gpd.GeoDataFrame, least: int) -> gpd.GeoDataFrame:
    """Objects that at least so many experts marked, from :func:`agreement_layer`.

    Examples
    --------
    >>> import geopandas as gpd, shapely
    >>> layer = gpd.GeoDataFrame({"experts": [1]}, geometry=[shapely.box(0, 0, 1, 1)], crs=3571)
    >>> len(marked_by(layer, 2))
    0
    """
    shape = shapely.union_all(layer.geometry[layer["experts"] >= least].to_numpy())
    return gpd.GeoDataFrame(geometry=gpd.GeoSeries(shapely.get_parts(shape), crs=layer.crs), crs=layer.crs)


def expert_matrix(
    drawings: Mapping[str, gpd.GeoDataFrame],
    *,
    models: Mapping[str, gpd.GeoDataFrame] | None = None,
    rule: MatchRule = ANY_OVERLAP,
) -> pd.DataFrame:
    """F1 of each expert against each other and against the majority, with a model's row beside them.

    Parameters
    ----------
    drawings : mapping of str to geopandas.GeoDataFrame
        By expert, polygons in any CRS.
    models : mapping of str to geopandas.GeoDataFrame, optional
        Detections by model, rows of the same kind; they make no part of the majority.
    rule : MatchRule
        What makes a pair.

    Returns
    -------
    pandas.DataFrame
        Rows: experts, models. Columns: each expert (F1, the row taken as detections; NaN on the diagonal),
        ``majority`` (F1 against what more than half of the *other* experts marked, for a model of all of them),
        ``mean`` and ``sd`` of the row over the experts, ``objects``. Computed at once.

    Raises
    ------
    AssessmentError
        If there are fewer than three experts.
    CRSError
        If a drawing has no CRS.

    Examples
    --------
    >>> import geopandas as gpd, shapely
    >>> one = gpd.GeoDataFrame(geometry=[shapely.box(0, 0, 10, 10)], crs=3571)
    >>> expert_matrix({"a": one, "b": one, "c": one})["majority"].tolist()
    [1.0, 1.0, 1.0]
    """
    if len(drawings) < 3:
        raise AssessmentError(f"a majority needs three or more experts, got {len(drawings)}")
    rows = []
    for name, frame in {**drawings, **(models or {})}.items():
        others = {key: value for key, value in drawings.items() if key != name}
        f1 = {key: Pairs(frame, value, rule=rule).match().scores.f1 for key, value in others.items()}
        most = marked_by(agreement_layer(others), len(others) // 2 + 1)
        values = list(f1.values())
        rows.append(
            {
                "who": name, **{key: f1.get(key, float("nan")) for key in drawings},
                "majority": Pairs(frame, most, rule=rule).match().scores.f1,
                "mean": float(np.mean(values)), "sd": float(np.std(values, ddof=1)), "objects": len(frame),
            }
        )  # fmt: skip
    return pd.DataFrame(rows).set_index("who")


def recall_by_agreement(
    detected: gpd.GeoDataFrame, drawings: Mapping[str, gpd.GeoDataFrame], *, rule: MatchRule = ANY_OVERLAP
) -> pd.DataFrame:
    """Recall against what at least one, two, … all experts marked.

    Parameters
    ----------
    detected : geopandas.GeoDataFrame
        Objects.
    drawings : mapping of str to geopandas.GeoDataFrame
        By expert, polygons in any CRS.
    rule : MatchRule
        What makes a pair.

    Returns
    -------
    pandas.DataFrame
        One row per number of experts: ``experts``, ``references``, ``found`` (int64), ``recall``, ``area_ha`` that so
        many marked. Computed at once.

    Raises
    ------
    AssessmentError
        If there are fewer than two experts.
    CRSError
        If a frame has no CRS.

    Examples
    --------
    >>> import geopandas as gpd, shapely
    >>> one = gpd.GeoDataFrame(geometry=[shapely.box(0, 0, 10, 10)], crs=3571)
    >>> recall_by_agreement(one, {"a": one, "b": one}).recall.tolist()
    [1.0, 1.0]
    """
    layer = agreement_layer(drawings)
    rows = []
    for least in range(1, len(drawings) + 1):
        asked = marked_by(layer, least)
        scores = Pairs(detected, asked, rule=rule).match().scores
        rows.append(
            {
                "experts": least, "references": scores.n_reference, "found": scores.reference_found,
                "recall": scores.recall, "area_ha": float(asked.area.sum()) / 1e4,
            }
        )  # fmt: skip
    return pd.DataFrame(rows)
