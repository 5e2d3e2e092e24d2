"""Random probability fields, and the plain way to find their objects, as a reference."""

from __future__ import annotations

from typing import Any, NamedTuple

import dask.array as da
import numpy as np
import xarray as xr
from hypothesis import strategies as st
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from odc.geo.xr import wrap_xr
from scipy import ndimage
from skimage.morphology import dilation, disk, remove_small_objects

EIGHT = np.ones((3, 3), bool)
FOUR = ndimage.generate_binary_structure(2, 1)


def labelled(values: NDArray[Any], chunks: Any = None, crs: str = "EPSG:32608", **attrs: Any) -> xr.DataArray:
    """An array on a 3 m grid, in memory or in chunks."""
    height, width = values.shape
    box = GeoBox.from_bbox(
        (500_000, 7_700_000, 500_000 + 3 * width, 7_700_000 + 3 * height), crs, shape=(height, width)
    )
    data = values if chunks is None else da.from_array(values, chunks=chunks)
    out = wrap_xr(data, box)
    out.attrs = {"item_id": "20210719_201500_1034", "time": "2021-07-19T20:15:00Z", **attrs}
    return out


class Case(NamedTuple):
    probability: NDArray[np.float32]
    chunks: tuple[tuple[int, ...], tuple[int, ...]]
    border: int
    min_pixels: int
    connectivity: Any


@st.composite
def chunkings(draw: st.DrawFn, length: int) -> tuple[int, ...]:
    cuts = draw(st.sets(st.integers(1, max(length - 1, 1)), max_size=4))
    edges = [0, *sorted(c for c in cuts if c < length), length]
    return tuple(np.diff(edges).tolist())


@st.composite
def cases(draw: st.DrawFn) -> Case:
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    smooth = draw(st.integers(1, 4))
    probability = ndimage.uniform_filter(rng.random((height, width)), smooth)
    invalid = ndimage.uniform_filter(rng.random((height, width)), 5) > draw(st.sampled_from([0.58, 0.65, 2]))
    # A few exact thresholds and bounds among the values.
    probability[rng.random((height, width)) < 0.1] = draw(st.sampled_from([0.0, 0.5, 1.0]))
    probability[invalid] = np.nan
    return Case(
        probability.astype(np.float32),
        (draw(chunkings(height)), draw(chunkings(width))),
        draw(st.integers(0, 4)),
        draw(st.integers(1, 9)),
        draw(st.sampled_from([8, 4, "legacy"])),
    )


class Reference(NamedTuple):
    labels: NDArray[np.int32]
    n_detected: int
    n_removed_border: int
    n_removed_small: int


def reference(case: Case) -> Reference:
    """Objects by SciPy and scikit-image on the whole array."""
    first = FOUR if case.connectivity == 4 else EIGHT
    second = EIGHT if case.connectivity == 8 else FOUR
    mask = case.probability >= 0.5
    labels, n_detected = ndimage.label(mask, first)
    n_border = 0
    if case.border:
        zone = dilation(np.isnan(case.probability), disk(case.border))
        frame = np.ones_like(mask)
        frame[case.border : -case.border, case.border : -case.border] = False
        touched = np.setdiff1d(labels[zone | frame], [0])
        n_border = len(touched)
        mask &= ~np.isin(labels, touched)
    _, before = ndimage.label(mask, second)
    mask = remove_small_objects(mask, max_size=case.min_pixels - 1, connectivity=2 if second is EIGHT else 1)
    labels, after = ndimage.label(mask, second)
    return Reference(labels.astype(np.int32), n_detected, n_border, before - after)
