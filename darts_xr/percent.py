"""Probability as it is stored, in whole per cent, so that the stored number and the rule agree at the threshold.

Rounding alone lifts 0.4962 to 50 %: a threshold of 0.5 would find pixels in the file that the run did not find. So
values are rounded to the nearest per cent, but never across the threshold: what reaches it is stored as a per cent that
reaches it, what does not as one that does not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Stored where nothing was seen.
NO_DATA = 255

_LEVELS = np.arange(101, dtype=np.float32) / np.float32(100)


def least_percent(threshold: float) -> int:
    """Least whole per cent that reaches a threshold (0 to 1); 101 where none does."""
    return int(np.count_nonzero(~(threshold <= _LEVELS)))


def to_percent(probability: NDArray[np.floating], threshold: float) -> NDArray[np.uint8]:
    """Turn probability 0 to 1 into uint8 per cent, no-data where NaN; each stays on its side of the threshold.

    Examples
    --------
    >>> to_percent(np.array([0.004, 0.4962, 0.5, np.nan], "float32"), 0.5)
    array([  0,  49,  50, 255], dtype=uint8)
    """
    cut = least_percent(threshold)
    nearest = np.rint(probability * 100)
    sided = np.where(probability >= threshold, np.maximum(nearest, cut), np.minimum(nearest, cut - 1))
    return np.where(np.isnan(probability), NO_DATA, np.clip(sided, 0, 100)).astype(np.uint8)


def undecided_percents(threshold: float, stored_at: float) -> list[int]:
    """Whole per cents that stand for values on both sides of a threshold, in a file stored at another one.

    Parameters
    ----------
    threshold : float
        The threshold that is asked for, 0 to 1.
    stored_at : float
        The threshold that the file was stored at, across which nothing was rounded.

    Returns
    -------
    list of int
        Empty where the stored numbers decide as the full ones did: at ``stored_at`` itself.

    Examples
    --------
    >>> undecided_percents(0.7, stored_at=0.5), undecided_percents(0.5, stored_at=0.5)
    ([70], [])
    >>> undecided_percents(0.503, stored_at=0.5), undecided_percents(0.497, stored_at=0.5)
    ([50], [49])
    """
    asked, cut = threshold * 100, least_percent(stored_at)
    found = []
    for level in range(101):
        low, high, closed = max(level - 0.5, 0.0), min(level + 0.5, 100.0), True
        if level == cut:
            low = stored_at * 100
        elif level > cut:
            low = max(low, stored_at * 100)
        elif level == cut - 1:
            high, closed = stored_at * 100, False
        if low < asked - 1e-9 and (asked < high - 1e-9 or (closed and abs(asked - high) <= 1e-9)):
            found.append(level)
    return found


def to_stored(probability: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Give back the per cent that :func:`to_probability` made a probability of.

    Examples
    --------
    >>> to_stored(to_probability(np.array([0, 29, 255], "uint8")))
    array([  0,  29, 255], dtype=uint8)
    """
    return np.where(np.isnan(probability), NO_DATA, np.rint(probability * 100)).astype(np.uint8)


def to_probability(percent: NDArray[Any]) -> NDArray[np.float32]:
    """Turn stored per cent into float32 probability 0 to 1, NaN where there are no data.

    Examples
    --------
    >>> to_probability(np.array([0, 50, 255], "uint8"))
    array([0. , 0.5, nan], dtype=float32)
    """
    return np.where(percent == NO_DATA, np.float32(np.nan), percent.astype(np.float32) / np.float32(100))
