"""``map_overlap`` as ``dask.array`` has it, with three tasks a block instead of fifteen.

A neighbour hands over copies of its four rims, so that its own pixels can go as soon as it has been worked on, and the
halo is joined in the task that uses it. docs/decisions.md says when Dask's own can take this one's place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
from dask.array.overlap import ensure_minimum_chunksize
from dask.base import tokenize
from dask.task_spec import Task, TaskRef
from dask.utils import funcname, has_keyword
from numpy.typing import DTypeLike, NDArray

from darts_xr.graph.layers import Tasks, extend
from darts_xr.memory import own_pages, release_pages

# For all axes, one for each, or by the number of the axis.
Depth = int | tuple[int, ...] | dict[int, int]
Boundary = str | complex | np.generic | None
Boundaries = Boundary | tuple[Boundary, ...] | dict[int, Boundary]
Chunks = tuple[tuple[int, ...], ...]

# What NumPy's pad calls them.
_MODES = {"reflect": "symmetric", "mirror": "reflect", "nearest": "edge"}
_AROUND = tuple((y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0))


class Rims(NamedTuple):
    """Copies of a block's outermost rows and columns."""

    top: Any
    bottom: Any
    left: Any
    right: Any


class Span(NamedTuple):
    """One axis of a block with its halo: its length, where the block itself lies, and where pixels are known."""

    length: int
    inner: slice
    known: slice


@dataclass(frozen=True)
class Halo:
    """How many pixels a block gets on each side of y and x, and what stands for those beyond the array."""

    depth: tuple[int, int]
    boundary: tuple[Any, Any]
    multiple: int

    def span(self, axis: int, length: int, lent: tuple[bool, bool]) -> Span:
        """Lay out one axis of a block, given whether there is a neighbour before and behind."""
        depth, filled = self.depth[axis], self.boundary[axis] != "none"
        before, behind = (depth if lends or filled else 0 for lends in lent)
        inner = slice(before, before + length)
        known = slice(inner.start - depth * lent[0], inner.stop + depth * lent[1])
        return Span(inner.stop + behind + -length % self.multiple, inner, known)


# --- array kernels -----------------------------------------------------------------------------------------


def _rims(block: Any, depth: tuple[int, int]) -> Any:
    """Copy the rims of a block; of one of planes, those of each."""
    if isinstance(block, dict):
        sides = {name: _sides(plane, depth) for name, plane in block.items()}
        kinds = [
            (side.shape, side.dtype)
            for rims in sides.values()
            for side in rims
            if isinstance(side, np.ndarray)
        ]
        rooms = iter(own_pages(*kinds))
        copied = {name: Rims(*(_copy(side, rooms) for side in rims)) for name, rims in sides.items()}
        release_pages(block.values())  # it waits for its neighbours now
        return copied
    return Rims(*(side.copy() for side in _sides(block, depth)))


def _sides(block: Any, depth: tuple[int, int]) -> Rims:
    (height, width), (dy, dx) = block.shape[-2:], depth
    return Rims(block[..., :dy, :], block[..., height - dy :, :], block[..., :dx], block[..., width - dx :])


def _copy(side: Any, rooms: Iterator[NDArray[Any]]) -> Any:
    if not isinstance(side, np.ndarray):
        return side.copy()
    room = next(rooms)
    room[...] = side
    return room


def _join(block: Any, around: Sequence[Any], halo: Halo) -> tuple[Any, tuple[slice, slice]]:
    """Put a block and its neighbours' rims together, None where the array ends; and where the block lies in it."""
    beside = dict(zip(_AROUND, around, strict=True))
    height, width = (next(iter(block.values())) if isinstance(block, dict) else block).shape[-2:]
    rows, cols = (
        halo.span(axis, length, (beside[before] is not None, beside[behind] is not None))
        for axis, length, before, behind in ((0, height, (-1, 0), (1, 0)), (1, width, (0, -1), (0, 1)))
    )
    whole = _room(block, (rows.length, cols.length))
    if isinstance(block, dict):
        for name, plane in block.items():
            lent = {at: None if rims is None else rims[name] for at, rims in beside.items()}
            _fit(whole[name], plane, lent, (rows, cols), halo)
    else:
        _fit(whole, block, beside, (rows, cols), halo)
    return whole, (rows.inner, cols.inner)


