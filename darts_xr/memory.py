"""Where arrays lie: freed memory stays with the process, and what waits long is spilled to a file.

By default the C library gives each large array back to the system when it is freed, and the system clears every page
before it hands it out again. Arrays of a chunk and layers of a network are taken and freed many times over: that costs
a quarter of the networks' CPU time. So GNU's C library is told once, where much memory is about to be used.
"""

from __future__ import annotations

import ctypes
import logging
import math
import mmap
import os
import platform
import tempfile
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import dask
import numpy as np
from numpy.typing import DTypeLike, NDArray

log = logging.getLogger(__name__)

#: Environment variables of GNU's C library that say the same from a process's start.
ALLOCATOR_VARIABLES = {
    "MALLOC_MMAP_THRESHOLD_": 2**30,  # smaller pieces come from memory that was freed before
    "MALLOC_TRIM_THRESHOLD_": 2**31 - 1,  # of which so much is kept
    # Threads that read and derive get one of their own, of pieces up to 64 MiB: among the larger ones of the networks,
    # which lie in the first, theirs would leave gaps into which nothing fits.
    "MALLOC_ARENA_MAX": 16,
}
_LARGE_PIECE = 2**26 + 2**20  # bytes
_ALIGNMENT = 64  # bytes: arrays begin where a line of the cache does
# Numbers of the same parameters in malloc.h.
_PARAMETERS = {"MALLOC_MMAP_THRESHOLD_": -3, "MALLOC_TRIM_THRESHOLD_": -1, "MALLOC_ARENA_MAX": -8}


@cache
def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, up to 2 GiB; asked for once, further calls cost nothing.

    What a variable of :data:`ALLOCATOR_VARIABLES` in the environment says stays as it is. Called before a graph is
    computed, by ``open_scene``, ``load_ensemble`` and ``predict``. Threads other than the first may have an arena of
    their own, which keeps pieces of up to 64 MiB only; :func:`keeps_large_pieces` tells what a thread has got.

    Returns
    -------
    bool
        Whether the C library agreed; False, with the reason logged, where it is not GNU's or refuses.

    Examples
    --------
    >>> keep_freed_memory() == keep_freed_memory()
    True
    """
    if platform.libc_ver()[0] != "glibc":
        log.info("freed memory goes back to the system: this is not GNU's C library")
        return False
    set_parameter = ctypes.CDLL(None).mallopt
    asked = {name: value for name, value in ALLOCATOR_VARIABLES.items() if name not in os.environ}
    refused = [name for name, value in asked.items() if not set_parameter(_PARAMETERS[name], value)]
    if refused:
        log.info("freed memory goes back to the system: the C library refuses %s", ", ".join(refused))
    return not refused


def keeps_large_pieces() -> bool:
    """Whether what this thread frees stays with the process, pieces of more than 64 MiB too.

    The C library's first arena lies below the program break and can hold them; those that it made for other threads
    cannot, and which one a thread gets is chance.
    """
    library = ctypes.CDLL(None)
    library.malloc.restype = library.sbrk.restype = ctypes.c_void_p
    library.malloc.argtypes, library.free.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]
    library.sbrk.argtypes = [ctypes.c_ssize_t]
    piece = library.malloc(_LARGE_PIECE)  # never touched, so that it takes no memory
    kept = piece is not None and piece < (library.sbrk(0) or 0)
    library.free(piece)
    return bool(kept)


def own_pages(*kinds: tuple[tuple[int, ...], DTypeLike]) -> list[NDArray[Any]]:
    """Room for arrays that will wait long while others come and go: one piece of memory, in pages of its own.

    Among freed memory that the process keeps, such pieces leave gaps into which nothing fits, and it grows. When the
    last of the arrays goes, the piece goes back to the system.

    Parameters
    ----------
    *kinds : tuple of (shape, dtype)
        The arrays.

    Returns
    -------
    list of numpy.ndarray
        Filled with 0.

    Examples
    --------
    >>> [array.shape for array in own_pages(((2, 3), "uint16"), ((4,), "float32"))]
    [(2, 3), (4,)]
    """
    shapes = [(shape, np.dtype(dtype)) for shape, dtype in kinds]
    firsts = [0]
    for shape, dtype in shapes:
        firsts.append(firsts[-1] + -(-math.prod(shape) * dtype.itemsize // _ALIGNMENT) * _ALIGNMENT)
    piece = mmap.mmap(-1, max(1, firsts[-1]))
    return [
        np.frombuffer(piece, dtype, math.prod(shape), first).reshape(shape)
        for (shape, dtype), first in zip(shapes, firsts, strict=False)
    ]


class _Spilled(mmap.mmap):
    """Pages of a file that nobody writes to: what was given back is read again, the same."""


def spilled(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Write arrays that will wait long to a file without a name, and map it: pages are read when they are looked at.

    They count no longer as the process's memory but as the system's page cache, which it gives up where memory is
    short. The file lies where Dask spills (``temporary-directory``) and is gone with the last of the arrays, or with
    the process. Where it cannot be written, which is logged, the arrays stay in memory, in pages of their own.

    Parameters
    ----------
    arrays : mapping of str to numpy.ndarray
        Any shapes and types without Python objects.

    Returns
    -------
    dict of str to numpy.ndarray
        The same numbers. See :func:`release_pages`.

    Examples
    --------
    >>> spilled({"red": np.arange(3)})["red"]
    array([0, 1, 2])
    """
    firsts, pieces = {}, {name: np.asarray(array, order="C") for name, array in arrays.items()}
    try:
        with tempfile.TemporaryFile(dir=dask.config.get("temporary-directory", None)) as file:
            for name, array in pieces.items():
                firsts[name] = file.seek(-file.tell() % _ALIGNMENT, os.SEEK_CUR)
                file.write(array.reshape(-1).view(np.uint8).data)
            file.truncate(max(1, file.tell()))
            # Of its own, so that torch may take it for memory that can be written.
            piece = _Spilled(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except OSError as error:
        why = f"{type(error).__name__}: {error.strerror or error}"
        _warn_that_nothing_spills(why)
        log.info(
            "a block that waits for its neighbours stays in memory (%s)", why
        )  # a later run's log has it too
        rooms = own_pages(*((array.shape, array.dtype) for array in pieces.values()))
        for room, array in zip(rooms, pieces.values(), strict=True):
            room[...] = array
        return dict(zip(pieces, rooms, strict=True))
    return {
        name: np.frombuffer(piece, array.dtype, array.size, firsts[name]).reshape(array.shape)
        for name, array in pieces.items()
    }


@cache
def _warn_that_nothing_spills(why: str) -> None:
    """Once a process, not for each block."""
    log.warning(
        "no temporary file can be written (%s): blocks that wait for neighbours stay in memory, some 20 MB each; "
        "name a folder in Dask's setting temporary-directory",
        why,
    )


def release_pages(arrays: Iterable[Any]) -> None:
    """Give back pages of :func:`spilled` arrays that were looked at; they are read again when they are wanted."""
    for array in arrays:
        owner = array
        while isinstance(owner, np.ndarray):
            owner = owner.base
        owner = owner.obj if isinstance(owner, memoryview) else owner
        if isinstance(owner, _Spilled) and hasattr(mmap, "MADV_DONTNEED"):
            owner.madvise(mmap.MADV_DONTNEED)
