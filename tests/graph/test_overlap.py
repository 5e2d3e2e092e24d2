"""Blocks with a halo are windows of the padded array, whatever the chunks, and those of dask.array.map_overlap."""

from __future__ import annotations

import pickle
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import torch
from dask.distributed import Client, LocalCluster
from dask.task_spec import Task
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from darts_xr.device_array import DeviceArray
from darts_xr.graph.overlap import map_overlap

NUMPY_MODES = {"reflect": "symmetric", "mirror": "reflect", "nearest": "edge"}
STRUCTURED = np.dtype([("many", "i8"), ("one", "i1")])
constants = st.integers(-3, 99)
boundaries = st.one_of(st.sampled_from(["none", "reflect", "mirror", "nearest"]), constants)


def numbered(shape: tuple[int, ...]) -> NDArray[np.int64]:
    return np.arange(np.prod(shape), dtype=np.int64).reshape(shape)


def sizes(least: int) -> st.SearchStrategy[tuple[int, ...]]:
    """Chunks along one axis: several that can lend ``least`` pixels, or one of any length."""
    several = st.lists(st.integers(max(least, 1), 9), min_size=2, max_size=4).map(tuple)
    return st.one_of(several, st.integers(1, 9).map(lambda n: (n,)))


def expected_index(
    chunks: tuple[int, ...], number: int, depth: int, rule: Any, multiple: int
) -> NDArray[np.int64]:
    """Rows of the array, or -1 for the constant, that a block with its halo is made of, by plain np.pad."""
    first, last, length = sum(chunks[:number]), sum(chunks[: number + 1]), sum(chunks)
    begin, end = max(0, first - depth), min(length, last + depth)
    known = np.arange(begin, end)
    if rule == "none":
        return known
    missing = depth - (first - begin), depth - (end - last) + -chunks[number] % multiple
    if rule in NUMPY_MODES:
        return np.pad(known, missing, mode=NUMPY_MODES[rule])  # type: ignore[call-overload]
    return np.pad(known, missing, constant_values=-1)


def _placed(block: NDArray[Any], both: bool) -> Any:
    """Put a block on a device, or beside one that is there."""
    on_device = DeviceArray(torch.from_numpy(block))
    return {"near": block, "far": on_device} if both else on_device


@given(st.data(), st.tuples(st.integers(0, 4), st.integers(0, 4)), st.tuples(boundaries, boundaries))
@settings(max_examples=120, deadline=None)
def test_blocks_are_windows_of_the_padded_array(
    data: st.DataObject, depth: tuple[int, int], rules: tuple[Any, Any]
) -> None:
    multiple = 1 if "none" in rules else data.draw(st.integers(1, 5))
    lead = data.draw(st.sampled_from([(), (2,), (1, 2)]))
    chunks = data.draw(sizes(depth[0])), data.draw(sizes(depth[1]))
    whole = numbered((*lead, sum(chunks[0]), sum(chunks[1])))
    kind = data.draw(st.sampled_from(["plain", "structured", "device", *(["planes"] if not lead else [])]))
    if kind == "structured":
        whole = whole.astype(STRUCTURED)
    trim = data.draw(st.booleans())
    seen = []

    def check(block: Any, factor: int, block_id: tuple[int, ...]) -> NDArray[Any]:
        if kind == "planes":
            assert list(block) == ["near", "far"]
            assert isinstance(block["far"], DeviceArray)
            np.testing.assert_array_equal(block["near"], block["far"])
            block = block["near"]
        assert isinstance(block, DeviceArray) == (kind == "device")
        expected = whole[tuple(slice(n, n + 1) for n in block_id[: len(lead)])]
        inside = []
        for axis in (0, 1):
            rows = expected_index(chunks[axis], block_id[axis - 2], depth[axis], rules[axis], multiple)
            expected = expected.take(rows, axis - 2)
            if not isinstance(rules[axis], str):
                at = [slice(None)] * expected.ndim
                at[axis - 2] = rows == -1  # type: ignore[call-overload]
                expected[tuple(at)] = rules[axis]
            before = min(depth[axis], sum(chunks[axis][: block_id[axis - 2]]))
            before = before if rules[axis] == "none" else depth[axis]
            inside.append(slice(before, before + chunks[axis][block_id[axis - 2]]))
        np.testing.assert_array_equal(block, expected)
        seen.append(block_id)
        assert factor == 3
        return block if trim else block[..., inside[0], inside[1]]

    y, x = len(lead), len(lead) + 1
    source = da.from_array(whole, chunks=(*((1,) * n for n in lead), *chunks))
    if kind in ("device", "planes"):
        source = source.map_blocks(_placed, both=kind == "planes", meta=source._meta)
    lazy = map_overlap(
        check,
        source,
        depth={y: depth[0], x: depth[1]},
        boundary={y: rules[0], x: rules[1]},
        trim=trim,
        multiple=multiple,
        dtype=whole.dtype,
        factor=3,
    )
    np.testing.assert_array_equal(lazy.compute(scheduler="synchronous"), whole)
    assert len(seen) == lazy.npartitions


