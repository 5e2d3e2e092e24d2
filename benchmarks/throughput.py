"""``predict`` from memory over tiles, margins and chunks: what ``darts-xr bench`` leaves out.

    python -m benchmarks.throughput demo --size 4096 --json throughput.json
    python -m benchmarks.throughput demo --sweep

Efficiency is valid pixels a second over the pixels a second of the bare members, run one after the other on loaded
tiles of the windows' own size, in the same process and on the same threads. Bare members compute whole tiles, as
segmentation-models-pytorch does; ``predict`` decodes the cores of tiles only, so that its efficiency may be above 1.
The collar is that of a swath rotated in its frame: 35 % no data. Scenes are noise; speed does not depend on what they
show.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dask
import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

import darts_xr as dx
from darts_xr.cube import BANDS
from darts_xr.inference import Ensemble
from darts_xr.inference.ensemble import resolve_device
from pipelines.throughput import bare_members, rate


def swath(size: int, no_data: float) -> NDArray[np.bool_]:
    """Draw a square swath rotated in a square frame that it fills but for ``no_data`` of its pixels."""
    if no_data == 0:
        return np.ones((size, size), bool)
    angle = np.arcsin(1 / (1 - no_data) - 1) / 2
    side = 1 / (np.cos(angle) + np.sin(angle))
    y, x = np.mgrid[:size, :size] / size - 0.5
    u, v = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    return np.asarray((np.abs(u) <= side / 2) & (np.abs(v) <= side / 2))


def noise(ensemble: Ensemble, valid: NDArray[np.bool_], chunk: int) -> xr.Dataset:
    """Scene of noise in memory, in the types in which scenes hold their bands."""
    rng = np.random.default_rng(0)
    types = {"planet": "uint16", "landsat-trends": "uint8", "arcticdem": "float32"}
    scene = xr.Dataset({"valid": (("y", "x"), valid)}, attrs={"item_id": "noise"})
    for name in ensemble.bands:
        kind = "float32" if name == "ndvi" else types[BANDS[name].source]
        scene[name] = ("y", "x"), (rng.random(valid.shape, dtype="float32") * 100).astype(kind)
    return scene.chunk(y=chunk, x=chunk)


def measure(
    ensemble: Ensemble, *, size: int, no_data: float, tile: int, margin: int, chunk: int, repeats: int
) -> dict[str, Any]:
    """Measure bare members and ``predict`` in turn on one setting."""
    valid = swath(size, no_data)
    scene = noise(ensemble, valid, chunk)
    before = bare_members(ensemble, tile + 2 * margin, repeats)
    found = rate(
        int(valid.sum()),
        lambda: dask.compute(dx.predict(scene, ensemble, tile=tile, margin=margin)),
        repeats,
        warm=False,
    )
    after = bare_members(ensemble, tile + 2 * margin, repeats)
    # The machine may drift.
    bare, bare_cpu = (
        (getattr(before, kind).median + getattr(after, kind).median) / 2 for kind in ("wall", "cpu")
    )
    return {
        "size": size,
        "valid_share": round(float(valid.mean()), 3),
        "tile": tile,
        "margin": margin,
        "chunk": chunk,
        "precision": ensemble.precision,
        "bare": round(bare),
        "predict": round(found.wall.median),
        "efficiency": round(found.wall.median / bare, 3),
        "efficiency_cpu": round(found.cpu.median / bare_cpu, 3),
    }


def benchmark(
    models: Sequence[str] = ("demo",),
    *,
    size: int = 4096,
    tile: int | None = None,
    margin: int | None = None,
    chunk: int = 1024,
    precision: Any = "auto",
    device: str = "auto",
    repeats: int = 1,
    sweep: bool = False,
) -> dict[str, Any]:
    """Measure a full frame and one with a collar, and with ``sweep`` other tiles, margins, chunks and precisions."""
    ensemble = dx.load_ensemble(*models, device=device, precision=precision)
    tile = ensemble.tile if tile is None else tile
    margin = ensemble.margin if margin is None else margin
    first = {"size": size, "no_data": 0.0, "tile": tile, "margin": margin, "chunk": chunk, "repeats": repeats}
    settings = [first, {**first, "no_data": 0.35}]
    if sweep:
        settings += [
            {**first, "tile": other, "chunk": max(chunk, other)}
            for other in (256, 512, 1024, 2048)
            if other != tile
        ]
        settings += [{**first, "margin": other} for other in (32, 64, 128) if other != margin]
        settings += [{**first, "chunk": other} for other in (512, 2048) if other != chunk]
    rows = [measure(ensemble, **setting) for setting in settings]
    if sweep and precision == "auto":
        rows.append(measure(dx.load_ensemble(*models, device=device, precision="bfloat16"), **first))
    return {
        "models": ensemble.name,
        "device": str(resolve_device(device)),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "load_before": os.getloadavg()[0],
        "rows": rows,
    }


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="*", default=["demo"], help='checkpoints, or "demo"')
    parser.add_argument("--size", type=int, default=4096, help="side of the scene, px")
    parser.add_argument("--tile", type=int, help="by default that of the checkpoints")
    parser.add_argument("--margin", type=int, help="by default that of the checkpoints")
    parser.add_argument("--chunk", type=int, default=1024)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument(
        "--sweep", action="store_true", help="other tiles, margins, chunks and precisions too"
    )
    parser.add_argument("--json", type=Path, help="also write the figures here")
    given = vars(parser.parse_args())
    target = given.pop("json")
    result = benchmark(given.pop("models"), **given)
    print(
        f"{result['models']} on {result['device']}, {result['torch_threads']} torch threads, "
        f"load before {result['load_before']}"
    )
    print(
        f"{'valid':>6} {'tile':>5} {'margin':>6} {'chunk':>5} {'precision':>9} {'bare px/s':>12} "
        f"{'predict px/s':>12} {'share':>6} {'of CPU':>6}"
    )
    for row in result["rows"]:
        print(
            f"{row['valid_share']:>6} {row['tile']:>5} {row['margin']:>6} {row['chunk']:>5} {row['precision']:>9} "
            f"{row['bare']:>12,} {row['predict']:>12,} {row['efficiency']:>6} {row['efficiency_cpu']:>6}"
        )
    if target:
        target.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
