"""What happens beside the steps: states to go on from, sheets of validation patches, time spent waiting."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.image
import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import TensorBoardLogger

from darts_xr.training.burn import IGNORED
from darts_xr.training.draws import Batch, PatchDataset, plain_loader, planes_of
from darts_xr.training.mining import CELL, hard_cells
from darts_xr.training.module import SlumpModule, scaled_input
from darts_xr.training.patches import LABELS

log = logging.getLogger(__name__)
STATE = "state.ckpt"
_ON_SHEET = 6
_PICTURE = ("red", "green", "blue")


class KeepState(Callback):
    """Write the whole state of a training now and then, so that a killed one goes on where it was.

    Parameters
    ----------
    folder : pathlib.Path
        Where ``state.ckpt`` lies; it is replaced in one piece.
    every : int
        Steps between two states; one is written at the end of each epoch too.
    """

    def __init__(self, folder: Path, every: int) -> None:
        self.path, self.every = folder / STATE, every

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After a step; not after the last of an epoch, whose validation belongs to it."""
        if trainer.global_step % self.every == 0 and batch_idx + 1 < trainer.num_training_batches:
            trainer.save_checkpoint(self.path)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """After an epoch and its validation."""
        trainer.save_checkpoint(self.path)


class Mine(Callback):
    """Before one epoch, look through all patches for ground without slumps in which the network finds some.

    Parameters
    ----------
    rows : numpy.ndarray
        Patches to look through, by their place in the table.
    epoch : int
        Before which epoch, from 0.
    """

    def __init__(self, rows: NDArray[np.integer], epoch: int) -> None:
        self.rows, self.epoch = rows, epoch

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look, where it is time; with several processes each looks through all, and the first writes.

        Lightning does not call this for an epoch that goes on in its middle.
        """
        if trainer.current_epoch != self.epoch or not isinstance(pl_module, SlumpModule):
            return
        store, recipe = pl_module.store, pl_module.recipe
        cells = np.zeros((len(store), -(-store.side // CELL), -(-store.side // CELL)), bool)
        pl_module.eval()
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            for batch in plain_loader(store, self.rows, replace(recipe, workers=0)):
                moved = {name: plane.to(pl_module.device) for name, plane in batch.items()}
                logits = pl_module(scaled_input(planes_of(moved, store.layout), pl_module.member))
                found = hard_cells(torch.sigmoid(logits[:, 0]), moved[LABELS])
                cells[batch["row"].numpy()] = found.cpu().numpy()
        pl_module.train()
        pl_module.hard.keep(cells, write=trainer.is_global_zero)
        log.info(
            "%s: %d of %d patches hold ground that it takes for slumps",
            pl_module.member.name,
            cells.any(axis=(1, 2)).sum(),
            len(self.rows),
        )


class Waiting(Callback):
    """Measure which share of an epoch the steps waited for their patches; logged as ``loader_wait``."""

    def __init__(self) -> None:
        self.waited, self.begun, self.since = 0.0, 0.0, 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to count."""
        self.waited, self.begun, self.since = 0.0, time.perf_counter(), time.perf_counter()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Stop waiting."""
        self.waited += time.perf_counter() - self.since

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Begin to wait for the next patches."""
        self.since = time.perf_counter()
        share = self.waited / max(self.since - self.begun, 1e-9)
        pl_module.log(
            "loader_wait", share, on_step=False, on_epoch=True, reduce_fx="max", batch_size=1, sync_dist=True
        )


class Report(Callback):
    """Keep the scores of all epochs in ``metrics.csv``, and tell them to a function.

    Parameters
    ----------
    folder : pathlib.Path
        Where the table goes; Lightning's own logger would begin it anew when a training goes on.
    say : callable, optional
        Takes the number of the epoch, from 1, and its scores.
    """

    def __init__(self, folder: Path, say: Any) -> None:
        self.path, self.say = folder / "metrics.csv", say
        self.history: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """After an epoch and its validation."""
        scores = {name: round(float(value), 5) for name, value in trainer.callback_metrics.items()}
        self.history.append({"epoch": trainer.current_epoch + 1, **scores})
        if trainer.is_global_zero:
            pd.DataFrame(self.history).to_csv(self.path, index=False)
        if self.say is not None:
            self.say(trainer.current_epoch + 1, scores)

    def state_dict(self) -> dict[str, Any]:
        """History up to now."""
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with a history."""
        self.history = list(state_dict["history"])


class Sheets(Callback):
    """Draw validation patches with truth and prediction after each epoch, as a PNG and for TensorBoard.

    Parameters
    ----------
    folder : pathlib.Path
        Where ``epoch_NNN.png`` go.
    patches : PatchDataset
        Validation patches; those with most slump pixels are drawn.
    """

    def __init__(self, folder: Path, patches: PatchDataset) -> None:
        self.folder, self.patches = folder, patches
        positive = patches.store.table["n_positive"].to_numpy()[patches.rows]
        self.chosen = np.argsort(-positive, kind="stable")[:_ON_SHEET]

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw a sheet."""
        if trainer.sanity_checking or not trainer.is_global_zero or not isinstance(pl_module, SlumpModule):
            return
        batch: Batch = self.patches.__getitems__(self.chosen.tolist())
        with torch.no_grad():
            p = pl_module.predict_step({k: v.to(pl_module.device) for k, v in batch.items()}, 0).cpu().numpy()
        planes = {name: plane.numpy() for name, plane in planes_of(batch, self.patches.store.layout).items()}
        sheet = draw_sheet(planes, batch[LABELS].numpy(), p)
        self.folder.mkdir(parents=True, exist_ok=True)
        matplotlib.image.imsave(self.folder / f"epoch_{trainer.current_epoch + 1:03d}.png", sheet)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("validation", sheet, trainer.global_step, dataformats="HWC")


def draw_sheet(
    planes: dict[str, NDArray[Any]], labels: NDArray[np.uint8], p: NDArray[np.floating]
) -> NDArray[np.uint8]:
    """Patches in rows: image, truth (ignored pixels grey), probability; (y, x, 3) uint8."""
    names = [name for name in _PICTURE if name in planes]
    rows = []
    for number in range(len(labels)):
        bands = [planes[name][number] for name in names] or [next(iter(planes.values()))[number]]
        known = labels[number] != IGNORED
        image = np.stack([_stretched(band, known) for band in (bands * 3)[:3]], axis=-1)
        truth = np.repeat((labels[number] == 1)[..., None], 3, axis=-1).astype(float)
        truth[~known] = 0.4
        found = matplotlib.colormaps["magma"](p[number])[..., :3]
        rows.append(np.concatenate([image, truth, found], axis=1))
    step = max(1, labels.shape[-1] // 256)
    return (255 * np.concatenate(rows, axis=0)[::step, ::step]).astype(np.uint8)


def _stretched(band: NDArray[Any], known: NDArray[np.bool_]) -> NDArray[np.floating]:
    low, high = np.percentile(band[known], (2, 98)) if known.any() else (0, 1)
    out: NDArray[np.floating] = np.clip((band - low) / max(float(high - low), 1e-6), 0, 1)
    return out
