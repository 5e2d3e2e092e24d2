"""What the pixels of an auxiliary layer may be: type, unit, range, and what is no data although no file says so."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import rasterio
from numpy.typing import NDArray

from darts_xr.errors import LayerError

# What programs write for "no data" without declaring it; anything beyond 1e30 is such a value too.
SENTINELS = (-9999.0, -32767.0, -32768.0, 32767.0, 65535.0)
_HUGE = 1e30
_METRES = {"", "m", "metre", "meter", "metres", "meters"}


@dataclass(frozen=True)
class Expected:
    """What a layer's files must hold.

    Attributes
    ----------
    what
        The layer, for messages.
    low, high
        Least and greatest plausible value, as stored.
    types
        Accepted types of pixels.
    remedy
        What to do about a file that holds something else.
    plain
        Whether a scale, an offset or another unit than metres in the file's tags is refused.
    zeros_are_void
        Whether a pixel that is 0 in all bands has no data: Earth Engine writes masked pixels so.
    """

    what: str
    low: float
    high: float
    types: tuple[str, ...]
    remedy: str
    plain: bool = True
    zeros_are_void: bool = False


_SIGNED = ("int16", "int32", "float32", "float64")
ELEVATION = Expected(
    "elevation in metres", -500.0, 9000.0, (*_SIGNED, "uint16"),
    "give heights in metres, with no data declared (gdal_edit.py -a_nodata)",
)  # fmt: skip
TREND = Expected(
    "Landsat trends on the 8-bit scale", 0.0, 255.0, ("uint8",),
    "export the visualised trends (0 to 255, 127 = no change) as bytes", zeros_are_void=True,
)  # fmt: skip


def ready_made(what: str, low: float, high: float) -> Expected:
    """Layer that a catalogue brings along, with its limits as stored; its item tells scale and offset."""
    return Expected(
        what,
        low,
        high,
        (*_SIGNED, "uint16"),
        "correct the item's scale and offset, or give a DEM",
        plain=False,
    )


def check_header(
    dataset: rasterio.DatasetReader, bands: tuple[int, ...], expected: Expected, name: str
) -> None:
    """Refuse a file whose header says that it is not such a layer.

    Raises
    ------
    LayerError
    """
    for band in bands:
        dtype = dataset.dtypes[band - 1]
        if dtype not in expected.types:
            raise LayerError(
                f"{name}: band {band} is {dtype}, not {expected.what} ({', '.join(expected.types)}); "
                f"{expected.remedy}"
            )
        scale, offset, unit = (of[band - 1] for of in (dataset.scales, dataset.offsets, dataset.units))
        if expected.plain and (scale, offset) != (1.0, 0.0):
            raise LayerError(
                f"{name}: band {band} is stored with scale {scale} and offset {offset}; write plain values with "
                "gdal_translate -unscale"
            )
        if expected is ELEVATION and (unit or "").strip().lower() not in _METRES:
            raise LayerError(f"{name}: heights are in {unit}, not in metres; {expected.remedy}")


def void_no_data(values: NDArray[np.float32], expected: Expected, name: str, *, declared: bool) -> None:
    """Set what is no data although it was not declared to NaN, in place; refuse what no such layer holds.

    Parameters
    ----------
    values
        Pixels (band, y, x), NaN where the file says that it has no data.
    expected
        What the layer may hold.
    name
        Item, for messages.
    declared
        Whether the file declares a no-data value.

    Raises
    ------
    LayerError
        If values are left that are out of range.
    """
    if expected.zeros_are_void and not declared:
        zero = (values == 0).all(axis=0)
        if zero.any():
            values[:, zero] = np.nan
    if _within(values, expected):
        return
    values[(np.abs(values) > _HUGE) | np.isin(values, SENTINELS)] = np.nan
    if not _within(values, expected):
        low, high = float(np.nanmin(values)), float(np.nanmax(values))
        raise LayerError(
            f"{name}: values from {low:g} to {high:g} are not {expected.what} ({expected.low:g} to "
            f"{expected.high:g}); {expected.remedy}"
        )


def _within(values: NDArray[np.float32], expected: Expected) -> bool:
    low, high = np.fmin.reduce(values, axis=None), np.fmax.reduce(values, axis=None)
    return not (low < expected.low or high > expected.high)  # NaN where nothing is known
