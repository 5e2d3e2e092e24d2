"""A measurement beside others: an earlier one of a file, and those of machines that were measured in this project."""

from __future__ import annotations

import json
import os
from importlib.resources import files
from pathlib import Path
from typing import Any

from darts_xr.errors import PipelineError

_RATES = ("bare members", "members in predict", "predict from memory", "files to polygons")


def reference_machines() -> dict[str, Any]:
    """Give the machines that were measured in this project: ``machines``, and a ``note`` on what is missing."""
    return dict(json.loads((files("pipelines") / "reference_machines.json").read_text(encoding="utf-8")))


def read_result(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what :func:`pipelines.bench` found before.

    Raises
    ------
    PipelineError
        When the file is not there or holds something else.
    """
    try:
        result = dict(json.loads(Path(path).read_text(encoding="utf-8")))
        for row in result["measurements"]:
            row["per_worker"], *(row["pixels_per_second"][name]["median"] for name in _RATES)
        return result
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PipelineError(
            f"{path} is no result of darts-xr bench --out, or one of an older version ({error}); measure again"
        ) from error


def compare(now: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """Set a result against an earlier one.

    Parameters
    ----------
    now, before : dict
        Results of :func:`pipelines.bench`.

    Returns
    -------
    dict
        ``rows``: for each number of workers that both have, and each rate, the medians and their ratio, and whether the
        repeats of the two lie apart; ``differs``: what else is not the same, by name.
    """
    same = ("network", "device", "threads", "scene_side", "darts_xr")
    differs = {name: [before.get(name), now.get(name)] for name in same if before.get(name) != now.get(name)}
    earlier = {row["workers"]: row["pixels_per_second"] for row in before["measurements"]}
    rows = []
    for row in now["measurements"]:
        for name in _RATES if row["workers"] in earlier else ():
            old, new = earlier[row["workers"]][name], row["pixels_per_second"][name]
            rows.append(
                {
                    "workers": row["workers"],
                    "what": name,
                    "before": old["median"],
                    "now": new["median"],
                    "ratio": round(new["median"] / old["median"], 3),
                    "beyond_spread": new["min"] > old["max"] or new["max"] < old["min"],
                }
            )
    return {"rows": rows, "differs": differs}
