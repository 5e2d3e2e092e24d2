"""Checkpoints of this project: weights in safetensors with a JSON header that says all a prediction must know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch

from darts_xr.atomic import write_atomic
from darts_xr.cube.bands import bands_from_dicts, bands_to_dicts
from darts_xr.errors import CheckpointError
from darts_xr.inference.network import Architecture
from darts_xr.inference.weights import Description, Weights

_HEADER = "darts_xr"
_VERSION = 1
_LARGEST = 65_536  # px of a tile or margin; anything more is a slip


def describe(path: Path) -> Description:
    """Read the header; the weights are not touched."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} cannot be read as safetensors: {error}. It is truncated or another kind of file."
        ) from error
    if _HEADER not in metadata:
        raise CheckpointError(f"{path} has no darts_xr header, so its bands and their scaling are not known.")
    try:
        header: dict[str, Any] = json.loads(metadata[_HEADER])
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: the header is no JSON: {error}. Save the checkpoint again."
        ) from error
    if not isinstance(header, dict):
        raise CheckpointError(
            f"{path}: the header is {str(header)[:40]!r} and no JSON object. Save it again."
        )
    if header.get("format") != _VERSION:
        raise CheckpointError(
            f"{path} has format {header.get('format')}; this version reads format {_VERSION}."
        )
    expected = {"name", "architecture", "bands", "tile", "margin", "training", "licence"}
    if missing := sorted(expected - header.keys()):
        raise CheckpointError(f"{path}: the header lacks {', '.join(missing)}. Save the checkpoint again.")
    for name, kind in (
        ("name", str), ("architecture", dict), ("bands", list), ("training", dict), ("licence", str),
    ):  # fmt: skip
        if not isinstance(header[name], kind):
            raise CheckpointError(
                f"{path}: {name} in the header is {str(header[name])[:40]!r}. Save it again."
            )
    architecture = Architecture.from_dict(header["architecture"])
    for name, least in (("tile", architecture.stride), ("margin", 0)):
        length = header[name]
        if type(length) is not int or length < least or length % architecture.stride or length > _LARGEST:
            raise CheckpointError(
                f"{path}: {name} in the header must be a multiple of {architecture.stride} px, the network's stride, "
                f"from {least} to {_LARGEST}; it is {str(length)[:40]}. Save the checkpoint again."
            )
    return Description(
        name=header["name"],
        architecture=architecture,
        bands=bands_from_dicts(header["bands"]),
        tile=header["tile"],
        margin=header["margin"],
        training=header["training"],
        licence=header["licence"],
        temperature=header.get("temperature"),
        statistics=header.get("statistics"),
    )


def weights(path: Path) -> Weights:
    """All tensors of the file."""
    return safetensors.torch.load_file(path)


def write(path: Path, tensors: Weights, description: Description) -> None:
    """Write weights and header, whole or not at all."""
    header = description._asdict() | {
        "format": _VERSION,
        "architecture": description.architecture.to_dict(),
        "bands": bands_to_dicts(description.bands),
    }
    # The library's own writer lets nobody else read the file.
    content = safetensors.torch.save(tensors, metadata={_HEADER: json.dumps(header, sort_keys=True)})
    write_atomic(path, lambda part: part.write_bytes(content))
