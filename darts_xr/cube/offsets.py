"""How far the images of different dates lie apart on the ground: masked, normalised cross-correlation."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from scipy.fft import irfft2, next_fast_len, rfft2
from scipy.ndimage import gaussian_filter

from darts_xr.errors import CRSError

#: Pixels that an image is looked for in every direction; PlanetScope's are mostly within two or three.
REACH = 8
# px: finer noise would draw a peak to whole pixels; shades wider than this sun and haze change more than ground does.
_FINE, _SMOOTH = 0.7, 5.0
_LEAST_SIDE = 24  # px
_LEAST_OVERLAP = 0.3  # share of the window that both dates must show
_LEAST_CORRELATION = 0.3  # below it two dates have no pattern in common to go by

# --- array kernels -----------------------------------------------------------------------------------------


def _pattern(values: NDArray[np.floating], seen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Take off the surroundings of each pixel; 0 where nothing was seen."""
    near, wide = (
        gaussian_filter(np.where(seen, values, 0.0), width)
        / np.maximum(gaussian_filter(seen.astype(np.float64), width), 1e-6)
        for width in (_FINE, _SMOOTH)
    )
    return np.where(seen, near - wide, 0.0)


def _peak(height: NDArray[np.float64], row: int, column: int) -> tuple[float, float]:
    """Top of the parabolas through a peak and its neighbours, along both axes."""
    found = []
    for low, middle, high in (
        (height[row - 1, column], height[row, column], height[row + 1, column]),
        (height[row, column - 1], height[row, column], height[row, column + 1]),
    ):
        bend = low - 2 * middle + high
        found.append(0.0 if bend >= 0 else float(0.5 * (low - high) / bend))
    return row + found[0], column + found[1]


def shift_between(
    first: NDArray[np.floating],
    second: NDArray[np.floating],
    seen_first: NDArray[np.bool_],
    seen_second: NDArray[np.bool_],
) -> tuple[float, float] | None:
    """Rows and columns by which the second of two images lies further down and right; None where nobody can tell.

    Correlations are of the pixels that both show (Padfield 2012, IEEE Trans. Image Process. 21:2706), so that the edges
    of masks, which stay where they are, do not count. The top is that of parabolas through the best whole shift.
    """
    if min(first.shape) < _LEAST_SIDE:
        return None
    a, b = _pattern(first, seen_first), _pattern(second, seen_second)
    shape = [next_fast_len(side + REACH + 1, real=True) for side in a.shape]
    planes = (a, a * a, seen_first.astype(np.float64), b, b * b, seen_second.astype(np.float64))
    a1, a2, ma, b1, b2, mb = (rfft2(plane, shape) for plane in planes)
    at = np.ix_(np.arange(-REACH, REACH + 1), np.arange(-REACH, REACH + 1))

    def moved(one: NDArray[np.complexfloating], other: NDArray[np.complexfloating]) -> NDArray[np.float64]:
        return np.asarray(irfft2(np.conj(one) * other, shape)[at])

    count = np.maximum(moved(ma, mb), 1.0)
    sum_a, sum_b = moved(a1, mb), moved(ma, b1)
    top = moved(a1, b1) - sum_a * sum_b / count
    spread = (moved(a2, mb) - sum_a**2 / count) * (moved(ma, b2) - sum_b**2 / count)
    fits = (count >= _LEAST_OVERLAP * first.size) & (spread > 0)
    height = np.where(fits, top / np.sqrt(np.where(fits, spread, 1.0)), -1.0)
    row, column = np.unravel_index(int(np.argmax(height)), height.shape)
    inside = 0 < row < 2 * REACH and 0 < column < 2 * REACH
    if not inside or height[row, column] < _LEAST_CORRELATION:
        return None
    down, right = _peak(height, int(row), int(column))
    return down - REACH, right - REACH


# --- labelled public function ------------------------------------------------------------------------------


def coregistration(image: xr.DataArray, valid: xr.DataArray) -> pd.DataFrame:
    """Estimate how far the image of each time step lies off the clearest one.

    Parameters
    ----------
    image : xarray.DataArray
        (time, y, x), one band, best ``nir``, in a CRS in metres. Computes.
    valid : xarray.DataArray
        (time, y, x) bool: pixels that may be used.

    Returns
    -------
    pandas.DataFrame
        One row a time step, index ``time``: ``offset_x_m`` and ``offset_y_m``, metres by which things lie further east
        and north than in the step with the most valid pixels (the earliest of these), which has 0. NaN where two dates
        have no pattern in common, share too few valid pixels, or lie more than 8 pixels apart. Cubes take the nearest
        pixel, so that scenes whose grids differ are off by up to half a pixel for that alone.

    Raises
    ------
    CRSError
        When the image has no CRS in metres.

    Examples
    --------
    >>> offsets = coregistration(cube["nir"], cube["valid"])  # doctest: +SKIP
    """
    box = image.odc.geobox
    if box is None or box.crs is None or box.crs.geographic:
        raise CRSError("offsets are in metres; open the cube in a CRS in metres, such as a UTM zone")
    pixels, seen = image.values.astype(np.float64), valid.values.astype(bool)
    offsets = np.full((len(pixels), 2), np.nan)
    if len(pixels):
        clearest = int(np.argmax(seen.sum(axis=(1, 2))))
        for step in range(len(pixels)):
            found = shift_between(pixels[clearest], pixels[step], seen[clearest], seen[step])
            if step == clearest:
                offsets[step] = 0.0
            elif found is not None:
                down, right = found
                offsets[step] = right * box.resolution.x, down * box.resolution.y
    columns = {"offset_x_m": offsets[:, 0], "offset_y_m": offsets[:, 1]}
    return pd.DataFrame(columns, index=pd.Index(image["time"].values, name="time"))
