"""What it brings that a process keeps the memory that it frees, against GNU's C library left as it is.

    python -m benchmarks.memory demo --size 2048 --repeats 3

``predict`` of a synthetic scene in memory, in turns in fresh processes with and without; medians. "Without" is said by
the environment, which ``darts_xr.memory`` leaves as it is: 32 and 64 MiB are what the C library's own rule arrives at
after the first large arrays.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from statistics import median
from typing import Any

import dask
import numpy as np

import darts_xr as dx
from benchmarks.throughput import noise

_AS_IT_IS = {
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "MALLOC_TRIM_THRESHOLD_": str(2**26),
    "MALLOC_ARENA_MAX": str(8 * (os.cpu_count() or 1)),
}


def child(models: list[str], size: int) -> dict[str, float]:
    """Predict twice in this process; figures of the second time, when all is loaded."""
    ensemble = dx.load_ensemble(*models, device="cpu")
    scene = noise(ensemble, np.ones((size, size), bool), 1024)
    with dask.config.set(scheduler="threads"):
        dx.predict(scene, ensemble).compute()
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        cpu, wall = time.process_time(), time.perf_counter()
        dx.predict(scene, ensemble).compute()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {"wall": wall, "cpu": cpu, "pages": used.ru_minflt - faults, "peak_mib": used.ru_maxrss / 1024}


def compare(models: list[str], size: int, repeats: int, threads: int = 1) -> dict[str, Any]:
    """Run both sides in turns; ``threads`` is those of torch within a pass."""
    found: dict[str, list[dict[str, float]]] = {"kept": [], "given back": []}
    for _ in range(repeats):
        for side, runs in found.items():
            command = [sys.executable, "-m", "benchmarks.memory", *models, "--size", str(size), "--child"]
            environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
            environment |= _AS_IT_IS if side == "given back" else {}
            answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            runs.append(json.loads(answer.stdout.splitlines()[-1]))
    medians = {
        side: {name: round(median(run[name] for run in runs), 2) for name in runs[0]}
        for side, runs in found.items()
    }
    ratio = {
        name: round(medians["given back"][name] / medians["kept"][name], 2)
        for name in ("wall", "cpu", "peak_mib")
    }
    return {"models": models, "size": size, "threads": threads, **medians, "given back / kept": ratio}


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="*", default=["demo"], help='checkpoints, or "demo"')
    parser.add_argument("--size", type=int, default=2048, help="side of the scene, px")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="threads of torch within a pass")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(child(options.models, options.size)))
        return
    print(json.dumps(compare(options.models, options.size, options.repeats, options.threads), indent=2))


if __name__ == "__main__":
    main()
