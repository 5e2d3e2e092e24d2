"""Helpers that several tests share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask
import pytest

REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def real_data(folder: str) -> Path:
    """Folder of real test data, or a skip that says why."""
    path = REAL_DATA / folder
    if not path.exists():
        pytest.skip(f"real data not at hand: {path} does not exist")
    return path


@contextmanager
def raise_if_dask_computes(max_computes: int = 0) -> Iterator[None]:
    """Fail when the block makes Dask compute more than ``max_computes`` times."""
    computes = 0

    def counting_scheduler(dsk: Any, keys: Any, **kwargs: Any) -> Any:
        nonlocal computes
        computes += 1
        if computes > max_computes:
            raise AssertionError(f"Dask computed {computes} times, allowed are {max_computes}")
        return dask.get(dsk, keys, **kwargs)

    with dask.config.set(scheduler=counting_scheduler):
        yield
