"""Training examples: scenes with their outlines, kept on disk once and cut into random tiles."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import dask
import geopandas as gpd
import numpy as np
import rasterio.features
import torch
import xarray as xr
from numpy.typing import NDArray
from torch.utils.data import Dataset

from darts_xr.addresses import safe_name
from darts_xr.errors import CRSError
from darts_xr.inference import Checkpoint, network_input

IGNORED = 255  # label of pixels that are masked: they teach nothing


def label_mask(scene: xr.Dataset, outlines: gpd.GeoDataFrame) -> NDArray[np.uint8]:
    """Burn outlines into the scene's grid: 1 inside (pixel centres), 0 outside, 255 where masked.

    Parameters
    ----------
    scene : xarray.Dataset
        A scene; its ``valid`` is computed.
    outlines : geopandas.GeoDataFrame
        True outlines, any CRS; those off the scene do no harm.

    Returns
    -------
    numpy.ndarray
        (y, x) uint8.

    Raises
    ------
    CRSError
        When the outlines have no CRS.
    """
    if outlines.crs is None:
        raise CRSError("The outlines have no CRS. Set it with outlines.set_crs(...), never by guessing.")
    grid = scene.odc.geobox
    shapes = [
        shape for shape in outlines.to_crs(str(grid.crs)).geometry if shape is not None and not shape.is_empty
    ]
    burned = np.zeros(grid.shape, np.uint8)
    if shapes:
        rasterio.features.rasterize(shapes, out=burned, transform=grid.transform, default_value=1)
    burned[~np.asarray(scene["valid"].values)] = IGNORED
    return burned


@dataclass(frozen=True)
class TrainingScene:
    """One scene's bands and labels as memory-mapped files.

    Parameters
    ----------
    bands : numpy.ndarray
        (band, y, x) float32 in physical units.
    labels : numpy.ndarray
        (y, x) uint8: 0, 1, or 255 where masked.
    names : tuple of str
        Names of the bands.
    """

    bands: NDArray[np.float32]
    labels: NDArray[np.uint8]
    names: tuple[str, ...]


def collect_scene(
    scene: xr.Dataset, outlines: gpd.GeoDataFrame, names: Sequence[str], folder: str | os.PathLike[str]
) -> TrainingScene:
    """Compute a scene's bands once and keep them, with the labels, under ``folder``."""
    stem = Path(folder) / safe_name(str(scene["item_id"].item()))
    stem.parent.mkdir(parents=True, exist_ok=True)
    (computed,) = dask.compute(scene[[*names, "valid"]])
    stack = np.stack([computed[name].values.astype(np.float32) for name in names])
    np.save(f"{stem}_bands.npy", stack)
    np.save(f"{stem}_labels.npy", label_mask(computed.assign_attrs(scene.attrs), outlines))
    return TrainingScene(
        np.load(f"{stem}_bands.npy", mmap_mode="r"),
        np.load(f"{stem}_labels.npy", mmap_mode="r"),
        tuple(names),
    )


class RandomTiles(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Random square tiles of training scenes; every second one is laid around a slump pixel.

    Parameters
    ----------
    scenes : sequence of TrainingScene
        Where to cut.
    member : Checkpoint
        Whose bands and scaling the tiles get.
    side : int
        Side of a tile, pixels.
    count : int
        Tiles in an epoch.
    seed : int
        Same seed and epoch, same tiles.
    """

    def __init__(
        self, scenes: Sequence[TrainingScene], member: Checkpoint, *, side: int, count: int, seed: int
    ) -> None:
        self.scenes, self.member, self.side, self.count, self.seed = list(scenes), member, side, count, seed
        self.epoch = 0
        self.positives = [np.argwhere(np.asarray(scene.labels) == 1) for scene in self.scenes]
        self.negatives = [np.argwhere(np.asarray(scene.labels[::8, ::8]) == 0) * 8 for scene in self.scenes]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        rng = np.random.default_rng([self.seed, self.epoch, index])
        number = int(rng.integers(len(self.scenes)))
        scene = self.scenes[number]
        places = self.positives[number] if index % 2 else self.negatives[number]
        if len(places) == 0:
            places = self.negatives[number] if index % 2 else self.positives[number]
        centre = places[rng.integers(len(places))] + rng.integers(-self.side // 3, self.side // 3 + 1, 2)
        top, left = (
            int(np.clip(c - self.side // 2, 0, max(0, n - self.side)))
            for c, n in zip(centre, scene.labels.shape, strict=True)
        )
        window = slice(top, top + self.side), slice(left, left + self.side)
        labels = torch.from_numpy(np.array(scene.labels[window]))
        stack = torch.from_numpy(np.array(scene.bands[(slice(None), *window)]))
        return network_input(stack, scene.names, labels != IGNORED, self.member), labels
