"""What a detection is asked to do: resolved once, and written beside its results."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from darts_xr import __version__

if TYPE_CHECKING:  # torch and geopandas: not for the command's help
    import geopandas as gpd

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


@dataclass(frozen=True)
class Settings:
    """How to detect: networks, layers, rules, and where the results go.

    Parameters
    ----------
    out : path or str
        The run folder, local or any fsspec target such as ``s3://bucket/run``; made when missing. A run that is there
        already goes on: finished scenes stay when neither item, layers, rules nor checkpoints changed.
    models : sequence of path, or Ensemble
        Checkpoints; ``("demo",)`` for the shipped networks, which were trained on synthetic scenes. Workers load them
        from these paths, so they must lie where every worker finds them.
    auxiliary : source or "neutral", optional
        Elevation and trends; see :func:`darts_xr.open_scene`.
    landcover : source, "auxiliary" or None
        Land cover for the water filter. "auxiliary": of the auxiliary source where it has any. None: no water filter.
    infrastructure : path or geopandas.GeoDataFrame, optional
        Polygons for the infrastructure filter.
    rules : Rules
        Threshold, border, least size.
    members : bool
        Also write what each network found alone, before cleaning, to each scene's ``members.parquet``.

    Examples
    --------
    >>> Settings(out="run", auxiliary="neutral", rules=Rules(threshold=0.7)).rules.threshold
    0.7
    """

    out: str | os.PathLike[str]
    models: Sequence[str | os.PathLike[str]] | Ensemble = ("demo",)
    auxiliary: Any = None
    landcover: Any = "auxiliary"
    infrastructure: str | os.PathLike[str] | gpd.GeoDataFrame | None = None
    rules: Rules = field(default_factory=Rules)
    members: bool = False

    def ensemble(self) -> Ensemble:
        """Load the headers of the networks."""
        import darts_xr as dx
        from darts_xr.inference import Ensemble

        return self.models if isinstance(self.models, Ensemble) else dx.load_ensemble(*self.models)


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
