"""Checkpoints: what a file of any known format says of one network, without its weights."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from darts_xr.cube.bands import Band
from darts_xr.digests import file_digest
from darts_xr.errors import CheckpointError, PredictionError
from darts_xr.inference import legacy, native, nextgen
from darts_xr.inference.network import Architecture
from darts_xr.inference.weights import Description, Weights, load_safely


class _Format(NamedTuple):
    describe: Callable[[Path], Description]
    weights: Callable[[Path], Weights]


_FORMATS = {
    "darts_xr": _Format(native.describe, native.weights),
    "thaw-slump-segmentation": _Format(legacy.describe, legacy.weights),
    "darts-nextgen": _Format(nextgen.describe, nextgen.weights),
}
_TORCH_SUFFIXES = (".pt", ".pth", ".ckpt")


@dataclass(frozen=True)
class Checkpoint:
    """One ensemble member as its file describes it; the weights stay on disk until a process needs them.

    Parameters
    ----------
    path : str
        The file that holds the weights.
    sha256 : str
        Digest of the file: the identity of the member.
    name : str
        Short name, such as ``"tcvis"``.
    architecture : Architecture
        The network.
    bands : tuple of Band
        Input bands in order, each with source, scaling, fill and kernel radius.
    tile : int
        Side of the core of a model tile, pixels; a multiple of the network's stride.
    margin : int
        Pixels around the core that the network sees and whose output is dropped; a multiple of the stride.
    training : dict
        Record of the training: data, seeds, epochs, scores.
    licence : str
        Licence of the weights.
    temperature : float, optional
        What logits are divided by for a calibrated probability; None where it was never fitted.
    statistics : dict, optional
        Distribution of each band in the training scenes; see :func:`darts_xr.inference.scene_drift`.
    format : str
        ``"darts_xr"``, ``"thaw-slump-segmentation"`` or ``"darts-nextgen"``.
    """

    path: str
    sha256: str
    name: str
    architecture: Architecture
    bands: tuple[Band, ...]
    tile: int
    margin: int
    training: dict[str, Any] = field(default_factory=dict, hash=False)
    licence: str = "unknown"
    temperature: float | None = None
    statistics: dict[str, Any] | None = field(default=None, hash=False)
    format: str = "darts_xr"

    @property
    def band_names(self) -> tuple[str, ...]:
        """Names of the input bands in order."""
        return tuple(band.name for band in self.bands)

    @property
    def synthetic_only(self) -> bool:
        """Whether it was trained on synthetic scenes only, as those that come with the package."""
        data = self.training.get("train")
        stated = data if isinstance(data, dict) else self.training
        return stated.get("synthetic") is True

    def load_network(self) -> nn.Module:
        """Build the network and load the weights, on the CPU, in evaluation mode.

        Raises
        ------
        CheckpointError
            When the network cannot be built, the weights do not fit it, or the file is gone or another one by now.
        PredictionError
            When weights are NaN or infinite.
        """
        if Path(self.path).is_file() and file_digest(Path(self.path)) != self.sha256:
            raise CheckpointError(
                f"{self.path} is not the file that the ensemble was made of (SHA-256 {self.sha256[:12]}…): it was "
                "replaced, or this worker sees another one. Put it back, or load the ensemble again."
            )
        try:
            network = self.architecture.build()
        except CheckpointError as error:
            raise CheckpointError(f"{self.path}: {error}") from error
        try:
            missing, unexpected = network.load_state_dict(
                _FORMATS[self.format].weights(Path(self.path)), strict=False
            )
        except RuntimeError as error:
            raise CheckpointError(
                f"{self.path}: weights of another shape than its description says, such as for other bands: {error}"
            ) from error
        if missing or unexpected:
            raise CheckpointError(
                f"{self.path}: the weights do not fit {self.architecture.name}/{self.architecture.encoder}: "
                f"{len(missing)} missing (first: {missing[:1]}), {len(unexpected)} unexpected "
                f"(first: {unexpected[:1]}). The file was altered or is of another network."
            )
        if spoiled := [key for key, value in network.state_dict().items() if not value.isfinite().all()]:
            raise PredictionError(
                f"{self.path}: {len(spoiled)} of its tensors hold NaN or infinity (first: {spoiled[0]}), so it "
                "answers nonsense. Take the checkpoint of an earlier epoch, or copy the file again."
            )
        return network.eval()

    def _repr_markdown_(self) -> str | None:
        """Model card, as a notebook shows it; None without one, and it shows the fields."""
        return self.training.get("card")


def save_checkpoint(
    path: str | os.PathLike[str],
    network: nn.Module,
    *,
    name: str,
    architecture: Architecture,
    bands: tuple[Band, ...],
    tile: int,
    margin: int,
    training: dict[str, Any],
    licence: str,
    temperature: float | None = None,
    statistics: dict[str, Any] | None = None,
) -> Checkpoint:
    """Write a network with its header, under a temporary name first, and read it back.

    Returns
    -------
    Checkpoint
        What :func:`read_checkpoint` says of the file.
    """
    tensors = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    header = Description(name, architecture, bands, tile, margin, training, licence, temperature, statistics)
    native.write(Path(path), tensors, header)
    return read_checkpoint(path)


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read what a checkpoint says of its network, without building it.

    Parameters
    ----------
    path : path
        A ``.safetensors`` file of this project; a run folder of thaw-slump-segmentation, or a weights file of one
        beside its ``config.yml``; a ``.pt`` or ``.ckpt`` file of darts-nextgen.

    Raises
    ------
    CheckpointError
        When the file is missing, truncated, of no known format, holds code, or describes bands or a network that do not
        fit together.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(
            f"Checkpoint not found: {path}. Give a .safetensors file, a run folder of thaw-slump-segmentation, a file "
            'of darts-nextgen, or "demo".'
        )
    kind, file = _recognise(path)
    description = _FORMATS[kind].describe(file)
    architecture, bands = description.architecture, description.bands
    if len(bands) != architecture.in_channels:
        raise CheckpointError(
            f"{path}: the header lists {len(bands)} bands ({', '.join(b.name for b in bands)}), but the network takes "
            f"{architecture.in_channels}."
        )
    try:
        architecture.check()
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    for key, length in (("tile", description.tile), ("margin", description.margin)):
        if length % architecture.stride:
            raise CheckpointError(
                f"{path}: {key} {length} is no multiple of the network's stride {architecture.stride}."
            )
    return Checkpoint(
        path=str(file.resolve()), sha256=file_digest(file), format=kind, **description._asdict()
    )


def _recognise(path: Path) -> tuple[str, Path]:
    """Format of a checkpoint and the file with its weights."""
    if path.is_dir():
        return "thaw-slump-segmentation", legacy.weights_file(path)
    if path.suffix not in _TORCH_SUFFIXES:
        return "darts_xr", path
    return ("darts-nextgen" if nextgen.is_layout(load_safely(path)) else "thaw-slump-segmentation"), path
