"""Interpolation with torch, on any device, by the sums of :mod:`darts_xr.cube.sampling`; what voids need before it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def fill_rim(planes: Any) -> Any:
    """Give voids that touch data the mean of the data around them, two pixels deep; the others become 0."""
    import torch.nn.functional as tf

    for _ in range(2):
        known = ~planes.isnan()
        near = tf.avg_pool2d(planes.nan_to_num(nan=0.0)[None], 3, 1, 1)[0]
        weight = tf.avg_pool2d(known.to(planes.dtype)[None], 3, 1, 1)[0]
        planes = planes.where(known, near / weight)  # 0 / 0 stays void
    return planes.nan_to_num(nan=0.0)


def fill_rim_of(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Do :func:`fill_rim` on a plain array."""
    import torch

    filled: NDArray[np.float32] = fill_rim(torch.from_numpy(pixels)).numpy()
    return filled


def _weights(t: Any) -> tuple[Any, Any, Any]:
    """Weigh neighbours as :func:`darts_xr.cube.sampling.keys_weights` does."""
    first, third, fourth = (
        ((-0.5 * t + 1) * t - 0.5) * t,
        ((-1.5 * t + 2) * t + 0.5) * t,
        (0.5 * t - 0.5) * t * t,
    )
    return first.float(), third.float(), fourth.float()


def _between(four: Sequence[Any], weights: tuple[Any, Any, Any]) -> Any:
    """Weigh how three of four neighbours differ from the second, as :func:`darts_xr.cube.sampling.between` does."""
    a, b, c, d = four
    return b + ((a - b) * weights[0] + (c - b) * weights[1] + (d - b) * weights[2])


def interpolate(
    planes: Any, lines: Sequence[Any], columns: Any, cell: int, resampling: str, *, has_void: bool
) -> Any:
    """Interpolate planes at the pixels of some lines.

    Parameters
    ----------
    planes : torch.Tensor
        (band, y, x) float32, at least 4 × 4, all that the pixels and their kernels touch.
    lines : sequence of torch.Tensor
        The four of :class:`darts_xr.cube.sampling.Lines`, on the device of ``planes``.
    columns : torch.Tensor
        (pixel,) whole numbers: the pixels along each line, counted from the first node.
    cell : int
        Pixels between two nodes.
    resampling : {"nearest", "bilinear", "cubic"}
        How.
    has_void : bool
        Whether there may be NaN in ``planes``; a device is not asked, for it would be waited for.

    Returns
    -------
    torch.Tensor
        (band, line, pixel) float32; NaN where the nearest pixel is.
    """
    node = columns // cell
    along = columns - node * cell + 0.5
    row, column = (nodes[:, node] + steps[:, node] * along for nodes, steps in (lines[:2], lines[2:]))
    height, width = planes.shape[-2:]
    nearest = row.round().long().clamp_(0, height - 1) * width + column.round().long().clamp_(0, width - 1)
    if resampling == "nearest":
        return planes.flatten(1)[:, nearest]
    least, beyond = (0, 2) if resampling == "bilinear" else (1, 3)
    m, n = row.long().clamp_(least, height - beyond), column.long().clamp_(least, width - beyond)
    p, q, at = row - m, column - n, m * width + n
    known = (fill_rim(planes) if has_void else planes).flatten(1)
    if resampling == "bilinear":
        known = known.double()
        above, below = (
            known[:, line] + (known[:, line + 1] - known[:, line]) * q for line in (at, at + width)
        )
        out = (above + (below - above) * p).float()
    else:
        down, at = _weights(p), at - width - 1
        across = [_between([known[:, at + k * width + j] for k in range(4)], down) for j in range(4)]
        out = _between(across, _weights(q))
    return out.masked_fill_(planes.flatten(1)[:, nearest].isnan(), math.nan) if has_void else out
