"""Small synthetic scenes, patches and networks that the tests of training share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import shapely
import xarray as xr
from odc.geo.geobox import GeoBox
from rasterio.transform import from_origin

from darts_xr.cube import select_bands
from darts_xr.cube.warp import on_grid
from darts_xr.inference import Architecture, Checkpoint
from darts_xr.training import LabelledScene, Patching, PatchStore, write_patches

BANDS = ("ndvi", "red", "nir")
CRS = "EPSG:32610"


def member_of(bands: tuple[str, ...] = BANDS, name: str = "toy") -> Checkpoint:
    """A small network for some bands; its file does not exist."""
    wanted = select_bands(bands)
    return Checkpoint("", "", name, Architecture("Unet", "resnet18", 2, (8, 4), len(wanted)), wanted, 64, 8)


def labelled_scene(
    number: int = 0,
    *,
    size: int = 160,
    at: tuple[float, float] = (400_000, 7_800_000),
    chunk: int = 64,
    **more: Any,
) -> LabelledScene:
    """A synthetic scene with bright squares on dark ground: what a small network learns in seconds."""
    rng = np.random.default_rng(number)
    west, north = at
    grid = GeoBox((size, size), from_origin(west, north, 3, 3), CRS)
    truth = np.zeros((size, size), bool)
    outlines = []
    for row, col in rng.integers(10, size - 30, (6, 2)):
        truth[row : row + 18, col : col + 18] = True
        outlines.append(
            shapely.box(west + 3 * col, north - 3 * (row + 18), west + 3 * (col + 18), north - 3 * row)
        )
    red = np.clip(700 + 1500 * truth + rng.normal(0, 100, truth.shape), 1, None).astype("uint16")
    nir = np.full(truth.shape, 2000, "uint16")
    valid = np.ones(truth.shape, bool)
    valid[:5] = False
    arrays = {
        "red": red, "nir": nir, "valid": valid,
        "ndvi": ((nir.astype("f4") - red) / (nir.astype("f4") + red)).astype("f4"),
    }  # fmt: skip
    scene = xr.Dataset(
        {name: on_grid(array, grid, name) for name, array in arrays.items()},
        attrs={
            "item_id": f"scene_{number}",
            "datetime": f"202{number % 4}-07-01T00:00:00Z",
            "synthetic": "synthetic",
        },
    )
    frame = gpd.GeoDataFrame(geometry=outlines, crs=CRS)
    return LabelledScene(scene.chunk({"y": chunk, "x": chunk}), frame, **more)


def small_store(path: Path, numbers: tuple[int, ...] = (0, 1), *, side: int = 64, **more: Any) -> PatchStore:
    """Patches of a few synthetic scenes, 10 km apart."""
    scenes = [
        labelled_scene(n, at=(400_000 + 10_000 * n, 7_800_000), region=f"region {n}", **more) for n in numbers
    ]
    return write_patches(scenes, path, patching=Patching(side=side), bands=BANDS)
