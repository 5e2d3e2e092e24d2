"""Terrain kernels in one compiled pass, for processors.

A disk is a stack of rows; the sum of each is the difference of two running sums along its line. A Fourier transform,
which :mod:`darts_xr.cube.terrain` takes elsewhere, needs twice the time at the radii of this field, and four times
where there are voids. numba compiles the loops when they are first used on a machine, which takes some seconds, and
keeps the result in its cache.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from darts_xr.cube.loops import loop


@loop()
def above_disk_mean(heights: Any, reaches: Any, out: Any) -> None:
    """Height of each pixel above the mean of the known heights in the disk around it.

    Parameters
    ----------
    heights : numpy.ndarray
        (y, x) float32 or float64, not finite in voids.
    reaches : numpy.ndarray
        Pixels that each row of the disk reaches to either side of its middle, int64, an odd number of rows.
    out : numpy.ndarray
        (y, x) float32, smaller than ``heights`` by the box of the disk; filled, NaN in voids.
    """
    height, width = heights.shape
    rows, middle = len(reaches), len(reaches) // 2
    side = reaches[middle]
    # Running sums of the lines that the disk touches, and of how many heights are known: a line takes the place of
    # the one that the disk has left. Sums in float64 are exact to a micrometre.
    sums = np.zeros((rows, width + 1), np.float64)
    counts = np.zeros((rows, width + 1), np.float64)
    voids = np.zeros(rows, np.int64)
    wide = out.shape[1]
    total, count = np.empty(wide, np.float64), np.empty(wide, np.float64)
    pixels = 0.0
    for reach in reaches:
        pixels += 2 * reach + 1
    for line in range(height):
        place = line % rows
        known, found = 0.0, 0
        for x in range(width):
            z = heights[line, x]
            if np.isfinite(z):
                known += z
                found += 1
            sums[place, x + 1] = known
            counts[place, x + 1] = found
        voids[place] = width - found
        if line < rows - 1:
            continue
        top = line - rows + 1
        total[:] = 0
        for j in range(middle):  # the disk is symmetric: two of its rows at a time
            reach = reaches[j]
            upper, lower = sums[(top + j) % rows], sums[(top + rows - 1 - j) % rows]
            a, b = side + reach + 1, side - reach
            u0, u1 = upper[b : b + wide], upper[a : a + wide]
            v0, v1 = lower[b : b + wide], lower[a : a + wide]
            for x in range(wide):
                total[x] += (u1[x] - u0[x]) + (v1[x] - v0[x])
        own = sums[(top + middle) % rows]
        u0, u1 = own[:wide], own[2 * side + 1 : 2 * side + 1 + wide]
        for x in range(wide):
            total[x] += u1[x] - u0[x]
        if voids.sum() == 0:
            for x in range(wide):
                out[top, x] = heights[top + middle, x + side] - total[x] / pixels
            continue
        count[:] = 0
        for j in range(rows):
            reach, own = reaches[j], counts[(top + j) % rows]
            a, b = side + reach + 1, side - reach
            u0, u1 = own[b : b + wide], own[a : a + wide]
            for x in range(wide):
                count[x] += u1[x] - u0[x]
        for x in range(wide):
            out[top, x] = heights[top + middle, x + side] - total[x] / count[x]


@loop()
def tangent_of_slope(heights: Any, spacing_y: Any, spacing_x: Any, out: Any) -> None:
    """Tangent of Horn's slope of all but the outermost pixel ring.

    Parameters
    ----------
    heights : numpy.ndarray
        (y, x) float32 or float64, NaN in voids.
    spacing_y, spacing_x : float
        Pixel size in metres, of the type of ``heights``.
    out : numpy.ndarray
        (y, x) of the type of ``heights``, smaller by 2; filled, NaN beside voids.
    """
    wide = out.shape[1]
    per_y, per_x = 8 * spacing_y, 8 * spacing_x
    two = heights.dtype.type(2)
    for i in range(out.shape[0]):
        north, middle, south = heights[i], heights[i + 1], heights[i + 2]
        n0, n1, n2 = north[:wide], north[1 : wide + 1], north[2 : wide + 2]
        m0, m1, m2 = middle[:wide], middle[1 : wide + 1], middle[2 : wide + 2]
        s0, s1, s2 = south[:wide], south[1 : wide + 1], south[2 : wide + 2]
        line = out[i]
        for x in range(wide):
            # Differences come first: those of neighbouring float32 heights are exact, sums of heights are not.
            east = ((n2[x] - n0[x]) + (s2[x] - s0[x]) + two * (m2[x] - m0[x])) / per_x
            up = ((n0[x] - s0[x]) + (n2[x] - s2[x]) + two * (n1[x] - s1[x])) / per_y
            # The centre has no weight in Horn's formula, but a void must stay a void.
            line[x] = np.sqrt(east * east + up * up) + (m1[x] - m1[x])
