"""A small picture of a scene out of the pass that reads all of it: every so many pixels of all bands.

One task for each chunk, whatever the number of bands. With a slice of each band, Dask's order lets twice as many chunks
wait for each other while networks run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr

from darts_xr.cube.bands import DIFFERENCES
from darts_xr.cube.indices import normalised_difference
from darts_xr.graph.planes import Planes


def _thin(*bands: Any, names: Sequence[str], step: int, block_info: Any = None) -> Planes:
    (top, _), (left, _) = block_info[0]["array-location"]
    part = (slice(-top % step, None, step), slice(-left % step, None, step))
    return {name: np.array(band[part]) for name, band in zip(names, bands, strict=True)}


def thin_blocks(scene: xr.Dataset, step: int) -> da.Array:
    """Take every ``step``-th pixel of a scene, lazily, for ``dask.persist``; see :func:`thin_scene`."""
    names = [str(name) for name in scene.data_vars if name not in DIFFERENCES]
    bands = [scene[name].transpose("y", "x").data for name in names]
    out: da.Array = da.map_blocks(
        _thin, *bands, names=names, step=step, dtype=np.float32, meta=np.empty((0, 0), np.float32)
    )
    return out


def thin_scene(blocks: da.Array, scene: xr.Dataset, step: int) -> xr.Dataset:
    """Put the persisted result of :func:`thin_blocks` together.

    Parameters
    ----------
    blocks : dask.array.Array
        Of the same scene and step.
    scene : xarray.Dataset
        Lazy bands and ``valid``.
    step : int
        Pixels from one to the next.

    Returns
    -------
    xarray.Dataset
        In memory, ``scene.isel(y=slice(None, None, step), x=slice(None, None, step))``.
    """
    (rows,) = dask.compute(blocks.to_delayed().tolist())
    like = scene["valid"].isel(y=slice(None, None, step), x=slice(None, None, step))
    thin = xr.Dataset(coords=like.coords, attrs=scene.attrs)
    for name in rows[0][0]:
        values = np.block([[planes[name] for planes in row] for row in rows])
        thin[name] = like.dims, values, scene[name].attrs
        thin[name].encoding = dict(scene[name].encoding)
    for name, (first, second) in DIFFERENCES.items():
        if name in scene:
            thin[name] = normalised_difference(thin[first], thin[second], name)
    return thin
