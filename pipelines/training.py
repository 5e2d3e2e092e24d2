"""Training: scenes and labels to checkpoints, from one YAML file; the same command goes on where it was killed."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from darts_xr.cube import select_bands
from darts_xr.errors import PatchError
from darts_xr.inference import Checkpoint, load_ensemble, read_checkpoint, save_checkpoint
from darts_xr.training import (
    Judgement,
    Lessons,
    PatchStore,
    check_leakage,
    ensemble_card,
    first_weights,
    fit,
    judge,
    member_card,
    open_patches,
    plot_reliability,
    scaled_as,
    score_objects,
    split_patches,
    standardised,
    training_statistics,
    write_patches,
)
from pipelines.training_data import Say, Source, find_scenes
from pipelines.training_settings import Training, read_training

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """Patches of a training and where they came from.

    Parameters
    ----------
    settings : Training
        The configuration.
    lessons : Lessons
        Patches to learn from and to be scored on.
    source : Source
        Scenes of the training.
    scored : Source, optional
        Scenes of the validation.
    work : Path
        Folder for patches and states.
    """

    settings: Training
    lessons: Lessons
    source: Source
    scored: Source | None
    work: Path


@dataclass(frozen=True)
class Trained:
    """What a training made.

    Parameters
    ----------
    checkpoints : tuple of Checkpoint
        The members.
    judgement : Judgement, optional
        Their validation, not calibrated.
    objects : dict
        Object scores of the mean of all members on the validation scenes; empty where there are none.
    """

    checkpoints: tuple[Checkpoint, ...]
    judgement: Judgement | None
    objects: dict[str, Any]


def train(
    config: str | os.PathLike[str] | Mapping[str, Any] | Training,
    *,
    out: str | os.PathLike[str],
    say: Say | None = None,
    client: Any = None,
    devices: int = 1,
) -> Trained:
    """Train the members of an ensemble, judge, calibrate and describe them.

    Parameters
    ----------
    config : path, mapping or Training
        See :class:`pipelines.training_settings.Training`; ``pipelines/paper_training.yml`` explains every entry.
    out : path
        Folder. ``<name>.safetensors`` for each member, ``MODEL_CARD.md``, ``members.csv`` (members, pairs and mean at
        their best thresholds), ``reliability.png``, ``objects.csv``, ``match.json``; in ``work`` patches, states,
        curves and sheets, from which the same call goes on after a kill.
    say : callable, optional
        Called with a line of text at each step.
    client : distributed.Client, optional
        Made current while scenes are cut; the training itself runs in this process.
    devices : int, optional
        GPUs (or processes without a GPU) that train together.

    Returns
    -------
    Trained
        Checkpoints; their headers hold data, seeds, scores, temperature, statistics and card.

    Raises
    ------
    SettingsError, LabelError, PatchError, LeakageError, TrainingError
        Something in configuration, labels, patches or split is unfit, or a loss is no number; the message says what.

    Examples
    --------
    >>> train("pipelines/demo_training.yml", out="models")  # doctest: +SKIP
    """
    settings = config if isinstance(config, Training) else read_training(config)
    say = say or (lambda line: None)
    folder = Path(out)
    with ExitStack() as stack:
        if client is not None:
            stack.enter_context(client.as_current())
        prepared = prepare(settings, folder, say)
    return train_members(prepared, folder, say, devices=devices)


def prepare(settings: Training, folder: Path, say: Say) -> Prepared:
    """Match labels, cut patches (once) and split them."""
    work = folder / "work"
    work.mkdir(parents=True, exist_ok=True)
    source = find_scenes(settings.train, work, settings.bands, say)
    store = _patches(settings, source, "train", work, say)
    scored: Source | None = None
    if settings.validation is not None:
        scored = find_scenes(settings.validation, work, settings.bands, say)
        unseen = _patches(settings, scored, "validation", work, say)
        check_leakage(store.table, unseen.table)
        lessons = Lessons(store, store.rows, unseen, unseen.rows)
    elif settings.split is not None:
        parts = split_patches(store.table, settings.split)
        say(f"split by {settings.split.by}: {len(parts.train)} patches teach, {len(parts.validation)} are scored, "
            f"{len(parts.left_out)} are left out")  # fmt: skip
        lessons = Lessons(store, parts.train, store, parts.validation)
        scored = source if settings.split.by != "block" else None
    else:
        lessons = Lessons(store, store.rows)
    return Prepared(settings, lessons, source, scored, work)


def train_members(prepared: Prepared, folder: Path, say: Say, *, devices: int = 1) -> Trained:
    """Train all members on prepared patches, then judge and describe them."""
    folder.mkdir(parents=True, exist_ok=True)
    done: list[Checkpoint] = []
    for name in prepared.settings.members:
        done.append(_train_member(name, prepared, done, folder, say, devices))
    lessons = prepared.lessons
    judgement: Judgement | None = None
    objects: dict[str, Any] = {}
    table = None
    if lessons.validation is not None:
        say("validation of members, pairs and mean")
        judgement = judge(done, lessons.validation, lessons.validation_rows)
        judgement.table().to_csv(folder / "members.csv")
        plot_reliability(judgement, {m.name: m.temperature or 1.0 for m in done}, folder / "reliability.png")
    if prepared.scored is not None and lessons.validation is not None:
        scenes = set(lessons.validation.table["scene"].to_numpy()[lessons.validation_rows])
        ensemble = load_ensemble(*(member.path for member in done))
        scores, table = score_objects(ensemble, prepared.scored.scenes(say, scenes))
        table.to_csv(folder / "objects.csv", index=False)
        objects = asdict(scores)
        say(f"objects of the validation scenes: F1 {scores.f1:.3f}")
    report = prepared.source.report
    if report is not None:
        (folder / "match.json").write_text(json.dumps(report.to_dict(), indent=1, default=str))
    pooled = None if table is None else pd.DataFrame([{"scenes": len(table), **objects}])
    card = ensemble_card(
        done, judgement, match=None if report is None else report.to_dict(), objects=pooled,
        limits=prepared.settings.limits,
    )  # fmt: skip
    (folder / "MODEL_CARD.md").write_text(card)
    return Trained(tuple(done), judgement, objects)


def _digest(*parts: Any) -> str:
    """Short name of what determines a result."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _patches(settings: Training, source: Source, what: str, work: Path, say: Say) -> PatchStore:
    """Patches of the scenes, cut once and used again by the same configuration."""
    key = _digest(asdict(source.data), source.version, asdict(settings.patches), settings.bands)
    path = work / f"{what}-{key}.zarr"
    try:
        return open_patches(path)
    except PatchError:
        return write_patches(source.scenes(say), path, patching=settings.patches, bands=settings.bands)


