"""Training: scenes and outlines to checkpoints, from one YAML file."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml

import darts_xr as dx
from darts_xr.cube import BANDS, select_bands
from darts_xr.errors import PipelineError
from darts_xr.inference import Architecture, Checkpoint, save_checkpoint
from darts_xr.sample import write_world
from darts_xr.training import Schedule, TrainingScene, collect_scene, fit, score_pixels
from pipelines.validation import read_vectors

_KEYS = {"members", "train", "validation", "schedule", "licence", "tile", "margin"}


def train(
    config: str | os.PathLike[str] | dict[str, Any],
    *,
    out: str | os.PathLike[str],
    say: Callable[[str], None] | None = None,
    client: Any = None,
) -> list[Checkpoint]:
    """Train the members of an ensemble.

    Parameters
    ----------
    config : path or dict
        ``members``: for each name an architecture (``encoder``, ``depth``, ``decoder_channels``) and optionally
        ``bands`` (names; by default all ten) and ``schedule`` (overrides). ``train`` and ``validation``: either
        ``sample`` (``seeds``, ``size``, ``scenes``: synthetic worlds) or ``catalog``, ``auxiliary`` and ``outlines`` (a
        vector file with a column ``date`` or ``image_id``). ``schedule``: see :class:`darts_xr.training.Schedule`.
        ``tile`` and ``margin`` in pixels, ``licence``.
    out : path
        Folder for ``<name>.safetensors``.
    say : callable, optional
        Called with a line of text at each step.
    client : distributed.Client, optional
        Made current while scenes are read; the training loop itself runs in this process.

    Returns
    -------
    list of Checkpoint
        One a member; headers hold data, seeds, epochs and scores.

    Raises
    ------
    PipelineError
        When the configuration has unknown or missing entries.
    """
    settings = config if isinstance(config, dict) else yaml.safe_load(Path(config).read_text())
    if unknown := sorted(set(settings) - _KEYS):
        raise PipelineError(
            f"Unknown entries in the training configuration: {', '.join(unknown)}; known: {sorted(_KEYS)}"
        )
    if missing := sorted({"members", "train"} - set(settings)):
        raise PipelineError(f"The training configuration lacks {', '.join(missing)}.")
    say = say or (lambda line: None)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints = []
    with ExitStack() as stack:
        if client is not None:
            stack.enter_context(client.as_current())
        scenes = stack.enter_context(_examples(settings["train"], say))
        unseen = (
            stack.enter_context(_examples(settings["validation"], say)) if settings.get("validation") else []
        )
        for name, member in settings["members"].items():
            checkpoints.append(_train_member(name, member, settings, scenes, unseen, folder, say))
    return checkpoints


def _train_member(
    name: str,
    member: dict[str, Any],
    settings: dict[str, Any],
    scenes: Sequence[TrainingScene],
    unseen: Sequence[TrainingScene],
    folder: Path,
    say: Callable[[str], None],
) -> Checkpoint:
    bands = select_bands(member.get("bands"))
    schedule = Schedule(**{**settings.get("schedule", {}), **member.get("schedule", {})})
    architecture = Architecture.from_dict({**member["architecture"], "in_channels": len(bands)})
    torch.manual_seed(schedule.seed)
    network = architecture.build()
    draft = Checkpoint(
        path="", sha256="", name=name, architecture=architecture, bands=bands,
        tile=settings.get("tile", 512), margin=settings.get("margin", 64),
    )  # fmt: skip

    def report(epoch: int, loss: float) -> None:
        say(f"{name}: epoch {epoch + 1} of {schedule.epochs}, loss {loss:.4f}")

    record = fit(network, draft, scenes, schedule, report=report)
    scores = score_pixels(network, draft, unseen) if unseen else {}
    training = {
        **record,
        "train": _described(settings["train"]),
        "validation": _described(settings.get("validation")),
        "pixel_scores": scores,
        "torch": torch.__version__,
    }
    say(f"{name}: pixel scores on unseen scenes {scores}")
    return save_checkpoint(
        folder / f"{name}.safetensors", network, name=name, architecture=architecture, bands=bands, tile=draft.tile,
        margin=draft.margin, training=training, licence=settings.get("licence", "unknown"),
    )  # fmt: skip


def _described(data: dict[str, Any] | None) -> dict[str, Any]:
    if data and "sample" in data:
        return {"synthetic": True, **data["sample"]}
    return {key: str(value) for key, value in (data or {}).items()}


@contextmanager
def _examples(data: dict[str, Any], say: Callable[[str], None]) -> Iterator[list[TrainingScene]]:
    """Scenes with labels in a temporary folder that goes when they are no longer needed."""
    folder = Path(tempfile.mkdtemp(prefix="darts_xr_training_"))
    try:
        yield list(_collect(data, folder, say))
    finally:
        shutil.rmtree(folder)


def _collect(data: dict[str, Any], folder: Path, say: Callable[[str], None]) -> Iterator[TrainingScene]:
    if "sample" in data:
        sample = data["sample"]
        for seed in range(sample["seeds"][0], sample["seeds"][1] + 1):
            say(f"synthetic world {seed}")
            world = write_world(
                folder / f"world_{seed}", seed=seed, size=sample["size"], scenes=sample["scenes"]
            )
            yield from _scenes(world.catalog, world.auxiliary, world.truth, folder / f"arrays_{seed}")
            shutil.rmtree(world.root)
    elif {"catalog", "auxiliary", "outlines"} <= set(data):
        yield from _scenes(data["catalog"], data["auxiliary"], data["outlines"], folder / "arrays")
    else:
        raise PipelineError("Training data need either an entry sample, or catalog, auxiliary and outlines.")


def _scenes(catalog: Any, auxiliary: Any, outlines: Any, folder: Path) -> Iterator[TrainingScene]:
    truth = read_vectors(outlines)
    column = next((name for name in ("image_id", "date") if name in truth), None)
    if column is None:
        raise PipelineError(
            f"{outlines} has neither a column image_id nor date to tell which scene shows an outline."
        )
    layers = "neutral" if auxiliary == "neutral" else dx.load_items(auxiliary)
    for item in dx.load_items(catalog):
        scene = dx.open_scene(item, auxiliary=layers)
        key = item.id if column == "image_id" else f"{item.datetime:%Y-%m-%d}"
        yield collect_scene(scene, truth[truth[column] == key], tuple(BANDS), folder)
