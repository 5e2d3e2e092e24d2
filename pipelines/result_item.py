"""STAC item of a scene's results."""

from __future__ import annotations

from typing import Any

import pystac
import shapely
import xarray as xr

from darts_xr.stac import PROJECTION_EXTENSION, RASTER_EXTENSION, grid_fields


def result_item(
    scene_id: str, seen: Any, raster: xr.DataArray, counts: dict[str, int], made_by: dict[str, str]
) -> dict[str, Any]:
    """STAC item of a scene's results, its files named beside it."""
    band = {"data_type": "uint8", "nodata": 255}
    assets: dict[str, Any] = {
        key: {
            "href": f"./{key}.tif",
            "type": pystac.MediaType.COG,
            "roles": ["data"],
            "bands": [{"name": key, "unit": unit, **band}],
            "raster:bands": [{"unit": unit, **band}],
        }
        for key, unit in (("probability", "percent"), ("binary", "1"))
    }
    assets["level1"] = {
        "href": "./level1.parquet",
        "type": "application/vnd.apache.parquet",
        "roles": ["data"],
    }
    assets["removed"] = assets["level1"] | {"href": "./removed.parquet", "roles": ["metadata"]}
    assets["quicklook"] = {"href": "./quicklook.png", "type": pystac.MediaType.PNG, "roles": ["overview"]}
    own = ("item_id", "datetime", "constellation")  # fields of STAC itself
    made: dict[str, Any] = {f"darts:{key}": value for key, value in made_by.items() if key not in own}
    seen = shapely.transform(seen, lambda degrees: degrees.round(7))  # 1 cm
    grid = raster.odc.geobox
    outline = {} if seen.is_empty else {"bbox": list(seen.bounds)}
    return {
        "type": "Feature",
        "stac_version": pystac.get_stac_version(),
        "stac_extensions": [
            PROJECTION_EXTENSION,
            RASTER_EXTENSION,
        ],
        "id": scene_id,
        "geometry": None if seen.is_empty else shapely.geometry.mapping(seen),
        **outline,
        "properties": {
            "datetime": made_by["datetime"],
            "constellation": made_by["constellation"],
            # A UTM zone; str() of the CRS would give WKT.
            **grid_fields(f"EPSG:{grid.crs.epsg}", raster.shape, grid.transform),
            **made,
            **{f"darts:{key}": value for key, value in counts.items()},
        },
        "assets": assets,
        "links": [
            {"rel": rel, "href": "../../catalog.json", "type": "application/json"}
            for rel in ("root", "parent")
        ],
    }
