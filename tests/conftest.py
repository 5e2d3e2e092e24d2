"""Settings for all tests: a single-threaded scheduler unless a test asks for another."""

from __future__ import annotations

from collections.abc import Iterator

import dask
import pytest


@pytest.fixture(autouse=True)
def synchronous_scheduler() -> Iterator[None]:
    with dask.config.set(scheduler="synchronous"):
        yield
