"""What a detection is asked to do, resolved once and written beside its results."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from darts_xr import __version__
from darts_xr.inference import Ensemble


@dataclass(frozen=True)
class Rules:
    """How probability becomes objects.

    Parameters
    ----------
    threshold : float
        Least probability of an object's pixels.
    border : int
        Objects nearer than this many pixels to a masked pixel or the frame are removed.
    min_pixels : int
        Smallest object.
    max_water : float
        Largest share of water in an object.
    mask_rule : str, optional
        Rule of the valid mask; by default that of the mask at hand.
    """

    threshold: float = 0.5
    border: int = 10
    min_pixels: int = 32
    max_water: float = 0.2
    mask_rule: str | None = None


def provenance(rules: Rules, ensemble: Ensemble, attrs: dict[Any, Any] | None = None) -> dict[str, str]:
    """Tell what made an output, as flat text for the metadata of any file format.

    Parameters
    ----------
    rules : Rules
        The rules in force.
    ensemble : Ensemble
        The networks.
    attrs : dict, optional
        Attributes of the scene, for outputs of one scene.
    """
    made_by = {
        "darts_xr": __version__,
        "checkpoints": ", ".join(f"{m.name}:{m.sha256}" for m in ensemble.members),
        "batch_norm": ensemble.batch_norm,
        "rules": json.dumps(asdict(rules), sort_keys=True),
    }
    for key in ("item_id", "datetime", "product", "mask_rule", "auxiliary", "tiling", "synthetic"):
        if attrs and key in attrs:
            made_by[key] = str(attrs[key])
    return made_by
