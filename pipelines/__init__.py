"""Compositions of the library that a user calls or runs: each is a function here and a verb of ``darts-xr``.

Progress, run records and everything that writes a run folder live here; the library stays free of them. Names load on
first use, so that the command answers at once and nothing asks for an extra that it does not need.
"""

from importlib import import_module
from typing import Any

# Where each public name lives. No module is called like a function, which it would hide once imported.
_HOMES = {
    "Bench": "throughput",
    "Layers": "filter_layers",
    "Limits": "flow",
    "Rules": "settings",
    "Run": "records",
    "Settings": "settings",
    "aggregate": "aggregation",
    "bench": "throughput",
    "coverage": "aggregation",
    "demo": "demonstration",
    "detect": "detection",
    "doctor": "diagnosis",
    "make_review": "review",
    "merge_review": "review",
    "histories": "following",
    "open_run": "records",
    "plan": "detection",
    "plot_curve": "rethresholding",
    "report": "reports",
    "rethreshold": "rethresholding",
    "steps": "console",
    "store_run": "cubes",
    "threshold_curve": "rethresholding",
    "train": "training",
    "validate": "validation",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(import_module(f"pipelines.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'pipelines' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
