"""The bands of a scene: where each comes from and how a network sees it, defined once.

A checkpoint carries its own bands as plain dictionaries (:func:`bands_to_dicts`), so that training and
inference read one definition and can never disagree about a scale, a fill value or a kernel radius.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

import numpy as np

from darts_xr.errors import BandDefinitionError

Source = Literal["planet", "arcticdem", "landsat-trends"]
KernelGrid = Literal["scene", "dem"]
Resampling = Literal["none", "nearest", "bilinear", "cubic"]


@dataclass(frozen=True)
class Band:
    """One band: its origin, its unit, and the affine scale in which networks are given it.

    Attributes
    ----------
    name, long_name, units
        Name in the scene's Dataset, name for people, unit of the stored values.
    source
        Collection that the band is read or derived from.
    offset, divisor
        What a network sees is ``(value + offset) / divisor``, in float32.
    neutral
        Value, in ``units``, that stands where nothing is known: level ground, no trend.
    resampling
        How the source is brought onto the image's grid; "none" for the image's own bands.
    radius
        Radius in metres of the kernel that derives the band, None where there is no kernel.
    clip
        Whether the scaled value is cut to 0..1.
    kernel_grid
        Where terrain kernels run: on the "scene"'s grid after one warp of the DEM, or on the "dem"'s own grid
        before its derivatives are warped, as the published layers were made.

    Raises
    ------
    BandDefinitionError
        If a value cannot be used; the message names band and field.
    """

    name: str
    long_name: str
    units: str
    source: Source
    offset: float
    divisor: float
    neutral: float
    resampling: Resampling = "none"
    radius: float | None = None
    clip: bool = False
    kernel_grid: KernelGrid = "scene"

    def __post_init__(self) -> None:
        for field, choices in (
            ("source", get_args(Source)),
            ("resampling", get_args(Resampling)),
            ("kernel_grid", get_args(KernelGrid)),
        ):
            if getattr(self, field) not in choices:
                raise BandDefinitionError(
                    f"band {self.name!r}: {field} must be one of {choices}, got {getattr(self, field)!r}"
                )
        for field in ("name", "long_name", "units"):
            if not isinstance(getattr(self, field), str):
                raise BandDefinitionError(
                    f"band {self.name!r}: {field} must be text, got {getattr(self, field)!r}"
                )
        for field in ("offset", "divisor", "neutral"):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
                raise BandDefinitionError(f"band {self.name!r}: {field} must be a number, got {value!r}")
        if self.divisor <= 0:
            raise BandDefinitionError(f"band {self.name!r}: divisor must be positive, got {self.divisor!r}")
        if not isinstance(self.clip, bool):
            raise BandDefinitionError(f"band {self.name!r}: clip must be true or false, got {self.clip!r}")
        if self.radius is not None and (not isinstance(self.radius, int | float) or not self.radius > 0):
            raise BandDefinitionError(
                f"band {self.name!r}: radius must be None or a positive number of metres, got {self.radius!r}"
            )


def _image(name: str) -> Band:
    return Band(name, f"{name} surface reflectance, scaled by 10000", "1", "planet", 0.0, 3000.0, 0.0)


def _trend(name: str, long_name: str) -> Band:
    return Band(name, long_name, "1", "landsat-trends", 0.0, 255.0, 127.0, "bilinear")


_PUBLISHED = 10  # bands of the published networks; a band of your own comes after them

#: Bands in the order in which networks are given them: the published ones take the first ten, or seven without Landsat
#: trends. Scales are those of the published checkpoints (Nitze et al. 2025, Sci. Data 12:1512).
BANDS: dict[str, Band] = {
    band.name: band
    for band in (
        Band("ndvi", "normalised difference vegetation index", "1", "planet", 1.0, 2.0, 0.0),
        _image("blue"),
        _image("green"),
        _image("red"),
        replace(_image("nir"), long_name="near-infrared surface reflectance, scaled by 10000"),
        Band("relative_elevation", "relative elevation", "m", "arcticdem", 50.0, 100.0, 0.0, "cubic", 50.0),
        Band("slope", "slope", "degree", "arcticdem", 0.0, 90.0, 0.0, "cubic"),
        _trend("tc_brightness", "Landsat trend of Tasseled Cap brightness, 8-bit stretch"),
        _trend("tc_greenness", "Landsat trend of Tasseled Cap greenness, 8-bit stretch"),
        _trend("tc_wetness", "Landsat trend of Tasseled Cap wetness, 8-bit stretch"),
    )
}

# Names of the CF standard name table, where it has one; not a field of Band, whose fields stand in checkpoints.
_STANDARD_NAMES = {
    "ndvi": "normalized_difference_vegetation_index",
    "slope": "ground_slope_angle",
    **dict.fromkeys(("blue", "green", "red", "nir"), "surface_bidirectional_reflectance"),
}
#: Bands that are a normalised difference, (first - second) / (first + second), of two bands of the image.
DIFFERENCES: dict[str, tuple[str, str]] = {"ndvi": ("nir", "red")}

#: Name of the mask of pixels that may be used, in scenes, blocks and patches.
VALID = "valid"

# Fields that the first checkpoints do not state; their defaults hold there.
_LATER_FIELDS = {"clip", "kernel_grid"}

#: Differences of the published checkpoints from the defaults: radius of 100 m, terrain kernels on the DEM's own grid,
#: trends to the nearest pixel.
LEGACY_BANDS: dict[str, Band] = {
    name: replace(
        band,
        radius=100.0 if band.radius is not None else None,
        resampling="nearest" if band.source == "landsat-trends" else band.resampling,
        kernel_grid="dem" if band.source == "arcticdem" else band.kernel_grid,
    )
    for name, band in BANDS.items()
}


def standard_name(name: str) -> dict[str, str]:
    """Attribute ``standard_name`` of a band (CF conventions); empty where there is none for it."""
    return {"standard_name": _STANDARD_NAMES[name]} if name in _STANDARD_NAMES else {}


def select_bands(names: Iterable[str] | None = None) -> tuple[Band, ...]:
    """Return the named bands of the registry in canonical order, or the ten of the published networks.

    Raises
    ------
    BandDefinitionError
        If a name is unknown.

    Examples
    --------
    >>> [band.name for band in select_bands(["slope", "ndvi"])]
    ['ndvi', 'slope']
    """
    if names is None:
        return tuple(BANDS.values())[:_PUBLISHED]
    wanted = set(names)
    if unknown := sorted(wanted - BANDS.keys()):
        raise BandDefinitionError(f"unknown bands {unknown}; known are {list(BANDS)}")
    return tuple(band for name, band in BANDS.items() if name in wanted)


def scale_band(band: Band | str, values: Any) -> Any:
    """Bring values of a band to the scale in which a network is given them.

    Parameters
    ----------
    band
        A band, or the name of one of the registry.
    values
        NumPy array or torch tensor (on any device) of any number type, in the band's units. NaN becomes the
        band's neutral value.

    Returns
    -------
    same kind as ``values``
        float32, ``(value + offset) / divisor``; cut to 0..1 only where the band says so.

    Examples
    --------
    >>> scale_band("relative_elevation", np.array([-50.0, 0.0, np.nan]))
    array([0. , 0.5, 0.5], dtype=float32)
    """
    band = BANDS[band] if isinstance(band, str) else band
    if isinstance(values, np.ndarray):
        scaled = values.astype(np.float32)
        if values.dtype.kind == "f":
            np.nan_to_num(scaled, copy=False, nan=band.neutral, posinf=None, neginf=None)
    else:
        scaled = values.float()
        if values.is_floating_point():
            scaled = scaled.nan_to_num(nan=band.neutral)
    scaled += np.float32(band.offset).item()  # a copy by now, of whatever kind
    scaled /= np.float32(band.divisor).item()
    if not band.clip:
        return scaled
    return np.clip(scaled, 0, 1, out=scaled) if isinstance(scaled, np.ndarray) else scaled.clip_(0, 1)


def bands_to_dicts(bands: Iterable[Band]) -> list[dict[str, Any]]:
    """Bands as plain dictionaries, ready for JSON, in the given order."""
    return [asdict(band) for band in bands]


def bands_from_dicts(definitions: Iterable[Mapping[str, Any]]) -> tuple[Band, ...]:
    """Bands from what :func:`bands_to_dicts` made, in the same order.

    Raises
    ------
    BandDefinitionError
        If a definition lacks a field, has an unknown one or an unusable value, or a name comes twice.

    Examples
    --------
    >>> bands_from_dicts(bands_to_dicts(BANDS.values())) == tuple(BANDS.values())
    True
    """
    known = {field.name for field in fields(Band)}
    bands = []
    for definition in definitions:
        if not isinstance(definition, Mapping):
            raise BandDefinitionError(
                f"a band is defined as {str(definition)[:40]!r}, not as entries of a mapping"
            )
        name = definition.get("name", "without name")
        if missing := sorted(known - _LATER_FIELDS - definition.keys()):
            raise BandDefinitionError(f"band {name!r}: the definition lacks {missing}")
        if unknown := sorted(definition.keys() - known):
            raise BandDefinitionError(
                f"band {name!r}: unknown fields {unknown}; was it written by a newer version?"
            )
        bands.append(Band(**definition))
    names = [band.name for band in bands]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BandDefinitionError(f"bands {twice} are defined more than once")
    return tuple(bands)
