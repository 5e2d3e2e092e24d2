"""Which detections a person should look at: a sample of all tiers and sizes, with repeats hidden in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from darts_xr.assess.sensitivity import mean_probability
from darts_xr.errors import AssessmentError

#: Columns that find a detection again in its products, also after new scenes gave it another running id.
KEYS = ("image_id", "id_geohash", "area_m2")


@dataclass(frozen=True)
class SamplePlan:
    """How a review sample is drawn.

    Parameters
    ----------
    n : int
        Detections to look at, without the repeats.
    kind : {"stratified", "random"}
        ``"stratified"``: as evenly as possible from each class of probability and size; ``"random"``: all alike.
    probability_classes, size_classes : int
        Number of classes of equally many detections.
    repeats : float
        Share of the sample that comes a second time, to see how consistent a reviewer is.
    seed : int
        Seed of the draw and of the order.

    Raises
    ------
    AssessmentError
        If a value is out of range.

    Examples
    --------
    >>> SamplePlan(n=20).kind
    'stratified'
    """

    n: int = 200
    kind: Literal["stratified", "random"] = "stratified"
    probability_classes: int = 3
    size_classes: int = 3
    repeats: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n < 1 or min(self.probability_classes, self.size_classes) < 1 or not 0 <= self.repeats <= 1:
            raise AssessmentError(f"n and the classes must be 1 or more, and repeats 0 to 1; got {self}")
        if self.kind not in ("stratified", "random"):
            raise AssessmentError(f"a sample is 'stratified' or 'random', got {self.kind!r}")


def _classes(values: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    edges = np.unique(np.quantile(values, np.arange(1, count) / count)) if len(values) else np.empty(0)
    return np.searchsorted(edges, values, side="right").astype(np.int64)


def _shares(sizes: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """How many of each stratum: as even as their sizes allow, and n together where there are so many."""
    taken = np.zeros_like(sizes)
    while taken.sum() < min(n, sizes.sum()):
        open_ = np.flatnonzero(taken < sizes)
        give = max((n - int(taken.sum())) // len(open_), 1)
        for place in open_[: n - int(taken.sum())]:
            taken[place] = min(taken[place] + give, sizes[place])
    return taken


def review_sample(detected: pd.DataFrame, plan: SamplePlan | None = None) -> pd.DataFrame:
    """Draw detections for review.

    Parameters
    ----------
    detected : pandas.DataFrame
        Level 1 with ``id_geohash``, ``image_id``, ``area_m2`` and a mean probability.
    plan : SamplePlan, optional
        How many, and how; by default 200, stratified.

    Returns
    -------
    pandas.DataFrame
        One row a showing, in the order in which they are shown: ``row`` (place in ``detected``), the columns
        ``KEYS``, ``probability_class``, ``size_class`` (int64, from 0), ``weight`` (how many detections of its
        stratum it stands for), ``repeat_of`` (number of the earlier showing, -1 for none).

    Raises
    ------
    AssessmentError
        If there are no detections or columns are missing.

    Examples
    --------
    >>> level = pd.DataFrame({"image_id": "a", "id_geohash": list("bcde"), "area_m2": [1, 2, 3, 4],
    ...                       "pval_mean": [0.5, 0.6, 0.7, 0.8]})
    >>> sample = review_sample(level, SamplePlan(n=2, probability_classes=2, size_classes=1, repeats=0.5))
    >>> len(sample), sorted(sample.weight.unique().tolist())
    (3, [2.0])
    """
    plan = plan or SamplePlan()
    if lacking := [name for name in KEYS if name not in detected]:
        raise AssessmentError(f"the detections lack the columns {', '.join(lacking)}; give Level 1")
    if not len(detected):
        raise AssessmentError("there are no detections to review")
    rng = np.random.default_rng(plan.seed)
    p = detected[mean_probability(detected)].to_numpy(np.float64)
    by_p = _classes(p, plan.probability_classes)
    by_size = _classes(detected["area_m2"].to_numpy(np.float64), plan.size_classes)
    stratum = by_p * plan.size_classes + by_size
    if plan.kind == "random":
        stratum = np.zeros(len(p), np.int64)
    names, number = np.unique(stratum, return_inverse=True)
    sizes = np.bincount(number, minlength=len(names))
    shares = _shares(sizes, plan.n)
    drawn = [rng.permutation(np.flatnonzero(number == k))[: shares[k]] for k in range(len(names))]
    rows = rng.permutation(np.concatenate(drawn))
    weight = (sizes / np.maximum(shares, 1))[number[rows]]
    again = rng.choice(len(rows), round(plan.repeats * len(rows)), replace=False)
    # A repeat comes in the second half, well after its first showing where the sample is long enough.
    place = np.concatenate([np.arange(len(rows)), again + rng.uniform(0.4, 0.9, len(again)) * len(rows)])
    source = np.concatenate([np.arange(len(rows)), again])
    first = np.concatenate([np.ones(len(rows), bool), np.zeros(len(again), bool)])
    order = np.argsort(place, kind="stable")
    source, first = source[order], first[order]
    shown_at = {int(which): at for at, which in enumerate(source.tolist()) if first[at]}
    chosen = rows[source]
    return pd.DataFrame(
        {
            "row": chosen, **{name: detected[name].to_numpy()[chosen] for name in KEYS},
            "probability_class": by_p[chosen], "size_class": by_size[chosen], "weight": weight[source],
            "repeat_of": [-1 if one else shown_at[int(which)] for one, which in zip(first, source, strict=True)],
        }
    )  # fmt: skip
