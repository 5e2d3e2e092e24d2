"""The auxiliary layers by name, and from STAC items to the raster files of one, without opening any."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pystac
from odc.geo.geobox import GeoBox

from darts_xr.cube.mosaic import RasterSource
from darts_xr.cube.plausible import Expected
from darts_xr.errors import MissingBandsError
from darts_xr.globe import Bounds, bounds_of, boxes_meet, grid_bounds

TERRAIN = ("relative_elevation", "slope")
TRENDS = ("tc_brightness", "tc_greenness", "tc_wetness")
AUXILIARY_BANDS = (*TERRAIN, *TRENDS)

#: Layers that may be missing or neutral one by one, with the bands that come from each.
LAYERS = {"elevation": TERRAIN, "trends": TRENDS}


def band_fields(asset: pystac.Asset) -> list[dict[str, Any]]:
    """Fields of each band of an asset, of STAC 1.1 ``bands`` or of the older extensions' lists."""
    lists = [asset.extra_fields.get(key) or [] for key in ("bands", "eo:bands", "raster:bands")]
    merged: list[dict[str, Any]] = [{} for _ in range(max(map(len, lists)))]
    for entries in lists:
        for band, entry in zip(merged, entries, strict=False):
            band.update(entry)
    return merged


def _number(value: Any) -> float | None:
    return None if value is None else float(value)  # STAC writes NaN as text; float() reads both


def source_of(
    item: pystac.Item,
    key: str,
    bands: tuple[int, ...],
    nodata: float | None,
    expected: Expected | None = None,
) -> RasterSource:
    """File of an asset; ``nodata`` is what stands for missing where neither item nor file says."""
    asset = item.assets[key]
    href = asset.get_absolute_href() or asset.href
    code = item.properties.get("proj:code") or asset.extra_fields.get("proj:code")
    epsg = item.properties.get("proj:epsg") or asset.extra_fields.get("proj:epsg")
    fields = band_fields(asset)
    declared = _number(fields[bands[0] - 1].get("nodata")) if len(fields) >= bands[0] else None
    return RasterSource(
        href=href.removeprefix("file://"),
        name=item.id,
        bands=bands,
        nodata=nodata if declared is None else declared,
        crs=code or (f"EPSG:{epsg}" if epsg else None),
        bbox=_bounds(item),
        expected=expected,
    )


def _bounds(item: pystac.Item) -> Bounds | None:
    return None if item.bbox is None else bounds_of(item.bbox)


def items_near(items: Iterable[pystac.Item], geobox: GeoBox, when: datetime | None) -> list[pystac.Item]:
    """Items whose box meets the scene, the nearest in time first, else in the given order."""
    bounds = grid_bounds(geobox)
    near = [item for item in items if (box := _bounds(item)) is None or boxes_meet(box, bounds)]
    if when is None:
        return near
    moment = when if when.tzinfo else when.replace(tzinfo=UTC)

    def distance(item: pystac.Item) -> float:
        stamp = item.datetime or item.common_metadata.start_datetime
        return abs((stamp - moment).total_seconds()) if stamp else math.inf

    return sorted(near, key=distance)


@dataclass(frozen=True)
class Layer:
    """Files of one layer around a scene: an item, the key of its asset and what to read of it, for each."""

    items: tuple[pystac.Item, ...]
    keys: tuple[str, ...]
    sources: tuple[RasterSource, ...]

    @property
    def names(self) -> str:
        """Ids of the items, for attributes."""
        return ", ".join(sorted({item.id for item in self.items}))


def layer_of(
    items: Iterable[pystac.Item], key: str, nodata: float | None, expected: Expected | None = None
) -> Layer | None:
    """First band of every asset of the given key; None where no item has one."""
    carriers = tuple(item for item in items if key in item.assets)
    sources = tuple(source_of(item, key, (1,), nodata, expected) for item in carriers)
    return Layer(carriers, (key,) * len(carriers), sources) if carriers else None


def layer_of_bands(
    items: Iterable[pystac.Item], names: Sequence[str], expected: Expected | None = None
) -> Layer | None:
    """Assets that have all the named bands, read in the order of ``names``; None where no item has one."""
    found: list[tuple[pystac.Item, str, RasterSource]] = []
    for item in items:
        for key, asset in item.assets.items():
            present = [band.get("name") for band in band_fields(asset)]
            if set(names) <= set(present):
                places = tuple(present.index(name) + 1 for name in names)
                found.append((item, key, source_of(item, key, places, None, expected)))
    return Layer(*zip(*found, strict=True)) if found else None


def is_offered(layer: str, items: Iterable[pystac.Item]) -> bool:
    """Whether items have a layer, "elevation" or "trends"."""
    items = list(items)
    if layer == "trends":
        return layer_of_bands(items, TRENDS) is not None
    return any("dem" in item.assets or set(TERRAIN) & item.assets.keys() for item in items)


def check_neutral(layers: Iterable[str]) -> tuple[str, ...]:
    """Names of layers that are to be neutral, each once.

    Raises
    ------
    MissingBandsError
        If one is no layer.
    """
    found = tuple(dict.fromkeys([layers] if isinstance(layers, str) else layers))
    if unknown := sorted(set(found) - set(LAYERS)):
        raise MissingBandsError(
            f"{', '.join(unknown)}: no such layer to be neutral; those are {', '.join(LAYERS)}. The water filter is "
            "left out by landcover=None (--landcover none)"
        )
    return found


def missing_layers(missing: Sequence[str], near: Sequence[pystac.Item]) -> str:
    """Message on bands that no item near a scene has: what there is instead, and the ways out."""
    offers = []
    for item in near[:5]:
        for key, asset in item.assets.items():
            bands = [str(band["name"]) for band in band_fields(asset) if band.get("name")]
            offers.append(f"{item.id}: {key}" + (f" (bands {', '.join(bands)})" if bands else ""))
    there = f"those near it offer {'; '.join(offers[:8])}" if offers else "none lies near it"
    layers = [layer for layer, bands in LAYERS.items() if set(bands) & set(missing)]
    return (
        f"no auxiliary item covers the scene for {list(missing)}; {there}. Expected are an asset dem (or "
        f"relative_elevation and slope), and an asset with bands named {', '.join(TRENDS)}. Give a source that covers "
        f"the scene (darts-xr auxiliary makes one of GeoTIFFs), or make {' and '.join(layers)} neutral (--neutral "
        f'{layers[0]}, or auxiliary="neutral" for both: level terrain and no trend, written into the metadata)'
    )
