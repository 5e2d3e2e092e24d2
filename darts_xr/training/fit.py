"""The training loop: augment, focal and Dice loss, one cycle of the learning rate, scores on unseen scenes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from darts_xr.inference import Checkpoint, network_input
from darts_xr.inference.network import preferred_device
from darts_xr.planet.bands import IMAGE_BANDS
from darts_xr.training.examples import IGNORED, RandomTiles, TrainingScene

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

    Parameters
    ----------
    epochs, tiles_per_epoch, batch, side : int
        Passes, tiles in each, tiles in a batch, side of a tile in pixels.
    learning_rate : float
        Peak of the cycle.
    seed : int
        Seed of weights, tiles and augmentation.
    """

    epochs: int = 30
    tiles_per_epoch: int = 512
    batch: int = 16
    side: int = 256
    learning_rate: float = 2e-3
    seed: int = 0


class _SlumpLoss(nn.Module):
    """Focal loss (gamma 2) plus Dice loss over the batch, masked pixels left out."""

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        known = labels != IGNORED
        logits, target = logits[:, 0][known], labels[known].float()
        entropy = nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
        focal = ((1 - torch.exp(-entropy)) ** 2 * entropy).mean()
        p = torch.sigmoid(logits)
        dice = 1 - (2 * (p * target).sum() + 1) / (p.sum() + target.sum() + 1)
        return 4 * focal + dice


def _augmentation(
    member: Checkpoint,
) -> Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """Flips and quarter turns of everything, brightness of the image bands, as in the paper's list."""
    import kornia.augmentation as augment  # in the extra "train"

    turn = augment.AugmentationSequential(
        augment.RandomHorizontalFlip(p=0.5),
        augment.RandomVerticalFlip(p=0.5),
        augment.RandomRotation90(times=(0, 3), p=1.0),
        data_keys=["input", "mask"],
    )
    optical = [k for k, band in enumerate(member.bands) if band.name in IMAGE_BANDS]

    def apply(pixels: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        pixels, turned = turn(pixels, labels[:, None].float())
        gain = 1 + 0.06 * torch.randn(pixels.shape[0], len(optical), 1, 1, device=pixels.device)
        pixels[:, optical] = pixels[:, optical] * gain
        return pixels, turned[:, 0].round().to(torch.uint8)

    return apply


def fit(
    network: nn.Module,
    member: Checkpoint,
    scenes: Sequence[TrainingScene],
    schedule: Schedule,
    *,
    report: Callable[[int, float], None] | None = None,
) -> dict[str, Any]:
    """Train a network in place on random tiles.

    Parameters
    ----------
    network : torch.nn.Module
        As built by ``member.architecture``.
    member : Checkpoint
        Bands and scaling; its file need not exist yet.
    scenes : sequence of TrainingScene
        Where to learn.
    schedule : Schedule
        Epochs, tiles, rate, seed.
    report : callable, optional
        Called with epoch and mean loss after each epoch.

    Returns
    -------
    dict
        Record for the checkpoint's header: the schedule and the loss of each epoch.
    """
    torch.manual_seed(schedule.seed)
    device = preferred_device()
    tiles = RandomTiles(
        scenes, member, side=schedule.side, count=schedule.tiles_per_epoch, seed=schedule.seed
    )
    loader = DataLoader(tiles, batch_size=schedule.batch, drop_last=True)
    optimiser = torch.optim.AdamW(network.parameters(), lr=schedule.learning_rate, weight_decay=0.01)
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, schedule.learning_rate, total_steps=schedule.epochs * len(loader), pct_start=0.2
    )
    loss_of, transform = _SlumpLoss(), _augmentation(member)
    network.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    losses = []
    for epoch in range(schedule.epochs):
        tiles.epoch = epoch
        total = 0.0
        for pixels, labels in loader:
            inputs, targets = transform(pixels.to(device), labels.to(device))
            with torch.autocast(device.type, dtype=torch.bfloat16):
                logits = network(inputs.contiguous(memory_format=torch.channels_last))
            loss = loss_of(logits.float(), targets)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            rate.step()
            total += float(loss.detach())
        losses.append(round(total / len(loader), 4))
        log.info("%s epoch %d of %d: loss %.4f", member.name, epoch + 1, schedule.epochs, losses[-1])
        if report is not None:
            report(epoch, losses[-1])
    network.eval()
    return {"schedule": asdict(schedule), "loss": losses}


def score_pixels(network: nn.Module, member: Checkpoint, scenes: Sequence[TrainingScene]) -> dict[str, float]:
    """Precision, recall, F1 and IoU of slump pixels at threshold 0.5 over whole scenes, masked pixels left out."""
    device, stride = preferred_device(), member.architecture.stride
    counts = np.zeros(3)
    with torch.inference_mode():
        for scene in scenes:
            height, width = (n // stride * stride for n in scene.labels.shape)
            labels = torch.from_numpy(np.array(scene.labels[:height, :width])).to(device)
            stack = torch.from_numpy(np.array(scene.bands[:, :height, :width])).to(device)
            known = labels != IGNORED
            inputs = network_input(stack, scene.names, known, member)[None]
            found = (network(inputs.contiguous(memory_format=torch.channels_last))[0, 0] >= 0) & known
            true = labels == 1
            counts += [
                float((found & true).sum()),
                float((found & ~true).sum()),
                float((~found & true).sum()),
            ]
    tp, fp, fn = counts.tolist()
    return {
        "precision": round(tp / max(tp + fp, 1), 4),
        "recall": round(tp / max(tp + fn, 1), 4),
        "f1": round(2 * tp / max(2 * tp + fp + fn, 1), 4),
        "iou": round(tp / max(tp + fp + fn, 1), 4),
    }
