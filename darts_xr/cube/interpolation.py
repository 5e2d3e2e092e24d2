"""Interpolation with torch, on any device, and what voids need before it."""

from __future__ import annotations

import math
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


def interpolate(planes: Any, row: Any, column: Any, resampling: str, has_void: bool) -> Any:
    """Values of ``planes`` (band, y, x) at fractional pixel positions; NaN where the nearest pixel is."""
    import torch
    import torch.nn.functional as tf

    height, width = planes.shape[-2:]
    grid = torch.empty((*row.shape, 2), dtype=row.dtype, device=row.device)
    torch.add(column, 0.5, out=grid[..., 0]).mul_(2 / width).sub_(1)
    torch.add(row, 0.5, out=grid[..., 1]).mul_(2 / height).sub_(1)

    def sample(channels: Any, mode: str) -> Any:
        return tf.grid_sample(
            channels[None], grid[None], mode=mode, padding_mode="border", align_corners=False
        )[0]

    if resampling == "nearest":
        return sample(planes, "nearest")
    if has_void:
        void = planes.isnan()
        planes = fill_rim(planes)
    if resampling == "bilinear":
        out = sample(planes, "bilinear")
    else:
        # Keys' cubic (a = -1/2, as in GDAL) is the linear interpolation less t (1 - t) / 2 times the linear
        # interpolation of the second difference, along each axis: one bilinear look-up of four planes.
        # What lies on the window's rim is never looked up, so it need not be set.
        base = planes[:, ::16, ::16].mean(dim=(1, 2), keepdim=True)  # float32 keeps its digits for the relief
        stack = torch.empty((4, *planes.shape), dtype=planes.dtype, device=planes.device)
        value, along_x, along_y, along_both = stack
        torch.sub(planes, base, out=value)
        torch.add(value[:, 2:], value[:, :-2], out=along_y[:, 1:-1]).sub_(value[:, 1:-1], alpha=2)
        for source, target in ((value, along_x), (along_y, along_both)):
            torch.add(source[..., 2:], source[..., :-2], out=target[..., 1:-1])
            target[..., 1:-1].sub_(source[..., 1:-1], alpha=2)
        out, along_x, along_y, along_both = sample(stack.flatten(0, 1), "bilinear").unflatten(0, (4, -1))
        t_x, t_y = (t.sub_(t * t).mul_(-0.5) for t in (column.frac(), row.frac()))
        out.addcmul_(t_x, along_x).addcmul_(t_y, along_y.addcmul_(t_x, along_both)).add_(base)
    if has_void:
        out[sample(void.to(planes.dtype), "nearest") > 0.5] = math.nan
    return out


def fill_rim_of(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Do :func:`fill_rim` on a plain array."""
    import torch

    filled: NDArray[np.float32] = fill_rim(torch.from_numpy(pixels)).numpy()
    return filled
