"""Train a network with Lightning: the best epoch by validation comes out, a killed training goes on exactly."""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import nn
from torch.multiprocessing.spawn import ProcessException
from torch.utils.data import DataLoader

from darts_xr.errors import PatchError, TrainingError
from darts_xr.inference import Checkpoint
from darts_xr.inference.network import bfloat16_slowdown, preferred_device
from darts_xr.training.callbacks import STATE, KeepState, Mine, Report, Sheets, Waiting
from darts_xr.training.draws import Batch, PatchDataset, plain_loader, steps_per_epoch, training_loader
from darts_xr.training.mining import HardGround
from darts_xr.training.module import SlumpModule
from darts_xr.training.patches import PatchStore
from darts_xr.training.processes import SilentLightning, SpawnedDDP, silence_lightning
from darts_xr.training.settings import Recipe, StepPrecision

log = logging.getLogger(__name__)
BEST = "best.ckpt"
HARD = "hard.npy"


@dataclass(frozen=True)
class Lessons:
    """Patches to learn from and patches to be scored on.

    Parameters
    ----------
    store : PatchStore
        Where the training patches lie.
    rows : numpy.ndarray
        Which of them.
    validation : PatchStore, optional
        Where the validation patches lie; may be the same store. None: the last epoch is taken, and nothing is scored.
    validation_rows : numpy.ndarray
        Which of them.
    """

    store: PatchStore
    rows: NDArray[np.integer]
    validation: PatchStore | None = None
    validation_rows: NDArray[np.integer] = field(default_factory=lambda: np.empty(0, int))


class _Data(pl.LightningDataModule):
    """Loaders that begin where the training is."""

    def __init__(self, lessons: Lessons, recipe: Recipe, hard: HardGround) -> None:
        super().__init__()
        self.lessons, self.recipe, self.hard = lessons, recipe, hard

    def train_dataloader(self) -> DataLoader[Batch]:
        trainer = self.trainer
        assert trainer is not None  # Lightning sets it before it asks for batches
        done = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        return training_loader(
            self.lessons.store, self.lessons.rows, self.recipe, hard=self.hard, epoch=trainer.current_epoch,
            skip=done * self.recipe.batch, rank=trainer.global_rank, world=trainer.world_size,
        )  # fmt: skip

    def val_dataloader(self) -> DataLoader[Batch] | list[Any]:
        if self.lessons.validation is None:
            return []
        assert self.trainer is not None
        mine = self.lessons.validation_rows[self.trainer.global_rank :: self.trainer.world_size]
        return plain_loader(self.lessons.validation, mine, self.recipe)


