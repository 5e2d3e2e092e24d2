"""From STAC items to the raster files of a layer, without opening one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pystac
from odc.geo.geobox import GeoBox

from darts_xr.cube.mosaic import RasterSource
from darts_xr.globe import Bounds, bounds_of, boxes_meet, grid_bounds


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


def source_of(item: pystac.Item, key: str, bands: tuple[int, ...], nodata: float | None) -> RasterSource:
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


def layer_of(items: Iterable[pystac.Item], key: str, nodata: float | None) -> Layer | None:
    """First band of every asset of the given key; None where no item has one."""
    carriers = tuple(item for item in items if key in item.assets)
    sources = tuple(source_of(item, key, (1,), nodata) for item in carriers)
    return Layer(carriers, (key,) * len(carriers), sources) if carriers else None


def layer_of_bands(items: Iterable[pystac.Item], names: Sequence[str]) -> Layer | None:
    """Assets that have all the named bands, read in the order of ``names``; None where no item has one."""
    found: list[tuple[pystac.Item, str, RasterSource]] = []
    for item in items:
        for key, asset in item.assets.items():
            present = [band.get("name") for band in band_fields(asset)]
            if set(names) <= set(present):
                places = tuple(present.index(name) + 1 for name in names)
                found.append((item, key, source_of(item, key, places, None)))
    return Layer(*zip(*found, strict=True)) if found else None
