"""How fast slope and relative elevation are, against the usual ways to compute them.

    python -m benchmarks.terrain --size 2000 --radius 100 --step 2 --json terrain.json

Relative elevation is compared with ``scipy.ndimage.convolve``, ``scipy.signal.oaconvolve`` and, where installed,
xarray-spatial's focal mean; slope with xarray-spatial's. The terrain is synthetic; every figure is the median of
three runs after a warm-up. The slow ones may be timed on a smaller square (``--slow-size``); all figures are per
pixel.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from scipy import ndimage, signal

from darts_xr.cube.terrain import disk, relative_elevation, slope


def terrain(size: int, seed: int = 0) -> NDArray[np.float32]:
    """Synthetic heights around 2,000 m."""
    y, x = np.ogrid[:size, :size]
    noise = np.random.default_rng(seed).normal(0, 0.1, (size, size))
    return (2000 + 60 * np.sin(x / 90) * np.cos(y / 70) + 5 * np.sin((x + y) / 11) + noise).astype(np.float32)


def nanoseconds_per_pixel(work: Callable[[Any], Any], z: Any, repeats: int) -> float:
    """Median time of ``work(z)`` after a warm-up on a corner."""
    work(z[:256, :256])
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work(z)
        times.append(time.perf_counter() - start)
    return median(times) / z.shape[0] / z.shape[1] * 1e9


def benchmark(
    size: int = 2000, *, slow_size: int = 1000, radius: float = 100.0, step: float = 2.0, repeats: int = 3
) -> dict[str, Any]:
    """Nanoseconds per pixel of every way, and how many times slower the others are."""
    footprint = disk(radius, (step, step))
    weights = footprint / footprint.sum()
    z, small = terrain(size), terrain(slow_size)

    def ours(a: Any) -> Any:
        return relative_elevation(a, radius, resolution=step)

    rel = {
        "darts_xr": nanoseconds_per_pixel(ours, z, repeats),
        "darts_xr, torch on the CPU": nanoseconds_per_pixel(ours, torch.from_numpy(z), repeats),
        "scipy.signal.oaconvolve": nanoseconds_per_pixel(
            lambda a: a - signal.oaconvolve(a.astype(float), weights, mode="same"), z, repeats
        ),
        "scipy.ndimage.convolve": nanoseconds_per_pixel(
            lambda a: a - ndimage.convolve(a.astype(float), weights), small, repeats
        ),
    }
    slopes = {"darts_xr": nanoseconds_per_pixel(lambda a: slope(a, resolution=step), z, repeats)}
    if torch.cuda.is_available():

        def on_gpu(a: Any) -> Any:
            ours(a)
            torch.cuda.synchronize()

        rel["darts_xr, torch on CUDA"] = nanoseconds_per_pixel(on_gpu, torch.from_numpy(z).cuda(), repeats)
    if importlib.util.find_spec("xrspatial"):
        import xrspatial.focal

        def labelled(a: Any) -> xr.DataArray:
            coords = {"y": np.arange(a.shape[0]) * -step, "x": np.arange(a.shape[1]) * step}
            return xr.DataArray(a, coords, ("y", "x"), attrs={"res": (step, step)})

        rel["xarray-spatial, focal mean"] = nanoseconds_per_pixel(
            lambda a: a - xrspatial.focal.apply(labelled(a), footprint).data, small, repeats
        )
        slopes["xarray-spatial"] = nanoseconds_per_pixel(lambda a: xrspatial.slope(labelled(a)), z, repeats)
    return {
        "data": "synthetic",
        "size": size,
        "slow_size": slow_size,
        "radius_m": radius,
        "kernel": list(footprint.shape),
        "relative_elevation_ns_per_pixel": {name: round(v, 1) for name, v in rel.items()},
        "relative_elevation_times_slower": {
            name: round(value / rel["darts_xr"], 1) for name, value in rel.items()
        },
        "slope_ns_per_pixel": {name: round(v, 1) for name, v in slopes.items()},
    }


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=2000, help="side of the square in pixels")
    parser.add_argument("--slow-size", type=int, default=1000, help="side for the direct convolutions")
    parser.add_argument("--radius", type=float, default=100.0, help="metres")
    parser.add_argument("--step", type=float, default=2.0, help="pixel size in metres")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    result = benchmark(
        options.size,
        slow_size=options.slow_size,
        radius=options.radius,
        step=options.step,
        repeats=options.repeats,
    )
    print(json.dumps(result, indent=2))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
