"""How many pixels a second: the bare networks, ``predict`` from memory, and files to polygons, in one run.

    python -m benchmarks.throughput demo --size 4096 --json throughput.json
    python -m benchmarks.throughput demo --sweep

Efficiency is valid pixels a second over the pixels a second of the bare members, run one after the other on loaded
tiles of the windows' own size, in the same process and on the same threads. The collar is that of a swath rotated in
its frame: 35 % no data. Scenes are noise (the whole flow: a synthetic world); speed does not depend on what they show.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dask
import numpy as np
import rasterio
import torch
import xarray as xr
from distributed import Client, LocalCluster
from numpy.typing import NDArray

import darts_xr as dx
from benchmarks.feed import auxiliary_items, scene_item, write_files
from darts_xr.cluster import worker_settings
from darts_xr.cube import BANDS
from darts_xr.inference import Ensemble
from darts_xr.inference.ensemble import resolve_device
from darts_xr.sample import write_world
from pipelines.detection import detect
from pipelines.settings import Settings
from pipelines.throughput import ARCHIVE_PIXELS, Rate, bare_members, rate


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
    bare = Rate((before.wall + after.wall) / 2, (before.cpu + after.cpu) / 2)  # the machine may drift
    return {
        "size": size,
        "valid_share": round(float(valid.mean()), 3),
        "tile": tile,
        "margin": margin,
        "chunk": chunk,
        "precision": ensemble.precision,
        "bare": round(bare.wall),
        "predict": round(found.wall),
        "efficiency": round(found.wall / bare.wall, 3),
        "efficiency_cpu": round(found.cpu / bare.cpu, 3),
    }


def fill_collar(delivery: Path, target: Path) -> None:
    """Copy a synthetic scene so that all its pixels are valid: what is masked shows what lies far from it."""
    target.mkdir(parents=True)
    for path in (*delivery.glob("*_SR.tif"), *delivery.glob("*_udm2.tif")):
        with rasterio.open(path) as file:
            profile, pixels = file.profile, file.read()
        if path.name.endswith("_SR.tif"):
            for part in (2, 3, 4):
                away = np.roll(pixels, [n // part for n in pixels.shape[1:]], (1, 2))
                pixels = np.where((pixels != 0).any(0), pixels, away)
        else:
            pixels[:], pixels[0], pixels[6] = 0, 1, 100  # clear, and sure of it
        with rasterio.open(target / path.name, "w", **{**profile, "driver": "GTiff", "tiled": True}) as file:
            file.write(pixels)


def files_to_polygons(ensemble: Ensemble, size: int, repeats: int, client: Any = None) -> dict[str, Any]:
    """Measure valid pixels per second from COG to polygons on a synthetic scene, with its collar and without."""
    found: dict[str, Any] = {"size": size}
    with tempfile.TemporaryDirectory(prefix="darts_xr_throughput_") as place:
        folder = Path(place)
        world = write_world(folder / "world", seed=3, scenes=1, size=size)
        delivery = next((world.root / "scenes").iterdir())
        fill_collar(delivery, folder / "full" / delivery.name)
        for name, items in (
            ("full", dx.planet_items(folder / "full")),
            ("collar", dx.load_items(world.catalog)),
        ):
            valid = int(dx.open_scene(items[0])["valid"].sum())
            runs = iter(range(repeats + 1))

            def whole(name: str = name, items: Any = items, runs: Any = runs) -> None:
                out = folder / f"run-{name}-{next(runs)}"
                settings = Settings(out=out, models=ensemble, auxiliary=str(world.auxiliary))
                detect(items, settings, client=client)

            before = bare_members(ensemble, ensemble.tile + 2 * ensemble.margin, 1)
            files = rate(valid, whole, repeats)
            after = bare_members(ensemble, ensemble.tile + 2 * ensemble.margin, 1)
            bare = (before.wall + after.wall) / 2
            found[name] = {
                "valid_share": round(valid / size**2, 3), "rate": round(files.wall), "bare": round(bare),
                "efficiency": round(files.wall / bare, 3),
            }  # fmt: skip
    return found


def _pass_through(client: Any, ensemble: Ensemble, folder: Path, size: int) -> float:
    """Seconds to predict a scene of the feed benchmark, from its files, every block dropped once it is there."""
    if not (folder / "trends.tif").exists():
        write_files(folder, size)
    scene = dx.open_scene(
        scene_item(folder), auxiliary=auxiliary_items(folder), bands=ensemble.definitions, chunks=1024
    )
    began = time.perf_counter()
    dx.predict(scene, ensemble).mean().compute()
    return time.perf_counter() - began


def workers_compared(ensemble: Ensemble, size: int, repeats: int) -> dict[str, float]:
    """Measure how much faster two workers of one thread are than one."""
    seconds: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory(prefix="darts_xr_throughput_") as place:
        for _ in range(repeats):
            for count, found in seconds.items():
                with (
                    dask.config.set(worker_settings(1)),
                    LocalCluster(n_workers=count, threads_per_worker=1, dashboard_address=None) as cluster,
                    Client(cluster) as client,
                ):
                    folder = Path(place) / "scene"
                    _pass_through(client, ensemble, folder, size)  # loads the networks
                    found.append(_pass_through(client, ensemble, folder, size))
    one, two = (statistics.median(found) for found in seconds.values())
    return {
        "size": size,
        "seconds_1": round(one, 2),
        "seconds_2": round(two, 2),
        "ratio": round(one / two, 2),
    }


def worker_memory(ensemble: Ensemble, sizes: Sequence[int]) -> dict[str, float]:
    """Measure a worker's peak memory in MiB for scenes of several sizes, each with a worker of its own."""
    peaks = {}
    for size in sizes:
        with (
            tempfile.TemporaryDirectory(prefix="darts_xr_throughput_") as place,
            dx.start_cluster(n_workers=1, dashboard_address=None) as client,
        ):
            _pass_through(client, ensemble, Path(place) / "scene", size)
            (peak,) = client.run(lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024).values()
        peaks[str(size)] = round(peak)
    return peaks


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
    end_to_end: int = 0,
    workers: int = 0,
    memory: Sequence[int] = (),
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
    result: dict[str, Any] = {
        "models": ensemble.name,
        "device": str(resolve_device(device)),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "load_before": os.getloadavg()[0],
        "rows": rows,
    }
    fastest = rows[0]["predict"]
    if end_to_end:
        result["files_to_polygons"] = files_to_polygons(ensemble, end_to_end, repeats)
        fastest = result["files_to_polygons"]["full"]["rate"]
    if workers:
        result["two_workers_against_one"] = workers_compared(ensemble, workers, repeats)
    if memory:
        result["peak_worker_mib"] = worker_memory(ensemble, memory)
    # As if all pixels were valid, reading kept up, and machines shared nothing.
    result["archive_hours_on_one"] = round(ARCHIVE_PIXELS / fastest / 3600, 1)
    return result


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
    parser.add_argument("--end-to-end", type=int, default=0, metavar="SIDE", help="also files to polygons")
    parser.add_argument("--workers", type=int, default=0, metavar="SIDE", help="also two workers against one")
    parser.add_argument(
        "--memory", type=int, nargs="+", default=(), metavar="SIDE", help="also a worker's peak memory"
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
    for name in ("files_to_polygons", "two_workers_against_one", "peak_worker_mib"):
        if name in result:
            print(f"{name.replace('_', ' ')}: {result[name]}")
    print(f"880 billion pixels on one such machine: {result['archive_hours_on_one']} hours")
    if target:
        target.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
