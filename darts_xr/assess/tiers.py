"""Confidence tiers: what share of the detections of such a probability is right, from a sample that was looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from darts_xr.assess.intervals import wilson
from darts_xr.assess.sensitivity import mean_probability
from darts_xr.errors import AssessmentError

_NAMES = {1: ("all",), 2: ("low", "high"), 3: ("low", "medium", "high")}
_KEYS = ("id", "id_geohash", "image_id", "year")


@dataclass(frozen=True)
class Tiers:
    """Tiers of mean probability with their precision.

    Parameters
    ----------
    table : pandas.DataFrame
        One row a tier, by rising probability: ``tier``, ``from_probability`` (included), ``to_probability``, ``n``
        (detections of the sample), ``independent`` (their effective number), ``precision``, ``low``, ``high``.
    level : float
        Confidence of the bounds.

    Examples
    --------
    >>> Tiers(pd.DataFrame({"tier": ["all"]}), 0.95).level
    0.95
    """

    table: pd.DataFrame
    level: float

    def _repr_html_(self) -> str:
        return str(self.table.to_html(index=False, float_format="{:.3f}".format))


def calibrate_tiers(
    probability: ArrayLike,
    right: ArrayLike,
    *,
    site: Sequence[Any] | None = None,
    weight: ArrayLike | None = None,
    edges: Sequence[float] | int = 3,
    level: float = 0.95,
) -> Tiers:
    """Measure the precision of tiers of probability on a sample that was looked at.

    Parameters
    ----------
    probability : array-like of float
        Mean probability of each detection of the sample.
    right : array-like of bool
        Whether it is a thaw slump, by a person's verdict or a validation set.
    site : sequence, optional
        Which detections are of one place: several images of a slump say little more than one. The interval counts
        places, not detections. By default each is a place of its own.
    weight : array-like of float, optional
        How many detections each stands for, where the sample was stratified.
    edges : sequence of float or int
        Inner edges between the tiers, or the number of tiers of equally many detections of the sample.
    level : float
        Confidence of the bounds (Wilson's, with the effective number of independent detections).

    Returns
    -------
    Tiers
        The tiers.

    Raises
    ------
    AssessmentError
        If the sample is empty, its parts differ in length, or the edges do not rise.

    Examples
    --------
    >>> tiers = calibrate_tiers([0.55, 0.6, 0.8, 0.9], [False, True, True, True], edges=[0.7])
    >>> tiers.table[["tier", "n", "precision"]].values.tolist()
    [['low', 2, 0.5], ['high', 2, 1.0]]
    """
    p, hit = np.asarray(probability, np.float64), np.asarray(right, bool)
    n = len(p)
    w = np.ones(n) if weight is None else np.asarray(weight, np.float64)
    place = np.arange(n) if site is None else pd.factorize(pd.Series(list(site)))[0]
    if n == 0 or not (len(hit) == len(w) == len(place) == n):
        raise AssessmentError(
            f"a sample needs as many verdicts, weights and sites as probabilities, and at least one; got {n}, "
            f"{len(hit)}, {len(w)}, {len(place)}"
        )
    inner = _inner_edges(p, edges)
    number = np.searchsorted(inner, p, side="right")
    bounds = [0.0, *inner.tolist(), 1.0]
    count = len(inner) + 1
    names = _NAMES.get(count, tuple(f"tier {i + 1}" for i in range(count)))
    rows = []
    for tier in range(count):
        of_tier = number == tier
        independent = _independent(w[of_tier], place[of_tier])
        total = w[of_tier].sum()
        precision = float(w[of_tier & hit].sum() / total) if total else float("nan")
        low, high = wilson(precision * independent if total else 0.0, independent, level)
        rows.append(
            {
                "tier": names[tier], "from_probability": bounds[tier], "to_probability": bounds[tier + 1],
                "n": int(of_tier.sum()), "independent": independent, "precision": precision, "low": low, "high": high,
            }
        )  # fmt: skip
    return Tiers(pd.DataFrame(rows), level)


def _inner_edges(p: NDArray[np.float64], edges: Sequence[float] | int) -> NDArray[np.float64]:
    if isinstance(edges, int):
        if edges < 1:
            raise AssessmentError(f"there must be at least one tier, got {edges}")
        return np.unique(np.quantile(p, np.arange(1, edges) / edges))
    inner = np.asarray(edges, np.float64)
    if (np.diff(inner) <= 0).any() or ((inner <= 0) | (inner >= 1)).any():
        raise AssessmentError(f"edges must rise between 0 and 1, got {list(edges)}")
    return inner


def _independent(weight: NDArray[np.float64], place: NDArray[np.int64]) -> float:
    """Effective number of places: that of equal weights that would be as uncertain (Kish 1965)."""
    if not len(weight):
        return 0.0
    per_place = np.bincount(place, weights=weight)
    return float(per_place.sum() ** 2 / (per_place**2).sum())


def assign_tiers(detected: pd.DataFrame, tiers: Tiers) -> pd.DataFrame:
    """Give each detection its tier, in a table of its own: the published columns stay as they are.

    Parameters
    ----------
    detected : pandas.DataFrame
        Level 1 or Level 2.
    tiers : Tiers
        From :func:`calibrate_tiers`.

    Returns
    -------
    pandas.DataFrame
        One row a detection, in its order: ``id``, ``id_geohash``, ``image_id``, ``year`` (as far as it has them),
        ``tier``, ``precision``, ``precision_low``, ``precision_high``.

    Raises
    ------
    AssessmentError
        If the detections have no id or no mean probability.

    Examples
    --------
    >>> tiers = calibrate_tiers([0.55, 0.6, 0.8, 0.9], [False, True, True, True], edges=[0.7])
    >>> assign_tiers(pd.DataFrame({"id": [1, 2], "pval_mean": [0.9, 0.7]}), tiers).tier.tolist()
    ['high', 'high']
    """
    if "id" not in detected:
        raise AssessmentError("the detections have no column id, by which the tiers are joined to them")
    p = detected[mean_probability(detected)].to_numpy(np.float64)
    number = np.searchsorted(tiers.table["from_probability"].to_numpy()[1:], p, side="right")
    keys = {name: detected[name].to_numpy() for name in _KEYS if name in detected}
    of_tier = tiers.table.iloc[number].reset_index(drop=True)
    values = {
        "tier": of_tier["tier"], "precision": of_tier["precision"], "precision_low": of_tier["low"],
        "precision_high": of_tier["high"],
    }  # fmt: skip
    return pd.DataFrame({**keys, **{name: column.to_numpy() for name, column in values.items()}})
