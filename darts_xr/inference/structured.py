"""All bands of a block as one structured array, each band a field in the type in which the scene holds it.

An element is what the networks need to know of a pixel: its bands and whether it is valid. Ten bands take 24 bytes, 44
as float32; what waits for its neighbours, moves between workers or goes to a GPU is half as much.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dask.array as da
import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

VALID = "valid"
_ROWS = 64  # written at a time, so that the elements of those rows stay in the processor's cache


def structured_dtype(bands: Sequence[xr.DataArray]) -> np.dtype[Any]:
    """Return a structured dtype of the bands; what float32 cannot hold exactly becomes float32 here, not later."""
    kinds = [
        (
            str(band.name),
            band.dtype.newbyteorder("=") if np.can_cast(band.dtype, np.float32) else np.dtype("f4"),
        )
        for band in bands
    ]
    # The widest first: then every field lies at a multiple of its own width.
    return np.dtype(sorted(kinds, key=lambda kind: -kind[1].itemsize), align=True)


def _gather(*bands: NDArray[Any], names: Sequence[str], fields: np.dtype[Any]) -> NDArray[Any]:
    block = np.empty(bands[0].shape, fields)
    for first in range(0, len(block), _ROWS):
        rows = slice(first, first + _ROWS)
        for name, band in zip(names, bands, strict=True):
            block[name][rows] = band[rows]
    return block


def structured_array(bands: Sequence[xr.DataArray], chunks: tuple[tuple[int, ...], ...]) -> da.Array:
    """Lazy structured (y, x) array of bands, in the given chunks."""
    dtype, names = structured_dtype(bands), [str(band.name) for band in bands]
    aligned = []
    for band in bands:
        data = band.transpose("y", "x").data
        lazy = isinstance(data, da.Array)
        aligned.append(data.rechunk(chunks) if lazy else da.from_array(data, chunks=chunks))
    return da.map_blocks(
        _gather, *aligned, names=names, fields=dtype, dtype=dtype, meta=np.empty((0, 0), dtype)
    )


def to_bytes(block: NDArray[Any]) -> NDArray[np.uint8]:
    """View a structured array as its bytes, (y, x, byte), which is how torch takes them."""
    whole = np.ascontiguousarray(block)
    return whole.view(np.uint8).reshape(*whole.shape, whole.itemsize)


def planes_of(raw: torch.Tensor, dtype: np.dtype[Any]) -> dict[str, torch.Tensor]:
    """View each field of a structured array given as bytes, (y, x) in its own type."""
    planes = {}
    for name in dtype.names or ():
        kind, first = dtype.fields[name][:2]  # type: ignore[index]
        own = torch.from_numpy(np.empty(0, kind)).dtype
        planes[name] = raw[..., first : first + kind.itemsize].view(own)[..., 0]
    return planes
