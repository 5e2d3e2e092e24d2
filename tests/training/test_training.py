"""Training: labels on the scene's grid, tiles that repeat, networks that learn, checkpoints that tell."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely
import torch

import darts_xr as dx
from darts_xr.errors import CRSError, PipelineError
from darts_xr.inference import Architecture, read_checkpoint
from darts_xr.inference.checkpoint import Checkpoint
from darts_xr.sample import SampleWorld, read_truth
from darts_xr.training import Schedule, TrainingScene, collect_scene, fit, label_mask, score_pixels
from darts_xr.training.examples import IGNORED, RandomTiles
from pipelines.training import train

BANDS = dx.cube.select_bands(["ndvi", "red", "nir"])
ARCHITECTURE = Architecture("Unet", "resnet18", 2, (16, 8), len(BANDS))
TOY = {"name": "Unet", "encoder": "resnet18", "depth": 2, "decoder_channels": [8, 4]}
MEMBER = Checkpoint("", "", "toy", ARCHITECTURE, BANDS, 64, 8)


def _blocks(seed: int) -> TrainingScene:
    """Bright squares on dark ground: a task that a small network learns in seconds."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((160, 160), np.uint8)
    for row, col in rng.integers(10, 130, (6, 2)):
        labels[row : row + 18, col : col + 18] = 1
    red = 700 + 1500.0 * labels + rng.normal(0, 100, labels.shape)
    bands = np.stack([np.full_like(red, 0.4), red, np.full_like(red, 2000)]).astype(np.float32)
    labels[:5] = IGNORED
    return TrainingScene(bands, labels, ("ndvi", "red", "nir"))


def test_labels_follow_pixel_centres_and_the_mask(world: SampleWorld):
    scene = dx.open_scene(dx.load_items(world.catalog)[0])
    left, _, right, top = scene.odc.geobox.boundingbox
    middle = (left + right) / 2 // 3 * 3
    square = gpd.GeoDataFrame(geometry=[shapely.box(middle, top - 900, middle + 30, top - 840)], crs=32610)
    burned = label_mask(scene, square)
    assert set(np.unique(burned)) == {0, 1, IGNORED}
    np.testing.assert_array_equal(burned == IGNORED, ~scene["valid"].values)
    assert (label_mask(scene, square.to_crs(4326)) == burned).all()
    with pytest.raises(CRSError, match="no CRS"):
        label_mask(scene, square.set_crs(None, allow_override=True))


def test_collected_scenes_hold_the_bands_of_the_cube(world: SampleWorld, tmp_path: Path):
    item = dx.load_items(world.catalog)[0]
    scene = dx.open_scene(item, auxiliary=world.auxiliary)
    kept = collect_scene(scene, read_truth(world), ("red", "slope"), tmp_path)
    np.testing.assert_array_equal(kept.bands[0], scene["red"].values)
    np.testing.assert_array_equal(kept.bands[1], scene["slope"].values)
    assert isinstance(kept.bands, np.memmap)


def test_tiles_are_scaled_like_predictions_and_repeat():
    tiles = RandomTiles([_blocks(0)], MEMBER, side=64, count=8, seed=3)
    pixels, labels = tiles[1]
    again, _ = RandomTiles([_blocks(0)], MEMBER, side=64, count=8, seed=3)[1]
    assert torch.equal(pixels, again)
    assert pixels.shape == (3, 64, 64)
    assert (labels == 1).any()  # every second tile lies around a slump
    known = labels != IGNORED
    assert float(pixels[0][known].mean()) == pytest.approx(0.7)  # (0.4 + 1) / 2
    assert not pixels[:, ~known].any()
    tiles.epoch = 1
    assert not torch.equal(tiles[1][0], pixels)


def test_a_network_learns():
    torch.manual_seed(0)
    network = ARCHITECTURE.build()
    schedule = Schedule(epochs=8, tiles_per_epoch=64, batch=8, side=64, learning_rate=5e-3)
    record = fit(network, MEMBER, [_blocks(1), _blocks(2)], schedule)
    assert record["loss"][-1] < 0.5 * record["loss"][0]
    assert score_pixels(network, MEMBER, [_blocks(9)])["f1"] > 0.8


def test_training_from_a_configuration_writes_checkpoints_that_tell_how(tmp_path: Path):
    sample = {"seeds": [50, 50], "size": 256, "scenes": 1}
    config = {
        "train": {"sample": sample},
        "validation": {"sample": {**sample, "seeds": [51, 51]}},
        "schedule": {"epochs": 1, "tiles_per_epoch": 4, "batch": 2, "side": 64, "seed": 5},
        "members": {"toy": {"architecture": TOY, "bands": ["red", "slope"]}},
        "tile": 64, "margin": 8, "licence": "test",
    }  # fmt: skip
    said: list[str] = []
    (checkpoint,) = train(config, out=tmp_path, say=said.append)
    assert read_checkpoint(tmp_path / "toy.safetensors") == checkpoint
    assert checkpoint.band_names == ("red", "slope")
    assert checkpoint.training["schedule"]["seed"] == 5
    assert checkpoint.training["train"] == {"synthetic": True, **sample}
    assert set(checkpoint.training["pixel_scores"]) == {"precision", "recall", "f1", "iou"}
    assert any("epoch 1 of 1" in line for line in said)


def test_training_from_a_catalogue_and_outlines(world: SampleWorld, tmp_path: Path):
    config = {
        "train": {"catalog": world.catalog, "auxiliary": "neutral", "outlines": world.truth},
        "schedule": {"epochs": 1, "tiles_per_epoch": 2, "batch": 2, "side": 64},
        "members": {"toy": {"architecture": TOY, "bands": ["red"]}},
        "tile": 64, "margin": 8,
    }  # fmt: skip
    (checkpoint,) = train(config, out=tmp_path)
    assert "catalog" in checkpoint.training["train"]


@pytest.mark.parametrize(
    ("config", "message"),
    [({"members": {}, "train": {}, "epoch": 3}, "epoch"), ({"members": {}}, "train"),
     ({"members": {}, "train": {"catalog": "x"}}, "outlines")],
)  # fmt: skip
def test_wrong_configurations_are_named(tmp_path: Path, config: dict, message: str):
    with pytest.raises(PipelineError, match=message):
        train(config, out=tmp_path)


def test_the_shipped_networks_say_what_they_are():
    for member in dx.load_ensemble("demo").members:
        assert Path(member.path).stat().st_size < 5e6
        assert "synthetic" in member.licence
        assert member.training["train"]["synthetic"] is True
        assert member.training["schedule"]["epochs"] > 1
        assert member.training["pixel_scores"]["f1"] > 0.8
        assert min(member.training["train"]["seeds"]) >= 1000  # no demo and no test uses these
    assert [len(m.bands) for m in dx.load_ensemble("demo").members] == [10, 7]
