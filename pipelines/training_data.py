"""Scenes with labels for a training: synthetic worlds that come and go, or a catalogue with its label files."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import darts_xr as dx
from darts_xr.sample import read_truth, write_world
from darts_xr.training import LabelledScene
from pipelines.training_settings import Data, SampleWorlds

Say = Callable[[str], None]


def labelled_scenes(data: Data, folder: Path, say: Say, bands: tuple[str, ...]) -> Iterator[LabelledScene]:
    """Lazy scenes with their outlines, one after the other.

    Parameters
    ----------
    data : Data
        Where they come from.
    folder : Path
        For synthetic worlds, each of which is removed when the next is asked for.
    say : callable
        Called with a line of text for each world or catalogue.
    bands : tuple of str
        Bands to open.
    """
    for region, worlds in (data.sample or {}).items():
        yield from _synthetic(region, worlds, folder, say, bands)


def _synthetic(
    region: str, worlds: SampleWorlds, folder: Path, say: Say, bands: tuple[str, ...]
) -> Iterator[LabelledScene]:
    for seed in range(worlds.seeds[0], worlds.seeds[1] + 1):
        say(f"synthetic world {seed} ({region})")
        root = folder / f"world_{seed}"
        try:
            world = write_world(root, seed=seed, size=worlds.size, scenes=worlds.scenes, centre=world_centre(seed))
            truth = read_truth(world)
            for item in dx.load_items(world.catalog):
                scene = dx.open_scene(item, auxiliary=world.auxiliary, bands=bands)
                outlines = truth[truth["date"] == f"{item.datetime:%Y-%m-%d}"]
                yield LabelledScene(scene, outlines, region=region, iteration="synthetic")
        finally:
            shutil.rmtree(root, ignore_errors=True)


def world_centre(seed: int) -> tuple[float, float]:
    """Longitude and latitude of a world: each has ground of its own within UTM zone 10."""
    return -125.5 + 0.25 * (seed % 20), 69.0 + 0.05 * (seed // 20 % 80)
