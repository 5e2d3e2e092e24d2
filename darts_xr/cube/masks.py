"""Valid pixels from Planet's usable-data masks, by named rules."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np

from darts_xr.catalog.usable import MASK_RULES, UDM1_BITS, UDM2_BANDS, MaskRule, default_rule, find_rule
from darts_xr.errors import MaskError

__all__ = ["MASK_RULES", "UDM1_BITS", "UDM2_BANDS", "MaskRule", "default_rule", "valid_mask"]


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
