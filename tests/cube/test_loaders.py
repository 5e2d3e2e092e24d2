"""Other people's loaders: the same layers within GDAL's approximation, and a name for what they cannot do."""

from __future__ import annotations

import numpy as np
import pytest

import darts_xr as dx
from darts_xr.errors import EngineError
from darts_xr.sample import SampleWorld
from tests.helpers import raise_if_dask_computes

TERRAIN = ("relative_elevation", "slope")


@pytest.fixture(scope="module")
def scenes(world: SampleWorld) -> dict:
    item, auxiliary = dx.load_items(world.catalog)[0], dx.load_items(world.auxiliary)
    with raise_if_dask_computes(0):
        lazy = {
            engine: dx.open_scene(item, auxiliary=auxiliary, bands=TERRAIN, engine=engine)
            for engine in ("exact", "odc-stac", "stackstac")
        }
    return {engine: scene.compute(scheduler="synchronous") for engine, scene in lazy.items()}


def test_stackstac_equals_odc_stac_on_single_band_assets(scenes: dict):
    for name in TERRAIN:
        a, b = scenes["odc-stac"][name].values, scenes["stackstac"][name].values
        both = np.isfinite(a) & np.isfinite(b)
        assert both.mean() > 0.95
        # One of them resamples a virtual raster, the other windows: they differ where GDAL rounds coordinates.
        assert np.percentile(np.abs(a - b)[both], 99) < (0.005 if name == "relative_elevation" else 0.05)
        assert np.corrcoef(a[both], b[both])[0, 1] > 0.9999


def test_gdal_and_the_exact_warp_see_the_same_terrain(scenes: dict):
    for name in TERRAIN:
        a, b = scenes["exact"][name].values, scenes["odc-stac"][name].values
        both = np.isfinite(a) & np.isfinite(b)
        assert np.corrcoef(a[both], b[both])[0, 1] > 0.98


def test_odc_stac_reads_assets_of_several_bands(world: SampleWorld):
    item = dx.load_items(world.catalog)[0]
    exact, other = (
        dx.open_scene(item, auxiliary=world.auxiliary, bands=["tc_greenness"], engine=engine)[
            "tc_greenness"
        ].values
        for engine in ("exact", "odc-stac")
    )
    assert np.percentile(np.abs(exact.astype(int) - other.astype(int)), 99) <= 1


def test_stackstac_refuses_assets_of_several_bands_by_name(world: SampleWorld):
    item = dx.load_items(world.catalog)[0]
    with pytest.raises(EngineError, match=r"trends_000.*one band only.*odc-stac"):
        dx.open_scene(item, auxiliary=world.auxiliary, bands=["tc_greenness"], engine="stackstac")


def test_unknown_engines_are_named(world: SampleWorld):
    with pytest.raises(EngineError, match="gdal"):
        dx.open_scene(dx.load_items(world.catalog)[0], auxiliary=world.auxiliary, engine="gdal")
