"""Our ``map_overlap`` against Dask's on the same blocks: tasks, seconds for the graph, wall time, peak memory.

    python -m benchmarks.map_overlap --size 8192 --chunk 1024 --depth 128 --json map_overlap.json

Blocks are synthetic: float32, or structured arrays of ten bands and a mask, 24 bytes a pixel.
The function costs next to nothing and returns results without halo; a result goes as soon as it is there. "none" maps
the same function without an overlap, which is what any overlap pays in addition. Every figure is the median of three
runs, each in a fresh child process of two threads. Both must give the same numbers, or the run fails.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import dask
import dask.array as da
import numpy as np
from numpy.typing import NDArray

from darts_xr.graph.overlap import map_overlap

WAYS = ("none", "dask", "darts_xr")
KINDS = {
    "float32": np.dtype("f4"),
    "structured": np.dtype(
        [(f"f{n}", "f4") for n in range(3)] + [(f"u{n}", "u2") for n in range(4)] + [(f"b{n}", "u1") for n in range(4)]
    ),
}  # fmt: skip


def _source(kind: str, size: int, chunk: int) -> da.Array:
    """Lazy noise, made block by block."""
    dtype = KINDS[kind]
    plain = da.zeros((size, size), chunks=chunk, dtype=np.uint8)

    def make(block: NDArray[np.uint8], block_id: tuple[int, int]) -> NDArray[Any]:
        rng = np.random.default_rng(block_id)
        made = np.empty(block.shape, dtype)
        for name in dtype.names or (...,):
            made[name] = rng.integers(0, 200, block.shape, np.uint8)
        return made

    return plain.map_blocks(make, dtype=dtype, meta=np.empty((0, 0), dtype))


def _difference(block: NDArray[Any], halo: int) -> NDArray[np.float32]:
    """Difference between the pixels at two corners of the halo."""
    z = block["f0"] if block.dtype.names else block
    rows, cols = (n - 2 * halo for n in z.shape)
    return np.asarray(z[:rows, :cols] - z[2 * halo :, 2 * halo :], np.float32)


def _total(block: NDArray[np.float32]) -> NDArray[np.float64]:
    """Take a result and let it go; whole numbers, so that the order of the sum does not matter."""
    weights = np.arange(block.shape[1]) % 13
    return np.full((1, 1), (block @ weights).sum(dtype=np.float64))


def measure(way: str, kind: str, size: int, chunk: int, depth: int) -> dict[str, float]:
    """Build, optimize and compute in this process."""
    source = _source(kind, size, chunk)
    began = time.perf_counter()
    options: dict[str, Any] = {"dtype": np.float32, "meta": np.empty((0, 0), np.float32)}
    if way == "none":
        lazy = source.map_blocks(_difference, halo=0, **options)
    else:
        mapped = da.map_overlap if way == "dask" else map_overlap
        lazy = mapped(_difference, source, depth=depth, boundary="reflect", trim=False, halo=depth, **options)
    (optimized,) = dask.optimize(lazy)
    tasks = len(dict(optimized.__dask_graph__()))
    graph = time.perf_counter() - began
    sums = optimized.map_blocks(
        _total, chunks=tuple((1,) * n for n in lazy.numblocks), dtype=np.float64, meta=np.empty((0, 0))
    )
    began, cpu = time.perf_counter(), time.process_time()
    with dask.config.set(scheduler="threads", num_workers=2):
        result = sums.compute()
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "tasks": tasks,
        "graph_seconds": graph,
        "wall_seconds": wall,
        "cpu_seconds": cpu,
        "peak_mib": peak,
        "result": float(result.sum()),
    }


def benchmark(
    size: int = 8192,
    *,
    chunk: int = 1024,
    depth: int = 128,
    kinds: tuple[str, ...] = tuple(KINDS),
    repeats: int = 3,
) -> dict[str, Any]:
    """Measure all ways in turns; each run in a child process of its own."""
    rows = []
    for kind in kinds:
        runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for _ in range(repeats):
            for way, measured in runs.items():
                given = [way, kind, str(size), str(chunk), str(depth)]
                child = subprocess.run(
                    [sys.executable, "-m", "benchmarks.map_overlap", "--child", *given],
                    check=True, capture_output=True, text=True,
                )  # fmt: skip
                measured.append(json.loads(child.stdout))
        results = {run["result"] for way in ("dask", "darts_xr") for run in runs[way]}
        if len(results) > 1:
            raise SystemExit(f"results differ: {runs}")
        for way, measured in runs.items():
            figures = {key: round(median(run[key] for run in measured), 3) for key in measured[0]}
            rows.append({"blocks": kind, "way": way, **figures})
    return {
        "data": "synthetic",
        "dask": dask.__version__,
        "size": size,
        "chunk": chunk,
        "depth": depth,
        "rows": rows,
    }


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size", type=int, default=8192, help="side of the array, px")
    parser.add_argument("--chunk", type=int, default=1024)
    parser.add_argument("--depth", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        way, kind, *numbers = options.child
        print(json.dumps(measure(way, kind, *map(int, numbers))))
        return
    result = benchmark(options.size, chunk=options.chunk, depth=options.depth, repeats=options.repeats)
    print(json.dumps(result, indent=2))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
