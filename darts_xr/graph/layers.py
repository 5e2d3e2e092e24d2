"""Dask wiring that labelling and vectorizing share: tasks per chunk, laid upon an array's graph."""

from __future__ import annotations

from typing import Any, NamedTuple

import dask.array as da
import numpy as np
import xarray as xr
from dask.array.optimization import optimize
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph, Layer
from dask.task_spec import List, Task, TaskRef

Tasks = dict[Any, Task]


class Block(NamedTuple):
    """One chunk of a two-dimensional array: its place among the chunks and in the scene."""

    at: tuple[int, int]
    top: int
    left: int
    height: int
    width: int


def blocks(array: da.Array) -> list[Block]:
    """List all chunks, row by row."""
    rows = np.cumsum((0, *array.chunks[0])).tolist()
    columns = np.cumsum((0, *array.chunks[1])).tolist()
    return [
        Block((i, j), rows[i], columns[j], height, width)
        for i, height in enumerate(array.chunks[0])
        for j, width in enumerate(array.chunks[1])
    ]


def as_dask(array: xr.DataArray | xr.Variable) -> da.Array:
    """Return the data as a Dask array, in its own chunks or, from memory, in chunks of 2048 pixels."""
    if isinstance(array.data, da.Array):
        return array.data
    return da.from_array(array.data, chunks=2048)  # type: ignore[no-any-return,no-untyped-call]


def extend(graph: HighLevelGraph, name: str, tasks: Tasks | Layer, needs: set[str]) -> HighLevelGraph:
    """Add a layer, or the tasks of one, that needs other layers."""
    layers: dict[str, Any] = {**graph.layers, name: tasks}
    return HighLevelGraph(layers, {**graph.dependencies, name: needs})


def lazy_array(graph: HighLevelGraph, name: str, chunks: Any, dtype: Any) -> da.Array:
    """Make an array of the layer ``name``."""
    meta = np.empty((0,) * len(chunks), dtype)
    return da.Array(graph, name, chunks=chunks, meta=meta)  # type: ignore[no-untyped-call]


def _gather(layer: list[Any], scalars: list[Any]) -> tuple[list[Any], list[Any]]:
    return layer, scalars


def compute_together(
    graph: HighLevelGraph, name: str, scalars: list[da.Array]
) -> tuple[list[Any], list[Any]]:
    """Compute all tasks of the layer ``name`` and some 0-d arrays, in one graph that reads nothing twice."""
    key = f"gather-{name}"
    graph = HighLevelGraph.merge(graph, *(scalar.dask for scalar in scalars))
    layer = List(*map(TaskRef, graph.layers[name]))
    numbers = List(*(TaskRef((scalar.name,)) for scalar in scalars))
    gather = {key: Task(key, _gather, layer, numbers)}
    graph = extend(graph, key, gather, {name, *(scalar.name for scalar in scalars)})
    # Arrays' own optimization, which fuses what lies below; a Delayed would leave it in single steps.
    whole = Delayed(key, optimize(graph, [key]))  # type: ignore[no-untyped-call]
    return whole.compute()  # type: ignore[no-any-return,no-untyped-call]
