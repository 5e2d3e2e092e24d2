"""Decoded blocks of raster files, shared by the chunks that look at them.

A chunk of a scene lies askew on a layer's own grid and needs blocks that its neighbours need, too; decoding is the
dearest part of a read. Blocks are kept in the process, the least recently used going first, and two threads that want
one at the same time decode it once.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from threading import Lock
from typing import Any, Final

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.windows import Window

# Pixels along each side of what is decoded at a time, if the file's own blocks are smaller.
_SIDE: Final = 512
# Bytes: what a row of chunks of a scene of 8000 px leaves to the next row, of an elevation model of 2 m.
_CAPACITY: Final = 128 * 2**20

Key = tuple[Any, ...]


class _Kept:
    """Blocks by key, as futures, so that who comes while one is decoded waits for it."""

    def __init__(self, capacity: int) -> None:
        self._capacity, self._size = capacity, 0
        self._blocks: OrderedDict[Key, Future[NDArray[Any]]] = OrderedDict()
        self._lock = Lock()

    def claim(self, key: Key) -> tuple[Future[NDArray[Any]], bool]:
        """Block of a key, and whether the caller is the one to decode it, by :meth:`fill`."""
        with self._lock:
            found = self._blocks.get(key)
            if found is not None:
                self._blocks.move_to_end(key)
                return found, False
            mine = self._blocks[key] = Future()
            return mine, True

    def fill(self, key: Key, decode: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """Decode a block that was claimed, and let the least recently used ones go."""
        mine = self._blocks[key]
        try:
            block = decode()
        except BaseException as error:
            with self._lock:
                del self._blocks[key]  # the next one tries again
            mine.set_exception(error)
            raise
        mine.set_result(block)
        with self._lock:
            self._size += block.nbytes
            for oldest in list(self._blocks):
                if self._size <= self._capacity:
                    break
                if self._blocks[oldest].done():
                    self._size -= self._blocks.pop(oldest).result().nbytes
        return block


_kept = _Kept(_CAPACITY)


def read_window(dataset: rasterio.DatasetReader, bands: tuple[int, ...], window: Window) -> NDArray[Any]:
    """Pixels (band, y, x) of a window, as ``dataset.read`` gives them, from blocks that may be decoded already.

    Files whose blocks are strips are read as they are.
    """
    (height, width), *_ = {dataset.block_shapes[band - 1] for band in bands}
    if max(height, width) > 2 * _SIDE or width == dataset.width:
        return dataset.read(list(bands), window=window)  # type: ignore[no-any-return]
    height, width = (side * max(1, _SIDE // side) for side in (height, width))
    try:
        state = os.stat(dataset.name)
        file: Key = (dataset.name, state.st_mtime_ns, state.st_size, state.st_ino)
    except OSError:  # on a server or in an archive, known by the address alone
        file = (dataset.name,)
    top, left, bottom, right = (
        window.row_off, window.col_off, window.row_off + window.height, window.col_off + window.width,
    )  # fmt: skip
    out = np.empty((len(bands), window.height, window.width), dataset.dtypes[bands[0] - 1])

    def put(block: NDArray[Any], y: int, x: int) -> None:
        r0, c0 = max(y, top), max(x, left)
        part = block[:, r0 - y : bottom - y, c0 - x : right - x]
        out[:, r0 - top :, c0 - left :][:, : part.shape[1], : part.shape[2]] = part

    elsewhere = []
    for y in range(top // height * height, bottom, height):
        for x in range(left // width * width, right, width):

            def decode(y: int = y, x: int = x) -> NDArray[Any]:
                part = Window(x, y, min(width, dataset.width - x), min(height, dataset.height - y))
                return dataset.read(list(bands), window=part)  # type: ignore[no-any-return]

            key = (*file, bands, y, x)
            block, mine = _kept.claim(key)
            if mine:
                put(_kept.fill(key, decode), y, x)
            else:
                elsewhere.append((block, y, x))
    # Last, so that what another thread decodes meanwhile is not waited for.
    for block, y, x in elsewhere:
        put(block.result(), y, x)
    return out
