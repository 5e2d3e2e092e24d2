"""Chunks on a device are arrays to Dask and xarray, and leave the device only for what needs them elsewhere."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import torch
import xarray as xr
from dask.array.chunk import getitem
from numpy.typing import NDArray

from darts_xr.device_array import DeviceArray

VALUES = np.arange(48, dtype="float32").reshape(6, 8)


@pytest.fixture
def lazy() -> da.Array:
    """Chunks that lie on a device."""
    plain = da.from_array(VALUES, chunks=(3, 4))
    return plain.map_blocks(lambda block: DeviceArray(torch.from_numpy(block)), meta=plain._meta)


@pytest.fixture
def stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where pixels come to the host."""

    def refuse(*_: Any, **__: Any) -> NDArray[Any]:
        raise AssertionError("pixels were copied to the host")

    monkeypatch.setattr(DeviceArray, "__array__", refuse)


@pytest.mark.parametrize(
    "work",
    [
        lambda x: x + 1,
        lambda x: x > 5,
        lambda x: x[::2, ::-1],
        lambda x: x.T,
        lambda x: x.sum(axis=0),
        lambda x: x.astype("int16"),
        lambda x: x.rechunk((4, 8)),
        lambda x: da.where(x > 3, x, np.nan),
        lambda x: da.isfinite(x) & (x > 2),
        lambda x: da.map_overlap(np.copy, x, depth=1, boundary=0.0, dtype=x.dtype, meta=x._meta),
    ],
)
def test_dask_computes_with_them_as_with_arrays(lazy: da.Array, work: Any) -> None:
    plain = da.from_array(VALUES, chunks=(3, 4))
    found = work(lazy).compute()
    np.testing.assert_array_equal(found, work(plain).compute())


def test_what_is_computed_is_an_array_of_numpy(lazy: da.Array, tmp_path: Path) -> None:
    scene = xr.DataArray(lazy, dims=("y", "x"), name="slope")
    assert isinstance(scene.compute().data, np.ndarray)
    assert isinstance(scene.isel(y=slice(0, 3), x=slice(0, 4)).compute().data, np.ndarray)  # a single chunk
    scene.to_dataset().to_netcdf(tmp_path / "slope.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "slope.nc", engine="h5netcdf") as kept:
        np.testing.assert_array_equal(kept["slope"], VALUES)


@pytest.mark.usefixtures("stays")
def test_parts_copies_and_whether_values_are_finite_stay() -> None:
    whole = DeviceArray(torch.from_numpy(VALUES.copy()))
    part = whole[1:3, ..., 2:5]
    assert isinstance(part, DeviceArray)
    assert (part.shape, part.ndim, part.size, part.dtype, len(part)) == ((2, 3), 2, 6, np.float32, 2)
    assert isinstance(getitem(whole, (0, slice(None))), DeviceArray)  # a slice as Dask takes it
    own = part.copy()
    room = own.new_empty((4, 3))
    room[:2], room[2:] = own, VALUES[:2, :3]
    whole[:] = 0
    np.testing.assert_array_equal(room.tensor, np.concatenate([VALUES[1:3, 2:5], VALUES[:2, :3]]))
    assert np.isfinite(room).tensor.all()


def test_other_processes_get_arrays_of_numpy() -> None:
    sent = pickle.loads(pickle.dumps(DeviceArray(torch.from_numpy(VALUES))))
    assert isinstance(sent, np.ndarray)
    np.testing.assert_array_equal(sent, VALUES)


def test_what_it_is_can_be_read_and_no_protocol_is_guessed() -> None:
    array = DeviceArray(torch.zeros(2, 3, dtype=torch.uint8))
    assert repr(array) == "<DeviceArray (2, 3) uint8 on cpu>"
    assert not hasattr(array, "__array_interface__")
