"""The published tiling: windows of 1024 px that overlap by 256, blended with linear ramps over the whole scene.

As in thaw-slump-segmentation (Nitze et al. 2025): windows begin every 768 px, the last is moved back to end at the
image's edge, and the outermost ring of pixels gets weight 0 and so probability 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise, product

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph
from dask.task_spec import List, Task, TaskRef
from numpy.typing import NDArray

from darts_xr.cube.bands import VALID
from darts_xr.errors import TilingError
from darts_xr.graph.layers import Tasks, extend, lazy_array
from darts_xr.graph.planes import Planes, block_planes
from darts_xr.inference.ensemble import Ensemble
from darts_xr.inference.forward import member_probabilities
from darts_xr.inference.tiles import LEGACY_WINDOW, Window, legacy_ramp, legacy_starts

FloatArray = NDArray[np.float32]


def predict_window(
    pieces: list[list[Planes]],
    *,
    ensemble: Ensemble,
    augment: bool,
    place: str,
    origin: tuple[int, int],
) -> FloatArray | None:
    """Member probabilities of one window put together from its pieces; None where it has no valid pixel."""
    block = {name: np.block([[piece[name] for piece in row] for row in pieces]) for name in pieces[0][0]}
    if not (block[VALID] > 0).any():
        return None
    side = len(block[VALID])
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
    valid: Planes,
    members: int,
) -> FloatArray:
    """Weighted mean of the windows over one piece of the scene; NaN where the mask says so."""
    seen = np.asarray(valid[VALID]) > 0
    height, width = seen.shape
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
    total[:, ~seen] = np.nan
    return total


def published_windows(
    bands: Sequence[xr.DataArray], ensemble: Ensemble, *, augment: bool, place: str
) -> da.Array:
    """Lazy member probabilities, (member, y, x), of lazy bands, the last of which is ``valid``.

    They are cut at every border of a window, so that windows are whole pieces and each is predicted once, whatever the
    chunks of the scene.
    """
    shape = tuple(bands[-1].sizes[axis] for axis in ("y", "x"))
    if min(shape) < LEGACY_WINDOW:
        raise TilingError(
            f'{place} is {shape[0]} × {shape[1]} px, and tiling="legacy" needs at least '
            f'{LEGACY_WINDOW} px on each side, as the published workflow did. Use tiling="lattice".'
        )
    if LEGACY_WINDOW % ensemble.stride:
        raise TilingError(
            f"the networks of {ensemble.name} take sides that are multiples of {ensemble.stride} px, and "
            f'tiling="legacy" has windows of {LEGACY_WINDOW}. Use tiling="lattice".'
        )
    starts = [legacy_starts(length) for length in shape]
    cuts = [sorted({0, *along, *(start + LEGACY_WINDOW for start in along)}) for along in starts]
    sizes = tuple(tuple(b - a for a, b in pairwise(along)) for along in cuts)
    pixels, valid = block_planes(bands, sizes), block_planes(bands[-1:], sizes)
    members = len(ensemble.members)
    token = tokenize(pixels.name, ensemble, augment, place)
    windows, name = f"predict-window-{token}", f"blend-{token}"
    run = partial(predict_window, ensemble=ensemble, augment=augment, place=place)
    predicted: Tasks = {}
    for top, left in product(*starts):
        rows, cols = _between(cuts[0], top), _between(cuts[1], left)
        pieces = List(*(List(*(TaskRef((pixels.name, i, j)) for j in cols)) for i in rows))
        window = (windows, top, left)
        predicted[window] = Task(window, run, pieces, origin=(top, left))
    blended: Tasks = {}
    for (i, y), (j, x) in product(*(enumerate(along[:-1]) for along in cuts)):
        places, times = _covering(starts, (y, x))
        key, over = (name, 0, i, j), List(*(TaskRef((windows, *place)) for place in places))
        mask = TaskRef((valid.name, i, j))
        blended[key] = Task(key, blend, over, places, times, corner=(y, x), valid=mask, members=members)
    graph = extend(HighLevelGraph.merge(pixels.dask, valid.dask), windows, predicted, {pixels.name})
    graph = extend(graph, name, blended, {windows, valid.name})
    return lazy_array(graph, name, ((members,), *sizes), np.float32)


def _between(cuts: list[int], start: int) -> range:
    """Numbers of the pieces that make up the window that begins at ``start``."""
    return range(cuts.index(start), cuts.index(start + LEGACY_WINDOW))


def _covering(
    starts: list[dict[int, int]], corner: tuple[int, int]
) -> tuple[list[tuple[int, int]], list[int]]:
    """Where the windows over a piece begin, and how often each counts."""
    over = [
        [start for start in along if start <= place < start + LEGACY_WINDOW]
        for along, place in zip(starts, corner, strict=True)
    ]
    places = [(top, left) for top in over[0] for left in over[1]]
    return places, [starts[0][top] * starts[1][left] for top, left in places]
