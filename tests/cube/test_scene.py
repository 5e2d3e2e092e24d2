"""Scenes from anywhere: over HTTP as from disk, and what is wrong with the source gets its name when it shows."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio

import darts_xr as dx
from darts_xr.cube.bands import BANDS, LEGACY_BANDS
from darts_xr.errors import DamagedFileError, MaskError, MissingBandsError, MissingFileError
from darts_xr.sample import SampleWorld
from tests.catalog.servers import Answer, files, serve


def _over_http(item: pystac.Item, folder: Path, root: str) -> pystac.Item:
    moved = item.clone()
    for asset in moved.assets.values():
        asset.href = f"{root}/{Path(asset.href).relative_to(folder).as_posix()}"
    return moved


def test_scenes_over_http_are_as_good_as_files(world: SampleWorld):
    local = dx.load_items(world.catalog)[0]
    with serve(files(world.root)) as root:
        item = _over_http(local, world.root, root)
        layers = [_over_http(i, world.root, root) for i in dx.load_items(world.auxiliary)]
        far = dx.open_scene(item, auxiliary=layers, chunks=256).compute()
    near = dx.open_scene(local, auxiliary=world.auxiliary).compute()
    for name in near.data_vars:
        np.testing.assert_array_equal(far[name].values, near[name].values)


@pytest.mark.parametrize("rows", [slice(None), slice(0, 512), slice(0, 256), slice(100, 300)])
def test_bands_that_share_a_read_are_computed_together(world: SampleWorld, rows: slice):
    scene = dx.open_scene(dx.load_items(world.catalog)[0], auxiliary=world.auxiliary, chunks=256)
    every = scene.isel(y=rows).compute()
    for names in (
        ["red", "nir", "ndvi"],
        ["ndvi"],
        ["slope", "relative_elevation"],
        ["tc_wetness", "measured"],
    ):
        some = scene[names].isel(y=rows).compute()
        for name in names:
            np.testing.assert_array_equal(some[name].values, every[name].values)


def test_a_server_that_fails_twice_costs_nothing_and_a_404_has_a_name(world: SampleWorld):
    plain, refusals = files(world.root), []

    def answer(method: str, path: str, body: bytes, headers: dict[str, str]) -> Answer:
        return (refusals.pop(), b"", {}) if refusals else plain(method, path, body, headers)

    with serve(answer) as root:
        item = _over_http(dx.load_items(world.catalog)[0], world.root, root)
        scene = dx.open_scene(item)
        refusals += [503, 503]
        assert int(scene["nir"].max()) > 0
        assert not refusals
        item.assets["image"].href = f"{root}/gone_SR.tif"
        with pytest.raises(MissingFileError, match=r"gone_SR\.tif"):
            dx.open_scene(item)


def test_a_connection_that_drops_while_pixels_are_read_is_named(world: SampleWorld):
    plain, broken = files(world.root), []

    def answer(method: str, path: str, body: bytes, headers: dict[str, str]) -> Answer:
        status, content, extra = plain(method, path, body, headers)
        if broken and "SR.tif" in path:
            return status, content[:50], {**extra, "Content-Length": str(len(content)), "Connection": "close"}
        return status, content, extra

    with serve(answer) as root:
        item = _over_http(dx.load_items(world.catalog)[1], world.root, root)
        scene = dx.open_scene(item)
        broken.append(True)
        with pytest.raises(DamagedFileError, match="AnalyticMS_SR"):
            scene["nir"].compute()


def test_a_corrupt_block_is_named(world: SampleWorld, tmp_path: Path):
    folder = shutil.copytree(world.root / "scenes", tmp_path / "scenes")
    image = next(folder.rglob("*_SR.tif"))
    items = dx.planet_items(image.parent)
    with rasterio.open(image) as file:
        start = int(file.get_tag_item("BLOCK_OFFSET_0_0", "TIFF", bidx=1))
    content = bytearray(image.read_bytes())
    content[start : start + 4096] = bytes(4096)
    image.write_bytes(content)
    with pytest.raises(DamagedFileError, match=image.name):
        dx.open_scene(items[0])[["blue", "green", "red", "nir"]].compute()


def test_masks_must_suit_the_rule(world: SampleWorld):
    item = dx.load_items(world.catalog)[0]
    with pytest.raises(MaskError, match="no-such-rule"):
        dx.open_scene(item, mask_rule="no-such-rule")
    old = dx.open_scene(item, mask_rule="udm2-2021")
    assert old.attrs["mask_rule"] == "udm2-2021"
    assert int(old["valid"].sum()) >= int(dx.open_scene(item)["valid"].sum())


def test_unknown_bands_are_named(world: SampleWorld):
    with pytest.raises(MissingBandsError, match="hillshade"):
        dx.open_scene(dx.load_items(world.catalog)[0], bands=["red", "hillshade"])


def test_layers_are_derived_as_the_bands_of_a_checkpoint_say(world: SampleWorld):
    item = dx.load_items(world.catalog)[0]
    names = ("relative_elevation", "tc_wetness")
    plain, legacy = (
        dx.open_scene(item, auxiliary=world.auxiliary, bands=[bands[name] for name in names])
        for bands in (BANDS, LEGACY_BANDS)
    )
    assert plain["relative_elevation"].attrs["radius"] == 50
    assert legacy["relative_elevation"].attrs["radius"] == 100
    assert plain["relative_elevation"].attrs["terrain_grid"] == "scene"
    assert legacy["relative_elevation"].attrs["terrain_grid"] == "dem"
    assert legacy["tc_wetness"].attrs["resampling"] == "nearest"
    assert float(np.abs(plain["relative_elevation"] - legacy["relative_elevation"]).max()) > 0.1
