"""A thin scene is every so many pixels of the whole one."""

from __future__ import annotations

import dask
import numpy as np
import pytest
import xarray as xr

import darts_xr as dx
from darts_xr.cube.thinning import thin_blocks, thin_scene
from darts_xr.sample import SampleWorld


@pytest.mark.parametrize(("step", "chunks"), [(1, 200), (7, 200), (9, 1024), (300, 128)])
def test_it_is_what_a_slice_of_the_scene_gives(world: SampleWorld, step: int, chunks: int) -> None:
    scene = dx.open_scene(dx.load_items(world.catalog)[0], auxiliary=world.auxiliary, chunks=chunks)
    scene = scene[["red", "nir", "ndvi", "slope", "tc_wetness", "valid"]]
    (blocks,) = dask.persist(thin_blocks(scene, step))
    thin = thin_scene(blocks, scene, step)
    every = slice(None, None, step)
    expected = scene.isel(y=every, x=every).compute()
    assert set(thin) == set(expected)
    xr.testing.assert_identical(thin[list(expected)], expected)
    assert all(isinstance(thin[name].data, np.ndarray) for name in thin)


def test_each_chunk_is_one_task_beside_those_that_read_it(world: SampleWorld) -> None:
    scene = dx.open_scene(dx.load_items(world.catalog)[0], chunks=128)
    blocks = thin_blocks(scene[["red", "green", "nir", "valid"]], 5)
    (optimized,) = dask.optimize(blocks)
    names = [str(key[0]).rsplit("-", 1)[0] for key in dict(optimized.__dask_graph__())]
    assert sum("thin" in name for name in names) == blocks.npartitions
