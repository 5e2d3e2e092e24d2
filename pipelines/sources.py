"""The layers beside the images: where they come from, loaded once for all scenes of a run."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import pystac

import darts_xr as dx
from darts_xr.errors import MissingBandsError, PipelineError
from darts_xr.inference import Ensemble
from pipelines.settings import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sources:
    """Where the layers beside the images come from.

    Parameters
    ----------
    auxiliary : list of pystac.Item, "neutral" or None
        Elevation and trends.
    landcover : list of pystac.Item
        Land cover for the water filter; empty: no water filter.
    infrastructure : geopandas.GeoDataFrame, optional
        Polygons for the infrastructure filter; None: no such filter.
    """

    auxiliary: Any
    landcover: list[pystac.Item]
    infrastructure: gpd.GeoDataFrame | None


def load_sources(settings: Settings) -> Sources:
    """Load auxiliary items, land-cover items and infrastructure once.

    Raises
    ------
    PipelineError
        When the file of infrastructure is not there.
    """
    auxiliary, landcover, infrastructure = settings.auxiliary, settings.landcover, settings.infrastructure
    neutral = isinstance(auxiliary, str) and auxiliary == "neutral"
    layers = auxiliary if neutral or auxiliary is None else list(dx.load_items(auxiliary))
    if isinstance(landcover, str) and landcover == "auxiliary":
        cover = [] if neutral or layers is None else [item for item in layers if "landcover" in item.assets]
        if not cover:
            log.warning("no land cover at hand: objects in water are not removed")
    else:
        cover = [] if landcover is None else list(dx.load_items(landcover))
    if infrastructure is not None and not isinstance(infrastructure, gpd.GeoDataFrame):
        if not Path(infrastructure).exists():
            raise PipelineError(
                f"Infrastructure file not found: {infrastructure}. Check the path, or leave the filter out."
            )
        infrastructure = gpd.read_file(infrastructure)
    return Sources(layers, cover, infrastructure)


def require_auxiliary(ensemble: Ensemble, auxiliary: Any) -> None:
    """Refuse a run whose networks need auxiliary bands that nobody gave."""
    needed = [name for name in ensemble.bands if dx.cube.BANDS[name].source != "planet"]
    if needed and auxiliary is None:
        raise MissingBandsError(
            f"The ensemble {ensemble.name} needs {', '.join(needed)}, and no auxiliary layers were given. Give a STAC "
            "source of elevation and Landsat trends (--auxiliary SOURCE), or --auxiliary neutral to fill level terrain "
            "and no trend, which is written into the output's metadata."
        )
