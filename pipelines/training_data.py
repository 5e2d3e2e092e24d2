"""Scenes with labels for a training: synthetic worlds that come and go, or a catalogue with its label files."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import darts_xr as dx
from darts_xr.cube.metadata import metadata_of
from darts_xr.sample import read_truth, write_world
from darts_xr.training import LabelledScene, MatchReport, SceneLabels, match_labels, read_labels
from pipelines.training_settings import Data, SampleWorlds

Say = Callable[[str], None]


@dataclass(frozen=True)
class Source:
    """Labelled scenes that can be gone through again and again.

    Parameters
    ----------
    data : Data
        Where they come from.
    folder : Path
        For synthetic worlds, each of which is removed when the next is asked for.
    bands : tuple of str
        Bands to open.
    matched : list of SceneLabels
        Scenes of a catalogue that have labels.
    report : MatchReport, optional
        How they were matched.
    """

    data: Data
    folder: Path
    bands: tuple[str, ...]
    matched: list[SceneLabels] = field(default_factory=list)
    report: MatchReport | None = None

    @property
    def version(self) -> str | None:
        """Version of the labels; None for synthetic worlds."""
        return None if self.report is None else self.report.version

    def scenes(self, say: Say, only: Collection[str] | None = None) -> Iterator[LabelledScene]:
        """Lazy scenes with their outlines, one after the other; ``only`` names some by their ids."""
        for region, worlds in (self.data.sample or {}).items():
            for labelled in _synthetic(region, worlds, self.folder, say, self.bands):
                if only is None or metadata_of(labelled.scene)["item_id"] in only:
                    yield labelled
        layers: Any = self.data.auxiliary
        if self.matched and layers not in (None, "neutral"):
            layers = dx.load_items(layers)
        for scene in self.matched:
            if only is None or scene.item.id in only:
                say(f"scene {scene.item.id} ({scene.region})")
                opened = dx.open_scene(scene.item, auxiliary=layers, bands=self.bands)
                yield LabelledScene(opened, scene.outlines, scene.region, scene.iteration, scene.footprint)

    def described(self) -> dict[str, Any]:
        """Facts for the record of a training."""
        if self.data.sample is not None:
            worlds = {region: f"seeds {w.seeds[0]} to {w.seeds[1]}" for region, w in self.data.sample.items()}
            any_worlds = next(iter(self.data.sample.values()))
            return {"synthetic": True, "worlds": worlds, "size": any_worlds.size, "scenes": any_worlds.scenes}
        return {
            "catalog": self.data.catalog,
            "auxiliary": self.data.auxiliary,
            "labels": [f.path for f in self.data.labels],
        }


def find_scenes(data: Data, folder: Path, bands: tuple[str, ...], say: Say) -> Source:
    """Match the labels of a catalogue with its scenes, or take synthetic worlds as they are.

    Raises
    ------
    LabelError
        Labels cannot be read, or meet no scene.
    """
    if data.catalog is None:
        return Source(data, folder, bands)
    labels = read_labels(data.labels, footprints=data.footprints, negatives=data.negatives)
    if data.iteration is not None:
        labels = labels.up_to(data.iteration)
    matched, report = match_labels(
        labels, dx.load_items(data.catalog), days=data.days, allow_unmatched=data.allow_unmatched
    )
    say(str(report))
    return Source(data, folder, bands, matched, report)


def _synthetic(
    region: str, worlds: SampleWorlds, folder: Path, say: Say, bands: tuple[str, ...]
) -> Iterator[LabelledScene]:
    for seed in range(worlds.seeds[0], worlds.seeds[1] + 1):
        say(f"synthetic world {seed} ({region})")
        root = folder / f"world_{seed}"
        try:
            world = write_world(
                root, seed=seed, size=worlds.size, scenes=worlds.scenes, centre=world_centre(seed),
                landscape=worlds.landscape,
            )  # fmt: skip
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
