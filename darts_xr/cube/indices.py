"""Spectral indices of the image bands."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from darts_xr.cube.bands import BANDS, standard_name


def _difference(first: Any, second: Any) -> Any:
    # float32 first: uint16 differences and sums would wrap around.
    if isinstance(first, np.ndarray):
        first, second = first.astype(np.float32), np.asarray(second).astype(np.float32)
        total = first + second
        first -= second
        with np.errstate(divide="ignore", invalid="ignore"):
            first /= total
        first[total == 0] = np.nan
        return first
    first, second = (
        first * 1.0,
        second * 1.0,
    )  # promotes integers, keeps the device; the result is cast by the caller
    total = first + second
    out = (first - second) / total
    out[total == 0] = float("nan")
    return out


def normalised_difference(first: Any, second: Any, name: str) -> Any:
    """Compute a band of the registry that is (first - second) / (first + second).

    Parameters
    ----------
    first, second
        Reflectances of one grid in one scale, of any number type: labelled arrays, Dask arrays, NumPy arrays
        or torch tensors (on any device), both of the same kind.
    name : str
        Name of the band, which labels the result where the input is labelled.

    Returns
    -------
    same kind as ``first``
        float32, -1 to 1, without unit; NaN where both bands are 0. Lazy if the input is lazy.

    Examples
    --------
    >>> normalised_difference(np.array([3000, 0], "uint16"), np.array([1000, 0], "uint16"), "ndvi")
    array([0.5, nan], dtype=float32)
    """
    if isinstance(first, xr.DataArray):
        first, second = xr.align(first, second, join="exact")
        data = normalised_difference(first.data, second.data, name)
        like = first if "grid_mapping" in first.encoding else second  # arithmetic drops it
        return labelled(like, data, name, BANDS[name].long_name, BANDS[name].units)
    if isinstance(first, da.Array) or isinstance(second, da.Array):
        meta = np.empty((0,) * first.ndim, np.float32)
        return da.map_blocks(_difference, first, second, dtype=np.float32, meta=meta)
    if isinstance(first, np.ndarray) or np.isscalar(first):
        return _difference(np.atleast_1d(first), second)
    if hasattr(first, "float"):
        return _difference(first.float(), second.float())
    return _difference(first, second).astype("float32")


def ndvi(red: Any, nir: Any) -> Any:
    """Compute the normalised difference vegetation index, (NIR - red) / (NIR + red).

    Parameters
    ----------
    red, nir
        As in ``normalised_difference``.

    Returns
    -------
    same kind as ``red``
        float32, -1 to 1, without unit; NaN where both bands are 0. Lazy if the input is lazy.

    Examples
    --------
    >>> ndvi(np.array([1000, 0], "uint16"), np.array([3000, 0], "uint16"))
    array([0.5, nan], dtype=float32)
    """
    return normalised_difference(nir, red, "ndvi")


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