def fit(
    network: nn.Module,
    member: Checkpoint,
    lessons: Lessons,
    recipe: Recipe,
    folder: str | os.PathLike[str],
    *,
    devices: int = 1,
    report: Callable[[int, dict[str, float]], None] | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Train a network in place; the same call in the same folder goes on where a killed one was.

    Parameters
    ----------
    network : torch.nn.Module
        As built by ``member.architecture``, with its first weights.
    member : Checkpoint
        Bands and scaling; its file need not exist yet.
    lessons : Lessons
        Patches.
    recipe : Recipe
        How.
    folder : path
        Where states, the best epoch, ``metrics.csv``, TensorBoard's files and sheets of validation patches go.
    devices : int, optional
        GPUs to train on, each a process of its own (DDP); or processes where there is no GPU.
    report : callable, optional
        Called with number, from 1, and scores of each epoch; with several devices it must be picklable.
    progress : bool, optional
        Whether Lightning draws a progress bar.

    Returns
    -------
    dict
        Record for the checkpoint's header: recipe, the precision that the device allowed, scores of each epoch, the
        epoch that was chosen, the number of patches in which hard ground was found. ``network`` has the weights of that
        epoch and is in evaluation mode.

    Raises
    ------
    TrainingError
        There is no slump to learn, a band is missing, the loss is no number (the message names the patches, and the
        last good state stays), the folder holds another training, or a SIGTERM ended this one.
    KeyboardInterrupt
        It was interrupted; the same call goes on from its last state.
    PatchError
        The side of the patches, or of what ``recipe.crop`` cuts from them, does not suit the network.

    Notes
    -----
    What is drawn depends on seed, epoch and step alone. On a CPU a resumed training ends with the same bits as one that
    was not disturbed, for the same number of threads.

    Examples
    --------
    >>> record = fit(network, member, Lessons(store, rows), Recipe(), "training/tcvis")  # doctest: +SKIP
    """
    check_lessons(member, lessons, crop=recipe.crop.side if recipe.crop else None)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    on_gpu = torch.cuda.is_available()
    state = folder / STATE
    resume = state if state.is_file() else None
    began, allowed = precision_of(resume), allowed_precision(recipe)
    precision = began or allowed
    if precision != recipe.precision:
        reason = "it began so" if began else f"this CPU takes longer for a convolution in {recipe.precision}"
        log.warning("%s trains in float32: %s", member.name, reason)
    elif precision != allowed:
        log.warning(
            "%s goes on in %s, as it began, which takes this CPU longer than float32", member.name, precision
        )
    steps = recipe.epochs * steps_per_epoch(len(lessons.rows), recipe, devices)
    if resume is None:
        (folder / HARD).unlink(missing_ok=True)  # what another training found
    hard = HardGround(folder / HARD)
    module = SlumpModule(network, member, recipe, lessons.store, steps=steps, precision=precision, hard=hard)
    scored = lessons.validation is not None
    teller = Report(folder, report)
    callbacks: list[Any] = [teller, KeepState(folder, recipe.keep_every), Waiting()]
    if lessons.validation is not None:
        mode = "min" if recipe.monitor == "loss" else "max"
        monitor = f"val_{recipe.monitor}"
        best = ModelCheckpoint(
            folder,
            Path(BEST).stem,
            monitor=monitor,
            mode=mode,
            save_weights_only=True,
            enable_version_counter=False,
        )
        callbacks[1:1] = [
            best,
            Sheets(folder / "sheets", PatchDataset(lessons.validation, lessons.validation_rows)),
        ]
        if recipe.patience is not None:
            callbacks.insert(1, EarlyStopping(monitor, mode=mode, patience=recipe.patience))
    if recipe.mine_after is not None:
        epoch = min(max(1, round(recipe.mine_after * recipe.epochs)), recipe.epochs - 1)
        callbacks.insert(0, Mine(lessons.rows, epoch))  # before the time is taken that steps wait
    if devices > 1:
        callbacks.append(SilentLightning())
    with _quiet():
        trainer = pl.Trainer(
            accelerator="gpu" if on_gpu else "cpu",
            devices=devices,
            strategy=SpawnedDDP() if devices > 1 else "auto",
            precision=precision,
            max_epochs=recipe.epochs,
            gradient_clip_val=recipe.clip,
            callbacks=callbacks,
            logger=TensorBoardLogger(folder, name=None, version="tensorboard"),
            default_root_dir=folder,
            enable_checkpointing=scored,
            enable_progress_bar=progress,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            log_every_n_steps=10,
            use_distributed_sampler=False,
        )
    if resume is not None:
        log.info("%s goes on from %s", member.name, resume)
    with _quiet():
        try:
            trainer.fit(module, datamodule=_Data(lessons, recipe, hard), ckpt_path=resume, weights_only=True)
        except ProcessException as error:
            # The last line of a process's traceback is its error; one that was killed has none.
            told, own = re.subn(r"^darts_xr\.errors\.\w+: ", "", str(error).strip().splitlines()[-1])
            advice = "" if own else _goes_on(folder)
            raise TrainingError(
                f"{'' if own else f'{member.name}: '}{told} (process {error.error_index + 1} of {devices}){advice}"
            ) from error
        except SIGTERMException as error:  # a SystemExit that counts as success
            raise TrainingError(
                f"{member.name}: ended by a SIGTERM before it was done{_goes_on(folder)}"
            ) from error
        except SystemExit as error:
            # What Lightning makes of an interrupt. In a notebook it would end the cell without a word.
            raise KeyboardInterrupt(f"{member.name} was interrupted{_goes_on(folder)}") from error
    # Read back rather than asked of the trainer: where several processes trained, this one knows nothing.
    last = torch.load(state, map_location="cpu", weights_only=True)
    kept = torch.load(folder / BEST, map_location="cpu", weights_only=True) if scored else last
    module.load_state_dict(kept["state_dict"])
    network.to("cpu").eval()
    found = HardGround(folder / HARD)
    return {
        "recipe": asdict(recipe),
        "precision": precision,
        "history": last["callbacks"][teller.state_key]["history"],
        "chosen_epoch": int(kept["epoch"]) + 1,
        "hard_patches": None if recipe.mine_after is None else int(found.patches(lessons.rows).sum()),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def _goes_on(folder: Path) -> str:
    return f"; {folder} keeps its states, and the same call goes on from there"


@contextmanager
def _quiet() -> Iterator[None]:
    chatter = logging.getLogger("pytorch_lightning")
    level = chatter.level
    try:
        with warnings.catch_warnings():
            silence_lightning()
            yield
    finally:
        chatter.setLevel(level)


def allowed_precision(recipe: Recipe) -> StepPrecision:
    """Precision of the training steps on this machine: float32 where bfloat16 is asked for and would take longer."""
    slower = recipe.precision == "bf16-mixed" and bfloat16_slowdown(preferred_device()) > 1
    return "32-true" if slower else recipe.precision


def precision_of(state: Path | None) -> StepPrecision | None:
    """Precision in which a training began that goes on; None for a new one."""
    if state is None:
        return None
    precision: StepPrecision = torch.load(state, map_location="cpu", weights_only=True)["precision"]
    return precision


def check_lessons(member: Checkpoint, lessons: Lessons, *, crop: int | None = None) -> None:
    """Refuse patches that cannot teach this network; see :func:`fit`."""
    stride = member.architecture.stride
    if crop is not None and (crop % stride or crop > lessons.store.side):
        raise PatchError(
            f"crop is {crop} px; {member.name} takes multiples of {stride} px, and the patches of {lessons.store.path} "
            f"have a side of {lessons.store.side} px."
        )
    for store in (lessons.store, lessons.validation):
        if store is None:
            continue
        if store.side % stride:
            raise PatchError(
                f"{store.path} has patches of {store.side} px, and {member.name} takes multiples of {stride} px. Cut "
                f"them with a side of {max(1, store.side // stride) * stride} px, or take a smaller depth."
            )
        if missing := [name for name in member.band_names if name not in store.bands]:
            raise TrainingError(
                f"{store.path} lacks {', '.join(missing)}, which {member.name} takes; cut it anew."
            )
    if not len(lessons.rows):
        raise TrainingError(f"There is no patch to train {member.name} on.")
    if not (lessons.store.table["n_positive"].to_numpy()[lessons.rows] > 0).any():
        raise TrainingError(
            f"None of the {len(lessons.rows)} patches to train {member.name} on shows a slump: the class is empty. "
            "Check the match report of the labels, and the split."
        )
    if lessons.validation is not None and not len(lessons.validation_rows):
        raise TrainingError(f"There is no patch to validate {member.name} on; check the split.")
