"""Structured arrays keep what bands hold."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr

from darts_xr.inference.structured import planes_of, structured_array, structured_dtype, to_bytes


def test_structured_arrays_hold_every_type_exactly() -> None:
    rng = np.random.default_rng(0)
    kinds = ["uint8", ">u2", "int16", "float32", "bool", "float64", "int32", "float16"]
    bands = [
        xr.DataArray(
            rng.integers(0, 2, (70, 9)).astype(kind) * 200, dims=("y", "x"), name=f"band {kind}"
        ).astype(kind)
        for kind in kinds
    ]
    dtype = structured_dtype(bands)
    assert {name: dtype[name].name for name in dtype.names or ()} == {
        f"band {kind}": name
        for kind, name in zip(
            kinds,
            ["uint8", "uint16", "int16", "float32", "bool", "float32", "float32", "float16"],
            strict=True,
        )
    }
    block = structured_array(bands, ((50, 20), (9,))).compute()
    planes = planes_of(torch.from_numpy(to_bytes(block[3:, 2:])), block.dtype)
    for band in bands:
        np.testing.assert_array_equal(
            planes[str(band.name)].float().numpy(), band.to_numpy()[3:, 2:].astype("f4")
        )


def test_ten_bands_and_the_mask_take_24_bytes_a_pixel() -> None:
    kinds = ["float32"] + ["uint16"] * 4 + ["float32"] * 2 + ["uint8"] * 3 + ["bool"]
    bands = [xr.DataArray(np.zeros((1, 1), kind), name=str(n)) for n, kind in enumerate(kinds)]
    assert structured_dtype(bands).itemsize == 24
