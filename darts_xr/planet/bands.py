"""Which band of an image is blue, green, red and near infrared, and how STAC says it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from darts_xr.errors import UnsupportedProductError
from darts_xr.planet.masks import UDM2_BANDS
from darts_xr.rasters import RasterHeader

IMAGE_BANDS = ("blue", "green", "red", "nir")
_ORDERS = {
    4: IMAGE_BANDS,
    8: ("coastal", "blue", "green_i", "green", "yellow", "red", "rededge", "nir"),
}
_TYPES = ("uint16", "int16")
_SCALE = 0.0001  # from stored numbers to reflectance
_BRIGHTEST = 15_000.0  # no scene is so bright in the median of its clear pixels, snow and ice included
_DARKEST = 100.0  # 1 % reflectance: even clear water with some shore is brighter
_ENOUGH = 1000  # pixels from which on equal or dark values are no accident
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
    said = [_colour(description) for description in header.descriptions]
    if not any(colour in _COMMON for colour in said):
        return standard
    if any(said.count(colour) != 1 for colour in IMAGE_BANDS):
        raise UnsupportedProductError(
            f"the band descriptions of {header.name} are {list(header.descriptions)}, which do not name each "
            "of blue, green, red and nir exactly once; correct the descriptions or use the file as delivered"
        )
    return tuple(colour or f"band_{index}" for index, colour in enumerate(said, 1))


def band_positions(names: Sequence[str]) -> dict[str, int]:
    """Give the numbers of blue, green, red and nir among band names, counted from 1."""
    return {band: names.index(band) + 1 for band in IMAGE_BANDS}


def check_image(header: RasterHeader, positions: Mapping[str, int]) -> None:
    """Refuse an image whose header does not fit the bands that the item names.

    Parameters
    ----------
    header : RasterHeader
        Of the image.
    positions : mapping of str to int
        Band number of blue, green, red and nir, counted from 1, as the item has it.

    Raises
    ------
    UnsupportedProductError
        Type, band count, band descriptions, or scale and offset are not those of surface reflectance × 10000.
    """
    if header.dtype not in _TYPES:
        raise UnsupportedProductError(
            f"{header.name} holds {header.dtype}; surface reflectance comes as uint16, reflectance times "
            "10000: use the file as delivered, without rescaling"
        )
    if header.count < max(positions.values()):
        raise UnsupportedProductError(
            f"{header.name} has {header.count} band(s), and the item names band {max(positions.values())}; a surface "
            "reflectance image has 4 (blue, green, red, nir) or 8 (SuperDove): build the catalogue again"
        )
    said = {colour: n for n, d in enumerate(header.descriptions, 1) if (colour := _colour(d)) in IMAGE_BANDS}
    if any(said.get(band, number) != number for band, number in positions.items()):
        raise UnsupportedProductError(
            f"{header.name} describes its bands as {list(header.descriptions)}, but the item has "
            f"{dict(positions)}; build the catalogue again"
        )
    for number in positions.values():
        scale, offset = (
            tags[number - 1] if tags else plain
            for tags, plain in ((header.scales, 1.0), (header.offsets, 0.0))
        )
        if offset or not any(math.isclose(scale, known) for known in (1.0, _SCALE)):
            raise UnsupportedProductError(
                f"{header.name} states a scale of {scale:g} and an offset of {offset:g} for band {number}; only "
                f"reflectance times 10000 (scale {_SCALE:g}, offset 0) is read: use the file as delivered"
            )


def check_reflectance(samples: Mapping[str, NDArray[Any]], name: str) -> None:
    """Refuse numbers that cannot be surface reflectance × 10000.

    Land reflects a few hundred to some 5,000, snow and cloud up to 12,000. A sample of valid pixels is enough: the
    limits are far from any scene.

    Parameters
    ----------
    samples : mapping of str to numpy.ndarray
        Values of valid pixels of each band.
    name : str
        What the message calls the image.

    Raises
    ------
    UnsupportedProductError
        All pixels of all bands are equal, or the image is far too bright or too dark.

    Examples
    --------
    >>> import numpy as np
    >>> check_reflectance({"nir": np.array([210, 2400, 3100])}, "a.tif")
    """
    filled = {band: np.asarray(values) for band, values in samples.items() if np.size(values)}
    if not filled:
        return
    count = min(values.size for values in filled.values())
    if count >= _ENOUGH and all(values.min() == values.max() for values in filled.values()):
        raise UnsupportedProductError(
            f"{name} holds one value in each band ({', '.join(f'{b} {v.flat[0]}' for b, v in filled.items())}), so it "
            "shows nothing; download it again"
        )
    middle = max(float(np.median(values)) for values in filled.values())
    if middle > _BRIGHTEST:
        raise UnsupportedProductError(
            f"{name} is too bright for surface reflectance times 10000: half of its valid pixels exceed {middle:.0f}. "
            "Was it multiplied by 10? Use the file as delivered"
        )
    brightest = max(float(np.quantile(values, 0.99)) for values in filled.values())
    if count >= _ENOUGH and brightest < _DARKEST:
        raise UnsupportedProductError(
            f"{name} is too dark for surface reflectance times 10000: 99 % of its valid pixels are below "
            f"{brightest:.0f}. Is it in per cent, or reflectance 0 to 1? Use the file as delivered"
        )


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
        "scale": _SCALE,
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
