"""Which band of an image is blue, green, red and near infrared, and how STAC says it."""

from __future__ import annotations

from typing import Any

from darts_xr.errors import UnsupportedProductError
from darts_xr.planet.masks import UDM2_BANDS
from darts_xr.rasters import RasterHeader

IMAGE_BANDS = ("blue", "green", "red", "nir")
_ORDERS = {
    4: IMAGE_BANDS,
    8: ("coastal", "blue", "green_i", "green", "yellow", "red", "rededge", "nir"),
}
_COMMON = {*IMAGE_BANDS, "coastal", "yellow", "rededge"}
# Spellings in the band descriptions of deliveries; "green_i" of SuperDove is not "green".
_SPELLINGS = {
    "b": "blue",
    "g": "green",
    "r": "red",
    "n": "nir",
    "near_infrared": "nir",
    "nearinfrared": "nir",
    "near-infrared": "nir",
    "green_ii": "green",
    "green ii": "green",
    "coastal_blue": "coastal",
    "coastal blue": "coastal",
    "green i": "green_i",
    "red_edge": "rededge",
    "red edge": "rededge",
    "red-edge": "rededge",
}


def standard_bands(count: int) -> tuple[str, ...] | None:
    """Band names in Planet's order for a 4- or 8-band surface reflectance image, else None."""
    return _ORDERS.get(count)


def image_bands(header: RasterHeader) -> tuple[str, ...]:
    """Name every band of an image: by its descriptions where they name colours, else by Planet's order.

    Descriptions that name each of blue, green, red and nir once are believed in any order. Descriptions that
    name some colours but leave one of the four out or name it twice are refused, as a guess would feed the
    model wrong bands without a sign.

    Raises
    ------
    UnsupportedProductError
    """
    standard = standard_bands(header.count)
    if standard is None:
        raise UnsupportedProductError(
            f"{header.name} has {header.count} band(s); a surface reflectance image has 4 (blue, green, red, "
            "nir) or 8 (SuperDove); order analytic_sr_udm2 or analytic_8b_sr_udm2"
        )
    if header.dtype not in ("uint16", "int16"):
        raise UnsupportedProductError(
            f"{header.name} holds {header.dtype}; surface reflectance comes as uint16, reflectance times "
            "10000: use the file as delivered, without rescaling"
        )
    said = [_colour(description) for description in header.descriptions]
    if not any(colour in _COMMON for colour in said):
        return standard
    if any(said.count(colour) != 1 for colour in IMAGE_BANDS):
        raise UnsupportedProductError(
            f"the band descriptions of {header.name} are {list(header.descriptions)}, which do not name each "
            "of blue, green, red and nir exactly once; correct the descriptions or use the file as delivered"
        )
    return tuple(colour or f"band_{index}" for index, colour in enumerate(said, 1))


def _colour(description: str | None) -> str | None:
    if not description:
        return None
    plain = description.strip().lower()
    return _SPELLINGS.get(plain, plain)


def image_fields(names: tuple[str, ...], header: RasterHeader) -> dict[str, Any]:
    """Asset fields of an image's bands, in the three spellings that readers look for."""
    nodata = 0 if header.nodata is None else int(header.nodata)
    common = [{"name": name, "data_type": header.dtype, "nodata": nodata} for name in names]
    raster = {
        "data_type": header.dtype,
        "nodata": nodata,
        "scale": 0.0001,
        "offset": 0.0,
        "spatial_resolution": header.transform.a,
    }
    eo = [{"name": name, "common_name": name} if name in _COMMON else {"name": name} for name in names]
    return {"bands": common, "raster:bands": [dict(raster) for _ in names], "eo:bands": eo}


def mask_fields(header: RasterHeader) -> dict[str, Any]:
    """Asset fields of a mask's bands."""
    names = UDM2_BANDS if header.count == 8 else ("unusable",)
    raster: dict[str, Any] = {"data_type": header.dtype, "spatial_resolution": header.transform.a}
    common: dict[str, Any] = {"data_type": header.dtype}
    if header.nodata is not None:
        raster["nodata"] = common["nodata"] = int(header.nodata)
    prefix = "udm2" if header.count == 8 else "udm1"
    return {
        "bands": [{"name": f"{prefix}_{name}", **common} for name in names],
        "raster:bands": [dict(raster) for _ in names],
        "eo:bands": [{"name": f"{prefix}_{name}"} for name in names],
    }
