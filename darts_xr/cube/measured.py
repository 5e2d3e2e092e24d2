"""What of a scene's auxiliary layers was measured and what was filled in: flags by pixel, shares by scene."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from operator import or_
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from odc.geo.geobox import GeoBox

from darts_xr.cube.layers import LAYERS
from darts_xr.cube.warp import on_grid

#: Which pixels of each layer were measured: a uint8 variable with one bit a layer (CF flags).
MEASURED = "measured"
_FLAGS = {"elevation": 1, "trends": 2}


def measured_flags(known: Mapping[str, da.Array], geobox: GeoBox, chunks: Any) -> xr.DataArray:
    """Label what was measured, from where each layer has data."""
    bits = [mask.astype(np.uint8) * np.uint8(_FLAGS[layer]) for layer, mask in known.items()]
    flags = reduce(or_, bits) if bits else da.zeros(tuple(geobox.shape), chunks=chunks, dtype=np.uint8)
    return on_grid(
        flags,
        geobox,
        MEASURED,
        long_name="auxiliary layers that were measured here, not filled",
        flag_masks=list(_FLAGS.values()),
        flag_meanings=" ".join(_FLAGS),
    )


def auxiliary_coverage(scene: xr.Dataset) -> xr.DataArray:
    """Share of a scene's valid pixels for which auxiliary layers were measured, not filled.

    Parameters
    ----------
    scene
        A scene of :func:`darts_xr.open_scene` with auxiliary layers: ``measured`` and ``valid``, dims (y, x).

    Returns
    -------
    DataArray (layer,)
        Lazy float64, 0 to 1, of those of the layers "elevation" and "trends" that the scene has bands of; NaN if
        no pixel is valid. To be computed together with what else is wanted of the scene: the same reads serve
        both.

    Examples
    --------
    >>> auxiliary_coverage(scene).compute().to_series()  # doctest: +SKIP
    """
    layers = [
        layer for layer, bands in LAYERS.items() if MEASURED in scene and any(b in scene for b in bands)
    ]
    valid = scene["valid"]
    counts = [((scene[MEASURED] & _FLAGS[layer]) > 0).where(valid, False).sum() for layer in layers]
    data = da.stack([count.data for count in counts]) / valid.sum().data if counts else np.empty(0)
    return xr.DataArray(
        data, dims="layer", coords={"layer": layers}, name="auxiliary_coverage", attrs={"units": "1"}
    )
