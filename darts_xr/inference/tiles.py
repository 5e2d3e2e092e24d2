"""Which windows of a scene the networks see: a lattice of tiles cut to what is valid, or the published windows.

Everything here is decided from the scene's own pixel grid and its mask, never from the chunking.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BoolArray = NDArray[np.bool_]

_CELL = 64  # px; windows are cut in such steps, so that few different shapes reach the networks
_WORTH = 0.97  # a window is split in two only when that saves more than 3 % of the work
# cells; nothing narrower is split off. On the few pixels that small windows leave of their deepest maps, oneDNN sums in
# an order that depends on the number of threads.
_NARROWEST = 2
_PER_WINDOW = 2**13  # px; what one more window costs beside its pixels

LEGACY_WINDOW = 1024  # px
LEGACY_OVERLAP = 256  # px


@dataclass(frozen=True)
class Window:
    """Core of a model tile, in pixels of a block without halo; the networks see a margin more on each side.

    ``bottom`` and ``right`` lie a whole number of strides from ``top`` and ``left`` and may reach beyond the block.
    """

    top: int
    left: int
    bottom: int
    right: int

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the core."""
        return self.bottom - self.top, self.right - self.left


def lattice_windows(valid: BoolArray, *, tile: int, margin: int, stride: int, cut: bool) -> Iterator[Window]:
    """Windows that cover every valid pixel of a block whose first pixel lies on the lattice.

    Parameters
    ----------
    valid : numpy.ndarray
        (y, x) bool, the block without halo.
    tile, margin, stride : int
        Side of a tile, pixels seen beyond it, and the step of the network.
    cut : bool
        Whether tiles are cut, and split where that pays, to their valid part; else whole tiles.
    """
    cell = -(-_CELL // stride) * stride
    for top in range(0, valid.shape[0], tile):
        for left in range(0, valid.shape[1], tile):
            core = valid[top : top + tile, left : left + tile]
            if not core.any():
                continue
            height, width = (-(-n // stride) * stride for n in core.shape)
            if not cut or core.all():
                yield Window(top, left, top + height, left + width)
                continue
            for y0, x0, y1, x1 in _boxes(_cells(core, cell), cell, margin):
                yield Window(
                    top + y0 * cell,
                    left + x0 * cell,
                    top + min(y1 * cell, height),
                    left + min(x1 * cell, width),
                )


def cut_to_part(
    windows: Iterable[Window], part: tuple[slice, slice], *, reach: int | None, margin: int, stride: int
) -> Iterator[Window]:
    """Cut windows to what the pixels of a part need; those pixels come out as from the whole windows.

    Parameters
    ----------
    windows : iterable of Window
        Windows of a block.
    part : tuple of slice
        Rows and columns of the block that are wanted.
    reach : int or None
        Pixels that the networks look away from a pixel; None keeps windows whole.
    margin, stride : int
        Pixels seen beyond a window, and the step of the network, which both ends keep.
    """
    for window in windows:
        ends: list[int] = []
        for first, last, wanted in (
            (window.top, window.bottom, part[0]),
            (window.left, window.right, part[1]),
        ):
            start, stop = max(first, wanted.start), min(last, wanted.stop)
            if start >= stop:
                break
            if reach is not None:
                more = max(0, reach - margin)
                first += max(0, start - more - first) // stride * stride
                last -= max(0, last - stop - more) // stride * stride
            ends += [first, last]
        else:
            top, bottom, left, right = ends
            yield Window(top, left, bottom, right)


def _cells(core: BoolArray, cell: int) -> BoolArray:
    """Which cells of a tile hold a valid pixel."""
    rows, cols = (-(-n // cell) for n in core.shape)
    whole = np.zeros((rows * cell, cols * cell), bool)
    whole[: core.shape[0], : core.shape[1]] = core
    return np.asarray(whole.reshape(rows, cell, cols, cell).any(axis=(1, 3)))


def _boxes(
    cells: BoolArray, cell: int, margin: int, origin: tuple[int, int] = (0, 0)
) -> Iterator[tuple[int, int, int, int]]:
    """Boxes of cells that cover all that are held, split in two for as long as that saves pixels."""
    rows, cols = np.flatnonzero(cells.any(axis=1)), np.flatnonzero(cells.any(axis=0))
    y0, y1, x0, x1 = int(rows[0]), int(rows[-1]) + 1, int(cols[0]), int(cols[-1]) + 1
    inner, at = cells[y0:y1, x0:x1], (origin[0] + y0, origin[1] + x0)
    if not inner.all():
        cost, axis, place = _best_split(inner, cell, margin)
        if cost < _WORTH * _cost(inner.shape[0], inner.shape[1], cell, margin):
            first, second = np.split(inner, [place], axis=axis)
            yield from _boxes(first, cell, margin, at)
            shift = (at[0] + place, at[1]) if axis == 0 else (at[0], at[1] + place)
            yield from _boxes(second, cell, margin, shift)
            return
    yield (*at, at[0] + inner.shape[0], at[1] + inner.shape[1])


def _best_split(cells: BoolArray, cell: int, margin: int) -> tuple[float, int, int]:
    """Cost of the cheapest cut in two, its axis and its place; both sides hold something, and neither is too narrow."""
    best = (np.inf, 0, 0)
    for axis in (0, 1):
        for place in range(1, cells.shape[axis]):
            boxes = [_extent(part) for part in np.split(cells, [place], axis=axis)]
            if min(map(min, boxes)) >= _NARROWEST:
                best = min(best, (sum(_cost(*box, cell, margin) for box in boxes), axis, place))
    return best


def _extent(cells: BoolArray) -> tuple[int, int]:
    """Rows and columns of the box around all cells that are held; 0 where there are none."""
    rows, cols = np.flatnonzero(cells.any(axis=1)), np.flatnonzero(cells.any(axis=0))
    return (int(rows[-1] - rows[0]) + 1, int(cols[-1] - cols[0]) + 1) if rows.size else (0, 0)


def _cost(rows: int, cols: int, cell: int, margin: int) -> float:
    """Work for a box of cells, as pixels of its core, and what starting on it costs.

    Of the margin half is counted: the encoder sees all of it, and the decoder, which has most of the work, little.
    """
    return float((rows * cell + margin) * (cols * cell + margin) + _PER_WINDOW)


def legacy_starts(length: int) -> dict[int, int]:
    """First pixels of the published windows along one axis, each with how often it is predicted.

    A window that would overrun is moved back to end at the image's edge; some images thus see their last one twice,
    which doubles its weight in the blend.
    """
    starts: dict[int, int] = {}
    for place in range(0, length, LEGACY_WINDOW - LEGACY_OVERLAP):
        start = min(place, length - LEGACY_WINDOW)
        starts[start] = starts.get(start, 0) + 1
    return starts


def legacy_ramp() -> NDArray[np.float32]:
    """Weight of a published window along one axis: 0 to 1 over the overlap, 1, and back to 0."""
    rising = np.linspace(0, 1, LEGACY_OVERLAP, dtype=np.float32)
    flat = np.ones(LEGACY_WINDOW - 2 * LEGACY_OVERLAP, np.float32)
    return np.concatenate([rising, flat, rising[::-1]])
