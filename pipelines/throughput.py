"""Throughput on this machine: bare networks, prediction from memory, and the whole flow, in one run."""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import dask
import platformdirs
import torch

import darts_xr as dx
from darts_xr.errors import ParameterError
from darts_xr.inference import Ensemble
from darts_xr.inference.ensemble import network_of, resolve_device
from darts_xr.inference.forward import batch_pixels, compute_dtype, products
from darts_xr.sample import write_world
from pipelines.detection import detect
from pipelines.settings import Settings

ARCHIVE_PIXELS = 880e9  # input pixels of 2021 to 2023 (Nitze et al. 2025)


class Rate(NamedTuple):
    """Pixels per second of the clock and of the processors' work, which other programs hardly change."""

    wall: float
    cpu: float


def rate(pixels: int, work: Callable[[], Any], repeats: int, *, warm: bool = True) -> Rate:
    """Measure pixels per second; the median of the repeats."""
    if warm:
        work()  # loads weights, fills caches
    walls, cpus = [], []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return Rate(pixels / statistics.median(walls), pixels / statistics.median(cpus))


def bare_members(ensemble: Ensemble, side: int, repeats: int) -> Rate:
    """Pixels per second of all members, one after the other, on loaded tiles, as many a pass as ``predict`` takes."""
    device = resolve_device(ensemble.device)
    count = max(1, batch_pixels(device) // side**2)
    loaded = []
    for member in ensemble.members:
        network, _ = network_of(
            member, ensemble.device, ensemble.batch_norm, ensemble.compiled, precision=ensemble.precision
        )
        tiles = torch.rand(count, len(member.bands), side, side, device=device)
        loaded.append((network, tiles.contiguous(memory_format=torch.channels_last)))
    half = compute_dtype(ensemble.precision, device)

    def forward() -> None:
        with (
            products(ensemble.precision, device),
            torch.inference_mode(),
            torch.autocast(device.type, dtype=half, enabled=half != torch.float32),
        ):
            for network, tiles in loaded:
                torch.sigmoid(network(tiles)).sum().item()

    return rate(count * side**2, forward, repeats)


def bench(
    *,
    models: Sequence[str | os.PathLike[str]] = ("demo",),
    device: str = "auto",
    size: int = 1536,
    repeats: int = 3,
    client: Any = None,
) -> dict[str, Any]:
    """Measure pixels per second on a synthetic scene; the last result is kept for :func:`pipelines.plan`.

    Parameters
    ----------
    models : sequence of path
        Checkpoints.
    device : str
        Where the networks run.
    size : int
        Side of the synthetic scene, pixels.
    repeats : int
        Measurements of each; medians are reported.
    client : distributed.Client, optional
        Where to compute ``predict`` and the whole flow.

    Returns
    -------
    dict
        Valid pixels per second of the bare members, of ``predict`` from memory and from files to polygons; the last two
        as a share of the first; hours for the 880 billion pixels of the published archive on one such machine.
    """
    if repeats < 1:
        raise ParameterError(f"repeats must be 1 or more, got {repeats}")
    ensemble = dx.load_ensemble(*models, device=device)
    with tempfile.TemporaryDirectory(prefix="darts_xr_bench_") as folder:
        world = write_world(Path(folder) / "world", seed=3, scenes=1, size=size)
        item = dx.load_items(world.catalog)[0]
        scene = dx.open_scene(item, auxiliary=str(world.auxiliary), bands=ensemble.definitions).persist()
        valid = int(scene["valid"].sum())
        side = ensemble.tile + 2 * ensemble.margin
        before = bare_members(ensemble, side, repeats)
        from_memory = rate(valid, lambda: dask.compute(dx.predict(scene, ensemble)), repeats).wall
        runs = iter(range(repeats + 1))

        def whole() -> None:
            out = Path(folder) / f"run{next(runs)}"  # a new folder: an old run would only be looked up
            settings = Settings(out=out, models=ensemble, auxiliary=str(world.auxiliary))
            detect(world.catalog, settings, client=client)

        end_to_end = rate(valid, whole, repeats).wall
        bare = (before.wall + bare_members(ensemble, side, repeats).wall) / 2  # the machine may drift
    result = {
        "device": str(resolve_device(device)),
        "threads": torch.get_num_threads(),
        "ensemble": ensemble.name,
        "checkpoints": _checkpoints(ensemble),
        "scene_side": size,
        "valid_share": round(valid / size**2, 3),
        "pixels_per_second": {
            "bare members": round(bare),
            "predict from memory": round(from_memory),
            "files to polygons": round(end_to_end),
        },
        "efficiency": {
            "predict from memory": round(from_memory / bare, 3),
            "files to polygons": round(end_to_end / bare, 3),
        },
        "archive_hours": round(ARCHIVE_PIXELS / end_to_end / 3600, 1),
        "synthetic": True,
    }
    _kept().parent.mkdir(parents=True, exist_ok=True)
    _kept().write_text(json.dumps(result))
    return result


def last_rate(ensemble: Ensemble) -> float | None:
    """Frame pixels per second, files to polygons, of the last :func:`bench` of these checkpoints on this machine."""
    try:
        result = json.loads(_kept().read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    if result.get("checkpoints") != _checkpoints(ensemble):
        return None
    return float(result["pixels_per_second"]["files to polygons"] / result["valid_share"])


def _kept() -> Path:
    return Path(platformdirs.user_cache_dir("darts_xr")) / "bench.json"


def _checkpoints(ensemble: Ensemble) -> list[str]:
    return [member.sha256 for member in ensemble.members]