def digest(block: NDArray[np.int64]) -> NDArray[np.int64]:
    """Fill a block with one number that every pixel of it and its place have a part in."""
    places = np.arange(1, block.size + 1, dtype=np.int64).reshape(block.shape)
    return np.full_like(block, (block * places * places).sum() % 1_000_003)


@given(st.data(), st.tuples(st.integers(0, 3), st.integers(0, 3)))
@settings(max_examples=60, deadline=None)
def test_results_and_chunks_are_those_of_dask(data: st.DataObject, depth: tuple[int, int]) -> None:
    along = st.lists(st.integers(1, 6), min_size=1, max_size=4).map(tuple)
    # Dask refuses a depth beyond the array; other short chunks both join with their neighbours.
    chunks = tuple(data.draw(along.filter(lambda c, d=d: sum(c) >= d)) for d in depth)
    shared = st.one_of(st.sampled_from(["none", "reflect", "nearest"]), constants)
    rules = data.draw(st.tuples(shared, shared))
    source = da.from_array(numbered((sum(chunks[0]), sum(chunks[1]))), chunks=chunks)
    options: dict[str, Any] = {"depth": depth, "boundary": rules, "dtype": np.int64}

    def apart(block: NDArray[np.int64], block_id: tuple[int, ...]) -> NDArray[np.int64]:
        return digest(block) + 7 * block_id[0] + block_id[1]

    ours = map_overlap(apart, source, **options)
    theirs = da.map_overlap(apart, source, meta=np.empty((0, 0), np.int64), **options)
    assert ours.chunks == theirs.chunks
    np.testing.assert_array_equal(
        ours.compute(scheduler="synchronous"), theirs.compute(scheduler="synchronous")
    )

    def total(block: NDArray[np.int64], block_id: tuple[int, int]) -> NDArray[np.int64]:
        shape = (1, *(theirs.chunks[axis][n] for axis, n in enumerate(block_id[1:])))
        return np.full(shape, digest(block)[0, 0])

    several: dict[str, Any] = {**options, "trim": False, "new_axis": 0, "chunks": ((1,), *theirs.chunks)}
    ours = map_overlap(total, source, **several)
    theirs_new = da.map_overlap(total, source, meta=np.empty((0, 0, 0), np.int64), **several)
    assert ours.chunks == theirs_new.chunks
    np.testing.assert_array_equal(
        ours.compute(scheduler="synchronous"), theirs_new.compute(scheduler="synchronous")
    )


def test_a_block_costs_three_tasks_and_all_are_task_objects() -> None:
    array = da.zeros((80, 80), chunks=10)
    lazy = map_overlap(np.negative, array, depth=2, dtype=array.dtype)
    (optimized,) = dask.optimize(lazy)
    assert len(dict(optimized.__dask_graph__())) == 3 * 64
    own = {key: task for key, task in dict(lazy.dask).items() if key not in dict(array.dask)}
    assert len(own) == 2 * 64
    assert all(isinstance(task, Task) for task in own.values())


