"""What is wrong with an input gets a name, and the other scenes finish."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio
import torch
from rasterio.transform import from_origin

import darts_xr as dx
from darts_xr import errors
from darts_xr.inference import Architecture, save_checkpoint
from darts_xr.sample import SampleWorld
from pipelines.aggregation import aggregate
from pipelines.detection import detect
from pipelines.records import open_run
from pipelines.settings import Settings


@pytest.fixture
def delivery(world: SampleWorld, tmp_path: Path) -> Path:
    """A copy of one scene's files that a test may spoil."""
    source = sorted((world.root / "scenes").iterdir())[0]
    return Path(shutil.copytree(source, tmp_path / "delivery" / source.name))


def _image(delivery: Path) -> Path:
    return next(delivery.glob("*_SR.tif"))


def _rewrite(path: Path, **changes: object) -> None:
    """Write a raster again with another profile and, where ``pixels`` is given, other values."""
    with rasterio.open(path) as file:
        profile, pixels = file.profile, file.read()
    pixels = changes.pop("pixels", pixels)
    profile.update(
        driver="GTiff", count=pixels.shape[0], height=pixels.shape[1], width=pixels.shape[2], **changes
    )
    with rasterio.open(path, "w", **profile) as file:
        file.write(pixels)


def test_missing_file(world: SampleWorld, tmp_path: Path):
    items = [item.clone() for item in dx.load_items(world.catalog)]
    items[0].assets["image"].href = str(tmp_path / "gone.tif")
    with pytest.raises(errors.MissingFileError, match=r"gone\.tif"):
        dx.open_scene(items[0])


def test_a_bad_scene_is_quarantined_and_the_others_finish(world: SampleWorld, tmp_path: Path):
    items = [item.clone() for item in dx.load_items(world.catalog)]
    items[0].assets["image"].href = str(tmp_path / "gone.tif")
    run = detect(items, Settings(out=tmp_path / "run", auxiliary=world.auxiliary))
    assert [scene["state"] for scene in run.scenes] == ["failed", "done"]
    assert "gone.tif" in run.failed[0]["reason"]
    assert run.record["counts"]["failed"] == 1
    assert (
        len(list(pystac.Catalog.from_file(str(tmp_path / "run/catalog.json")).get_items(recursive=True))) == 1
    )
    assert len(aggregate(run).coverage["level1"]) == 1


