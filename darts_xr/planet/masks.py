"""Usable-data masks: Planet's bit tables and the named rules that turn them into "valid".

The rules index, compare and combine, so that they work on NumPy, Dask and GPU arrays alike;
:func:`valid_mask` is the function for users.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import dask.array as da
import numpy as np

from darts_xr.errors import MaskError

# udm1, one byte a pixel; also band 8 of an udm2.
UDM1_BITS = {
    0: "blackfill: the image holds no data",
    1: "cloud, by the old brightness test",
    2: "blue missing or suspect",
    3: "green missing or suspect",
    4: "red missing or suspect",
    5: "red edge missing or suspect (RapidEye), else unused",
    6: "near infrared missing or suspect",
    7: "unused",
}
UDM2_BANDS = ("clear", "snow", "shadow", "haze_light", "haze_heavy", "cloud", "confidence", "udm1")

BLACKFILL = 1 << 0
UDM1_CLOUD = 1 << 1
# No data, or one of the four bands that the models read is missing or suspect.
_UNREADABLE = BLACKFILL | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 6


#: What a mask says of a pixel, by number; where several apply, the first of no data, a missing band, cloud, heavy
#: haze, shadow, snow, light haze.
MASK_CLASSES = {
    0: "no data", 1: "clear", 2: "snow", 3: "shadow", 4: "light haze", 5: "heavy haze", 6: "cloud",
    7: "band missing or suspect",
}  # fmt: skip
SNOW = 2


@dataclass(frozen=True)
class MaskRule:
    """A named rule: the mask that it reads and what it calls valid."""

    name: str
    mask: Literal["udm2", "udm1"]  # key of the asset
    bands: int
    valid: Callable[[Any], Any]  # (bands, y, x) uint8 -> (y, x) bool
    description: str


def _udm2(mask: Any) -> Any:
    clear, snow, shadow, _, heavy_haze, cloud, _, unusable = (mask[band] for band in range(8))
    covered = (snow == 1) | (shadow == 1) | (heavy_haze == 1) | (cloud == 1)
    return (clear == 1) & ~covered & ((unusable & _UNREADABLE) == 0)


def _udm1(mask: Any) -> Any:
    return mask[0] == 0


def _udm2_2021(mask: Any) -> Any:
    return (mask[1] == 0) & (mask[2] == 0) & (mask[4] == 0) & (mask[5] == 0) & (mask[7] == 0)


MASK_RULES: dict[str, MaskRule] = {
    rule.name: rule
    for rule in (
        MaskRule(
            "udm2",
            "udm2",
            8,
            _udm2,
            "clear, and not snow, shadow, heavy haze or cloud, and in band 8 neither blackfill nor a missing "
            "or suspect blue, green, red or near infrared",
        ),
        MaskRule("udm1", "udm1", 1, _udm1, "no bit of udm1 is set"),
        MaskRule(
            "udm2-2021",
            "udm2",
            8,
            _udm2_2021,
            "neither snow, shadow, heavy haze nor cloud, and no bit of band 8 is set; light haze is valid",
        ),
    )
}


def mask_class(mask_bands: Any) -> Any:
    """Tell what an udm2 or udm1 says of each pixel, whatever rule decides on its use.

    Parameters
    ----------
    mask_bands : numpy.ndarray
        The mask, dims (band, y, x), uint8: 8 bands of an udm2 or 1 band of an udm1.

    Returns
    -------
    numpy.ndarray
        Dims (y, x), uint8, numbers of :data:`MASK_CLASSES`. An udm1 knows no snow, shadow and haze.

    Examples
    --------
    >>> import numpy as np
    >>> udm2 = np.zeros((8, 1, 3), "uint8")
    >>> udm2[0, 0, 0] = udm2[1, 0, 1] = udm2[5, 0, 2] = 1
    >>> [MASK_CLASSES[number] for number in mask_class(udm2)[0].tolist()]
    ['clear', 'snow', 'cloud']
    """
    bits = mask_bands[-1]
    kinds = np.full(bits.shape, 1, np.uint8)
    if len(mask_bands) == len(UDM2_BANDS):
        for number, band in ((4, 3), (SNOW, 1), (3, 2), (5, 4), (6, 5)):
            kinds[mask_bands[band] == 1] = number
    else:
        kinds[(bits & UDM1_CLOUD) > 0] = 6
    kinds[(bits & _UNREADABLE) > 0] = 7
    kinds[(bits & BLACKFILL) > 0] = 0
    return kinds


def default_rule(has_udm2: bool, has_udm1: bool) -> str:
    """Name of the rule that applies when the user names none: udm2 where there is one, else udm1.

    Parameters
    ----------
    has_udm2, has_udm1 : bool
        Which masks came with the scene.

    Returns
    -------
    str
        ``"udm2"`` or ``"udm1"``.

    Raises
    ------
    MaskError
        The scene has neither.

    Examples
    --------
    >>> default_rule(has_udm2=True, has_udm1=True), default_rule(has_udm2=False, has_udm1=True)
    ('udm2', 'udm1')
    """
    if has_udm2:
        return "udm2"
    if has_udm1:
        return "udm1"
    raise MaskError(
        "the scene has neither an udm2 nor an udm1 mask, so nothing says which pixels are usable; "
        "order the bundle analytic_sr_udm2, which brings the udm2"
    )


def find_rule(rule: str, band_count: int | None = None, *, name: str = "the mask") -> MaskRule:
    """Look a rule up and check that a mask of ``band_count`` bands, where given, called ``name``, suits it.

    Raises
    ------
    MaskError
    """
    if rule not in MASK_RULES:
        raise MaskError(f"there is no mask rule {rule!r}; the rules are {', '.join(sorted(MASK_RULES))}")
    found = MASK_RULES[rule]
    if band_count is not None and band_count != found.bands:
        advice = {
            "udm2": "order the scene again, or use its one-band udm1 with the rule 'udm1'",
            "udm1": "take the one-band DN_udm, or the rule 'udm2' for an udm2",
        }[found.mask]
        raise MaskError(
            f"{name} has {band_count} band(s), but mask rule {rule!r} reads the {found.bands} band(s) of an "
            f"{found.mask}; {advice}"
        )
    return found


def valid_mask(mask_bands: Any, rule: str = "udm2") -> Any:
    """Where a scene's pixels may be used, by a named rule over its usable-data mask.

    Pixels whose four image bands are all 0 hold no data whatever the mask says; that is for the caller
    (:func:`darts_xr.open_scene`), who has the image.

    ``"udm2"`` (default; the rule of the published code since v0.10.3), over the eight bands of an udm2:

    ==== =========== ======================= =========================================
    band content     values                  a pixel is valid where
    ==== =========== ======================= =========================================
    1    clear       0, 1                    it is 1
    2    snow        0, 1                    it is not 1
    3    shadow      0, 1                    it is not 1
    4    light haze  0, 1                    not read: where it is 1, clear is 0
    5    heavy haze  0, 1                    it is not 1
    6    cloud       0, 1                    it is not 1
    7    confidence  0 to 100 %              not read
    8    udm1        bits, see below         none of the bits 0, 2, 3, 4 and 6 is set
    ==== =========== ======================= =========================================

    ==== ================================= ======== ======== =============
    bit  of udm1, and of band 8 of udm2    "udm2"   "udm1"   "udm2-2021"
    ==== ================================= ======== ======== =============
    0    blackfill: no data                invalid  invalid  invalid
    1    cloud, by the old brightness test not read invalid  invalid
    2    blue missing or suspect           invalid  invalid  invalid
    3    green missing or suspect          invalid  invalid  invalid
    4    red missing or suspect            invalid  invalid  invalid
    5    red edge, or unused               not read invalid  invalid
    6    near infrared missing or suspect  invalid  invalid  invalid
    7    unused                            not read invalid  invalid
    ==== ================================= ======== ======== =============

    v0.10.3 compared band 8 with 1, which misses blackfill that comes with another bit and never sees a
    missing band; here its bits are decoded. Its old cloud bit stays unread, as bands 1 and 6 replace it.

    ``"udm1"``, over the one band of a ``DN_udm``: valid where no bit is set.

    ``"udm2-2021"``, the rule of 2021-12 to early 2024, for reproduction: valid where bands 2, 3, 5 and 6
    are all 0 and no bit of udm1 (band 8) is set; clear is not read, so light haze counts as valid.

    Parameters
    ----------
    mask_bands : numpy.ndarray or dask.array.Array
        The mask, dims (band, y, x), uint8: 8 bands of an udm2 or 1 band of an udm1.
    rule : str
        A name in :data:`MASK_RULES`.

    Returns
    -------
    numpy.ndarray or dask.array.Array
        Dims (y, x), bool, True where valid; lazy where the input is.

    Raises
    ------
    MaskError
        The rule is unknown, or the mask has other bands than it reads.

    Examples
    --------
    >>> import numpy as np
    >>> udm2 = np.zeros((8, 1, 3), "uint8")
    >>> udm2[0] = 1                   # all clear,
    >>> udm2[7] = [[0, 2, 5]]         # but the last pixel is blackfill and lacks blue
    >>> valid_mask(udm2).tolist()
    [[True, True, False]]
    """
    if mask_bands.ndim != 3:
        raise MaskError(f"a mask has the dims (band, y, x); this one has the shape {mask_bands.shape}")
    found = find_rule(rule, mask_bands.shape[0])
    if not np.issubdtype(mask_bands.dtype, np.integer):
        raise MaskError(
            f"a usable-data mask holds bytes, this one {mask_bands.dtype}; read it unwarped and unscaled"
        )
    if isinstance(mask_bands, da.Array):
        # One task a chunk instead of one for each of the comparisons.
        whole = mask_bands.rechunk({0: -1})  # type: ignore[no-untyped-call]
        return da.map_blocks(  # type: ignore[no-untyped-call]
            found.valid, whole, drop_axis=0, dtype=bool, meta=np.empty((0, 0), bool)
        )
    return found.valid(mask_bands)
