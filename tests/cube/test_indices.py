from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import darts_xr as dx
from darts_xr.cube.bands import DIFFERENCES
from darts_xr.cube.indices import ndvi
from darts_xr.sample import SampleWorld
from tests.helpers import raise_if_dask_computes

uint16 = arrays(np.uint16, (4, 5), elements=st.integers(0, 65535))


@settings(max_examples=30, deadline=None)
@given(uint16, uint16)
def test_ndvi_agrees_with_plain_float64_for_every_kind_of_array(red: np.ndarray, nir: np.ndarray) -> None:
    total = nir.astype(float) + red
    with np.errstate(invalid="ignore"):
        expected = (nir.astype(float) - red) / total
    out = ndvi(red, nir)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, expected, atol=1e-6)
    lazy = ndvi(da.from_array(red, chunks=(3, 2)), da.from_array(nir, chunks=(3, 2)))
    np.testing.assert_array_equal(lazy.compute(), out)
    tensors = (torch.from_numpy(band.astype(np.int32)) for band in (red, nir))
    np.testing.assert_allclose(ndvi(*tensors).numpy(), out, atol=1e-7)


def test_ndvi_keeps_the_grid_and_stays_lazy() -> None:
    coords = {"y": [2.0, 1.0], "x": [0.0, 1.0, 2.0], "spatial_ref": 0}
    red = xr.DataArray(
        da.ones((2, 3), chunks=(1, 3), dtype="uint16"), coords, ("y", "x"), attrs={"units": "DN"}
    )
    red.encoding["grid_mapping"] = "spatial_ref"
    with raise_if_dask_computes():
        out = ndvi(red, 3 * red)
    assert out.chunks == red.chunks
    assert out.attrs["units"] == "1"
    assert out.encoding["grid_mapping"] == "spatial_ref"
    xr.testing.assert_identical(out.coords.to_dataset(), red.coords.to_dataset())
    np.testing.assert_array_equal(out, np.full((2, 3), 0.5, np.float32))


def test_inputs_are_not_changed() -> None:
    red, nir = np.array([1.0, 0.0], "float32"), np.array([3.0, 0.0], "float32")
    ndvi(red, nir)
    assert red.tolist() == [1, 0]
    assert nir.tolist() == [3, 0]


def test_bands_of_different_grids_are_refused() -> None:
    red = xr.DataArray(np.ones(3), {"x": [0, 1, 2]}, ("x",))
    with pytest.raises(ValueError, match="align"):
        ndvi(red, red.assign_coords(x=[1, 2, 3]))


@pytest.mark.parametrize("name", DIFFERENCES)
def test_a_scene_has_every_normalised_difference_that_is_asked_for(name: str, world: SampleWorld) -> None:
    first, second = DIFFERENCES[name]
    scene = (
        dx.open_scene(dx.load_items(world.catalog)[0], bands=(first, second, name))
        .isel(y=slice(200, 264))
        .compute()
    )
    one, other = (scene[band].to_numpy().astype(float) for band in (first, second))
    with np.errstate(invalid="ignore"):
        expected = (one - other) / (one + other)
    np.testing.assert_allclose(scene[name], expected, atol=1e-6)
