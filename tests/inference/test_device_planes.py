"""From a scene whose layers lie on a device to its probability: they never leave it, and nothing else changes."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import torch
import xarray as xr
from dask.distributed import Client, LocalCluster

import darts_xr as dx
from darts_xr.device_array import DeviceArray
from darts_xr.sample import SampleWorld
from tests.inference.worlds import small_ensemble


def _scene(world: SampleWorld, **options: Any) -> xr.Dataset:
    return dx.open_scene(dx.load_items(world.catalog)[0], auxiliary=world.auxiliary, **options)


@pytest.mark.parametrize("chunks", [1024, 200])
def test_planes_stay_on_their_device_and_probability_is_the_same(
    chunks: int, world: SampleWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensemble = small_ensemble(tmp_path)
    expected = dx.predict(_scene(world, chunks=chunks), ensemble).compute()
    lazy = dx.predict(_scene(world, chunks=chunks, device="cpu:0"), ensemble)
    copies = []
    known = DeviceArray.__array__

    def count(array: DeviceArray, *args: Any, **options: Any) -> Any:
        copies.append(array.shape)
        return known(array, *args, **options)

    monkeypatch.setattr(DeviceArray, "__array__", count)
    found = lazy.compute(scheduler="threads")
    np.testing.assert_allclose(found, expected, atol=1e-5)
    # Chunks other than those in which layers are derived are put together on the host.
    assert bool(copies) == (chunks != 1024)


def test_blocks_that_wait_for_each_other_keep_planes_on_the_device(
    world: SampleWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("darts_xr.cube.scene.CHUNK", 256)
    ensemble = small_ensemble(tmp_path)
    expected = dx.predict(_scene(world), ensemble).compute()
    lazy = dx.predict(_scene(world, device="cpu:0"), ensemble)
    assert lazy.data.numblocks == (2, 2)

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("pixels were copied to the host")

    monkeypatch.setattr(DeviceArray, "__array__", refuse)
    found = lazy.compute(scheduler="threads")
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_workers_exchange_rims_of_planes(
    world: SampleWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("darts_xr.cube.scene.CHUNK", 256)
    ensemble = small_ensemble(tmp_path)
    expected = dx.predict(_scene(world), ensemble).compute()
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster,
        Client(cluster),
    ):
        found = dx.predict(_scene(world, device="cpu:0"), ensemble).compute()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_difference_of_bands_is_made_where_the_networks_are_unless_somebody_put_another_in_its_place(
    world: SampleWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensemble, scene = small_ensemble(tmp_path), _scene(world)
    seen: list[set[str]] = []
    module = import_module("darts_xr.inference.predict")  # the name is that of the function, too
    known = module.member_probabilities

    def note(block: Any, *args: Any, **options: Any) -> Any:
        seen.append(set(block))
        return known(block, *args, **options)

    monkeypatch.setattr(module, "member_probabilities", note)
    with dask.config.set(scheduler="synchronous"):
        made = dx.predict(scene, ensemble).compute()
        assert all("ndvi" not in names for names in seen)
        brought = dx.predict(
            scene.assign(ndvi=scene["ndvi"].copy(data=scene["ndvi"].compute())), ensemble
        ).compute()
        np.testing.assert_array_equal(made, brought)
        seen.clear()
        other = dx.predict(scene.assign(ndvi=scene["ndvi"] * 0.5), ensemble).compute()
    assert all("ndvi" in names for names in seen)
    assert float(abs(other - made).max()) > 1e-3


@pytest.mark.gpu
def test_a_gpu_that_keeps_its_planes_gives_the_probability_of_the_processor(
    world: SampleWorld, tmp_path: Path
) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    ensemble = replace(small_ensemble(tmp_path), precision="float32")
    expected = dx.predict(_scene(world), ensemble).compute()
    found = dx.predict(_scene(world, device="cuda"), replace(ensemble, device="cuda")).compute()
    np.testing.assert_allclose(found, expected, atol=1e-3)
