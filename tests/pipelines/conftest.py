"""A finished run on the shared world, with the networks that come with the package."""

from __future__ import annotations

import pytest

from darts_xr.sample import SampleWorld
from pipelines.aggregate import Products, aggregate
from pipelines.detect import detect
from pipelines.records import Run


@pytest.fixture(scope="session")
def run(world: SampleWorld, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return detect(
        world.catalog, auxiliary=world.auxiliary, infrastructure=world.infrastructure,
        out=tmp_path_factory.mktemp("run"),
    )  # fmt: skip


@pytest.fixture(scope="session")
def products(run: Run) -> Products:
    return aggregate(run, name="test_synthetic")
