"""What stands beside the images, layers and verdicts: loaded once for all scenes of a run."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import geopandas as gpd
import pystac

import darts_xr as dx
from darts_xr.addresses import redact
from darts_xr.assess import read_inventory
from darts_xr.catalog.checksums import add_checksums
from darts_xr.cube.layers import AUXILIARY_BANDS, LAYERS, check_neutral
from darts_xr.errors import DartsError, MissingBandsError, OnError, PipelineError
from darts_xr.inference import Ensemble
from pipelines.filter_layers import remembered
from pipelines.settings import Settings
from pipelines.verdict_lists import VerdictList, read_verdict_list

log = logging.getLogger(__name__)

_ENOUGH = 0.99  # share of a scene's valid pixels that a layer should cover
_FILLED = {
    "elevation": "the rest counts as level",
    "trends": "the rest counts as unchanged",
    "landcover": "objects in the rest are kept whether they lie in water or not",
}


@dataclass(frozen=True)
class Sources:
    """Where the layers beside the images come from.

    Parameters
    ----------
    auxiliary : list of pystac.Item, "neutral" or None
        Elevation and trends.
    landcover : list of pystac.Item, optional
        Land cover for the water filter; None: no such filter. Empty: the scene has no land cover.
    infrastructure : geopandas.GeoDataFrame, optional
        Polygons for the infrastructure filter; None: no such filter.
    left_out : dict of str
        Items of layers that are no valid STAC, each with the reason.
    verdicts : VerdictList, optional
        What reviewers rejected.
    remembered : dict
        Where the layers of the filters lie and what they hold, by filter.
    """

    auxiliary: Any
    landcover: list[pystac.Item] | None
    infrastructure: gpd.GeoDataFrame | None
    left_out: dict[str, str] = field(default_factory=dict)
    verdicts: VerdictList | None = None
    remembered: dict[str, dict[str, Any]] = field(default_factory=dict)


def load_sources(settings: Settings) -> Sources:
    """Load auxiliary items, land-cover items and infrastructure once.

    Raises
    ------
    PipelineError
        When the file of infrastructure is not there.
    """
    auxiliary, landcover, infrastructure = settings.auxiliary, settings.landcover, settings.infrastructure
    neutral = isinstance(auxiliary, str) and auxiliary == "neutral"
    left_out: dict[str, str] = {}

    def leave_out(name: str, error: DartsError) -> None:
        left_out[name] = redact(error)
        log.warning("auxiliary item %s is left out: %s", name, left_out[name])

    layers = (
        auxiliary if neutral or auxiliary is None else dx.cube.load_auxiliary(auxiliary, on_error=leave_out)
    )
    cover: list[pystac.Item] | None
    if isinstance(landcover, str) and landcover == "auxiliary":
        cover = [] if neutral or layers is None else [item for item in layers if "landcover" in item.assets]
        if not cover:
            log.warning("no land cover at hand: objects in water are not removed")
            cover = None
    else:
        cover = None if landcover is None else _landcover(landcover, leave_out)
    if infrastructure is not None and not isinstance(infrastructure, gpd.GeoDataFrame):
        if not Path(infrastructure).exists():
            raise PipelineError(
                f"Infrastructure file not found: {infrastructure}. Check the path, or leave the filter out."
            )
        infrastructure = read_inventory(infrastructure).features
    places = auxiliary if isinstance(landcover, str) and landcover == "auxiliary" else landcover
    noted = remembered(places, cover, settings.infrastructure)
    if settings.checksums:
        layers = list(add_checksums(layers)) if isinstance(layers, list) else layers
        cover = None if cover is None else list(add_checksums(cover))
    verdicts = read_verdict_list(settings.verdicts) if settings.verdicts else None
    return Sources(layers, cover, infrastructure, left_out, verdicts, noted)


def _landcover(source: Any, leave_out: OnError) -> list[pystac.Item]:
    found = [
        item for item in dx.cube.load_auxiliary(source, on_error=leave_out) if "landcover" in item.assets
    ]
    if not found:
        raise MissingBandsError(
            "the source of land cover has no item with an asset landcover; give ESRI annual land cover (darts-xr "
            "auxiliary makes items of its tiles), or leave the water filter out (--landcover none)"
        )
    return found


def require_auxiliary(ensemble: Ensemble, settings: Settings) -> None:
    """Refuse a run whose networks need auxiliary bands that nobody gave."""
    filled = [name for layer in check_neutral(settings.neutral) for name in LAYERS[layer]]
    needed = [name for name in ensemble.bands if name in AUXILIARY_BANDS and name not in filled]
    if needed and settings.auxiliary is None:
        raise MissingBandsError(
            f"The ensemble {ensemble.name} needs {', '.join(needed)}, and no auxiliary layers were given. Give "
            "elevation and Landsat trends (--auxiliary SOURCE: a catalogue, GeoTIFFs or a folder; repeat it for more), "
            "or --auxiliary neutral to fill level terrain and no trend, which is written into the output's metadata."
        )


def check_coverage(
    scene_id: str, coverage: dict[str, float], neutral: Sequence[str], *, fill_gaps: bool
) -> dict[str, float]:
    """Refuse a scene of which a layer covers nothing, warn of one of which it covers less than 99 %.

    Parameters
    ----------
    scene_id : str
        For messages.
    coverage : dict of float
        Share of the valid pixels that each layer was measured for; NaN where no pixel is valid.
    neutral : sequence of str
        Layers that were to be filled.
    fill_gaps : bool
        Only warn, also of a layer that covers nothing.

    Returns
    -------
    dict of float
        The shares that are known, rounded to four digits, though never up to 1 nor down to 0.

    Raises
    ------
    MissingBandsError
    """
    known = {layer: share for layer, share in coverage.items() if not math.isnan(share)}
    for layer, share in known.items():
        if layer in neutral or share >= _ENOUGH:
            continue
        if share == 0 and not fill_gaps:
            way_out = "--landcover none" if layer == "landcover" else f"--neutral {layer}"
            raise MissingBandsError(
                f"{scene_id}: {layer} covers none of the valid pixels, though its files lie near; give a source "
                f"that covers the scene (darts-xr auxiliary … --for CATALOG shows the gaps), or say {way_out}, or "
                "--fill-gaps to fill such scenes only"
            )
        log.warning(
            "%s: %s covers %.1f %% of the valid pixels, %s", scene_id, layer, 100 * share, _FILLED[layer]
        )
    return {layer: min(max(round(s, 4), 1e-4), 0.9999) if 0 < s < 1 else s for layer, s in known.items()}