def _room(block: Any, shape: tuple[int, int]) -> Any:
    """Room for a block with its halo, on the device on which it lies; for planes on the host in one piece."""
    if isinstance(block, dict):
        host = {name: plane for name, plane in block.items() if isinstance(plane, np.ndarray)}
        rooms = dict(zip(host, own_pages(*((shape, plane.dtype) for plane in host.values())), strict=True))
        return {name: rooms[name] if name in rooms else _room(plane, shape) for name, plane in block.items()}
    full = (*block.shape[:-2], *shape)
    return (
        block.new_empty(full) if hasattr(block, "new_empty") else np.empty_like(block, shape=full, order="C")
    )


def _fit(
    whole: Any,
    plane: Any,
    beside: dict[tuple[int, int], Rims | None],
    spans: tuple[Span, Span],
    halo: Halo,
) -> None:
    """Fill the room for a plane from it, from its neighbours' rims, and by the rule for what lies beyond the array."""
    (rows, cols), (dy, dx) = spans, halo.depth
    whole[..., rows.inner, cols.inner] = plane
    for (y, x), rims in beside.items():
        if rims is not None:
            part = rims.right if x < 0 else rims.left if x > 0 else rims.bottom if y < 0 else rims.top
            if y and x:
                part = part[..., part.shape[-2] - dy :, :] if y < 0 else part[..., :dy, :]
            whole[..., _side(rows.inner, dy, y), _side(cols.inner, dx, x)] = part
    for axis, span in enumerate(spans):
        if span.known != slice(0, span.length):
            _fill(whole, axis, span, halo.boundary[axis])


def _side(inner: slice, depth: int, way: int) -> slice:
    """Where a neighbour's rim lies beside the block."""
    return (inner, slice(inner.stop, inner.stop + depth), slice(inner.start - depth, inner.start))[way]


def _fill(array: Any, axis: int, span: Span, boundary: Any) -> None:
    """Fill what lies outside the known pixels along y (0) or x (1), from them or with a constant."""

    def along(part: Any) -> tuple[Any, ...]:
        return (..., part) if axis else (..., part, slice(None))

    before, behind = slice(0, span.known.start), slice(span.known.stop, span.length)
    if isinstance(boundary, str):
        missing = (span.known.start, span.length - span.known.stop)
        source = np.pad(np.arange(span.known.start, span.known.stop), missing, mode=_MODES[boundary])  # type: ignore[call-overload]
        array[along(before)] = array[along(source[before])]
        array[along(behind)] = array[along(source[behind])]
    else:
        array[along(before)] = array[along(behind)] = np.full((), boundary).astype(array.dtype).item()


def _apply(
    block: Any,
    block_id: tuple[int, ...] | None,
    *around: Any,
    func: Callable[..., NDArray[Any]],
    halo: Halo,
    trim: bool,
) -> NDArray[Any]:
    whole, inner = _join(block, around, halo)
    result = func(whole) if block_id is None else func(whole, block_id=block_id)
    return result[..., *inner] if trim else result


# --- Dask wiring -------------------------------------------------------------------------------------------


