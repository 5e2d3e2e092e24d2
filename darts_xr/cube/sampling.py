"""Source coordinates and interpolation in one compiled pass, for processors.

What :mod:`darts_xr.cube.warp` does with torch in several passes over temporary planes is one loop over the pixels here.
numba compiles it when it is first used on a machine, which takes some seconds, and keeps the result in its cache.
Positions are float64, so that no value depends on the block that it is computed in. Cubic sums are float32, of
differences from one of the neighbours, so that heights keep their last digit.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from darts_xr.cube.loops import loop


class Lines(NamedTuple):
    """Positions of pixels in the source, linear between the nodes of a lattice: (rows of pixels, nodes along x)."""

    row: Any  # float64
    row_step: Any  # a pixel
    column: Any
    column_step: Any


@loop(fastmath={"contract"})
def keys_weights(t: float) -> Any:
    """Weights of the first, third and fourth of four neighbours, ``t`` pixels behind the second, which has the rest.

    Keys' cubic (a = -1/2), as in GDAL.
    """
    return (
        np.float32(((-0.5 * t + 1) * t - 0.5) * t),
        np.float32(((-1.5 * t + 2) * t + 0.5) * t),
        np.float32((0.5 * t - 0.5) * t * t),
    )


@loop(fastmath={"contract"})
def between(a: Any, b: Any, c: Any, d: Any, weights: Any) -> Any:
    """Weigh how three of four neighbours differ from the second."""
    return b + ((a - b) * weights[0] + (c - b) * weights[1] + (d - b) * weights[2])


@loop(fastmath={"contract"})
def stretch(lines: Lines, i: int, begin: int, width: int, cell: int, offset: int) -> Any:
    """Follow line ``i`` from pixel ``begin`` to the next node.

    Gives where it ends, the row and column of the node behind, their steps, and how far the first pixel lies from it.
    """
    node = (offset + begin) // cell
    end = min(width, (node + 1) * cell - offset)
    first = offset + begin - node * cell + 0.5
    return (
        end,
        lines.row[i, node],
        lines.column[i, node],
        lines.row_step[i, node],
        lines.column_step[i, node],
        first,
    )


@loop(fastmath={"contract"})
def nearest(planes: Any, lines: Lines, cell: int, offset: int, out: Any) -> None:
    """Take the nearest pixel of planes at the pixels of a block.

    Parameters
    ----------
    planes : numpy.ndarray
        (band, y, x) float32, C-contiguous, at least 4 × 4, all that the pixels and their kernels touch.
    lines : Lines
        Positions in a plane, counted in pixels from the centre of its first.
    cell : int
        Pixels between two nodes.
    offset : int
        Column of the block's first pixel, counted from the first node.
    out : numpy.ndarray
        (band, y, x) float32, filled.
    """
    bands, height, width = planes.shape
    # Without signs, a position needs no check for counting from the end.
    flat, whole = planes.reshape(-1), np.uintp(height * width)
    for i in range(out.shape[1]):
        begin = 0
        while begin < out.shape[2]:
            end, r0, c0, dr, dc, first = stretch(lines, i, begin, out.shape[2], cell, offset)
            line = out[:, i, begin:end]
            for k in range(end - begin):
                m = min(max(int(np.rint(r0 + dr * (k + first))), 0), height - 1)
                n = min(max(int(np.rint(c0 + dc * (k + first))), 0), width - 1)
                u = np.uintp(m * width + n)
                for band in range(bands):
                    line[band, k] = flat[u]
                    u += whole
            begin = end


@loop(fastmath={"contract"})
def bilinear(planes: Any, lines: Lines, cell: int, offset: int, out: Any) -> None:
    """Weigh the four pixels around; parameters as of :func:`nearest`, but planes are float64, which reads faster."""
    bands, height, width = planes.shape
    flat, wide, whole = planes.reshape(-1), np.uintp(width), np.uintp(height * width)
    one = np.uintp(1)
    for i in range(out.shape[1]):
        begin = 0
        while begin < out.shape[2]:
            end, r0, c0, dr, dc, first = stretch(lines, i, begin, out.shape[2], cell, offset)
            line = out[:, i, begin:end]
            for k in range(end - begin):
                r, c = r0 + dr * (k + first), c0 + dc * (k + first)
                m, n = min(max(int(r), 0), height - 2), min(max(int(c), 0), width - 2)
                p, q = r - m, c - n
                u = np.uintp(m * width + n)
                for band in range(bands):
                    v = u + wide
                    above = flat[u] + (flat[u + one] - flat[u]) * q
                    below = flat[v] + (flat[v + one] - flat[v]) * q
                    line[band, k] = above + (below - above) * p
                    u += whole
            begin = end


@loop(fastmath={"contract"})
def cubic(planes: Any, lines: Lines, cell: int, offset: int, out: Any) -> None:
    """Weigh the sixteen pixels around as :func:`keys_weights` says; parameters as of :func:`nearest`."""
    bands, height, width = planes.shape
    flat, wide, whole = planes.reshape(-1), np.uintp(width), np.uintp(height * width)
    one, three = np.uintp(1), np.uintp(3)
    for i in range(out.shape[1]):
        begin = 0
        while begin < out.shape[2]:
            end, r0, c0, dr, dc, first = stretch(lines, i, begin, out.shape[2], cell, offset)
            line = out[:, i, begin:end]
            for k in range(end - begin):
                r, c = r0 + dr * (k + first), c0 + dc * (k + first)
                m, n = min(max(int(r), 1), height - 3), min(max(int(c), 1), width - 3)
                down, along = keys_weights(r - m), keys_weights(c - n)
                u = np.uintp((m - 1) * width + n - 1)
                for band in range(bands):
                    v, w, x = u + wide, u + wide + wide, u + wide + wide + wide
                    # Down the columns first: those of a row lie side by side in memory.
                    z0 = between(flat[u], flat[v], flat[w], flat[x], down)
                    u, v, w, x = u + one, v + one, w + one, x + one
                    z1 = between(flat[u], flat[v], flat[w], flat[x], down)
                    u, v, w, x = u + one, v + one, w + one, x + one
                    z2 = between(flat[u], flat[v], flat[w], flat[x], down)
                    u, v, w, x = u + one, v + one, w + one, x + one
                    z3 = between(flat[u], flat[v], flat[w], flat[x], down)
                    line[band, k] = between(z0, z1, z2, z3, along)
                    u += whole - three
            begin = end


@loop()
def void_where_nearest_is(plane: Any, lines: Lines, cell: int, offset: int, out: Any) -> None:
    """Make NaN in ``out`` what lies nearest to a NaN of ``plane``; parameters as of :func:`nearest`."""
    height, width = plane.shape
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            node = (offset + j) // cell
            along = offset + j - node * cell + 0.5
            m = int(np.rint(lines.row[i, node] + lines.row_step[i, node] * along))
            n = int(np.rint(lines.column[i, node] + lines.column_step[i, node] * along))
            if math.isnan(plane[min(max(m, 0), height - 1), min(max(n, 0), width - 1)]):
                out[i, j] = math.nan
