"""Shares with their uncertainty, and agreement beyond chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from darts_xr.errors import AssessmentError


def wilson(hits: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a share (Wilson 1927, J. Am. Stat. Assoc. 22:209).

    Parameters
    ----------
    hits, n : float
        How many of how many; fractions are allowed, for effective numbers.
    level : float
        Confidence.

    Returns
    -------
    tuple of float
        Lower and upper bound, 0 to 1; 0 and 1 where ``n`` is 0, which tells nothing.

    Examples
    --------
    >>> [round(bound, 3) for bound in wilson(8, 10)]
    [0.49, 0.943]
    """
    if n <= 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = hits / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # Exactly 0 and 1 at the ends, where rounding would leave the share itself outside.
    return 0.0 if hits <= 0 else middle - half, 1.0 if hits >= n else middle + half


def cohen_kappa(one: Sequence[object], other: Sequence[object]) -> float:
    """Agreement of two raters beyond chance (Cohen 1960).

    Parameters
    ----------
    one, other : sequence
        Their verdicts on the same objects.

    Returns
    -------
    float
        1 for full agreement, 0 for what chance gives; NaN where there is nothing, or both say one thing only.

    Raises
    ------
    AssessmentError
        If the two are not of the same length.

    Examples
    --------
    >>> cohen_kappa(["true", "false", "true", "false"], ["true", "false", "false", "false"])
    0.5
    """
    if len(one) != len(other):
        raise AssessmentError(
            f"two raters need verdicts on the same objects, got {len(one)} and {len(other)}"
        )
    if not one:
        return float("nan")
    kinds = sorted({*map(str, one), *map(str, other)})
    table = np.zeros((len(kinds), len(kinds)))
    for a, b in zip(one, other, strict=True):
        table[kinds.index(str(a)), kinds.index(str(b))] += 1
    share = table / table.sum()
    chance = float(share.sum(axis=0) @ share.sum(axis=1))
    return float("nan") if chance == 1 else (float(np.trace(share)) - chance) / (1 - chance)
