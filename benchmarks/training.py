"""What training costs beside the training step itself.

    python -m benchmarks.training [--size 1024] [--side 256] [--batch 16] [--steps 8] [--workers 0] [--memory 8000]

On a synthetic scene: patches a second from the Zarr store, from the scene's lazy cube, and through the bare training
step; the share of an epoch in which the step waits for its patches; with ``--memory`` the peak memory of a process that
cuts one scene of that side. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import geopandas as gpd
import pandas as pd
import torch
import xarray as xr
from odc.geo.geobox import GeoBox
from rasterio.transform import from_origin
from shapely import box

import darts_xr as dx
from darts_xr.cube import BANDS, select_bands
from darts_xr.cube.metadata import metadata_of
from darts_xr.cube.warp import on_grid
from darts_xr.inference import Checkpoint
from darts_xr.sample import read_truth, write_world
from darts_xr.training import (
    Augmentation,
    Design,
    LabelledScene,
    Lessons,
    Patching,
    PatchStore,
    Recipe,
    fit,
    write_patches,
)
from darts_xr.training.draws import planes_of, training_loader
from darts_xr.training.fitting import allowed_precision
from darts_xr.training.module import SlumpModule, scaled_input
from darts_xr.training.patches import LABELS

_NETWORK = Design(encoder="tu-regnetx_002", depth=4, decoder_channels=(64, 48, 32, 16))  # as the shipped ones


def open_scenes(folder: Path, size: int, scenes: int) -> list[LabelledScene]:
    """Lazy synthetic scenes with their outlines."""
    world = write_world(folder / "world", seed=900, scenes=scenes, size=size)
    truth = read_truth(world)
    return [
        LabelledScene(
            dx.open_scene(item, auxiliary=world.auxiliary),
            truth[truth["date"] == f"{item.datetime:%Y-%m-%d}"],
        )
        for item in dx.load_items(world.catalog)
    ]


def from_store(store: PatchStore, recipe: Recipe, steps: int) -> float:
    """Patches a second out of the store, in batches."""
    loader = iter(training_loader(store, store.rows, recipe))
    next(loader)
    begun = time.perf_counter()
    for _ in range(steps):
        next(loader)
    return steps * recipe.batch / (time.perf_counter() - begun)


def from_cube(scene: xr.Dataset, store: PatchStore, count: int) -> float:
    """Patches a second cut from the lazy cube as they are asked for."""
    rows = store.table[store.table["scene"] == metadata_of(scene)["item_id"]].sample(
        count, random_state=1, replace=True
    )
    begun = time.perf_counter()
    for row in rows.itertuples():
        dask.compute(
            scene.isel(y=slice(row.row, row.row + store.side), x=slice(row.col, row.col + store.side))
        )
    return count / (time.perf_counter() - begun)


def bare_step(store: PatchStore, member: Checkpoint, recipe: Recipe, steps: int) -> float:
    """Patches a second through augmentation, network, loss and optimiser, from one batch in memory."""
    batch = next(iter(training_loader(store, store.rows, recipe)))
    module = SlumpModule(member.architecture.build(), member, recipe, store, steps=steps)
    optimiser = torch.optim.AdamW(module.network.parameters(), lr=1e-3)
    begun = 0.0
    for number in range(steps + 1):
        if number == 1:
            begun = time.perf_counter()
        planes, labels, kept = module.augment(planes_of(batch, store.layout), batch[LABELS])
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=allowed_precision(recipe) == "bf16-mixed"):
            logits = module(scaled_input(planes, member) * kept[:, None])
        optimiser.zero_grad()
        module.loss(logits.float(), labels).backward()
        optimiser.step()
    return steps * recipe.batch / (time.perf_counter() - begun)


def measure(*, size: int, side: int, batch: int, steps: int, workers: int) -> dict[str, Any]:
    """All figures but memory."""
    with tempfile.TemporaryDirectory(prefix="darts_xr_training_") as name:
        folder = Path(name)
        scenes = open_scenes(folder, size, 2)
        begun = time.perf_counter()
        store = write_patches(scenes, folder / "patches.zarr", patching=Patching(side, min_valid=0.3))
        cutting = time.perf_counter() - begun
        bands = select_bands()
        member = Checkpoint("", "", "bench", _NETWORK.architecture(len(bands)), bands, 256, 32)
        recipe = Recipe(
            epochs=1, batch=batch, patches_per_epoch=batch * (steps + 1), precision="bf16-mixed", workers=workers,
            augmentation=Augmentation(blur=(), holes=0),
        )  # fmt: skip
        store_rate = from_store(store, recipe, steps)
        cube_rate = from_cube(scenes[0].scene, store, 4)
        step_rate = bare_step(store, member, recipe, steps)
        torch.manual_seed(0)
        record = fit(member.architecture.build(), member, Lessons(store, store.rows), recipe, folder / "run")
        return {
            "patch": side, "patches": len(store), "bands": len(BANDS), "batch": batch,
            "threads": torch.get_num_threads(), "precision": record["precision"],
            "workers": workers,
            "patches_a_second": {
                "from the store": round(store_rate, 1),
                "from the cube": round(cube_rate, 2),
                "bare training step": round(step_rate, 1),
                "cut and written": round(len(store) / cutting, 1),
            },
            "loader_wait_share": round(float(pd.DataFrame(record["history"])["loader_wait"].max()), 4),
        }  # fmt: skip


def synthetic_full_scene(height: int, width: int, chunk: int = 1024) -> LabelledScene:
    """Make a lazy scene of noise with ten bands in their stored types, without a file."""
    grid = GeoBox((height, width), from_origin(400_000, 7_900_000, 3, 3), "EPSG:32610")
    kinds = dict.fromkeys(("blue", "green", "red", "nir"), "uint16")
    kinds |= dict.fromkeys(("ndvi", "relative_elevation", "slope"), "float32")
    bands = {}
    for number, name in enumerate(BANDS):
        noise = da.random.default_rng(number).integers(1, 200, (height, width), chunks=chunk, dtype="uint16")
        bands[name] = on_grid(noise.astype(kinds.get(name, "uint8")), grid, name)
    bands["valid"] = on_grid(da.ones((height, width), chunks=chunk, dtype=bool), grid, "valid")
    west, north = 400_000, 7_900_000
    outlines = gpd.GeoDataFrame(
        geometry=[box(west + 300, north - 900, west + 600, north - 600)], crs="EPSG:32610"
    )
    return LabelledScene(xr.Dataset(bands, attrs={"item_id": "noise", "synthetic": "noise"}), outlines)


def peak_memory(height: int, width: int) -> dict[str, Any]:
    """Peak memory of a process that cuts one scene into patches of 1024 px, and of one that only imports."""
    code = (
        "import resource, sys, tempfile\n"
        "from benchmarks.training import synthetic_full_scene\n"
        "from darts_xr.training import write_patches\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "with tempfile.TemporaryDirectory() as folder:\n"
        "    store = write_patches([synthetic_full_scene(*map(int, sys.argv[1:]))], folder + '/p.zarr')\n"
        "print(len(store), before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, str(height), str(width)], capture_output=True, text=True, check=True
    )
    patches, before, peak = map(int, done.stdout.split()[-3:])
    unit = 1024 if sys.platform != "darwin" else 1024**2
    return {
        "height": height, "width": width, "patches": patches, "seconds": round(time.perf_counter() - begun, 1),
        "peak_MiB": round(peak / unit), "after_import_MiB": round(before / unit),
    }  # fmt: skip


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, value in (
        ("size", 1024),
        ("side", 256),
        ("batch", 16),
        ("steps", 8),
        ("workers", 0),
        ("memory", 0),
    ):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = vars(parser.parse_args())
    memory = given.pop("memory")
    print(json.dumps({"memory": peak_memory(memory, memory)} if memory else measure(**given), indent=1))


if __name__ == "__main__":
    main()
