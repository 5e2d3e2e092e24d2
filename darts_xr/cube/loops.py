"""Compiled loops, where they can be loaded."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

log = logging.getLogger(__name__)


@cache
def compiled(name: str) -> ModuleType | None:
    """Load a module of this package whose loops numba compiles; None, with a warning, where numba is missing."""
    try:
        return import_module(f"darts_xr.cube.{name}")
    except ImportError as error:
        log.warning("%s does without compiled loops, slower, for numba cannot be loaded: %s", name, error)
        return None


def loop(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile a function when it is first called, and keep the result on disk where there is a place for it.

    Parameters
    ----------
    **options
        Further ones of ``numba.njit``.
    """
    from numba import njit

    always: dict[str, Any] = {"nogil": True, "error_model": "numpy"} | options

    def compile_later(function: Callable[..., Any]) -> Callable[..., Any]:
        made: Callable[..., Any]
        try:
            made = njit(cache=True, **always)(function)
        except RuntimeError:  # neither the package's folder nor the user's for caches can be written
            _say_once()
            made = njit(**always)(function)
        return made

    return compile_later


@cache
def _say_once() -> None:
    log.warning(
        "neither this package's folder nor that of the user's caches can be written, so that each process compiles "
        "its loops anew, which takes some seconds; set NUMBA_CACHE_DIR to a folder that can be written"
    )