def test_truncated_image(world: SampleWorld, delivery: Path, tmp_path: Path):
    items = list(dx.planet_items(delivery.parent))
    content = _image(delivery).read_bytes()
    _image(delivery).write_bytes(content[: len(content) * 2 // 3])
    run = detect(items, Settings(out=tmp_path / "run", auxiliary=world.auxiliary))
    assert "DamagedFileError" in run.failed[0]["reason"]
    assert _image(delivery).name in run.failed[0]["reason"]


def test_image_and_mask_of_different_grids(delivery: Path):
    items = list(dx.planet_items(delivery.parent))
    mask = next(delivery.glob("*_udm2.tif"))
    with rasterio.open(mask) as file:
        shifted = rasterio.Affine.translation(30, 0) @ file.transform
    _rewrite(mask, transform=shifted)
    with pytest.raises(errors.GridMismatchError):
        dx.open_scene(items[0])
    with pytest.raises(errors.GridMismatchError):
        dx.planet_items(delivery.parent)


def test_unknown_product_name(delivery: Path, tmp_path: Path):
    strange = tmp_path / "strange"
    strange.mkdir()
    shutil.copy(_image(delivery), strange / "holiday.tif")
    with pytest.raises(errors.UnknownProductError, match=r"holiday\.tif"):
        dx.planet_items(strange)


def test_empty_search(world: SampleWorld):
    with pytest.raises(errors.EmptySearchError):
        dx.search(world.catalog, datetime="1999-01-01/1999-12-31")


def test_checkpoint_with_other_bands(world: SampleWorld, tmp_path: Path):
    architecture = Architecture("Unet", "resnet18", 3, (16, 8, 8), 2)
    bands = dx.cube.select_bands(["red", "nir"])
    save_checkpoint(
        tmp_path / "two.safetensors", architecture.build(), name="two", architecture=architecture, bands=bands,
        tile=64, margin=8, training={}, licence="test",
    )  # fmt: skip
    scene = dx.open_scene(dx.load_items(world.catalog)[0])
    with pytest.raises(errors.MissingBandsError, match="tc_wetness"):
        dx.predict(scene, dx.load_ensemble("demo"))
    assert dx.predict(scene, dx.load_ensemble(tmp_path / "two.safetensors")).shape == scene["valid"].shape
    three = Architecture("Unet", "resnet18", 3, (16, 8, 8), 3)
    torch.manual_seed(0)
    with pytest.raises(errors.CheckpointError, match="2 bands"):
        save_checkpoint(
            tmp_path / "wrong.safetensors", three.build(), name="wrong", architecture=three, bands=bands, tile=64,
            margin=8, training={}, licence="test",
        )  # fmt: skip


def test_all_masked_scene_is_a_valid_result_without_objects(
    world: SampleWorld, delivery: Path, tmp_path: Path
):
    mask = next(delivery.glob("*_udm2.tif"))
    with rasterio.open(mask) as file:
        pixels = file.read()
    pixels[0], pixels[5] = 0, 1  # all cloud
    _rewrite(mask, pixels=pixels)
    items = list(dx.planet_items(delivery.parent))
    run = detect(items, Settings(out=tmp_path / "run", auxiliary=world.auxiliary))
    assert run.scenes[0]["state"] == "done"
    assert run.scenes[0]["valid_pixels"] == 0
    products = aggregate(run)
    assert len(products.level1) == len(products.level2) == 0
    assert products.coverage["union"]["area_m2"].sum() == 0
    with rasterio.open(tmp_path / "run" / "scenes" / items[0].id / "probability.tif") as file:
        assert (file.read(1) == 255).all()


def test_image_without_crs(delivery: Path):
    _rewrite(_image(delivery), crs=None)
    with pytest.raises(errors.CRSError):
        dx.planet_items(delivery.parent)


def test_image_that_is_not_in_utm(delivery: Path):
    _rewrite(_image(delivery), crs="EPSG:4326", transform=from_origin(-121, 72, 1e-5, 1e-5))
    with pytest.raises(errors.CRSError):
        dx.planet_items(delivery.parent)


def test_networks_that_need_auxiliary_bands_are_not_run_without(world: SampleWorld, tmp_path: Path):
    with pytest.raises(errors.MissingBandsError, match=r"relative_elevation.*neutral"):
        detect(world.catalog, Settings(out=tmp_path))


def test_auxiliary_source_that_does_not_cover_the_scene(world: SampleWorld, tmp_path: Path):
    far = [item.clone() for item in dx.load_items(world.auxiliary)]
    for item in far:
        item.bbox = [10.0, 50.0, 11.0, 51.0]
    run = detect(world.catalog, Settings(out=tmp_path, auxiliary=far))
    assert all("MissingBandsError" in scene["reason"] for scene in run.failed)
    assert len(run.failed) == 2


def test_a_scene_without_a_mask_is_refused(world: SampleWorld):
    item = dx.load_items(world.catalog)[0].clone()
    del item.assets["udm2"]
    with pytest.raises(errors.MaskError, match="udm2"):
        dx.open_scene(item)


def test_masked_pixels_never_become_probability(world: SampleWorld):
    scene = dx.open_scene(dx.load_items(world.catalog)[0], auxiliary=world.auxiliary)
    prob = dx.predict(scene, dx.load_ensemble("demo"))
    np.testing.assert_array_equal(np.isnan(prob.values), ~scene["valid"].values)


def test_folders_that_are_no_runs(tmp_path: Path):
    with pytest.raises(errors.PipelineError, match=r"no run\.json"):
        open_run(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({})[:1])
    with pytest.raises(errors.PipelineError, match="damaged"):
        open_run(tmp_path)
