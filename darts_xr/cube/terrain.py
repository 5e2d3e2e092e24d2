"""Derivatives of a digital elevation model: slope and relative elevation.

Both read a neighbourhood, so each is one array kernel that takes a block with its halo and returns the block
without it. Plain arrays, Dask blocks and the scene's own warp (which fetches the halo with the block) all
call that one kernel; NumPy, torch (on any device) and CuPy arrays go through the same lines, unless compiled loops
can do it sooner on a processor.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import dask.array as da
import numpy as np
import scipy.fft
import xarray as xr
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from odc.geo.xr import ODCExtensionDa

from darts_xr.cube.indices import labelled
from darts_xr.cube.loops import compiled
from darts_xr.errors import CRSError, ParameterError
from darts_xr.graph.overlap import map_overlap

Spacing = tuple[float, float]

# Rows that a slope pass takes at a time: its temporaries then stay in the processor's cache.
_SLOPE_ROWS = 64
# Rows of the largest disk that compiled loops sum up; a Fourier transform takes the same time for all.
_LOOPED_ROWS = 81
# Largest tile (per side) of one Fourier transform, unless four kernels are wider still.
_FFT_TILE = 1280


def _namespace(array: Any) -> Any:
    """Return the module (numpy, torch, cupy) whose array this is."""
    return sys.modules[type(array).__module__.partition(".")[0]]


def _pad(array: Any, pad_y: int, pad_x: int) -> Any:
    """Surround the last two axes with NaN; floating point from here on."""
    xp = _namespace(array)
    if xp.__name__ == "torch":
        array = array if array.is_floating_point() else array.double()
        return xp.nn.functional.pad(array, (pad_x, pad_x, pad_y, pad_y), value=math.nan)
    array = array if array.dtype.kind == "f" else array.astype(np.float64)
    width = [(0, 0)] * (array.ndim - 2) + [(pad_y, pad_y), (pad_x, pad_x)]
    return xp.pad(array, width, constant_values=math.nan)


def _for_loops(dem: NDArray[np.floating]) -> NDArray[np.floating]:
    """Heights in a type that compiled loops know: files may be of the other byte order, or hold float16."""
    return np.ascontiguousarray(dem, np.float32 if dem.dtype.itemsize <= 4 else np.float64)


def slope_inside(dem: Any, spacing: Spacing) -> Any:
    """Horn slope in degrees of all but the outermost pixel ring; float32, NaN next to a void."""
    xp = _namespace(dem)
    dy, dx = spacing
    shape = (*dem.shape[:-2], dem.shape[-2] - 2, dem.shape[-1] - 2)
    loops = compiled("terrain_loops") if xp is np else None
    if loops is not None:
        dem = _for_loops(dem)
        steps = [dem.dtype.type(step) for step in spacing]
        angles = np.empty(shape, dem.dtype)
        for plane in np.ndindex(shape[:-2]):
            loops.tangent_of_slope(dem[plane], *steps, angles[plane])
        np.arctan(angles, out=angles)
        angles *= dem.dtype.type(180 / math.pi)
        return angles.astype(np.float32, copy=False)
    on = {"device": dem.device} if xp.__name__ == "torch" else {}
    out = xp.empty(shape, dtype=xp.float32, **on)
    for top in range(0, shape[-2], _SLOPE_ROWS):
        rows = slice(top, min(top + _SLOPE_ROWS, shape[-2]))
        z = dem[..., rows.start : rows.stop + 2, :]
        # Differences come first: those of neighbouring float32 heights are exact, sums of heights are not.
        east = z[..., 2:] - z[..., :-2]
        north = z[..., :-2, :] - z[..., 2:, :]
        east = (east[..., :-2, :] + east[..., 2:, :] + 2 * east[..., 1:-1, :]) / (8 * dx)
        north = (north[..., :-2] + north[..., 2:] + 2 * north[..., 1:-1]) / (8 * dy)
        # The centre has no weight in Horn's formula, but a void must stay a void.
        centre = z[..., 1:-1, 1:-1]
        tangent = xp.sqrt(east * east + north * north) + (centre - centre)
        out[..., rows, :] = xp.arctan(tangent) * (180 / math.pi)
    return out


def disk(radius: float, spacing: Spacing) -> NDArray[np.float64]:
    """Pixels whose centres lie within ``radius`` metres of the middle one, as 1 and 0."""
    reach = [math.floor(radius / step + 1e-9) for step in spacing]
    y, x = (np.arange(-n, n + 1) * step for n, step in zip(reach, spacing, strict=True))
    return np.asarray(np.hypot(y[:, None], x) <= radius * (1 + 1e-9), dtype=np.float64)


@lru_cache(maxsize=8)
def _disk_spectrum(
    radius: float, spacing: Spacing, shape: tuple[int, int], namespace: str, device: Any
) -> Any:
    """Fourier transform of the disk, where the heights are: a device would be waited for at each upload."""
    spectrum = np.asarray(scipy.fft.rfft2(disk(radius, spacing), shape), dtype=np.complex64)
    on = {"device": device} if namespace == "torch" else {}
    return sys.modules[namespace].asarray(spectrum, **on)


def relative_elevation_inside(dem: Any, radius: float, spacing: Spacing) -> Any:
    """Height above the mean of the disk, for the pixels that have the disk's whole box inside ``dem``."""
    xp = _namespace(dem)
    footprint = disk(radius, spacing)
    box = (footprint.shape[0] - 1, footprint.shape[1] - 1)
    inner = (dem.shape[-2] - box[0], dem.shape[-1] - box[1])
    loops = compiled("terrain_loops") if xp is np and len(footprint) <= _LOOPED_ROWS else None
    if loops is not None:
        reaches = footprint.sum(axis=1).astype(np.int64) // 2
        dem = _for_loops(dem)
        above = np.empty((*dem.shape[:-2], *inner), np.float32)
        for plane in np.ndindex(dem.shape[:-2]):
            loops.above_disk_mean(dem[plane], reaches, above[plane])
        return above
    # Equal tiles: no sliver is transformed at the price of a whole tile.
    tile = [math.ceil(n / math.ceil(n / max(_FFT_TILE, 4 * b))) for n, b in zip(inner, box, strict=True)]
    side = tuple(scipy.fft.next_fast_len(t + b, real=True) for t, b in zip(tile, box, strict=True))
    spectrum = _disk_spectrum(radius, spacing, side, xp.__name__, getattr(dem, "device", None))
    on = {"device": dem.device} if xp.__name__ == "torch" else {}
    fft = scipy.fft if xp is np else xp.fft  # NumPy's own transforms of float32 are three times slower

    def disk_sum(z: Any) -> Any:
        # Circular convolution: what wraps around spoils only the first `box` rows and columns, cut off here.
        total = fft.irfft2(fft.rfft2(z, side) * spectrum, side)
        return total[..., box[0] : z.shape[-2], box[1] : z.shape[-1]]

    out = xp.empty((*dem.shape[:-2], *inner), dtype=xp.float32, **on)
    for top in range(0, inner[0], tile[0]):
        for left in range(0, inner[1], tile[1]):
            part = dem[..., top : top + tile[0] + box[0], left : left + tile[1] + box[1]]
            valid = xp.isfinite(part)
            whole = xp.__name__ != "torch" and bool(valid.all())  # a device would be waited for
            # Less the tile's mean, float32 keeps 0.5 mm even where the relief is 2,000 m within a tile.
            base = part.mean() if whole else xp.where(valid, part, 0.0).sum() / xp.clip(valid.sum(), 1, None)
            z = xp.asarray(part - base, dtype=xp.float32)
            if whole:
                mean = disk_sum(z) / footprint.sum()
            else:
                count = xp.round(disk_sum(xp.asarray(valid, dtype=xp.float32)))
                mean = disk_sum(xp.where(valid, z, 0.0)) / xp.where(count > 0, count, math.nan)
            centre = z[..., box[0] // 2 : z.shape[-2] - box[0] // 2, box[1] // 2 : z.shape[-1] - box[1] // 2]
            out[..., top : top + centre.shape[-2], left : left + centre.shape[-1]] = centre - mean
    return out


def _with_halo(dem: Any, halo: tuple[int, int], inside: Callable[[Any], Any]) -> Any:
    """Apply a kernel that eats a halo to a plain or a Dask array; beyond the array's edge all is void."""
    if not isinstance(dem, da.Array):
        return inside(_pad(dem, *halo))
    y, x = dem.ndim - 2, dem.ndim - 1
    source = dem if dem.dtype.kind == "f" else dem.astype(np.float64)
    depth = {y: halo[0], x: halo[1]}
    out = map_overlap(inside, source, depth=depth, boundary=math.nan, trim=False, dtype=np.float32)
    return out.rechunk(dem.chunks)


def pixel_spacing(dem: Any, resolution: float | Spacing | None = None) -> Spacing:
    """Pixel height and width in metres, from ``resolution`` or from the array's own grid."""
    if resolution is not None:
        dy, dx = resolution if isinstance(resolution, tuple) else (resolution, resolution)
        return abs(float(dy)), abs(float(dx))
    if not isinstance(dem, xr.DataArray):
        raise CRSError("a bare array does not know its pixel size: pass resolution=, in metres")
    geobox = ODCExtensionDa(dem).geobox
    if not isinstance(geobox, GeoBox):
        raise CRSError(
            f"{dem.name or 'the DEM'} has no pixel grid: give it x and y coordinates or resolution="
        )
    if geobox.crs is not None and geobox.crs.geographic:
        raise CRSError(
            f"{dem.name or 'the DEM'} is in degrees ({geobox.crs}): reproject it or pass resolution="
        )
    transform = geobox.affine
    return math.hypot(transform.b, transform.e), math.hypot(transform.a, transform.d)


def slope(dem: Any, *, resolution: float | Spacing | None = None) -> Any:
    """Compute the steepest slope of a DEM by Horn's 3 × 3 formula.

    Parameters
    ----------
    dem
        Heights in metres with voids as NaN; the last two axes are y and x. Labelled array, Dask array, NumPy
        array, torch tensor or CuPy array.
    resolution
        Pixel size in metres, one number or (y, x). Needed for bare arrays; a labelled array has its own.

    Returns
    -------
    same kind as ``dem``
        float32 degrees, 0 to 90, in the chunks of ``dem``; lazy if ``dem`` is lazy. NaN in the outermost
        pixel ring of the array and wherever one of the nine heights is a void.

    Raises
    ------
    CRSError
        If the pixel size in metres is not known.

    Examples
    --------
    >>> import numpy as np
    >>> plane = np.tile(np.arange(4.0), (4, 1))  # rises 1 m a pixel eastwards
    >>> slope(plane, resolution=1.0)[1, 1]
    np.float32(45.0)
    """
    spacing = pixel_spacing(dem, resolution)
    if isinstance(dem, xr.DataArray):
        return labelled(dem, slope(dem.data, resolution=spacing), "slope", "slope", "degree")
    return _with_halo(dem, (1, 1), partial(slope_inside, spacing=spacing))


def relative_elevation(dem: Any, radius: float = 50.0, *, resolution: float | Spacing | None = None) -> Any:
    """Compute the height above the mean of the surrounding disk (topographic position).

    Parameters
    ----------
    dem
        Heights in metres with voids as NaN; the last two axes are y and x. Labelled array, Dask array, NumPy
        array, torch tensor or CuPy array.
    radius
        Radius of the disk in metres. The disk holds every pixel whose centre lies within it, the middle one
        included. 50 is the paper's kernel (a diameter of 100 m: Nitze et al. 2025, Sci. Data 12:1512); the
        published checkpoints were trained with 100.
    resolution
        Pixel size in metres, one number or (y, x). Needed for bare arrays; a labelled array has its own.

    Returns
    -------
    same kind as ``dem``
        float32 metres in the chunks of ``dem``; lazy if ``dem`` is lazy. The mean is over the heights that
        the disk finds inside the array and not void; a void stays NaN.

    Raises
    ------
    CRSError
        If the pixel size in metres is not known.
    ValueError
        If the radius is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> bump = np.zeros((5, 5))
    >>> bump[2, 2] = 10.0
    >>> relative_elevation(bump, radius=1.0, resolution=1.0)[2, 2]  # disk of five pixels, mean 2
    np.float32(8.0)
    """
    if not radius > 0:
        raise ParameterError(f"radius must be a positive number of metres, got {radius!r}")
    spacing = pixel_spacing(dem, resolution)
    if isinstance(dem, xr.DataArray):
        values = relative_elevation(dem.data, radius, resolution=spacing)
        return labelled(dem, values, "relative_elevation", "relative elevation", "m", radius=float(radius))
    reach_y, reach_x = (n // 2 for n in disk(radius, spacing).shape)
    inside = partial(relative_elevation_inside, radius=float(radius), spacing=spacing)
    return _with_halo(dem, (reach_y, reach_x), inside)
