"""Intervals of scores from resampled blocks of land, since neighbouring objects are not independent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import shapely
from numpy.typing import NDArray

from darts_xr.errors import AssessmentError

if TYPE_CHECKING:
    from darts_xr.assess.match import Matching, Pairs


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made.

    Parameters
    ----------
    block : float
        Side of the square blocks of land that are drawn as wholes, metres.
    draws : int
        Number of resamples.
    level : float
        Share of the resamples inside the interval.
    seed : int
        Seed of the draws.

    Raises
    ------
    AssessmentError
        If a value is out of range.

    Examples
    --------
    >>> Bootstrap(block=5_000).draws
    1000
    """

    block: float = 10_000.0
    draws: int = 1000
    level: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.block > 0 and self.draws > 0 and 0 < self.level < 1):
            raise AssessmentError(f"block and draws must be above 0 and level between 0 and 1, got {self}")


def _centres(shapes: NDArray[np.object_]) -> NDArray[np.float64]:
    west, south, east, north = shapely.bounds(shapes).reshape(-1, 4).T
    return np.stack([(west + east) / 2, (south + north) / 2], axis=1)


def block_numbers(
    some: NDArray[np.object_], others: NDArray[np.object_], block: float
) -> tuple[NDArray[np.intp], NDArray[np.intp], int]:
    """Give the number of the block that each shape's middle is in, over both sides, and of blocks that hold any.

    Examples
    --------
    >>> import numpy as np, shapely
    >>> one, two = np.array([shapely.Point(0, 0)], object), np.array([shapely.Point(25, 0)], object)
    >>> block_numbers(one, two, 10.0)[2]
    2
    """
    places = np.floor(np.nan_to_num(np.concatenate([_centres(some), _centres(others)])) / block)
    blocks, number = np.unique(places, axis=0, return_inverse=True)
    number = number.ravel()
    return number[: len(some)], number[len(some) :], len(blocks)


def f1_interval(matched: Sequence[Matching], pairs: Pairs, bootstrap: Bootstrap | None) -> dict[str, float]:
    """``f1_low`` and ``f1_high`` of matchings pooled; nothing where no bootstrap is asked for, NaN below two blocks."""
    if bootstrap is None:
        return {}
    left, right, _ = block_numbers(pairs.found, pairs.wanted, bootstrap.block)
    n = int(max(left.max(initial=-1), right.max(initial=-1))) + 1
    sums = np.zeros((n, 4))
    for part in matched:
        for column, (number, mask) in enumerate(
            (
                (left, part.detected_hit),
                (left, part.detected_counted),
                (right, part.reference_hit),
                (right, part.reference_counted),
            )
        ):
            sums[:, column] += np.bincount(number[mask], minlength=n)
    sums = sums[sums.any(axis=1)]
    low, high = resampled_f1(sums, bootstrap)
    return {"f1_low": low, "f1_high": high}


def resampled_f1(sums: NDArray[np.float64], bootstrap: Bootstrap) -> tuple[float, float]:
    """Interval of F1 from true, detected, found and asked-for objects of each block.

    Parameters
    ----------
    sums : numpy.ndarray
        (blocks, 4): true detections, detections, found references, references.
    bootstrap : Bootstrap
        Draws, level, seed.

    Returns
    -------
    tuple of float
        Lower and upper bound; NaN where fewer than two blocks hold anything.

    Examples
    --------
    >>> import numpy as np
    >>> resampled_f1(np.array([[1.0, 1, 1, 1], [1, 1, 1, 1]]), Bootstrap())
    (1.0, 1.0)
    """
    if len(sums) < 2:
        return float("nan"), float("nan")
    rng = np.random.default_rng(bootstrap.seed)
    f1 = np.empty(bootstrap.draws)
    for number in range(bootstrap.draws):
        weight = np.bincount(rng.integers(0, len(sums), len(sums)), minlength=len(sums))
        true, detected, found, asked = weight @ sums
        precision = true / detected if detected else 0.0
        recall = found / asked if asked else 0.0
        f1[number] = 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0
    tail = (1 - bootstrap.level) / 2
    low, high = np.quantile(f1, (tail, 1 - tail))
    return float(low), float(high)
