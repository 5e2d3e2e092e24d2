"""Weights files of other projects: read without running what they hold, keys stripped of training wrappers."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from darts_xr.cube.bands import Band
from darts_xr.errors import CheckpointError
from darts_xr.inference.network import Architecture

Weights = dict[str, torch.Tensor]
_WRAPPERS = ("module.", "_orig_mod.")  # DataParallel, torch.compile


class Description(NamedTuple):
    """What a file of any format says of its network."""

    name: str
    architecture: Architecture
    bands: tuple[Band, ...]
    tile: int
    margin: int
    training: dict[str, Any]
    licence: str
    temperature: float | None = None
    statistics: dict[str, Any] | None = None


def load_safely(path: Path) -> Any:
    """Unpickle tensors and plain containers, nothing else; tensors stay on disk until used."""
    if not path.is_file():
        raise CheckpointError(f"Checkpoint not found: {path}.")
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        if "Unsupported" in str(error):
            named = re.search(r"Unsupported (?:global: GLOBAL|class|type) ([\w.]+)", str(error))
            held = named[1] if named else "a pickle of other objects"
            raise CheckpointError(
                f"{path} holds code beside weights ({held}), and loading it would run that code. It was not loaded. "
                "Where you trust its source, load it there and save only the state dict again."
            ) from error
        raise _unreadable(path, error) from error
    except (RuntimeError, EOFError, KeyError, ValueError, OSError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return CheckpointError(
        f"{path} cannot be read as a torch file ({path.stat().st_size} bytes): {reason} It is truncated or another "
        "kind of file; copy it again."
    )


def strip_wrappers(weights: Mapping[str, Any], prefix: str = "") -> Weights:
    """Keep the tensors under ``prefix``, and drop from their keys it and whatever wrapped the network in training."""
    stripped = {}
    for key, value in weights.items():
        if not key.startswith(prefix) or not isinstance(value, torch.Tensor):
            continue
        bare = key.removeprefix(prefix)
        while bare.startswith(_WRAPPERS):
            bare = bare.partition(".")[2]
        stripped[bare] = value
    return stripped


def check_band_count(path: Path, weights: Weights, bands: tuple[Band, ...]) -> None:
    """Refuse weights whose first convolution takes another number of bands than the configuration names."""
    taken = next(
        (w.shape[1] for key, w in weights.items() if key.startswith("encoder.") and w.ndim == 4), None
    )
    if taken is None:
        raise CheckpointError(f"{path} has no weights of an encoder, so it is no segmentation network.")
    if taken != len(bands):
        raise CheckpointError(
            f"{path}: the configuration names {len(bands)} bands ({', '.join(b.name for b in bands)}), but the network "
            f"takes {taken}. Weights and configuration are of different models."
        )
