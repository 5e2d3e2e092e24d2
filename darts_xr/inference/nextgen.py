"""Checkpoints of `darts-nextgen`, in both layouts: ``config`` and ``statedict``, or a Lightning checkpoint.

Each band is brought from a fixed range to 0..1 and cut there; what is missing becomes 0 after that, which is the lower
end of the range. Ranges here are in this project's units, so reflectance counts in steps of 1/10,000.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from darts_xr.cube.bands import BANDS, Band
from darts_xr.errors import CheckpointError
from darts_xr.inference.legacy import MARGIN, TILE
from darts_xr.inference.network import FAMILIES, Architecture
from darts_xr.inference.weights import Description, Weights, check_band_count, load_safely, strip_wrappers

log = logging.getLogger(__name__)

_RADIUS = 100.0  # m, outer radius of the relative elevation's kernel in that project
_REFLECTANCE = (-1000.0, 5000.0)
_RANGES = {
    "blue": _REFLECTANCE, "green": _REFLECTANCE, "red": _REFLECTANCE, "nir": _REFLECTANCE,
    "ndvi": (-1.0, 1.0), "relative_elevation": (-50.0, 50.0), "slope": (0.0, 90.0),
    "tc_brightness": (0.0, 255.0), "tc_greenness": (0.0, 255.0), "tc_wetness": (0.0, 255.0),
}  # fmt: skip
_OTHER_ARGUMENTS = {"encoder_weights", "activation", "aux_params"}  # matter to training only


def is_layout(content: Any) -> bool:
    """Whether what a torch file holds is of this project."""
    return isinstance(content, Mapping) and (
        {"config", "statedict"} <= content.keys() or {"hyper_parameters", "state_dict"} <= content.keys()
    )


def describe(path: Path) -> Description:
    """Read the configuration inside the file, and check it against the weights."""
    content = load_safely(path)
    try:
        config = content["config"] if "config" in content else content["hyper_parameters"]["config"]
        model = dict(config["model"])
        names = config["bands"] if "bands" in config else config["input_combination"]
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path}: the configuration inside lacks {error}; expected are model and bands (or input_combination), as "
            "darts-nextgen writes them."
        ) from error
    if "norm_factors" in config:
        log.warning("%s: its norm_factors are not used; the ranges of darts-nextgen's band table are", path)
    bands = tuple(_band(path, name) for name in names)
    check_band_count(path, weights(path), bands)
    return Description(
        name=path.stem,
        architecture=_architecture(path, model, len(bands)),
        bands=bands,
        tile=TILE,  # not the configuration's patch_size, which is that of the training
        margin=MARGIN,
        training={"made_by": "darts-nextgen", "epoch": content.get("epoch")},
        licence="unknown",
    )


def weights(path: Path) -> Weights:
    """Tensors of the file under the names that the bare network gives them."""
    content = load_safely(path)
    if "statedict" in content:
        return strip_wrappers(content["statedict"])
    return strip_wrappers(content["state_dict"], prefix="model.")


def _band(path: Path, name: str) -> Band:
    if name not in _RANGES:
        raise CheckpointError(
            f"{path} wants the band {name}, which scenes do not have; they have {', '.join(BANDS)}."
        )
    low, high = _RANGES[name]
    band = BANDS[name]
    return replace(
        band,
        offset=-low,
        divisor=high - low,
        neutral=low,
        clip=True,
        resampling="cubic" if band.source == "landsat-trends" else band.resampling,
        radius=_RADIUS if band.radius is not None else None,
    )


def _architecture(path: Path, model: dict[str, Any], channels: int) -> Architecture:
    """Architecture from the arguments of segmentation-models-pytorch's ``create_model``."""
    if (classes := model.pop("classes", 1)) != 1:
        raise CheckpointError(f"{path} has {classes} output classes; one (thaw slump or not) is expected.")
    if (declared := model.pop("in_channels", channels)) != channels:
        raise CheckpointError(
            f"{path}: the configuration names {channels} bands but says that the network takes {declared}."
        )
    arch = str(model.pop("arch", "Unet"))
    depth = int(model.pop("encoder_depth", 5))
    given = model.pop("decoder_channels", ())
    return Architecture(
        name=next((name for name in FAMILIES if name.lower() == arch.lower()), arch),
        encoder=str(model.pop("encoder_name", "resnet34")),
        depth=depth,
        decoder_channels=tuple(given),
        in_channels=channels,
        options={key: value for key, value in model.items() if key not in _OTHER_ARGUMENTS},
    )