def map_overlap(
    func: Callable[..., NDArray[Any]],
    array: da.Array,
    *,
    depth: Depth,
    boundary: Boundaries = None,
    trim: bool = True,
    multiple: int = 1,
    new_axis: int | Sequence[int] = (),
    chunks: Chunks | None = None,
    dtype: DTypeLike | None = None,
    meta: NDArray[Any] | None = None,
    **kwargs: Any,
) -> da.Array:
    """Apply a function to each block of a lazy array and the pixels around it.

    A call means what it means to :func:`dask.array.map_overlap`, and blocks and results are the same, but for this:
    one array is taken; only its last two axes overlap; what Dask finds out by calling ``func`` is said with ``dtype``
    or ``meta``; there is no ``"periodic"`` boundary, no depth that differs between the two sides of an axis, no
    ``drop_axis`` and no ``allow_rechunk=False``; an array may be smaller than ``depth``. ``"mirror"`` and ``multiple``
    are not in Dask.

    Parameters
    ----------
    func : callable
        Takes a block with its halo and ``kwargs``. If it has a keyword ``block_id``, it also gets the number of the
        block along each axis of the result.
    array : dask.array.Array
        (..., y, x). Chunks that are shorter than ``depth`` are joined with their neighbours. Blocks may be on a device
        (``darts_xr.device_array.DeviceArray``), and of an array (y, x) also :data:`darts_xr.graph.planes.Planes`
        in chunks of at least ``depth``.
    depth : int, tuple or dict
        Pixels that a block gets on each side, for all axes, for each, or by axis (0 where not named).
    boundary : str, number, tuple or dict, optional
        What stands for pixels beyond the array: ``"reflect"`` (b a | a b c), ``"nearest"`` (a a | a b c), a constant,
        or ``"mirror"`` (c b | a b c, as in SciPy; what NumPy calls reflect). ``"none"``, the default: nothing, and
        blocks get no halo there. As in Dask y goes first, so in the corners the constant of x stands.
    trim : bool, optional
        Whether the halo is cut off what ``func`` returns. False if ``func`` returns results without halo.
    multiple : int, optional
        Fill the sides of a block, without its halo, up to a multiple of this, behind the halo and by the rule of
        ``boundary``.
    new_axis : int or sequence of int, optional
        Axes that results have before those of ``array``: 0, or 0 and 1 and so on.
    chunks : tuple of tuple of int, optional
        Chunks of the results where they are not those of ``array``, with 1 on new axes.
    dtype, meta : optional
        Type of the results, or an empty array of their kind. One is needed, for ``func`` is not called to find out.
    **kwargs
        Handed to ``func`` as they are.

    Returns
    -------
    dask.array.Array
        Lazy, one task for each block beside one for its rims.

    Raises
    ------
    ValueError
        If depth, boundary, new axes or chunks do not suit the array.
    TypeError
        If neither ``dtype`` nor ``meta`` is given.

    Examples
    --------
    >>> import dask.array as da
    >>> x = da.arange(16, chunks=8).reshape((4, 4))
    >>> means = map_overlap(lambda z: z[:-2, 1:-1] + z[2:, 1:-1], x, depth=1, boundary=0, trim=False, dtype=x.dtype)
    >>> means.compute()
    array([[ 4,  5,  6,  7],
           [ 8, 10, 12, 14],
           [16, 18, 20, 22],
           [ 8,  9, 10, 11]])
    """
    if dtype is None and meta is None:
        raise TypeError("map_overlap needs dtype= or meta= of the results: it does not call func to find out")
    halo = _halo(array, depth, boundary, multiple)
    array = array.rechunk(
        array.chunks[:-2]
        + tuple(
            ensure_minimum_chunksize(min(max(depth, 1), sum(along)), along)
            for depth, along in zip(halo.depth, array.chunks[-2:], strict=True)
        )
    )
    new = sorted([new_axis] if isinstance(new_axis, int) else new_axis)
    if new != list(range(len(new))):
        raise ValueError(f"new axes stand before those of the array: 0, 1 and so on, not {new_axis!r}")
    if chunks is None:
        chunks = (*((1,) for _ in new), *array.chunks)
    if tuple(map(len, chunks)) != (*(1 for _ in new), *array.numblocks):
        raise ValueError(
            f"chunks {chunks} do not suit: results have {(*(1 for _ in new), *array.numblocks)} blocks"
        )

    token = tokenize(func, kwargs, array.name, halo, trim, chunks, dtype, meta)
    rims, name = f"rims-{token}", f"{funcname(func).strip('_')}-{token}"
    places = list(product(*map(range, array.numblocks)))
    shared = tuple(d if n > 1 else 0 for d, n in zip(halo.depth, array.numblocks[-2:], strict=True))
    graph = array.dask
    if any(shared):
        tasks: Tasks = {
            (rims, *at): Task((rims, *at), _rims, TaskRef((array.name, *at)), shared) for at in places
        }
        graph = extend(graph, rims, tasks, {array.name})
    work = partial(_apply, func=partial(func, **kwargs), halo=halo, trim=trim)
    tells = has_keyword(func, "block_id")
    tasks = {}
    for at in places:
        block_id = (*(0 for _ in new), *at)
        around = [
            TaskRef((rims, *beside)) if beside else None
            for beside in _neighbours(at, array.numblocks, shared)
        ]
        source = TaskRef((array.name, *at))
        tasks[name, *block_id] = Task((name, *block_id), work, source, block_id if tells else None, *around)
    graph = extend(graph, name, tasks, {array.name, rims} if any(shared) else {array.name})
    if meta is None:
        meta = np.empty_like(array._meta, dtype, shape=(0,) * len(chunks))
    return da.Array(graph, name, chunks, dtype=dtype, meta=meta)  # type: ignore[no-untyped-call]


