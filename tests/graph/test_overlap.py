"""A block with its halo is a window of the whole array, whatever the chunks; records keep what bands hold."""

from __future__ import annotations

import dask.array as da
import numpy as np
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from darts_xr.graph.overlap import map_with_halo
from darts_xr.inference.structured import lazy_records, planes_of, record_type, to_bytes


@given(st.data(), st.integers(0, 4), st.integers(1, 5))
@settings(max_examples=80, deadline=None)
def test_blocks_see_the_pixels_around_them(data: st.DataObject, margin: int, multiple: int) -> None:
    least = max(margin, multiple)
    along = st.one_of(
        st.lists(st.integers(least, 9), min_size=2, max_size=4).map(tuple),
        st.integers(1, 9).map(lambda n: (n,)),
    )
    chunks = data.draw(along), data.draw(along)
    shape = sum(chunks[0]), sum(chunks[1])
    whole = np.arange(shape[0] * shape[1]).reshape(shape)
    if data.draw(st.booleans()):
        whole = whole.astype([("many", "i8"), ("one", "u1")])

    def check(block: NDArray[np.int64], place: tuple[int, int]) -> NDArray[np.int64]:
        height, width = chunks[0][place[0]], chunks[1][place[1]]
        expected = whole
        for axis, (sizes, k) in enumerate(zip(chunks, place, strict=True)):
            first, last = sum(sizes[:k]), sum(sizes[: k + 1])
            begin, end = max(0, first - margin), min(shape[axis], last + margin)
            missing = margin - (first - begin), margin - (end - last) + -sizes[k] % multiple
            rows = np.pad(np.arange(begin, end), missing, mode="reflect")
            expected = expected.take(rows, axis)
        inside = slice(margin, margin + height), slice(margin, margin + width)
        if (
            -height % multiple == 0 or place[0] == len(chunks[0]) - 1
        ):  # else the filler lies over known pixels
            np.testing.assert_array_equal(
                block[: margin + height, inside[1]], expected[: margin + height, inside[1]]
            )
        np.testing.assert_array_equal(block, expected)
        return block[inside]

    lazy = map_with_halo(
        check,
        da.from_array(whole, chunks=chunks),
        margin,
        multiple=multiple,
        meta=np.empty((0, 0), whole.dtype),
    )
    np.testing.assert_array_equal(lazy.compute(scheduler="synchronous"), whole)


def test_a_block_costs_three_tasks() -> None:
    array = da.zeros((80, 80), chunks=10)
    lazy = map_with_halo(lambda block, place: block, array, 2, meta=np.empty((0, 0)))
    assert len(dict(lazy.__dask_graph__())) == 3 * 64


def test_records_hold_every_type_exactly() -> None:
    rng = np.random.default_rng(0)
    kinds = ["uint8", ">u2", "int16", "float32", "bool", "float64", "int32", "float16"]
    bands = [
        xr.DataArray(
            rng.integers(0, 2, (70, 9)).astype(kind) * 200, dims=("y", "x"), name=f"band {kind}"
        ).astype(kind)
        for kind in kinds
    ]
    record = record_type(bands)
    assert {name: record[name].name for name in record.names or ()} == {
        f"band {kind}": name
        for kind, name in zip(
            kinds,
            ["uint8", "uint16", "int16", "float32", "bool", "float32", "float32", "float16"],
            strict=True,
        )
    }
    block = lazy_records(bands, ((50, 20), (9,))).compute()
    planes = planes_of(torch.from_numpy(to_bytes(block[3:, 2:])), block.dtype)
    for band in bands:
        np.testing.assert_array_equal(
            planes[str(band.name)].float().numpy(), band.to_numpy()[3:, 2:].astype("f4")
        )


def test_ten_bands_and_the_mask_take_24_bytes_a_pixel() -> None:
    kinds = [
        "float32",
        "uint16",
        "uint16",
        "uint16",
        "uint16",
        "float32",
        "float32",
        "uint8",
        "uint8",
        "uint8",
        "bool",
    ]
    bands = [xr.DataArray(np.zeros((1, 1), kind), name=str(n)) for n, kind in enumerate(kinds)]
    assert record_type(bands).itemsize == 24
