"""Compiled loops, where they can be loaded."""

from __future__ import annotations

import logging
from functools import cache
from importlib import import_module
from types import ModuleType

log = logging.getLogger(__name__)


@cache
def compiled(name: str) -> ModuleType | None:
    """Load a module of this package whose loops numba compiles; None, with a warning, where numba is missing."""
    try:
        return import_module(f"darts_xr.cube.{name}")
    except ImportError as error:
        log.warning("%s does without compiled loops, slower, for numba cannot be loaded: %s", name, error)
        return None
