"""Training: scenes and labels to checkpoints, from one YAML file; the same command goes on where it was killed."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from darts_xr.cube import select_bands
from darts_xr.inference import Checkpoint, save_checkpoint
from darts_xr.training import Lessons, PatchStore, fit, first_weights, open_patches, write_patches
from darts_xr.errors import PatchError
from pipelines.training_data import labelled_scenes
from pipelines.training_settings import Data, Training, read_training

log = logging.getLogger(__name__)
Say = Callable[[str], None]


def train(
    config: str | os.PathLike[str] | Mapping[str, Any] | Training,
    *,
    out: str | os.PathLike[str],
    say: Say | None = None,
    client: Any = None,
    devices: int = 1,
) -> list[Checkpoint]:
    """Train the members of an ensemble."""
    settings = config if isinstance(config, Training) else read_training(config)
    say = say or (lambda line: None)
    folder = Path(out)
    work = folder / "work"
    work.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        if client is not None:
            stack.enter_context(client.as_current())
        store = _patches(settings, settings.train, "train", work, say)
        unseen = None if settings.validation is None else _patches(settings, settings.validation, "validation", work, say)
    lessons = Lessons(store, np.arange(len(store)), unseen, np.arange(0 if unseen is None else len(unseen)))
    done: list[Checkpoint] = []
    for name in settings.members:
        done.append(_train_member(name, settings, lessons, done, folder, say, devices))
    return done


def _digest(*parts: Any) -> str:
    """Short name of what determines a result."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _patches(settings: Training, data: Data, what: str, work: Path, say: Say) -> PatchStore:
    """Patches of the data, cut once and used again by the same configuration."""
    path = work / f"{what}-{_digest(asdict(data), asdict(settings.patches), settings.bands)}.zarr"
    try:
        return open_patches(path)
    except PatchError:
        scenes = labelled_scenes(data, work, say, settings.bands)
        return write_patches(scenes, path, patching=settings.patches, bands=settings.bands)


def _train_member(
    name: str,
    settings: Training,
    lessons: Lessons,
    done: list[Checkpoint],
    folder: Path,
    say: Say,
    devices: int,
) -> Checkpoint:
    member, recipe = settings.members[name], settings.recipe_of(name)
    bands = select_bands(member.bands)
    architecture = member.design.architecture(len(bands))
    torch.manual_seed(recipe.seed)
    network = architecture.build()
    draft = Checkpoint(
        path="", sha256="", name=name, architecture=architecture, bands=bands, tile=settings.tile, margin=settings.margin
    )
    start = member.start
    if start.member is not None:
        start = replace(start, member=None, checkpoint=next(c.path for c in done if c.name == start.member))
    begun = first_weights(network, draft, start)
    say(f"{name}: starts from {begun}")
    place = folder / "work" / f"{name}-{_digest(asdict(member), asdict(recipe), str(lessons.store.path), begun)}"

    def report(epoch: int, scores: dict[str, float]) -> None:
        told = ", ".join(f"{key} {scores[key]:.3f}" for key in ("train_loss", "val_iou", "val_f1") if key in scores)
        say(f"{name}: epoch {epoch} of {recipe.epochs}, {told}")

    record = fit(network, draft, lessons, recipe, place, devices=devices, report=report if devices == 1 else None)
    training = {**record, "start": begun, "dataset": settings.dataset, "version": settings.version}
    return save_checkpoint(
        folder / f"{name}.safetensors", network, name=name, architecture=architecture, bands=bands,
        tile=draft.tile, margin=draft.margin, training=training, licence=settings.licence,
    )  # fmt: skip
