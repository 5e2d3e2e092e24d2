"""A small training that ends itself at a step: as a function, or run as a program that is killed without warning."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from darts_xr.training import Crop, Lessons, Recipe, Sampling, fit, open_patches
from darts_xr.training.module import SlumpModule
from tests.training.lessons import member_of

PLAIN = SlumpModule.training_step


class StoppedError(Exception):
    """The end came."""


def run(
    root: Path, name: str, at: int = -1, end: Callable[[], None] | None = None
) -> dict[str, torch.Tensor]:
    """Train 15 steps in three epochs; the last weights. ``end`` is called before the step ``at``."""
    store, unseen = open_patches(root / "train.zarr"), open_patches(root / "validation.zarr")

    def step(self: SlumpModule, batch: Any, batch_idx: int) -> torch.Tensor:
        if self.global_step == at and end is not None:
            end()
        return PLAIN(self, batch, batch_idx)

    SlumpModule.training_step = step  # type: ignore[method-assign]
    try:
        member = member_of()
        torch.manual_seed(0)
        network = member.architecture.build()
        recipe = Recipe(
            epochs=3,
            batch=4,
            patches_per_epoch=20,
            schedule="one-cycle",
            precision="bf16-mixed",
            keep_every=2,
            crop=Crop(48, hard=0.3, anywhere=0.2),
            sampling=Sampling(0.5, 0.25, 0.25),
            mine_after=0.5,
        )
        fit(network, member, Lessons(store, store.rows, unseen, np.arange(4)), recipe, root / name)
    finally:
        SlumpModule.training_step = PLAIN  # type: ignore[method-assign]
    weights: dict[str, torch.Tensor] = torch.load(root / name / "state.ckpt", weights_only=True)["state_dict"]
    return weights


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), lambda: os.kill(os.getpid(), signal.SIGKILL))
