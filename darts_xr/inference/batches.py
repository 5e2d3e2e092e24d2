"""How much goes through a network in one pass: windows of one shape together, as the device's memory allows."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import psutil
import torch

from darts_xr.errors import PredictionError
from darts_xr.inference.activations import activation_bytes
from darts_xr.inference.ensemble import Ensemble
from darts_xr.inference.tiles import Window

_GPU_BATCH = 2**24  # px in one forward pass
_GPU_BLOCKS = 8  # whose planes, scaled in float32, are on the card at the same time
_MUCH = 2**20  # px in one forward pass, above which a machine is asked whether it has the memory
_BESIDE = 1.3  # times the activations; UNet++/resnet34 takes 1.06 to 1.27 times them


class Placed(NamedTuple):
    """A window, and which of the blocks that are predicted together it is of."""

    block: int
    window: Window


_admitted = 0.0  # bytes of the largest pass that the machine's memory was found to hold
_asking = threading.Lock()


def pass_bytes(ensemble: Ensemble) -> float:
    """Memory that a forward pass takes for each pixel, bytes; of the member that takes most."""
    side = ensemble.tile + 2 * ensemble.margin  # whatever is asked of them, they take this
    margin = ensemble.margin if ensemble.batch_norm == "eval" else None
    return _BESIDE * max(activation_bytes(member.architecture, side, margin) for member in ensemble.members)


def batch_pixels(device: torch.device, ensemble: Ensemble) -> int:
    """Pixels for one forward pass, by the memory that is free on a GPU; elsewhere 1, for one window at a time.

    On a CPU larger batches are no faster, and its library sums in another order for some of them: which windows share a
    batch depends on the chunks, and the last bits must not.
    """
    if device.type != "cuda":
        return 1
    free, _ = torch.cuda.mem_get_info(device)
    reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min(_GPU_BATCH, int((free + reserved) * 0.75 / pass_bytes(ensemble)))


def blocks_together(device: torch.device) -> int:
    """Blocks whose windows share forward passes, at most; on a CPU windows go through one at a time anyway."""
    return _GPU_BLOCKS if device.type == "cuda" else 1


def batches(
    windows: Sequence[Placed], margin: int, device: torch.device, ensemble: Ensemble
) -> Iterator[list[Placed]]:
    """Group windows of one shape, as many as suit one forward pass, whatever block they are of.

    Raises
    ------
    PredictionError
        When not even one window fits into the memory of a machine without a GPU, whose system would end the process.
    """
    budget = 1 if ensemble.batch_norm == "per-tile" else batch_pixels(device, ensemble)
    groups: dict[tuple[int, int], list[Placed]] = {}
    for placed in windows:
        groups.setdefault(placed.window.shape, []).append(placed)
    for (height, width), group in groups.items():
        pixels = (height + 2 * margin) * (width + 2 * margin)
        if device.type == "cpu" and pixels > _MUCH:
            _admit(height + 2 * margin, width + 2 * margin, ensemble)
        size = max(1, budget // pixels)
        for first in range(0, len(group), size):
            yield group[first : first + size]


def _admit(height: int, width: int, ensemble: Ensemble) -> None:
    """Refuse a pass that the machine cannot hold; asked for the first of its size only, whose memory is kept."""
    global _admitted
    need = height * width * pass_bytes(ensemble)
    with _asking:
        if need <= _admitted:
            return
        free = free_memory()
        if need > free:
            raise PredictionError(
                f"a tile of {height} × {width} px takes {ensemble.name} about {need / 2**30:.1f} GiB of memory, and "
                f"{free / 2**30:.1f} GiB are free. Let fewer workers run on this machine, or give a smaller tile, "
                "which is written into the result."
            )
        _admitted = need


def free_memory() -> int:
    """Memory that this process may still take, bytes: what the machine, and its control group, have free."""
    from distributed.system import MEMORY_LIMIT  # imported here: it takes half a second, and few passes ask

    return int(min(psutil.virtual_memory().available, MEMORY_LIMIT - psutil.Process().memory_info().rss))
