"""Settings for all tests, and one small synthetic world that many of them share."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

# Networks this small run fastest on one thread, above all where other tests want the cores: idle threads spin. Torch
# reads this as it loads, here and in every process that a test starts.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import dask
import pytest

from darts_xr.sample import SampleWorld, write_world

# A shell that starts the tests in the background has them ignore Ctrl-C, which some of them send.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests come first, so that none is left running alone in the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(autouse=True)
def synchronous_scheduler() -> Iterator[None]:
    """One thread unless a test asks for more."""
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> SampleWorld:
    """Two synthetic scenes of one summer, 512 pixels a side, on a seed that no training used."""
    return write_world(tmp_path_factory.mktemp("world"), seed=11, scenes=2, size=512)
