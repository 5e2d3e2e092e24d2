from __future__ import annotations

import doctest
from importlib import import_module

import pytest


@pytest.mark.parametrize(
    "module",
    ["catalog.assets", "catalog.names", "catalog.query", "catalog.usable", "catalog.writers", "cube.masks"],
)
def test_examples_of_docstrings_run(module: str) -> None:
    result = doctest.testmod(import_module(f"darts_xr.{module}"))
    assert result.attempted > 0
    assert result.failed == 0
