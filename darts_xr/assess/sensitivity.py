"""How scores change with the least mean probability and with the buffer, and where probabilities lie."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd

from darts_xr.assess.match import ANY_OVERLAP, Coverage, MatchRule, Pairs, project_union
from darts_xr.assess.periods import DatedReference
from darts_xr.assess.tables import PLAIN, Comparison, as_table, covered_years, score_row, year_table
from darts_xr.errors import AssessmentError

_MEANS = ("pval_mean", "pval_mean_of_mean_level1")


def mean_probability(detected: pd.DataFrame) -> str:
    """Name of the column with the mean probability, of Level 1 or Level 2.

    Raises
    ------
    AssessmentError
        If there is none.

    Examples
    --------
    >>> mean_probability(pd.DataFrame({"pval_mean": [0.6]}))
    'pval_mean'
    """
    found = [name for name in _MEANS if name in detected]
    if not found:
        raise AssessmentError(
            f"detected has none of the columns {', '.join(_MEANS)}; give Level 1 or Level 2 with its probabilities"
        )
    return found[0]


def threshold_sweep(
    detected: gpd.GeoDataFrame,
    reference: gpd.GeoDataFrame,
    *,
    thresholds: Iterable[float] = (0.5, 0.55, 0.6, 0.65, 0.7),
    buffer: float = 0.0,
    coverage: Coverage | None = None,
    rule: MatchRule = ANY_OVERLAP,
) -> pd.DataFrame:
    """Scores and kept share of the detected objects whose mean probability reaches each threshold.

    Nitze et al. 2025 (Sci. Data 12:1512), Fig. 14.

    Parameters
    ----------
    detected : geopandas.GeoDataFrame
        Objects with a column ``pval_mean`` (or Level 2 with ``pval_mean_of_mean_level1``).
    reference : geopandas.GeoDataFrame
        Inventory, as in :func:`match_objects`.
    thresholds : iterable of float
        Smallest mean probability that is kept, each a row of the result.
    buffer, coverage, rule
        As in :func:`match_objects`.

    Returns
    -------
    pandas.DataFrame
        One row per threshold: ``threshold``, ``kept`` (share of the detections, 0 to 1) and the columns of
        :func:`darts_xr.assess.score_years`. Computed at once.

    Raises
    ------
    AssessmentError
        If ``detected`` has no mean probability.
    CRSError
        If a frame has no CRS.

    Examples
    --------
    >>> import geopandas as gpd, shapely
    >>> truth = gpd.GeoDataFrame(geometry=[shapely.box(0, 0, 9, 9)], crs=32608)
    >>> found = gpd.GeoDataFrame({"pval_mean": [0.6]}, geometry=[shapely.box(5, 5, 20, 20)], crs=32608)
    >>> threshold_sweep(found, truth, thresholds=[0.5, 0.7])[["kept", "f1"]].values.tolist()
    [[1.0, 1.0], [0.0, 0.0]]
    """
    mean = detected[mean_probability(detected)].to_numpy()
    pairs = Pairs(detected, reference, buffer=buffer, rule=rule)
    seen = None if coverage is None else project_union(coverage)
    everything = pairs.match(seen=seen).detected_counted
    rows = []
    for threshold in thresholds:
        keep = mean >= threshold
        share = float(keep[everything].mean()) if everything.any() else float("nan")
        scores = pairs.match(keep, seen=seen).scores
        rows.append({"threshold": float(threshold), "kept": share, **score_row(scores)})
    return as_table(rows)


def buffer_curve(
    detected: gpd.GeoDataFrame,
    reference: gpd.GeoDataFrame,
    *,
    buffers: Iterable[float] = (0, 100, 200, 300, 400, 500),
    coverage: Coverage | None = None,
    rule: MatchRule = ANY_OVERLAP,
) -> pd.DataFrame:
    """Scores against the buffer around the reference, for inventories of points.

    Nitze et al. 2025 (Sci. Data 12:1512), Fig. 6, validation 3; the paper then takes 200 m.

    Parameters
    ----------
    detected, reference : geopandas.GeoDataFrame
        Objects and inventory.
    buffers : iterable of float
        Metres on the ground, each a row of the result.
    coverage, rule
        As in :func:`match_objects`.

    Returns
    -------
    pandas.DataFrame
        One row per buffer: ``buffer`` and the columns of :func:`darts_xr.assess.score_years`. Recall never falls with
        the buffer. Computed at once.

    Raises
    ------
    CRSError
        If a frame has no CRS.
    AssessmentError
        If a buffer is negative.

    Examples
    --------
    >>> import geopandas as gpd, shapely
    >>> found = gpd.GeoDataFrame(geometry=[shapely.box(0, 7700000, 9, 7700009)], crs=32608)
    >>> points = gpd.GeoDataFrame(geometry=[shapely.Point(150, 7700005)], crs=32608)
    >>> buffer_curve(found, points, buffers=(0, 200)).recall.tolist()
    [0.0, 1.0]
    """
    seen = None if coverage is None else project_union(coverage)
    rows = []
    for buffer in buffers:
        pairs = Pairs(detected, reference, buffer=float(buffer), rule=rule)
        rows.append({"buffer": float(buffer), **score_row(pairs.match(seen=seen).scores)})
    return as_table(rows)


def sweep_years(
    detected: gpd.GeoDataFrame,
    reference: gpd.GeoDataFrame,
    coverage: gpd.GeoDataFrame | None = None,
    *,
    buffers: Iterable[float] | None = None,
    thresholds: Iterable[float] | None = None,
    comparison: Comparison = PLAIN,
) -> pd.DataFrame:
    """Scores of :func:`score_years` against the buffer, or against the least mean probability, years apart and pooled.

    Parameters
    ----------
    detected, reference, coverage, comparison
        As in :func:`darts_xr.assess.score_years`.
    buffers : iterable of float, optional
        Metres, each a row (Fig. 6).
    thresholds : iterable of float, optional
        Smallest mean probability that is kept, each a row (Fig. 14). Give one of the two.

    Returns
    -------
    pandas.DataFrame
        ``buffer``, or ``threshold`` and ``kept`` (share of the detections); the columns of
        :func:`darts_xr.assess.score_years` for the years pooled; ``f1_mean``, ``f1_sd`` over the years.
        Computed at once.

    Raises
    ------
    AssessmentError
        If both or none of the two are given, or ``detected`` has no mean probability.

    Examples
    --------
    >>> import geopandas as gpd, shapely
    >>> one = gpd.GeoDataFrame({"year": [2021]}, geometry=[shapely.Point(0, 70)], crs=4326)
    >>> sweep_years(one, one, buffers=[0, 100]).f1_mean.tolist()
    [1.0, 1.0]
    """
    if (buffers is None) == (thresholds is None):
        raise AssessmentError("give buffers or thresholds, one of the two")
    dated, seen = DatedReference(reference, comparison.time), covered_years(coverage, detected)
    steps: list[tuple[dict[str, float], gpd.GeoDataFrame, Comparison]]
    if buffers is not None:
        steps = [
            ({"buffer": float(buffer)}, detected, replace(comparison, buffer=float(buffer)))
            for buffer in buffers
        ]
    else:
        mean = detected[mean_probability(detected)]
        steps = [
            ({"threshold": float(t), "kept": float((mean >= t).mean())}, detected[mean >= t], comparison)
            for t in thresholds or ()
        ]
    rows = []
    for label, part, how in steps:
        table = year_table(part, dated, seen, comparison=how)[0].set_index("scope")
        pooled = table.loc["all"].to_dict()
        spread = {"f1_mean": table.loc["mean", "f1"], "f1_sd": table.loc["sd", "f1"]}
        rows.append({**label, **{str(name): value for name, value in pooled.items()}, **spread})
    return as_table(rows)


def probability_densities(
    detected: gpd.GeoDataFrame,
    reference: gpd.GeoDataFrame,
    *,
    bins: int = 25,
    buffer: float = 0.0,
    coverage: Coverage | None = None,
) -> pd.DataFrame:
    """Density of the mean probability of true and of false detections (Fig. 14).

    Parameters
    ----------
    detected, reference, buffer, coverage
        As in :func:`threshold_sweep`.
    bins : int
        Number of equal bins between the least and the largest probability.

    Returns
    -------
    pandas.DataFrame
        One row per bin: ``low``, ``high``, ``true`` and ``false`` (probability densities, whose integrals are 1; 0
        where there is none of the kind). Computed at once.

    Raises
    ------
    AssessmentError
        If ``detected`` has no mean probability.

    Examples
    --------
    >>> import geopandas as gpd, shapely
    >>> truth = gpd.GeoDataFrame(geometry=[shapely.box(0, 0, 9, 9)], crs=32608)
    >>> found = gpd.GeoDataFrame({"pval_mean": [0.6]}, geometry=[shapely.box(5, 5, 20, 20)], crs=32608)
    >>> probability_densities(found, truth, bins=2).false.tolist()
    [0.0, 0.0]
    """
    mean = detected[mean_probability(detected)].to_numpy(np.float64)
    seen = None if coverage is None else project_union(coverage)
    part = Pairs(detected, reference, buffer=buffer).match(seen=seen)
    counted = mean[part.detected_counted]
    edges = (
        np.linspace(counted.min(), counted.max(), bins + 1) if len(counted) else np.linspace(0, 1, bins + 1)
    )
    if edges[0] == edges[-1]:
        edges = np.linspace(edges[0] - 0.005, edges[0] + 0.005, bins + 1)
    hits = part.detected_hit
    columns: dict[str, Any] = {"low": edges[:-1], "high": edges[1:]}
    for name, kind in (("true", hits), ("false", part.detected_counted & ~hits)):
        columns[name] = np.histogram(mean[kind], edges, density=True)[0] if kind.any() else np.zeros(bins)
    return pd.DataFrame(columns)
