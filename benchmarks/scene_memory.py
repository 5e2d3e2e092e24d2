"""Whether a worker's memory grows with the scenes that it is given.

    python -m benchmarks.scene_memory --sizes 4000 8000 --repeats 3 --json scene_memory.json

One synthetic scene of each size, in the files' real layout (:mod:`benchmarks.feed`), through ``detect`` on a cluster of
one worker, new each time; peak memory of the worker, and what it held before the scene. Medians.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import darts_xr as dx
from benchmarks.feed import auxiliary_items, scene_item, write_files
from pipelines.detection import detect
from pipelines.settings import Settings


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        1024 if sys.platform != "darwin" else 1024**2
    )


def child(folder: Path, models: list[str], threads: int, members: bool) -> dict[str, float]:
    """Detect the scene of a folder on a new worker; peaks in MiB."""
    with (
        tempfile.TemporaryDirectory(prefix="darts_xr_memory_") as out,
        dx.start_cluster(n_workers=1, threads_per_worker=threads) as client,
    ):
        settings = Settings(
            out=f"{out}/run", models=tuple(models), auxiliary=auxiliary_items(folder), members=members
        )
        before = client.submit(_peak, pure=False).result()
        begun = time.perf_counter()
        run = detect([scene_item(folder)], settings, client=client)
        seconds = time.perf_counter() - begun
        if run.failed:
            raise SystemExit(run.failed[0]["reason"])
        return {
            "before_mib": before,
            "peak_mib": client.submit(_peak, pure=False).result(),
            "seconds": seconds,
            "objects": run.done[0]["counts"]["n_objects"],
        }


def measure(
    sizes: list[int], models: list[str], repeats: int, threads: int, members: bool = False
) -> dict[str, Any]:
    """Peaks by size, and how much more the largest takes than the smallest."""
    rows = []
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="darts_xr_memory_") as name:
            write_files(Path(name), size)
            given = [*models, "--threads", str(threads), *(["--members"] if members else []), "--child", name]
            command = [sys.executable, "-m", "benchmarks.scene_memory", *given]
            answers = [
                subprocess.run(command, capture_output=True, text=True, check=True).stdout
                for _ in range(repeats)
            ]
        runs = [json.loads(answer.splitlines()[-1]) for answer in answers]
        rows.append({"size": size, **{key: round(median(run[key] for run in runs), 1) for key in runs[0]}})
    growth = rows[-1]["peak_mib"] / rows[0]["peak_mib"] - 1
    return {
        "models": models,
        "threads": threads,
        "members": members,
        "repeats": repeats,
        "sizes": rows,
        "growth": round(growth, 4),
    }


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=["demo"], help='checkpoints, or "demo"')
    parser.add_argument("--sizes", type=int, nargs="+", default=[4000, 8000], help="sides of the scenes, px")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="Dask threads of the worker")
    parser.add_argument("--members", action="store_true", help="also write what each network found alone")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(child(Path(options.child), options.models, options.threads, options.members)))
        return
    found = measure(options.sizes, options.models, options.repeats, options.threads, options.members)
    print(json.dumps(found, indent=1))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
