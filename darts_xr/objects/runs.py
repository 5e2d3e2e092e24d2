"""Pixel sets as horizontal runs: the small form in which objects travel between chunks.

A run is one row ``(row, start, stop)`` of an int32 array: the pixels ``start <= column < stop`` of that row,
counted over the whole scene. Thaw slumps cover well under one percent of a scene, so that all runs of a scene
weigh less than one of its chunks; labelling, border rules and outlines work on them and never see the scene.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

Runs = NDArray[np.int32]
Numbers = NDArray[np.int64]


class Pixels(NamedTuple):
    """Numbered pixels: runs, the object number of each run, the value of each pixel in the runs' order."""

    runs: Runs
    numbers: Numbers
    values: NDArray[np.float32]


def number_runs(numbers: NDArray[np.integer], top: int = 0, left: int = 0) -> tuple[Runs, Numbers]:
    """Find runs of equal non-zero number in a block whose first pixel is at ``top, left`` of the scene."""
    width = numbers.shape[1]
    flat = numbers.reshape(-1)
    at = np.flatnonzero(flat)
    if at.size == 0:
        return np.empty((0, 3), np.int32), np.empty(0, np.int64)
    of = flat[at].astype(np.int64)
    first = np.ones(at.size, bool)
    first[1:] = (np.diff(at) != 1) | (at[1:] % width == 0) | (np.diff(of) != 0)
    begin = np.flatnonzero(first)
    row, start = np.divmod(at[begin], width)
    length = np.diff(begin, append=at.size)
    runs = np.stack([row + top, start + left, start + length + left], axis=1).astype(np.int32)
    return runs, of[begin]


def join_runs(runs: Runs, numbers: Numbers) -> tuple[Runs, Numbers]:
    """Sort runs by row and column and join those that a chunk border cut."""
    order = np.lexsort((runs[:, 1], runs[:, 0]))
    runs, numbers = runs[order], numbers[order]
    first = np.ones(len(runs), bool)
    first[1:] = (runs[1:, 0] != runs[:-1, 0]) | (runs[1:, 1] != runs[:-1, 2]) | (numbers[1:] != numbers[:-1])
    joined = runs[first]
    joined[:, 2] = runs[np.append(first[1:], True)[: len(runs)], 2]
    return joined, numbers[first]


def run_pairs(runs: Runs, diagonal: bool) -> tuple[Numbers, Numbers]:
    """Index pairs of sorted runs that touch across a row border, also at corners if ``diagonal``."""
    row, start, stop = runs.astype(np.int64).T
    stride = int(stop.max(initial=0)) + 3
    reach = int(diagonal)
    below = (row + 1) * stride
    low = np.searchsorted(row * stride + stop, below + start - reach, side="right")
    high = np.searchsorted(row * stride + start, below + stop + reach, side="left")
    count = np.maximum(high - low, 0)
    upper = np.repeat(np.arange(len(runs)), count)
    lower = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + np.repeat(low, count)
    return upper, lower


def components(n: int, left: NDArray[np.integer], right: NDArray[np.integer]) -> Numbers:
    """Component (0, 1, ...) of each of ``n`` nodes, numbered by its first node; one union-find for all."""
    graph = coo_matrix((np.ones(len(left), bool), (left, right)), shape=(n, n))
    _, label = connected_components(graph, directed=False)
    _, first, inverse = np.unique(label, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse].astype(np.int64)


def near_points(
    runs: Runs, points: NDArray[np.int32], radius: float, shape: tuple[int, int]
) -> NDArray[np.bool_]:
    """Which sorted, disjoint runs hold a pixel whose centre is at most ``radius`` pixels from a point's."""
    if len(runs) == 0 or len(points) == 0:
        return np.zeros(len(runs), bool)
    # Most points are far from every run: a coarse raster of the runs, one cell wider, drops those first.
    cell = int(radius) + 1
    coarse = np.zeros((shape[0] // cell + 1, shape[1] // cell + 2), np.int32)
    np.add.at(coarse, (runs[:, 0] // cell, runs[:, 1] // cell), 1)
    np.add.at(coarse, (runs[:, 0] // cell, (runs[:, 2] - 1) // cell + 1), -1)
    close = binary_dilation(coarse.cumsum(axis=1)[:, :-1] > 0, np.ones((3, 3), bool))
    points = points[close[points[:, 0] // cell, points[:, 1] // cell]].astype(np.int64)

    row, start, stop = runs.astype(np.int64).T
    stride = shape[1] + 2 * cell + 2
    starts, stops = row * stride + start, row * stride + stop
    hits = np.zeros(len(runs) + 1, np.int64)
    for dy in range(-int(radius), int(radius) + 1):
        half = int(np.sqrt(radius**2 - dy**2))
        line = (points[:, 0] + dy) * stride + points[:, 1]
        low = np.searchsorted(stops, line - half, side="right")
        high = np.searchsorted(starts, line + half, side="right")
        some = low < high
        np.add.at(hits, low[some], 1)
        np.add.at(hits, high[some], -1)
    return np.asarray(hits.cumsum()[:-1] > 0)
