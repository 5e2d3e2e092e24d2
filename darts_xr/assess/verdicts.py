"""What reviewers said: read, checked for consistency, merged into the products, and scored."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import pandas as pd

from darts_xr.assess.confirmation import check_verdicts
from darts_xr.assess.intervals import cohen_kappa, wilson
from darts_xr.assess.sampling import KEYS
from darts_xr.assess.sensitivity import mean_probability
from darts_xr.errors import AssessmentError

FORMAT = "darts_xr verdicts 1"
_RIGHT = ("true", "detachment slide")
_NEEDED = {"showing", "verdict", "repeat_of", "weight", "probability_class", "size_class", *KEYS}


@dataclass(frozen=True)
class Review:
    """Verdicts of one or more reviewers.

    Parameters
    ----------
    verdicts : pandas.DataFrame
        One row a verdict: ``reviewer``, ``showing`` (int64), ``verdict``, ``error_class``, ``comment``, the columns of
        :func:`darts_xr.assess.review_sample`.

    Examples
    --------
    >>> Review(pd.DataFrame({"reviewer": ["a", "b"]})).reviewers
    ['a', 'b']
    """

    verdicts: pd.DataFrame

    @property
    def reviewers(self) -> list[str]:
        """Names of the reviewers."""
        return sorted(self.verdicts["reviewer"].unique().tolist())

    @property
    def first(self) -> pd.DataFrame:
        """Verdicts without the hidden repeats."""
        return self.verdicts[self.verdicts["repeat_of"] < 0]


def read_verdicts(paths: Sequence[str | os.PathLike[str]]) -> Review:
    """Read verdict files that the review page exported, one a reviewer.

    Parameters
    ----------
    paths : sequence of path
        The files.

    Returns
    -------
    Review
        All verdicts that were given; detections that a reviewer skipped are not in it.

    Raises
    ------
    AssessmentError
        If a file is no verdict file, holds an unknown verdict, or two are of one reviewer.

    Examples
    --------
    >>> read_verdicts(["verdicts.json"])  # doctest: +SKIP
    """
    parts = []
    seen: dict[str, Path] = {}
    for path in map(Path, paths):
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise AssessmentError(f"{path} cannot be read as verdicts: {error}") from error
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise AssessmentError(f"{path} is no verdict file; export one from the review page")
        name = str(document.get("reviewer", "")).strip()
        if not name:
            raise AssessmentError(f"{path} names no reviewer; enter a name on the page and export again")
        if name in seen:
            raise AssessmentError(f"{path} and {seen[name]} are both of reviewer {name!r}; keep one")
        seen[name] = path
        rows = pd.DataFrame(document.get("verdicts", []))
        if rows.empty:
            raise AssessmentError(f"{path} holds no verdict")
        if lacking := sorted(_NEEDED - set(rows)):
            raise AssessmentError(f"{path}: verdicts lack {', '.join(lacking)}; export the file again")
        check_verdicts(rows)
        for text in ("error_class", "comment"):
            rows[text] = rows[text].fillna("").astype(str) if text in rows else ""
        parts.append(rows.assign(reviewer=name))
    if not parts:
        raise AssessmentError("give at least one verdict file")
    return Review(pd.concat(parts, ignore_index=True))


def consistency(review: Review) -> pd.DataFrame:
    """Agreement of each reviewer with itself on the hidden repeats, and of each two reviewers.

    Parameters
    ----------
    review : Review
        The verdicts.

    Returns
    -------
    pandas.DataFrame
        ``one``, ``other`` (the same for a reviewer with itself), ``n`` (int64), ``agreement`` (0 to 1), ``kappa``
        (Cohen's; NaN where both said one thing only).

    Examples
    --------
    >>> rows = pd.DataFrame({"reviewer": ["a", "a"], "showing": [0, 5], "repeat_of": [-1, 0], "verdict": ["true"] * 2})
    >>> consistency(Review(rows))[["n", "agreement"]].values.tolist()
    [[1.0, 1.0]]
    """
    by_name = {
        name: rows.set_index("showing") for name, rows in review.verdicts.groupby("reviewer", sort=True)
    }
    out = []
    for name, rows in by_name.items():
        again = rows[rows["repeat_of"].isin(rows.index)]
        out.append(
            _agreement(str(name), str(name), rows["verdict"].reindex(again["repeat_of"]), again["verdict"])
        )
    for one, other in itertools.combinations(by_name, 2):
        a, b = (by_name[name][by_name[name]["repeat_of"] < 0]["verdict"] for name in (one, other))
        both = a.index.intersection(b.index)
        out.append(_agreement(str(one), str(other), a.loc[both], b.loc[both]))
    return pd.DataFrame(out)


def _agreement(one: str, other: str, a: pd.Series[Any], b: pd.Series[Any]) -> dict[str, Any]:
    first, second = a.tolist(), b.tolist()
    same = [x == y for x, y in zip(first, second, strict=True)]
    share = sum(same) / len(same) if same else float("nan")
    return {
        "one": one,
        "other": other,
        "n": len(same),
        "agreement": share,
        "kappa": cohen_kappa(first, second),
    }


def merge_verdicts(detected: gpd.GeoDataFrame, review: Review) -> gpd.GeoDataFrame:
    """Reviewed detections as a layer of their own.

    Parameters
    ----------
    detected : geopandas.GeoDataFrame
        Level 1 that the review sample was drawn from; may have grown since.
    review : Review
        The verdicts.

    Returns
    -------
    geopandas.GeoDataFrame
        The reviewed rows of ``detected`` with ``verdict`` (what all its reviewers said; ``uncertain`` where they do not
        agree), ``n_reviewers`` (int64), ``error_class``, ``comment`` (those of all, joined by "; "),
        ``probability_class``, ``size_class``, ``weight``.

    Raises
    ------
    AssessmentError
        If a reviewed detection is not in ``detected``.

    Examples
    --------
    >>> merge_verdicts(level1, read_verdicts(["verdicts.json"]))  # doctest: +SKIP
    """
    keys = list(KEYS)
    joined = review.first.groupby(keys, sort=True).agg(
        verdict=("verdict", lambda said: said.iloc[0] if said.nunique() == 1 else "uncertain"),
        n_reviewers=("reviewer", "nunique"),
        error_class=("error_class", lambda said: "; ".join(sorted({text for text in said if text}))),
        comment=("comment", lambda said: "; ".join(text for text in said if text)),
        probability_class=("probability_class", "first"),
        size_class=("size_class", "first"),
        weight=("weight", "first"),
    )
    out = detected.drop_duplicates(keys).merge(joined.reset_index(), on=keys, how="inner")
    if len(out) < len(joined):
        found = set(out[keys].itertuples(index=False, name=None))
        gone = next(key for key in joined.index if tuple(key) not in found)
        raise AssessmentError(
            f"{len(joined) - len(out)} reviewed detection(s) are not in the products, such as {gone[1]} of image "
            f"{gone[0]}; give the run that the review page was made from, detected with the same rules"
        )
    return gpd.GeoDataFrame(out)


def reviewed_precision(verified: pd.DataFrame) -> pd.DataFrame:
    """Precision of each class of probability and size, and of all detections, from a reviewed sample.

    Parameters
    ----------
    verified : pandas.DataFrame
        From :func:`merge_verdicts`.

    Returns
    -------
    pandas.DataFrame
        ``probability_class``, ``size_class`` (``all`` for sums), ``least_probability``, ``n``, ``right`` (int64; true
        and detachment slides), ``uncertain``, ``precision`` (uncertain ones as wrong), ``low``, ``high`` (Wilson's 95 %
        bounds). In sums each detection counts by how many it stands for, and the interval by the effective number.

    Raises
    ------
    AssessmentError
        If ``verified`` is empty.

    Examples
    --------
    >>> rows = pd.DataFrame({"probability_class": [0, 0], "size_class": [0, 0], "weight": [1.0, 1.0],
    ...                      "verdict": ["true", "false"], "pval_mean": [0.5, 0.6]})
    >>> reviewed_precision(rows)[["size_class", "precision"]].values.tolist()
    [[0, 0.5], ['all', 0.5], ['all', 0.5]]
    """
    if not len(verified):
        raise AssessmentError("no detection was reviewed")
    rows = []
    for tier, of_tier in verified.groupby("probability_class", sort=True):
        for size, part in of_tier.groupby("size_class", sort=True):
            rows.append(_precision(tier, size, part))
        rows.append(_precision(tier, "all", of_tier))
    rows.append(_precision("all", "all", verified))
    return pd.DataFrame(rows)


def _precision(tier: Any, size: Any, part: pd.DataFrame) -> dict[str, Any]:
    right, weight = part["verdict"].isin(_RIGHT), part["weight"]
    share = float(weight[right].sum() / weight.sum())
    effective = float(weight.sum() ** 2 / (weight**2).sum())
    low, high = wilson(share * effective, effective)
    return {
        "probability_class": tier, "size_class": size,
        "least_probability": float(part[mean_probability(part)].min()), "n": len(part), "right": int(right.sum()),
        "uncertain": int((part["verdict"] == "uncertain").sum()), "precision": share, "low": low, "high": high,
    }  # fmt: skip


def hard_negatives(verified: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """Take the detections that are none, as outlines for training: what a network must learn not to see.

    Parameters
    ----------
    verified : geopandas.GeoDataFrame
        From :func:`merge_verdicts`.

    Returns
    -------
    geopandas.GeoDataFrame
        ``image_id``, ``date``, ``label`` (0), ``error_class``, ``geometry``, of verdict ``false``; what reviewers do
        not agree on is not in it.

    Examples
    --------
    >>> hard_negatives(verified)  # doctest: +SKIP
    """
    wrong = verified[verified["verdict"] == "false"]
    out = wrong[["image_id", "date", "error_class", "geometry"]].reset_index(drop=True)
    out.insert(2, "label", 0)
    return out
