"""Spectral indices of the image bands."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from darts_xr.cube.bands import standard_name


def _ndvi(red: Any, nir: Any) -> Any:
    # float32 first: uint16 differences and sums would wrap around.
    if isinstance(red, np.ndarray):
        red, nir = red.astype(np.float32), np.asarray(nir).astype(np.float32)
        total = nir + red
        nir -= red
        with np.errstate(divide="ignore", invalid="ignore"):
            nir /= total
        nir[total == 0] = np.nan
        return nir
    red, nir = red * 1.0, nir * 1.0  # promotes integers, keeps the device; the result is cast by the caller
    total = nir + red
    out = (nir - red) / total
    out[total == 0] = float("nan")
    return out


def ndvi(red: Any, nir: Any) -> Any:
    """Compute the normalised difference vegetation index, (NIR - red) / (NIR + red).

    Parameters
    ----------
    red, nir
        Reflectances of one grid in one scale, of any number type: labelled arrays, Dask arrays, NumPy arrays
        or torch tensors (on any device), both of the same kind.

    Returns
    -------
    same kind as ``red``
        float32, -1 to 1, without unit; NaN where both bands are 0. Lazy if the input is lazy.

    Examples
    --------
    >>> import numpy as np
    >>> ndvi(np.array([1000, 0], "uint16"), np.array([3000, 0], "uint16"))
    array([0.5, nan], dtype=float32)
    """
    if isinstance(red, xr.DataArray):
        red, nir = xr.align(red, nir, join="exact")
        return labelled(red, ndvi(red.data, nir.data), "ndvi", "normalised difference vegetation index", "1")
    if isinstance(red, da.Array) or isinstance(nir, da.Array):
        return da.map_blocks(_ndvi, red, nir, dtype=np.float32, meta=np.empty((0,) * red.ndim, np.float32))
    if isinstance(red, np.ndarray) or np.isscalar(red):
        return _ndvi(np.atleast_1d(red), nir) if np.isscalar(red) else _ndvi(red, nir)
    return _ndvi(red.float(), nir.float()) if hasattr(red, "float") else _ndvi(red, nir).astype("float32")


def labelled(
    like: xr.DataArray, data: Any, name: str, long_name: str, units: str, **attrs: Any
) -> xr.DataArray:
    """Give ``data`` the grid of ``like`` and attributes of its own; nothing is inherited but the grid."""
    out = xr.DataArray(data, coords=like.coords, dims=like.dims, name=name)
    out.attrs = {**standard_name(name), "long_name": long_name, "units": units, **attrs}
    mapping = like.encoding.get("grid_mapping", like.attrs.get("grid_mapping"))
    if mapping is not None:
        out.encoding["grid_mapping"] = mapping
    return out
