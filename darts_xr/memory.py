"""Freed memory stays with the process: GNU's C library is told once, where much memory is about to be used.

By default the C library gives each large array back to the system when it is freed, and the system clears every page
before it hands it out again. Arrays of a chunk and layers of a network are taken and freed many times over: that costs
a quarter of the networks' CPU time.
"""

from __future__ import annotations

import ctypes
import logging
import math
import mmap
import os
import platform
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

log = logging.getLogger(__name__)

#: Environment variables of GNU's C library that say the same from a process's start.
ALLOCATOR_VARIABLES = {
    "MALLOC_MMAP_THRESHOLD_": 2**30,  # smaller pieces come from memory that was freed before
    "MALLOC_TRIM_THRESHOLD_": 2**31 - 1,  # of which so much is kept
    "MALLOC_ARENA_MAX": 1,  # another arena would hold no more than 64 MiB in one piece
}
_LARGE_PIECE = 2**26 + 2**20  # bytes
# Numbers of the same parameters in malloc.h.
_PARAMETERS = {"MALLOC_MMAP_THRESHOLD_": -3, "MALLOC_TRIM_THRESHOLD_": -1, "MALLOC_ARENA_MAX": -8}


@cache
def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, up to 2 GiB; asked for once, further calls cost nothing.

    What a variable of :data:`ALLOCATOR_VARIABLES` in the environment says stays as it is. Threads that took memory
    before may go on with an arena of their own, which keeps pieces of up to 64 MiB only, and threads that begin later
    may be given such an arena; so it is called before a graph is computed, by ``open_scene``, ``load_ensemble`` and
    ``predict``, and :func:`keeps_large_pieces` tells what a thread has got.

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
    cannot, and which one a thread gets is chance in a process that had some before :func:`keep_freed_memory`.
    """
    library = ctypes.CDLL(None)
    library.malloc.restype = library.sbrk.restype = ctypes.c_void_p
    library.malloc.argtypes, library.free.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]
    library.sbrk.argtypes = [ctypes.c_ssize_t]
    piece = library.malloc(_LARGE_PIECE)  # never touched, so that it takes no memory
    kept = piece is not None and piece < (library.sbrk(0) or 0)
    library.free(piece)
    return bool(kept)


def lasting(*kinds: tuple[tuple[int, ...], DTypeLike]) -> list[NDArray[Any]]:
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
    >>> [array.shape for array in lasting(((2, 3), "uint16"), ((4,), "float32"))]
    [(2, 3), (4,)]
    """
    shapes = [(shape, np.dtype(dtype)) for shape, dtype in kinds]
    firsts = [0]
    for shape, dtype in shapes:  # each at the beginning of a line of the cache
        firsts.append(firsts[-1] + -(-math.prod(shape) * dtype.itemsize // 64) * 64)
    piece = mmap.mmap(-1, max(1, firsts[-1]))
    return [
        np.frombuffer(piece, dtype, math.prod(shape), first).reshape(shape)
        for (shape, dtype), first in zip(shapes, firsts, strict=False)
    ]
