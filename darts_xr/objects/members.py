"""What each network of an ensemble would have found alone, before any cleaning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import dask.array as da
import geopandas as gpd
import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from darts_xr.errors import ObjectError
from darts_xr.graph.layers import as_dask
from darts_xr.objects.label import label_objects
from darts_xr.objects.polygons import vectorize


@dataclass(frozen=True, slots=True)
class Sparse:
    """A block of which a few values are kept: its shape, and place (flat, int32) and value of each."""

    shape: tuple[int, ...]
    places: NDArray[np.int32]
    values: NDArray[np.float32]


# --- array kernels -----------------------------------------------------------------------------------------


def _sparse(values: NDArray[np.float32], kept: NDArray[np.bool_]) -> Sparse:
    places = np.flatnonzero(kept).astype(np.int32)
    return Sparse(values.shape, places, values.reshape(-1)[places])


def _dense(block: Sparse) -> NDArray[np.float32]:
    values = np.zeros(block.shape, np.float32)
    values.reshape(-1)[block.places] = block.values
    return values


# --- Dask wiring -------------------------------------------------------------------------------------------


def sparse_members(prediction: xr.Dataset, *, threshold: float) -> xr.Dataset:
    """Keep of members' probability and spread only what objects of the threshold are made of.

    Parameters
    ----------
    prediction : xarray.Dataset
        Of ``predict_members(scene, ensemble)``, lazy.
    threshold : float
        Least probability of an object's pixels.

    Returns
    -------
    xarray.Dataset
        ``member_probability`` and ``spread`` for ``dask.persist`` alone, since chunks hold no pixels: a member's
        probability where it reaches the threshold, the spread where their mean does. See :func:`dense_members`.
    """
    each, spread = prediction["member_probability"], prediction["spread"]
    held = {
        name: values.copy(data=_each_block(_sparse, as_dask(values), as_dask(basis >= threshold)))
        for name, values, basis in (
            ("member_probability", each, each),
            ("spread", spread, prediction["probability"]),
        )
    }
    return xr.Dataset(held, attrs=prediction.attrs)


def dense_members(held: xr.Dataset) -> xr.Dataset:
    """Give the persisted result of :func:`sparse_members` its pixels back, lazily: 0 where nothing was kept."""
    return held.map(lambda values: values.copy(data=_each_block(_dense, as_dask(values))), keep_attrs=True)


def _each_block(kernel: Callable[..., Any], *arrays: da.Array) -> da.Array:
    meta = np.empty((0,) * arrays[0].ndim, np.float32)
    out: da.Array = da.map_blocks(kernel, *arrays, dtype=np.float32, meta=meta)
    return out


# --- labelled public function ------------------------------------------------------------------------------


def member_objects(prediction: xr.Dataset, *, threshold: float = 0.5) -> gpd.GeoDataFrame:
    """Polygons of each single member, neither cleaned nor filtered.

    For comparison with the ensemble's objects, as in figure 5 of Nitze et al. 2025 (Sci. Data 12:1512). Computes.

    Parameters
    ----------
    prediction : xarray.Dataset
        Of ``predict_members(scene, ensemble)``: ``member_probability`` with dims ``(member, y, x)``.
    threshold : float
        Least probability of an object's pixels.

    Returns
    -------
    geopandas.GeoDataFrame
        The columns of :func:`vectorize` after ``member`` (str), EPSG:4326, members in the order of the ensemble.

    Raises
    ------
    ObjectError
        If the prediction holds no single members.

    Examples
    --------
    >>> from odc.geo.geobox import GeoBox
    >>> from odc.geo.xr import wrap_xr
    >>> box = GeoBox.from_bbox((500000, 7700000, 500024, 7700024), "EPSG:32608", shape=(8, 8))
    >>> p = wrap_xr(np.pad(np.full((4, 4), 0.9, "float32"), 2), box)
    >>> both = xr.concat([p, 0.6 * p], dim="member").assign_coords(member=["tcvis", "notcvis"])
    >>> member_objects(both.to_dataset(name="member_probability"))[["member", "n_pixels"]].values.tolist()
    [['tcvis', 16], ['notcvis', 16]]
    """
    if "member_probability" not in prediction:
        raise ObjectError("the prediction holds no single members; take the result of predict_members")
    frames = []
    for name in prediction["member"].values:
        alone = prediction["member_probability"].sel(member=name, drop=True)
        alone.attrs = dict(prediction.attrs)
        found = vectorize(label_objects(alone, threshold=threshold, border=0, min_pixels=1), alone)
        found.insert(0, "member", np.full(len(found), str(name), object))
        frames.append(found)
    return pd.concat(frames, ignore_index=True)
