"""The published tiling: windows of 1024 px that overlap by 256, blended with linear ramps over the whole scene.

As in thaw-slump-segmentation (Nitze et al. 2025): windows begin every 768 px, the last is moved back to end at the
image's edge, and the outermost ring of pixels gets weight 0 and so probability 0.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import dask
import dask.array as da
import numpy as np
from dask.delayed import Delayed
from numpy.typing import NDArray

from darts_xr.errors import TilingError
from darts_xr.inference.ensemble import Ensemble
from darts_xr.inference.forward import member_probabilities
from darts_xr.inference.structured import VALID
from darts_xr.inference.tiles import LEGACY_WINDOW, Window, legacy_ramp, legacy_starts

FloatArray = NDArray[np.float32]


def predict_window(
    pieces: list[list[NDArray[Any]]],
    *,
    ensemble: Ensemble,
    augment: bool,
    place: str,
    origin: tuple[int, int],
) -> FloatArray | None:
    """Member probabilities of one window put together from its pieces; None where it has no valid pixel."""
    block = np.block(pieces)
    if not (block[VALID] > 0).any():
        return None
    side = block.shape[1]
    return member_probabilities(
        block, [Window(0, 0, side, side)], ensemble=ensemble, margin=0, shape=(side, side), augment=augment,
        place=place, origin=origin,
    )  # fmt: skip


def blend(
    windows: list[FloatArray | None],
    starts: list[tuple[int, int]],
    times: list[int],
    *,
    corner: tuple[int, int],
    valid: NDArray[Any],
    members: int,
) -> FloatArray:
    """Weighted mean of the windows over one piece of the scene; NaN where the mask says so."""
    height, width = valid.shape
    ramp = legacy_ramp()
    total = np.zeros((members, height, width), np.float32)
    weight = np.zeros((height, width), np.float32)
    for window, (top, left), count in zip(windows, starts, times, strict=True):
        rows = slice(corner[0] - top, corner[0] - top + height)
        cols = slice(corner[1] - left, corner[1] - left + width)
        w = np.float32(count) * ramp[rows, None] * ramp[None, cols]
        weight += w
        if window is not None:
            total += w * window[:, rows, cols]
    weight[weight == 0] = 1
    total /= weight
    total[:, ~(valid > 0)] = np.nan
    return total


def published_windows(records: da.Array, ensemble: Ensemble, *, augment: bool, place: str) -> da.Array:
    """Lazy member probabilities, (member, y, x), of lazy (y, x) records.

    The records are cut at every border of a window, so that windows are whole pieces and each is predicted once,
    whatever the chunks of the scene.
    """
    if min(records.shape) < LEGACY_WINDOW:
        raise TilingError(
            f'{place} is {records.shape[0]} × {records.shape[1]} px, and tiling="legacy" needs at least '
            f'{LEGACY_WINDOW} px on each side, as the published workflow did. Use tiling="lattice".'
        )
    if LEGACY_WINDOW % ensemble.stride:
        raise TilingError(
            f"the networks of {ensemble.name} take sides that are multiples of {ensemble.stride} px, and "
            f'tiling="legacy" has windows of {LEGACY_WINDOW}. Use tiling="lattice".'
        )
    starts = [legacy_starts(length) for length in records.shape]
    cuts = [sorted({0, *along, *(start + LEGACY_WINDOW for start in along)}) for along in starts]
    sizes = tuple(tuple(b - a for a, b in pairwise(along)) for along in cuts)
    records = records.rechunk(sizes)
    pieces = records.to_delayed()
    run, mix = dask.delayed(predict_window, pure=True), dask.delayed(blend, pure=True)
    predicted: dict[tuple[int, int], Delayed] = {}
    for top in starts[0]:
        for left in starts[1]:
            rows, cols = _between(cuts[0], top), _between(cuts[1], left)
            predicted[top, left] = run(
                [[pieces[i, j] for j in cols] for i in rows], ensemble=ensemble, augment=augment, place=place,
                origin=(top, left),
            )  # fmt: skip
    masks = records[VALID].to_delayed()
    members = len(ensemble.members)
    blocks = [
        [
            da.from_delayed(
                mix(*_covering(predicted, starts, (y, x)), corner=(y, x), valid=masks[i, j], members=members),
                (members, sizes[0][i], sizes[1][j]),
                meta=np.empty((0, 0, 0), np.float32),
            )
            for j, x in enumerate(cuts[1][:-1])
        ]
        for i, y in enumerate(cuts[0][:-1])
    ]
    return da.block(blocks)


def _between(cuts: list[int], start: int) -> range:
    """Numbers of the pieces that make up the window that begins at ``start``."""
    return range(cuts.index(start), cuts.index(start + LEGACY_WINDOW))


def _covering(
    predicted: dict[tuple[int, int], Delayed], starts: list[dict[int, int]], corner: tuple[int, int]
) -> tuple[list[Delayed], list[tuple[int, int]], list[int]]:
    """Windows over a piece, where they begin, and how often each counts."""
    over = [
        [start for start in along if start <= place < start + LEGACY_WINDOW]
        for along, place in zip(starts, corner, strict=True)
    ]
    places = [(top, left) for top in over[0] for left in over[1]]
    return (
        [predicted[place] for place in places],
        places,
        [starts[0][top] * starts[1][left] for top, left in places],
    )
