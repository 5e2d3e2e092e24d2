"""A finished run on the shared world, with the networks that come with the package."""

from __future__ import annotations

import pytest
import torch

import darts_xr as dx
from darts_xr.inference import Architecture, save_checkpoint
from darts_xr.sample import SampleWorld, write_world
from pipelines.aggregation import Products, aggregate
from pipelines.detection import detect
from pipelines.records import Run
from pipelines.settings import Settings
from tests.inference.worlds import lively
from tests.pipelines.small import Small


@pytest.fixture(scope="session")
def run(world: SampleWorld, tmp_path_factory: pytest.TempPathFactory) -> Run:
    settings = Settings(
        out=tmp_path_factory.mktemp("run"), auxiliary=world.auxiliary, infrastructure=world.infrastructure
    )
    return detect(world.catalog, settings)


@pytest.fixture(scope="session")
def products(run: Run) -> Products:
    return aggregate(run, name="test_synthetic")


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """Six small scenes of one site and one of the next, and a network that is quick and has seen nothing."""
    folder = tmp_path_factory.mktemp("small")
    world = write_world(folder / "world", seed=11, scenes=7, size=256)
    architecture = Architecture("Unet", "resnet18", 3, (16, 8, 8), 3)
    torch.manual_seed(0)
    save_checkpoint(
        folder / "quick.safetensors", lively(architecture.build(), 0), name="quick", architecture=architecture,
        bands=dx.cube.select_bands(["red", "nir", "slope"]), tile=256, margin=16, training={"synthetic": True},
        licence="MIT",
    )  # fmt: skip
    return Small(world, folder / "quick.safetensors")