def test_a_single_block_and_depth_zero_hand_nothing_over() -> None:
    for chunks, depth in ((80, 2), (10, 0)):
        array = da.zeros((80, 80), chunks=chunks)
        lazy = map_overlap(np.negative, array, depth=depth, boundary="nearest", dtype=array.dtype)
        assert len(lazy.dask) == 2 * array.npartitions


def test_building_calls_nothing_and_says_what_comes() -> None:
    def never(block: NDArray[Any]) -> NDArray[Any]:
        raise AssertionError("called")

    array = da.zeros((20, 30), chunks=10, dtype="f8")
    lazy = map_overlap(never, array, depth=1, dtype="f4")
    assert (lazy.dtype, lazy.chunks) == (np.float32, array.chunks)
    meta = np.empty((0, 0, 0), bool)
    lazy = map_overlap(never, array, depth=1, new_axis=0, chunks=((2,), *array.chunks), meta=meta)
    assert (lazy.dtype, lazy.shape) == (np.bool_, (2, 20, 30))
    assert map_overlap(never, array, depth=1, new_axis=[0, 1], dtype="f4").shape == (1, 1, 20, 30)


def test_names_tell_calls_apart_and_equal_calls_are_one() -> None:
    array = da.zeros((20, 20), chunks=10)
    calls: list[dict[str, Any]] = [
        {"depth": 1}, {"depth": 2}, {"depth": 1, "boundary": 0}, {"depth": 1, "trim": False},
        {"depth": 1, "where": True},
    ]  # fmt: skip
    names = {map_overlap(np.negative, array, dtype="f8", **call).name for call in calls}
    assert len(names) == len(calls)
    assert names == {map_overlap(np.negative, array, dtype="f8", **call).name for call in calls}


def test_workers_take_the_graph() -> None:
    source = da.from_array(numbered((30, 40)).astype(STRUCTURED), chunks=(10, 20))
    lazy = map_overlap(np.copy, source, depth=3, boundary="reflect", dtype=STRUCTURED)
    lazy = pickle.loads(pickle.dumps(lazy))
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as cluster,
        Client(cluster),
    ):
        np.testing.assert_array_equal(lazy.compute(), source.compute(scheduler="synchronous"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": -1}, "depth must be a whole number"),
        ({"depth": 1.5}, "depth must be a whole number"),
        ({"depth": {0: (1, 2)}}, "depth must be a whole number"),
        ({"depth": {-1: 1}}, "names the axes"),
        ({"depth": (1, 1, 1)}, "is for 3 axes"),
        ({"depth": 1, "boundary": "periodic"}, "dask.array.map_overlap has periodic"),
        ({"depth": 1, "boundary": {2: 0}}, "boundary names the axes"),
        ({"depth": 1, "multiple": 4}, "needs a boundary that fills"),
        ({"depth": 1, "new_axis": 1}, "new axes stand before"),
        ({"depth": 1, "chunks": ((8,), (8,))}, "do not suit"),
    ],
)
def test_what_cannot_be_had_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        map_overlap(np.negative, da.zeros((8, 8), chunks=4), dtype="f8", **options)


def test_depth_on_leading_axes_and_results_of_no_type_are_refused() -> None:
    cube = da.zeros((2, 8, 8), chunks=4)
    with pytest.raises(ValueError, match=r"name the axes, for example depth=\{1: 1, 2: 1\}"):
        map_overlap(np.negative, cube, depth=1, dtype="f8")
    with pytest.raises(ValueError, match="of 1 axes"):
        map_overlap(np.negative, cube[0, 0], depth=1, dtype="f8")
    with pytest.raises(TypeError, match="dtype= or meta="):
        map_overlap(np.negative, cube[0], depth=1)
