"""Throughput on this machine: bare networks, prediction from memory, and the whole flow, in one run."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import dask
import torch

import darts_xr as dx
from darts_xr.inference import Ensemble
from darts_xr.inference.ensemble import network_of
from darts_xr.sample import write_world
from pipelines.detect import detect

ARCHIVE_PIXELS = 880e9  # input pixels of 2021 to 2023 (Nitze et al. 2025)


def bench(
    *,
    models: Sequence[str | os.PathLike[str]] = ("demo",),
    device: str = "auto",
    size: int = 1536,
    repeats: int = 3,
    client: Any = None,
) -> dict[str, Any]:
    """Measure pixels per second on a synthetic scene.

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
    ensemble = dx.load_ensemble(*models, device=device)
    with tempfile.TemporaryDirectory(prefix="darts_xr_bench_") as folder:
        world = write_world(Path(folder) / "world", seed=3, scenes=1, size=size)
        item = dx.load_items(world.catalog)[0]
        scene = dx.open_scene(item, auxiliary=str(world.auxiliary), bands=ensemble.definitions).persist()
        valid = int(scene["valid"].sum())
        bare = _median(lambda: _bare_members(ensemble), repeats)
        from_memory = valid / _median(
            lambda: _seconds(lambda: dask.compute(dx.predict(scene, ensemble))), repeats
        )

        def whole() -> None:
            detect(
                world.catalog,
                models=ensemble,
                auxiliary=str(world.auxiliary),
                out=Path(folder) / "run",
                client=client,
            )

        end_to_end = valid / _median(lambda: _seconds(whole), repeats)
    return {
        "device": str(network_of(ensemble.members[0], device, "eval")[1]),
        "threads": torch.get_num_threads(),
        "ensemble": ensemble.name,
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


def _bare_members(ensemble: Ensemble) -> float:
    """Pixels per second of all members one after the other on loaded tiles of the model's own size."""
    side = ensemble.tile
    count = max(1, 2**20 // side**2)
    seconds = 0.0
    for member in ensemble.members:
        network, device = network_of(member, ensemble.device, ensemble.batch_norm)
        tiles = torch.rand(count, len(member.bands), side, side, device=device)
        tiles = tiles.contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            seconds += _seconds(lambda n=network, t=tiles: torch.sigmoid(n(t)).sum().item())  # type: ignore[misc]
    return count * side**2 / seconds


def _seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _median(measure: Callable[[], float], repeats: int) -> float:
    measure()  # the first pass loads weights and warms caches
    return statistics.median(measure() for _ in range(repeats))
