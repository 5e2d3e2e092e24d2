"""The demo: a synthetic world nobody trained on, detected, aggregated and scored beside an NDVI threshold."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import xarray as xr

import darts_xr as dx
from darts_xr.assess import Scores
from darts_xr.products import merge_level1
from darts_xr.sample import SampleWorld, read_truth, write_world
from pipelines.aggregation import Products, aggregate
from pipelines.detection import OnScene, detect
from pipelines.progress import OnStage
from pipelines.records import Run
from pipelines.scenes import clean_objects, scene_landcover
from pipelines.settings import Rules, Settings
from pipelines.sources import Sources, load_sources
from pipelines.validation import inner_footprints, score_images, score_run

NDVI_THRESHOLDS = (0.10, 0.15, 0.20, 0.25, 0.30)


@dataclass(frozen=True)
class Demo:
    """What the demo made.

    Parameters
    ----------
    world : SampleWorld
        The synthetic scenes.
    run : Run
        The run folder.
    products : Products
        Level 1, Level 2, coverage.
    scores : dict
        Object scores of Level 1 and Level 2, and of the best NDVI threshold.
    seconds : float
        Wall time.
    """

    world: SampleWorld
    run: Run
    products: Products
    scores: dict[str, Any]
    seconds: float


def demo(
    out: str | os.PathLike[str] = "demo",
    *,
    seed: int = 7,
    scenes: int = 6,
    size: int = 1536,
    models: tuple[str | os.PathLike[str], ...] = ("demo",),
    client: Any = None,
    say: Callable[[str], None] | None = None,
    on_scene: OnScene | None = None,
    on_stage: OnStage | None = None,
) -> Demo:
    """Make a synthetic world, run the whole flow on it with the shipped networks, and score the result.

    Parameters
    ----------
    out : path
        Folder for the world (``world``) and the run (``run``).
    seed : int
        Seed of the world. The shipped networks were trained on other seeds; their headers list them.
    scenes, size : int
        Number and side of the images.
    models : tuple of path
        Checkpoints.
    client : distributed.Client, optional
        Where to compute.
    say : callable, optional
        Called with a line of text at each step.
    on_scene, on_stage : callable, optional
        See :func:`pipelines.detect`.

    Returns
    -------
    Demo
        World, run, products, scores, seconds.
    """
    started = time.perf_counter()
    say = say or (lambda line: None)
    folder = Path(out)
    world = write_world(folder / "world", seed=seed, scenes=scenes, size=size, progress=say)
    settings = Settings(
        out=folder / "run", models=models, auxiliary=world.auxiliary, infrastructure=world.infrastructure
    )
    run = detect(world.catalog, settings, client=client, on_scene=on_scene, on_stage=on_stage)
    say("Level 1, Level 2 and coverage")
    products = aggregate(run, name="darts_xr_demo_synthetic")
    truth = read_truth(world)
    with _saying_once():
        scored = score_run(run, products, truth)
        say("the best NDVI threshold, for comparison")
        scores = {**scored, "ndvi": best_ndvi_threshold(world, run, settings, truth)}
    return Demo(world, run, products, scores, time.perf_counter() - started)


@contextmanager
def _saying_once() -> Iterator[None]:
    """Let what scores warn of be said once, though the same reference is scored many times."""
    said: set[str] = set()

    def first(line: logging.LogRecord) -> bool:
        new = line.getMessage() not in said
        said.add(line.getMessage())
        return new

    scores = logging.getLogger("darts_xr.assess.scored")
    scores.addFilter(first)
    try:
        yield
    finally:
        scores.removeFilter(first)


def best_ndvi_threshold(
    world: SampleWorld, run: Run, settings: Settings, truth: gpd.GeoDataFrame
) -> dict[str, Any]:
    """Score every threshold ``NDVI < t`` on the run's scenes, cleaned and filtered alike; return the best.

    Parameters
    ----------
    world : SampleWorld
        Where the scenes are.
    run : Run
        Of which scenes there are.
    settings : Settings
        Whose rules and filters apply.
    truth : geopandas.GeoDataFrame
        True outlines by date.

    Returns
    -------
    dict
        ``threshold`` and the Level 1 scores of the best one, by F1.
    """
    rules, sources = settings.rules, load_sources(settings)
    items = {item.id: item for item in dx.load_items(world.catalog)}
    done = [items[record["id"]] for record in run.done]
    scenes = [dx.open_scene(item, bands=("ndvi",), mask_rule=rules.mask_rule).load() for item in done]
    seen = inner_footprints(run)
    tried: list[tuple[float, Scores]] = []
    for threshold in NDVI_THRESHOLDS:
        found = merge_level1([_below(scene, threshold, rules, sources) for scene in scenes])
        tried.append((threshold, score_images(seen, found, truth)))
    threshold, best = max(tried, key=lambda pair: np.nan_to_num(pair[1].f1))
    return {"threshold": threshold, "f1": best.f1, "precision": best.precision, "recall": best.recall}


def _below(scene: xr.Dataset, threshold: float, rules: Rules, sources: Sources) -> gpd.GeoDataFrame:
    low = (scene["ndvi"] < threshold).astype("float32").where(scene["valid"])
    low.attrs = scene.attrs | {"ensemble": f"NDVI < {threshold}"}
    labels = dx.label_objects(low, border=rules.border, min_pixels=rules.min_pixels)
    feats, _ = clean_objects(labels, low, scene_landcover(scene, sources), rules, sources)
    return dx.level1(feats, low)