def _train_member(
    name: str, prepared: Prepared, done: list[Checkpoint], folder: Path, say: Say, devices: int
) -> Checkpoint:
    settings, lessons = prepared.settings, prepared.lessons
    member, recipe = settings.members[name], settings.recipe_of(name)
    start = member.start
    if start.member is not None:
        start = replace(start, member=None, checkpoint=next(c.path for c in done if c.name == start.member))
    bands = select_bands(member.bands)
    known = () if start.checkpoint is None else read_checkpoint(start.checkpoint).bands
    if kept := {band.name for band in known} & {band.name for band in bands}:
        say(f"{name}: keeps the scales of what it starts from in {', '.join(sorted(kept))}")
    if member.scaling == "standardised" and len(kept) < len(bands):
        bands = standardised(bands, lessons.store, lessons.rows)
    bands = scaled_as(bands, known)
    architecture = member.design.architecture(len(bands))
    torch.manual_seed(recipe.seed)
    network = architecture.build()
    draft = Checkpoint(
        path="", sha256="", name=name, architecture=architecture, bands=bands, tile=settings.tile,
        margin=settings.margin, licence=settings.licence,
    )  # fmt: skip
    begun = first_weights(network, draft, start)
    say(f"{name}: starts from {begun}")
    judged_by = None if lessons.validation is None else lessons.validation.path.name
    key = _digest(
        asdict(member), asdict(recipe), lessons.store.path.name, lessons.rows.tolist(), begun, judged_by,
        lessons.validation_rows.tolist(),
    )  # fmt: skip
    place = prepared.work / f"{name}-{key}"

    def report(epoch: int, scores: dict[str, float]) -> None:
        shown = ("train_loss", "val_iou", "val_f1")
        told = ", ".join(f"{key} {scores[key]:.3f}" for key in shown if key in scores)
        say(f"{name}: epoch {epoch} of {recipe.epochs}, {told}")

    record = fit(
        network, draft, lessons, recipe, place, devices=devices, report=report if devices == 1 else None
    )
    if record["hard_patches"] is not None:
        say(
            f"{name}: {record['hard_patches']} of {len(lessons.rows)} patches held ground that it took for slumps"
        )
    table = lessons.store.table.iloc[lessons.rows]
    training: dict[str, Any] = {
        **record,
        "start": begun,
        "dataset": settings.dataset,
        "version": settings.version or prepared.source.version,
        "regions": sorted(table["region"].unique().tolist()),
        "synthetic": bool(table["synthetic"].any()),
        "train": prepared.source.described(),
        "validation": None if prepared.scored is None else prepared.scored.described(),
        "patches": {
            "train": len(lessons.rows),
            "validation": len(lessons.validation_rows),
            "side": lessons.store.side,
        },
    }
    path = folder / f"{name}.safetensors"
    facts: dict[str, Any] = {"name": name, "architecture": architecture, "bands": bands, "tile": draft.tile,
                             "margin": draft.margin, "licence": draft.licence}  # fmt: skip
    raw = save_checkpoint(path, network, training=training, **facts)
    statistics = training_statistics(raw, lessons.store, lessons.rows)
    temperature, judgement = None, None
    if lessons.validation is not None:
        judgement = judge([raw], lessons.validation, lessons.validation_rows)
        temperature = judgement.temperature(name)
        at_half, best = judgement.at((name,), 0.5), judgement.best((name,))
        training |= {"pixel_scores": at_half, "best_threshold": best["threshold"]}
        say(
            f"{name}: validation pixels F1 {at_half['f1']:.3f}, IoU {at_half['iou']:.3f}, temperature {temperature:.2f}"
        )
    described = replace(raw, training=training, temperature=temperature)
    training["card"] = member_card(described, judgement)
    return save_checkpoint(
        path, network, training=training, temperature=temperature, statistics=statistics, **facts
    )
