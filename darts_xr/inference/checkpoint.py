"""Checkpoints: weights in safetensors with a JSON header that says all that a prediction must know of them."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import nn

from darts_xr.cube.bands import Band, bands_from_dicts, bands_to_dicts
from darts_xr.errors import CheckpointError
from darts_xr.inference.network import Architecture

_HEADER = "darts_xr"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """One ensemble member as its file describes it; the weights stay on disk until a process needs them.

    Parameters
    ----------
    path : str
        The file.
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

    @property
    def band_names(self) -> tuple[str, ...]:
        """Names of the input bands in order."""
        return tuple(band.name for band in self.bands)

    def load_network(self) -> nn.Module:
        """Build the network and load the weights, on the CPU, in evaluation mode."""
        network = self.architecture.build()
        weights = safetensors.torch.load_file(self.path)
        try:
            missing, unexpected = network.load_state_dict(weights, strict=False)
        except RuntimeError as error:
            raise CheckpointError(
                f"{self.path}: weights of another shape than the header says, such as for other bands: {error}"
            ) from error
        if missing or unexpected:
            raise CheckpointError(
                f"{self.path}: the weights do not fit the architecture in the header: "
                f"{len(missing)} missing (first: {missing[:1]}), {len(unexpected)} unexpected "
                f"(first: {unexpected[:1]}). The file was altered or is of another network."
            )
        return network.eval()


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
) -> Checkpoint:
    """Write a network with its header, under a temporary name first, and read it back.

    Returns
    -------
    Checkpoint
        What :func:`read_checkpoint` says of the file.
    """
    header = {
        "format": FORMAT_VERSION,
        "name": name,
        "architecture": architecture.to_dict(),
        "bands": bands_to_dicts(bands),
        "tile": tile,
        "margin": margin,
        "training": training,
        "licence": licence,
    }
    weights = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    temporary = Path(f"{os.fspath(path)}.part")
    safetensors.torch.save_file(weights, temporary, metadata={_HEADER: json.dumps(header, sort_keys=True)})
    temporary.replace(path)
    return read_checkpoint(path)


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint's header without its weights.

    Raises
    ------
    CheckpointError
        When the file is missing, truncated, not a checkpoint of this project, or describes bands or a network
        that do not fit together.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(
            f'Checkpoint not found: {path}. Give the path of a .safetensors file, or "demo".'
        )
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} cannot be read as safetensors: {error}. It is truncated or another kind of file."
        ) from error
    if _HEADER not in metadata:
        raise CheckpointError(f"{path} has no darts_xr header, so its bands and their scaling are not known.")
    header = json.loads(metadata[_HEADER])
    if header.get("format") != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format {header.get('format')}; this version reads format {FORMAT_VERSION}."
        )
    architecture = Architecture.from_dict(header["architecture"])
    bands = bands_from_dicts(header["bands"])
    if len(bands) != architecture.in_channels:
        raise CheckpointError(
            f"{path}: the header lists {len(bands)} bands ({', '.join(b.name for b in bands)}), but the network takes "
            f"{architecture.in_channels}."
        )
    for key in ("tile", "margin"):
        if header[key] % architecture.stride:
            raise CheckpointError(
                f"{path}: {key} {header[key]} is no multiple of the network's stride {architecture.stride}."
            )
    return Checkpoint(
        path=str(path.resolve()),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        name=header["name"],
        architecture=architecture,
        bands=bands,
        tile=header["tile"],
        margin=header["margin"],
        training=header["training"],
        licence=header["licence"],
    )
