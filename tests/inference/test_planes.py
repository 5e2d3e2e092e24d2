"""Blocks of planes keep what bands hold."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr

from darts_xr.devices import upload
from darts_xr.graph.planes import block_planes


def test_planes_hold_every_type_exactly() -> None:
    rng = np.random.default_rng(0)
    kept = {
        "uint8": "uint8", ">u2": "uint16", "int16": "int16", "float32": "float32", "bool": "bool",
        "float64": "float32", "int32": "float32", "float16": "float16",
    }  # fmt: skip
    bands = [
        xr.DataArray(
            rng.integers(0, 2, (70, 9)).astype(kind) * 200, dims=("y", "x"), name=f"band {kind}"
        ).astype(kind)
        for kind in kept
    ]
    (block,) = block_planes(bands, ((70,), (9,))).to_delayed().ravel()
    planes = block.compute()
    assert {name: plane.dtype.name for name, plane in planes.items()} == {
        f"band {kind}": name for kind, name in kept.items()
    }
    tensors, _ = upload(planes, torch.device("cpu"))
    for band in bands:
        np.testing.assert_array_equal(tensors[str(band.name)].float().numpy(), band.to_numpy().astype("f4"))
