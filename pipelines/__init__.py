"""Compositions of the library that a user calls or runs: each is a function here and a verb of ``darts-xr``.

Progress, run records and everything that writes a run folder live here; the library stays free of them.
"""

from pipelines.aggregation import aggregate, coverage
from pipelines.console import steps
from pipelines.demonstration import demo
from pipelines.detection import detect, plan
from pipelines.flow import Limits
from pipelines.records import Run, open_run
from pipelines.reports import report
from pipelines.settings import Rules
from pipelines.throughput import bench
from pipelines.training import train
from pipelines.validation import validate

__all__ = [
    "Limits", "Rules", "Run", "aggregate", "bench", "coverage", "demo", "detect", "open_run", "plan", "report", "steps",
    "train", "validate",
]  # fmt: skip
