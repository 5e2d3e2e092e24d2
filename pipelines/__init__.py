"""Compositions of the library that a user calls or runs: each is a function here and a verb of ``darts-xr``.

Progress, run records and everything that writes a run folder live here; the library stays free of them.
"""

from pipelines.aggregate import aggregate, coverage
from pipelines.bench import bench
from pipelines.console import steps
from pipelines.demo import demo
from pipelines.detect import detect, plan
from pipelines.flow import Limits
from pipelines.records import Run, open_run
from pipelines.report import report
from pipelines.settings import Rules
from pipelines.train import train
from pipelines.validate import validate

__all__ = [
    "Limits", "Rules", "Run", "aggregate", "bench", "coverage", "demo", "detect", "open_run", "plan", "report", "steps",
    "train", "validate",
]  # fmt: skip
