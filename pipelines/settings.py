"""What a detection is asked to do: resolved once, and written beside its results."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from darts_xr import __version__
from darts_xr.errors import ParameterError
from darts_xr.rasters import RasterLimits

if TYPE_CHECKING:  # torch and geopandas: not for the command's help
    import geopandas as gpd
    import xarray as xr

    from darts_xr.inference import Ensemble
    from darts_xr.objects.label import Connectivity


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: Any) -> bool:
    return _is_number(value) and float(value).is_integer()


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
    connectivity : {8, 4, "legacy"}
        Whether pixels that meet at a corner are one object; "legacy" as the published code: 8 for the border rule, 4
        for the sizes.
    """

    threshold: float = 0.5
    border: int = 10
    min_pixels: int = 32
    max_water: float = 0.2
    mask_rule: str | None = None
    connectivity: Connectivity = 8

    def __post_init__(self) -> None:
        """Refuse values under which nothing, or nonsense, would be found; before any scene is opened.

        Raises
        ------
        ParameterError
            With the rule, its value, and what it may be.
        """
        from darts_xr.planet.masks import MASK_RULES

        whole = "a whole number of pixels, 0 or more"
        rules = {
            "threshold": (_is_number(self.threshold) and 0 < self.threshold <= 1, "above 0 and at most 1"),
            "border": (_is_whole(self.border) and self.border >= 0, whole),
            "min_pixels": (_is_whole(self.min_pixels) and self.min_pixels >= 0, whole),
            "max_water": (_is_number(self.max_water) and 0 <= self.max_water <= 1, "a share from 0 to 1"),
            "mask_rule": (
                self.mask_rule is None or self.mask_rule in MASK_RULES,
                f"one of {', '.join(sorted(MASK_RULES))}",
            ),
            "connectivity": (self.connectivity in (4, 8, "legacy"), "4, 8 or legacy"),
        }
        for name, (fits, wanted) in rules.items():
            if not fits:
                raise ParameterError(f"{name} must be {wanted}; got {getattr(self, name)!r}")

    def in_force(self, filters: Mapping[str, Any]) -> dict[str, Any]:
        """Rules as outputs state them: without those of filters that did not run."""
        return {
            name: value for name, value in asdict(self).items() if name != "max_water" or "water" in filters
        }


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
    auxiliary : source, sequence of sources, or "neutral", optional
        Elevation and trends: catalogues, GeoTIFFs, folders, or several of these; see :func:`darts_xr.open_scene`.
    neutral : tuple of str
        Layers that are filled and not read, of "elevation" and "trends".
    fill_gaps : bool
        Go on with a scene that a layer does not cover at all: with level terrain, no trend, no water filter. By default
        such a scene fails. Where a layer covers a part of the scene, the rest is filled in any case, and the record
        says how much was measured.
    landcover : source, "auxiliary" or None
        Land cover for the water filter. "auxiliary": of the auxiliary source where it has any. None: no water filter.
    infrastructure : path or geopandas.GeoDataFrame, optional
        Polygons for the infrastructure filter.
    verdicts : sequence of path
        What reviewers said of detections of this run: files of the review page, or CSV files
        (``image_id``, ``id_geohash``, ``area_m2``, ``verdict``: accept or reject). Detections that all of them reject
        are removed.
    rules : Rules
        Threshold, border, least size.
    members : bool
        Also write what each network found alone, before cleaning, to each scene's ``members.parquet``, and how far they
        disagreed inside each object to its ``spread.parquet``.
    checksums : bool
        Know every input file by its content instead of its size and time, and compare it when it is opened. Reads all
        of them before the first scene.

    raster_limits : RasterLimits
        What pixel sizes, formats and dimensions images and masks may have.

    Examples
    --------
    >>> Settings(out="run", auxiliary="neutral", rules=Rules(threshold=0.7)).rules.threshold
    0.7
    """

    out: str | os.PathLike[str]
    models: Sequence[str | os.PathLike[str]] | Ensemble = ("demo",)
    auxiliary: Any = None
    neutral: tuple[str, ...] = ()
    fill_gaps: bool = False
    landcover: Any = "auxiliary"
    infrastructure: str | os.PathLike[str] | gpd.GeoDataFrame | None = None
    verdicts: Sequence[str | os.PathLike[str]] = ()
    rules: Rules = field(default_factory=Rules)
    members: bool = False
    checksums: bool = False
    raster_limits: RasterLimits = field(default_factory=RasterLimits)

    def ensemble(self) -> Ensemble:
        """Load the headers of the networks."""
        import darts_xr as dx
        from darts_xr.inference import Ensemble

        return self.models if isinstance(self.models, Ensemble) else dx.load_ensemble(*self.models)


def provenance(
    rules: Rules, ensemble: Ensemble, scene: xr.DataArray, filters: Mapping[str, str]
) -> dict[str, str]:
    """Tell what made the outputs of a scene, as flat text for the metadata of any file format.

    Parameters
    ----------
    rules : Rules
        The rules in force.
    ensemble : Ensemble
        The networks.
    scene : xarray.DataArray
        Probability of the scene.
    filters : mapping of str to str
        Filters that ran, each with its layer.
    """
    from darts_xr.cube.metadata import SYNTHETIC, metadata_of, time_text

    facts = metadata_of(scene)
    made_by = {
        "darts_xr": __version__,
        "checkpoints": ", ".join(f"{m.name}:{m.sha256}" for m in ensemble.members),
        "batch_norm": ensemble.batch_norm,
        "rules": json.dumps(rules.in_force(filters), sort_keys=True),
        "filters": json.dumps(filters, sort_keys=True),
        "model_version": ensemble.version(synthetic_scene=bool(facts["synthetic"])),
    }
    made_by |= {"item_id": facts["item_id"], "datetime": time_text(facts["time"])}
    for key in ("product", "constellation", "mask_rule", "auxiliary", "neutral", "ensemble", "tiling"):
        if key in facts:
            made_by[key] = str(facts[key])
    return made_by | ({"synthetic": SYNTHETIC} if facts["synthetic"] else {})
