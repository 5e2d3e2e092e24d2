"""First weights of a network: at random, an encoder's from a file, or those of a checkpoint with other bands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from darts_xr.cube import Band
from darts_xr.errors import TrainingError
from darts_xr.inference import Checkpoint, read_checkpoint
from darts_xr.inference.weights import Weights, load_safely, strip_wrappers
from darts_xr.training.settings import Start

_PICTURE = ("red", "green", "blue")  # order of the channels of networks that were trained on photographs


def first_weights(network: nn.Module, member: Checkpoint, start: Start) -> str:
    """Give a network its first weights in place.

    Parameters
    ----------
    network : torch.nn.Module
        With random weights, as ``member.architecture`` builds it.
    member : Checkpoint
        Bands of the network; its file need not exist yet.
    start : Start
        Where weights come from; ``start.member`` must have been replaced by a file before.

    Returns
    -------
    str
        What was taken, for the checkpoint's record.

    Raises
    ------
    TrainingError
        The file is missing, holds another network, shares no band with this one, or scales one otherwise.
    CheckpointError
        The file cannot be read.

    Notes
    -----
    Nitze et al. 2025 trained iteration after iteration of the labels from the weights of the one before. Kernels of the
    first convolution follow the names of the bands; a band that the old network did not know starts with 0, so that the
    network begins by predicting what the old one did. An encoder's kernels for red, green and blue go to these bands,
    and their mean to all others. The published code threw them away where there were more than three bands.
    """
    if start.checkpoint is not None:
        old = read_checkpoint(start.checkpoint)
        fitted = _fit_bands(old.load_network().state_dict(), network.state_dict(), old.bands, member)
        _load(network, fitted, start.checkpoint)
        return f"checkpoint {old.name}, sha256 {old.sha256}"
    if start.encoder is not None:
        path = Path(start.encoder)
        encoder: nn.Module = network.encoder  # type: ignore[assignment]
        own = encoder.state_dict()
        prefix = "model." if all(key.startswith("model.") for key in own) else ""
        held = {f"{prefix}{key}".replace("model.model.", "model."): w for key, w in _read(path).items()}
        kept = {
            key: w for key, w in held.items() if key in own
        }  # a classifier's last layer has no place here
        first = _first_kernel(own)
        if first not in kept or kept[first].shape[1] != len(_PICTURE):
            raise TrainingError(
                f"{path} holds no encoder {member.architecture.encoder} with three bands: {first} is missing or has "
                "another shape. Give the ImageNet weights of this encoder as torchvision or timm publish them."
            )
        kept[first] = _spread(kept[first], member.band_names)
        missing = [key for key in own if key not in kept and not key.endswith("num_batches_tracked")]
        if missing:
            raise TrainingError(f"{path} lacks {len(missing)} weights of the encoder, first {missing[0]}.")
        _load(encoder, kept, start.encoder)
        return f"encoder from {path.name}"
    return "random"


def _read(path: Path) -> Weights:
    if not path.is_file():
        raise TrainingError(f"Weights to start from not found: {path}")
    if path.suffix == ".safetensors":
        return safetensors.torch.load_file(path)
    return strip_wrappers(load_safely(path))


def _load(module: nn.Module, weights: Mapping[str, torch.Tensor], source: str) -> None:
    try:
        module.load_state_dict(dict(weights), strict=False)
    except RuntimeError as error:
        raise TrainingError(f"{source} is of another network than the one to train: {error}") from error


def _first_kernel(weights: Mapping[str, torch.Tensor]) -> str:
    return next(key for key, value in weights.items() if value.ndim == 4)


def _fit_bands(
    old: Mapping[str, torch.Tensor],
    new: Mapping[str, torch.Tensor],
    bands: Sequence[Band],
    member: Checkpoint,
) -> Weights:
    """Weights of an old network for a new one of the same kind that is given other bands."""
    before = {band.name: (place, band) for place, band in enumerate(bands)}
    shared = [name for name in member.band_names if name in before]
    if set(old) != set(new) or not shared:
        reason = "shares no band with it" if set(old) == set(new) else "has other layers"
        raise TrainingError(
            f"The checkpoint to start {member.name} from {reason}. Start from a network of the same architecture, "
            "or at random."
        )
    if other := [b.name for b in member.bands if b.name in before and _scale(b) != _scale(before[b.name][1])]:
        raise TrainingError(
            f"The checkpoint to start {member.name} from scales {', '.join(other)} otherwise; take scaled_as(bands, "
            "checkpoint.bands)."
        )
    first = _first_kernel(new)
    kernel = torch.zeros_like(new[first])
    for place, name in enumerate(member.band_names):
        if name in before:
            kernel[:, place] = old[first][:, before[name][0]]
    return {**old, first: kernel}


def scaled_as(bands: Iterable[Band], old: Iterable[Band]) -> tuple[Band, ...]:
    """Scale bands as an old network does, for one that goes on from it; those that it does not know stay as they are.

    Examples
    --------
    >>> from darts_xr.cube import select_bands
    >>> slope, wetness = select_bands(["slope", "tc_wetness"])
    >>> [band.divisor for band in scaled_as([slope, wetness], [replace(slope, divisor=4.0)])]
    [4.0, 255.0]
    """
    before = {band.name: band for band in old}
    return tuple(
        replace(band, **_scale(before[band.name])) if band.name in before else band for band in bands
    )


def _scale(band: Band) -> dict[str, Any]:
    return {"offset": band.offset, "divisor": band.divisor, "clip": band.clip}


def _spread(kernel: torch.Tensor, bands: Sequence[str]) -> torch.Tensor:
    """Kernels of photographs for other bands, scaled so that the sum over the bands stays what it was."""
    mean = kernel.mean(dim=1)
    planes = [kernel[:, _PICTURE.index(name)] if name in _PICTURE else mean for name in bands]
    return torch.stack(planes, dim=1) * (len(_PICTURE) / len(bands))
