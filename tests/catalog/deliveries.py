"""Tiny Planet deliveries, and STAC validation without a network."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import rasterio
import shapely.geometry
from affine import Affine
from pystac.validation.stac_validator import JsonSchemaSTACValidator

SCENE = "20210715_213104_0e19"
CRS = "EPSG:32603"
GRID = Affine(3.0, 0.0, 598998.0, 0.0, -3.0, 7333266.0)


def image_pixels(count: int = 4, shape: tuple[int, int] = (40, 60), collar: int = 8) -> np.ndarray:
    """Bands of values 100, 200, ..., every second row one less, with a collar of no data at the left."""
    pixels = np.stack([np.full(shape, 100 * band, "uint16") for band in range(1, count + 1)])
    pixels[:, ::2] -= 1
    pixels[:, :, :collar] = 0
    return pixels


def udm2_pixels(shape: tuple[int, int] = (40, 60), collar: int = 8, cloud_rows: int = 10) -> np.ndarray:
    """All clear but for a blackfill collar at the left and cloud in the first rows."""
    mask = np.zeros((8, *shape), "uint8")
    mask[0] = 1
    mask[0, :cloud_rows], mask[5, :cloud_rows] = 0, 1
    mask[:6, :, :collar] = 0
    mask[7, :, :collar] = 1
    return mask


def udm1_pixels(shape: tuple[int, int] = (40, 60), collar: int = 8) -> np.ndarray:
    mask = np.zeros((1, *shape), "uint8")
    mask[0, :, :collar] = 1
    return mask


def write_tif(
    path: Path,
    pixels: np.ndarray,
    *,
    crs: str | None = CRS,
    transform: Affine = GRID,
    descriptions: tuple[str, ...] | None = None,
    **profile: Any,
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = pixels.shape
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=count,
        height=height,
        width=width,
        dtype=pixels.dtype,
        crs=crs,
        transform=transform,
        **profile,
    ) as target:
        target.write(pixels)
        if descriptions:
            target.descriptions = descriptions
    return path


def write_scene(folder: Path, scene_id: str = SCENE, *, image: str = "_3B_AnalyticMS_SR.tif") -> Path:
    """A scene with image and udm2."""
    count = 8 if "_8b" in image else 4
    write_tif(folder / f"{scene_id}{image}", image_pixels(count), nodata=0)
    mask = "_udm2.tif" if "BGRN" in image else "_3B_udm2.tif"
    write_tif(folder / f"{scene_id}{mask}", udm2_pixels())
    return folder


def write_metadata(folder: Path, scene_id: str = SCENE) -> None:
    properties = {
        "acquired": "2021-07-15T21:31:04.252895Z",
        "gsd": 3.9,
        "satellite_id": "0e19",
        "instrument": "PS2",
        "sun_azimuth": 158.4,
        "sun_elevation": 27.6,
        "view_angle": -3.5,
    }
    document = {"id": scene_id, "type": "Feature", "geometry": None, "properties": properties}
    (folder / f"{scene_id}_metadata.json").write_text(json.dumps(document))


def plain_item(
    item_id: str,
    *,
    lon: float = -163.0,
    lat: float = 66.0,
    moment: datetime | None = None,
    cloud: float | None = 0.0,
    href: str = "./image.tif",
) -> pystac.Item:
    """An item without files behind it."""
    east = lon + 0.5 if lon + 0.5 <= 180 else lon + 0.5 - 360
    parts = [(lon, east)] if lon < east else [(lon, 180.0), (-180.0, east)]
    outline = shapely.union_all([shapely.box(west, lat, end, lat + 0.5) for west, end in parts])
    item = pystac.Item(
        item_id,
        shapely.geometry.mapping(outline),
        [lon, lat, east, lat + 0.5],
        moment or datetime(2021, 7, 15, 12, tzinfo=UTC),
        {} if cloud is None else {"eo:cloud_cover": cloud},
    )
    item.add_asset("image", pystac.Asset(href, media_type=pystac.MediaType.COG, roles=["data"]))
    return item


def _fields(prefix: str, fields: dict[str, Any], *, on_assets: bool = True) -> dict[str, Any]:
    """JSON schema of an extension: its fields where they may stand, and no other field of its prefix."""
    allowed = {
        "type": "object",
        "properties": fields,
        "patternProperties": {f"^(?!{prefix}:)": {}},
        "additionalProperties": False,
    }
    properties: dict[str, Any] = {"properties": allowed}
    if on_assets:
        properties["assets"] = {"additionalProperties": allowed}
    return {"$schema": "http://json-schema.org/draft-07/schema#", "type": "object", "properties": properties}


_NUMBER = {"type": "number"}
# The parts of the published extension schemas that apply to what we write, in our own words.
_EXTENSIONS = {
    "https://stac-extensions.github.io/eo/v1.1.0/schema.json": _fields(
        "eo",
        {
            "eo:cloud_cover": {"type": "number", "minimum": 0, "maximum": 100},
            "eo:bands": {
                "type": "array",
                "minItems": 1,
                "items": {
                    "type": "object",
                    "properties": {
                        "name": {"type": "string"},
                        "common_name": {
                            "enum": ["coastal", "blue", "green", "red", "rededge", "yellow", "nir"]
                        },
                    },
                    "required": ["name"],
                },
            },
        },
    ),
    "https://stac-extensions.github.io/file/v2.1.0/schema.json": _fields(
        "file",
        {
            "file:checksum": {"type": "string", "pattern": "^[a-f0-9]+$"},
            "file:size": {"type": "integer", "minimum": 0},
        },
    ),
    "https://stac-extensions.github.io/projection/v1.2.0/schema.json": _fields(
        "proj",
        {
            "proj:code": {"type": ["string", "null"], "pattern": "^[A-Za-z]+:[0-9A-Za-z_.-]+$"},
            "proj:epsg": {"type": ["integer", "null"]},
            "proj:shape": {"type": "array", "minItems": 2, "maxItems": 2, "items": {"type": "integer"}},
            "proj:transform": {"type": "array", "minItems": 6, "maxItems": 9, "items": _NUMBER},
        },
    ),
    "https://stac-extensions.github.io/projection/v2.0.0/schema.json": _fields(
        "proj",
        {
            "proj:code": {"type": ["string", "null"], "pattern": "^[A-Za-z]+:[0-9A-Za-z_.-]+$"},
            "proj:shape": {"type": "array", "minItems": 2, "maxItems": 2, "items": {"type": "integer"}},
            "proj:transform": {"type": "array", "minItems": 6, "maxItems": 9, "items": _NUMBER},
        },
    ),
    "https://stac-extensions.github.io/raster/v1.1.0/schema.json": _fields(
        "raster",
        {
            "raster:bands": {
                "type": "array",
                "minItems": 1,
                "items": {
                    "type": "object",
                    "minProperties": 1,
                    "properties": {
                        "data_type": {"enum": ["uint8", "uint16", "int16"]},
                        "nodata": _NUMBER,
                        "scale": _NUMBER,
                        "offset": _NUMBER,
                        "spatial_resolution": _NUMBER,
                    },
                },
            }
        },
    ),
    "https://stac-extensions.github.io/view/v1.0.0/schema.json": _fields(
        "view",
        {
            "view:off_nadir": {"type": "number", "minimum": 0, "maximum": 90},
            "view:azimuth": {"type": "number", "minimum": 0, "maximum": 360},
            "view:sun_azimuth": {"type": "number", "minimum": 0, "maximum": 360},
            "view:sun_elevation": {"type": "number", "minimum": -90, "maximum": 90},
        },
    ),
}
# The view extension may be declared only where an angle is stated.
_VIEW = _EXTENSIONS["https://stac-extensions.github.io/view/v1.0.0/schema.json"]
_ANGLES = _VIEW["properties"]["properties"]
_VIEW["properties"]["properties"] = {
    **_ANGLES,
    "anyOf": [{"required": [name]} for name in _ANGLES["properties"]],
}


def validate(document: pystac.STACObject | dict[str, Any]) -> None:
    """Validate with pystac's own validator: its shipped core schemas and the extensions above."""
    if isinstance(document, pystac.STACObject):
        document = document.to_dict(include_self_link=False, transform_hrefs=False)
    validator = JsonSchemaSTACValidator()
    validator.schema_cache.update({uri: {"$id": uri, **schema} for uri, schema in _EXTENSIONS.items()})
    kind = {"Feature": "ITEM"}.get(document["type"], document["type"].upper())
    validator.validate(
        document,
        pystac.STACObjectType[kind],
        document["stac_version"],
        document.get("stac_extensions", []),
    )
