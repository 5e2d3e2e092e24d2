"""Random smooth fields as functions of position: the same number at a place, whatever block it is drawn in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]

# Standard deviation of a cubic B-spline field over independent uniform (-1, 1) coefficients, averaged over
# position: (1/sqrt(3)) * sum over the lattice of the squared autocorrelation kernel (151/315) in two dimensions.
_FIELD_STD = (1 / np.sqrt(3)) * (151 / 315)


def _hash_uniform(i: NDArray[np.int64], j: NDArray[np.int64], seed: int) -> FloatArray:
    """Uniform numbers in (-1, 1) that depend on the lattice point and the seed alone (splitmix64 finaliser)."""
    with np.errstate(over="ignore"):
        h = i.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        h ^= j.astype(np.uint64) * np.uint64(0xC2B2AE3D27D4EB4F)
        h += np.uint64(seed & 0xFFFFFFFFFFFFFFFF) * np.uint64(0x165667B19E3779F9)
        h ^= h >> np.uint64(30)
        h *= np.uint64(0xBF58476D1CE4E5B9)
        h ^= h >> np.uint64(27)
        h *= np.uint64(0x94D049BB133111EB)
        h ^= h >> np.uint64(31)
    return ((h >> np.uint64(40)).astype(np.float32) / np.float32(2**23)) - np.float32(1)


def _spline_matrix(positions: NDArray[np.float64], first: int, count: int) -> FloatArray:
    """Cubic B-spline weights of ``count`` lattice points from ``first`` on, at each position (in lattice units)."""
    base = np.floor(positions).astype(np.int64)
    t = positions - base
    weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]) / 6
    matrix = np.zeros((positions.size, count), dtype=np.float32)
    rows = np.arange(positions.size)
    for k in range(4):
        matrix[rows, base - 1 + k - first] = weights[k]
    return matrix


def smooth_noise(x: NDArray[np.float64], y: NDArray[np.float64], wavelength: float, seed: int) -> FloatArray:
    """Random field of unit variance on the grid of ``y`` by ``x``.

    Parameters
    ----------
    x, y : numpy.ndarray
        Coordinates of columns (w,) and rows (h,), metres.
    wavelength : float
        Spacing of the random lattice, metres; details are about twice as wide.
    seed : int
        Another seed gives an independent field.

    Returns
    -------
    numpy.ndarray
        (h, w) float32, mean 0, variance about 1.
    """
    u, v = x / wavelength, y / wavelength
    i0, j0 = int(np.floor(u.min())) - 1, int(np.floor(v.min())) - 1
    ni, nj = int(np.floor(u.max())) + 3 - i0, int(np.floor(v.max())) + 3 - j0
    jj, ii = np.meshgrid(np.arange(j0, j0 + nj), np.arange(i0, i0 + ni), indexing="ij")
    lattice = _hash_uniform(ii, jj, seed)
    field = _spline_matrix(v, j0, nj) @ lattice @ _spline_matrix(u, i0, ni).T
    return (field / np.float32(_FIELD_STD)).astype(np.float32, copy=False)


def fractal_noise(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    wavelengths: Sequence[float],
    seed: int,
    *,
    roughness: float = 0.5,
) -> FloatArray:
    """Sum of smooth fields, each weaker by ``roughness`` than the one before, scaled to unit variance."""
    total = np.zeros((y.size, x.size), dtype=np.float32)
    power = 0.0
    for octave, wavelength in enumerate(wavelengths):
        amplitude = roughness**octave
        total += np.float32(amplitude) * smooth_noise(x, y, wavelength, seed * 1009 + octave)
        power += amplitude**2
    return total / np.float32(np.sqrt(power))
