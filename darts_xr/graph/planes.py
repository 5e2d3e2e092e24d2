"""All bands of a block beside each other, each a plane in the type in which the scene holds it, and where it lies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import DTypeLike

from darts_xr.memory import spilled

#: Pixels (y, x) by name: NumPy arrays, or ``darts_xr.device_array.DeviceArray`` where they lie on a device.
Planes = dict[str, Any]


def exact_type(dtype: DTypeLike) -> np.dtype[Any]:
    """Type in which a plane is kept; what float32 cannot hold exactly becomes float32 here, not later."""
    kind = np.dtype(dtype)
    return kind.newbyteorder("=") if np.can_cast(kind, np.float32) else np.dtype(np.float32)


def _gather(*bands: Any, names: Sequence[str]) -> Planes:
    """Put planes beside each other; those on the host, which may wait long for neighbours, are no longer in memory."""
    planes = dict(zip(names, bands, strict=True))
    host = {name: band for name, band in planes.items() if isinstance(band, np.ndarray)}
    return planes | spilled(
        {name: band.astype(exact_type(band.dtype), copy=False) for name, band in host.items()}
    )


def block_planes(bands: Sequence[xr.DataArray], chunks: tuple[tuple[int, ...], ...]) -> da.Array:
    """Lazy (y, x) array of bands in the given chunks, whose blocks are :data:`Planes`."""
    aligned = []
    for band in bands:
        data = band.transpose("y", "x").data
        lazy = isinstance(data, da.Array)
        aligned.append(data.rechunk(chunks) if lazy else da.from_array(data, chunks=chunks))
    kind = np.result_type(*(exact_type(band.dtype) for band in bands))
    return da.map_blocks(
        _gather, *aligned, names=[str(band.name) for band in bands], dtype=kind, meta=np.empty((0, 0), kind)
    )
