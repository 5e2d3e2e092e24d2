"""How far a network looks around a pixel: what a part of a model tile needs to give what the whole tile gives."""

from __future__ import annotations

import threading

import torch

from darts_xr.inference.checkpoint import Checkpoint
from darts_xr.inference.ensemble import Ensemble

_SIDES = (256, 512, 1024)  # px; a network that sees farther than the last allows is given whole tiles
_known: dict[str, int | None] = {}
_looking = threading.Lock()


def reach(ensemble: Ensemble) -> int | None:
    """Pixels that the networks of an ensemble look away from a pixel; None where no bound was found.

    Loads the weights, and looks once in this process for each network.

    Parameters
    ----------
    ensemble : Ensemble
        With ``batch_norm="per-tile"`` there is no bound: statistics are those of the whole tile.
    """
    if ensemble.batch_norm != "eval":
        return None
    found = [_reach_of(member) for member in ensemble.members]
    return None if None in found else max(each for each in found if each is not None)


def _reach_of(member: Checkpoint) -> int | None:
    with _looking:
        if member.sha256 not in _known:
            _known[member.sha256] = _look(member)
        return _known[member.sha256]


def _look(member: Checkpoint) -> int | None:
    """Put NaN into one cell of a stride and see how far it spreads, whatever the weights are."""
    stride = member.architecture.stride
    # In float64, for which PyTorch's own kernels are used: those of oneDNN may drop a NaN in a maximum.
    network = member.load_network().double()
    for side in _SIDES:
        first = side // 2 // stride * stride
        pixels = torch.ones(1, member.architecture.in_channels, side, side, dtype=torch.float64)
        pixels[..., first : first + stride, first : first + stride] = torch.nan
        with torch.inference_mode():
            spread = network(pixels)[0, 0].isnan()
        touched = [torch.nonzero(spread.any(dim=axis)).flatten() for axis in (0, 1)]
        low, high = min(int(each[0]) for each in touched), max(int(each[-1]) for each in touched)
        if low > 0 and high < side - 1:
            # From the far side of the cell, so that it holds for each of its pixels.
            return max(first + stride - 1 - low, high - first)
    return None
