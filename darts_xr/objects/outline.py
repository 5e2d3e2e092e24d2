"""Outlines of pixel sets: exact, valid and canonical polygons from runs.

The outline of an object is a function of its pixels alone: rings start at their first corner in reading
order, shells turn counter-clockwise, holes clockwise, only true corners are kept. Whatever the chunks were
that the pixels came from, the bytes are the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import breadth_first_order

from darts_xr.objects.runs import Numbers, Runs, components, run_pairs


def outlines(runs: Runs, numbers: Numbers, transform: Affine) -> tuple[Numbers, NDArray[np.object_]]:
    """Numbers in ascending order and the (Multi)Polygon of each, in the coordinates of ``transform``.

    ``runs`` are sorted and joined (:func:`join_runs`). Parts of one number that meet at a corner only become
    polygons of one MultiPolygon: one ring that touches itself there would be invalid.
    """
    if len(runs) == 0:
        return np.empty(0, np.int64), np.empty(0, object)
    upper, lower = run_pairs(runs, diagonal=False)
    same = numbers[upper] == numbers[lower]
    part = components(len(runs), upper[same], lower[same])
    # Parts in the order of (number, first run), so that the polygons of one number lie side by side.
    first = np.unique(part, return_index=True)[1]
    order = np.argsort(numbers[first], kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    xy, ring_offsets, polygon_offsets = _rings(runs, rank[part])

    column, row = xy
    polygons = shapely.from_ragged_array(
        shapely.GeometryType.POLYGON,
        np.stack(apply(transform, column, row), axis=1),
        (ring_offsets, polygon_offsets),
    )
    found, begin, count = np.unique(numbers[first][order], return_index=True, return_counts=True)
    shapes = polygons[begin]
    many = np.flatnonzero(count > 1)
    if len(many):
        member = np.repeat(np.arange(len(found)), count)
        chosen = np.isin(member, many)
        shapes[many] = shapely.multipolygons(polygons[chosen], indices=np.searchsorted(many, member[chosen]))
    return found, shapes


def apply(
    transform: Affine, column: NDArray[Any], row: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coordinates of raster positions."""
    x = transform.a * column + transform.b * row + transform.c
    y = transform.d * column + transform.e * row + transform.f
    return x, y


def _rings(
    runs: Runs, part: Numbers
) -> tuple[tuple[NDArray[np.float64], NDArray[np.float64]], NDArray[np.int64], NDArray[np.int64]]:
    """Trace closed rings of 4-connected parts: pixel-corner columns and rows, offsets of rings and parts.

    Along the line between two rows, a part turns where a run of one row ends and none does so at the same
    place, on the same side, in the other row. Sorted along the line, corners pair up to horizontal edges;
    sorted along the column, to vertical ones.
    """
    row, start, stop = runs.astype(np.int64).T
    # Four corner candidates a run: (above its line?, its left or right end).
    line = np.concatenate([row, row, row + 1, row + 1])
    column = np.concatenate([start, stop, start, stop])
    right = np.repeat([0, 1, 0, 1], len(runs))
    downward = np.repeat([1, 1, 0, 0], len(runs))
    of = np.tile(part, 4)
    order = np.lexsort((right, column, line, of))
    line, column, right, downward, of = (a[order] for a in (line, column, right, downward, of))
    # A straight vertical edge crosses the line: the candidate of the upper and of the lower row cancel.
    twin = (np.diff(of) == 0) & (np.diff(line) == 0) & (np.diff(column) == 0) & (np.diff(right) == 0)
    corner = ~(np.append(twin, False) | np.insert(twin, 0, False))
    line, column, right, downward, of = (a[corner] for a in (line, column, right, downward, of))
    # Where one part meets itself at a corner, two corners share the place; the order by ``right`` and by
    # ``downward`` gives each of the two gaps its own ring.
    n = len(line)
    along_row = np.arange(n) ^ 1
    order = np.lexsort((downward, line, column, of))
    along_column = np.empty(n, np.int64)
    along_column[order[0::2]], along_column[order[1::2]] = order[1::2], order[0::2]
    # The part lies on the left hand: down along left ends, up along right ends.
    follows = np.where(right != downward, along_column, along_row)

    ring = components(n, np.arange(n), follows)
    begin = np.unique(ring, return_index=True)[1]
    before = np.empty(n, np.int64)
    before[follows] = np.arange(n)
    # Every ring's end is tied to the next ring's begin: one path through all corners, walked once.
    path = follows.copy()
    path[before[begin]] = np.append(begin[1:], begin[0])
    graph = csr_matrix((np.ones(n, np.int8), path, np.arange(n + 1)), shape=(n, n))
    walk = breadth_first_order(graph, begin[0], return_predecessors=False)

    length = np.bincount(ring)
    offsets = np.insert(np.cumsum(length + 1), 0, 0)
    take = np.empty(n + len(length), np.int64)
    closing = offsets[1:] - 1
    inner = np.ones(len(take), bool)
    inner[closing] = False
    take[inner] = walk
    take[closing] = begin
    parts = np.insert(np.cumsum(np.bincount(of[begin])), 0, 0)
    return (column[take].astype(np.float64), line[take].astype(np.float64)), offsets, parts