def _neighbours(
    at: tuple[int, ...], numblocks: tuple[int, ...], shared: tuple[int, ...]
) -> list[tuple[int, ...] | None]:
    """Places of the eight blocks around one; None where there is none or nothing to be had of it."""
    *lead, row, col = at
    found: list[tuple[int, ...] | None] = []
    for y, x in _AROUND:
        there = 0 <= row + y < numblocks[-2] and 0 <= col + x < numblocks[-1]
        lends = (shared[0] or not y) and (shared[1] or not x)
        found.append((*lead, row + y, col + x) if there and lends else None)
    return found


def _halo(array: da.Array, depth: Depth, boundary: Boundaries, multiple: int) -> Halo:
    """Read depth and boundary as Dask does, and check that they can be had."""
    if array.ndim < 2:
        raise ValueError(f"map_overlap takes arrays (..., y, x), got one of {array.ndim} axes")
    depths = _by_axis("depth", depth, array.ndim, 0)
    rules = ["none" if rule is None else rule for rule in _by_axis("boundary", boundary, array.ndim, None)]
    if not all(isinstance(d, int | np.integer) and d >= 0 for d in depths) or any(depths[:-2]):
        raise ValueError(
            f"depth must be a whole number of pixels on the last two axes and 0 on others, got {depth!r} for "
            f"{array.ndim} axes; name the axes, for example depth={{{array.ndim - 2}: 1, {array.ndim - 1}: 1}}"
        )
    for rule in rules:
        if isinstance(rule, str) and rule not in (*_MODES, "none"):
            raise ValueError(
                f"boundary must be a constant or one of none, {', '.join(_MODES)}, got {rule!r}; "
                "dask.array.map_overlap has periodic"
            )
    if multiple < 1 or (multiple > 1 and "none" in [r for r in rules[-2:] if isinstance(r, str)]):
        raise ValueError(f"multiple={multiple} must be at least 1, and over 1 it needs a boundary that fills")
    return Halo(tuple(map(int, depths[-2:])), tuple(rules[-2:]), multiple)  # type: ignore[arg-type]


def _by_axis(name: str, value: Any, ndim: int, default: Any) -> list[Any]:
    if isinstance(value, dict):
        if wrong := set(value) - set(range(ndim)):
            raise ValueError(f"{name} names the axes {wrong}, but the array has 0 to {ndim - 1}")
        return [value.get(axis, default) for axis in range(ndim)]
    if isinstance(value, tuple):
        if len(value) != ndim:
            raise ValueError(f"{name} is for {len(value)} axes, but the array has {ndim}")
        return list(value)
    return [value] * ndim
