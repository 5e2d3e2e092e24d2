"""What the C library does with freed memory, seen from outside: pages that the system gives anew."""

from __future__ import annotations

import logging
import mmap
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import dask
import numpy as np
import pytest

from darts_xr.memory import ALLOCATOR_VARIABLES, keep_freed_memory, own_pages, release_pages, spilled

# Pages of 4 KiB that come for what was taken and freed just before: 100 MB in this thread, 40 MB in a new one, whose
# arena holds no larger pieces than 64 MiB.
_COUNT = """
import resource
from concurrent.futures import ThreadPoolExecutor

def pages(size):
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        taken = bytearray(size)
        taken[::4096] = b"1" * len(taken[::4096])
        given = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        del taken
    return given

with ThreadPoolExecutor(1) as pool:
    print(pages(100_000_000), pool.submit(pages, 40_000_000).result())
"""
_FRESH = 40_000_000 // 4096
gnu_only = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only GNU's C library can be told to keep memory"
)


def _pages(first: str, **environment: str) -> list[int]:
    """Pages that a new process gets which says ``first``."""
    bare = {name: value for name, value in os.environ.items() if name not in ALLOCATOR_VARIABLES}
    answer = subprocess.run(
        [sys.executable, "-c", f"{first}\n{_COUNT}"], env=bare | environment, capture_output=True, text=True, check=True
    )  # fmt: skip
    return [int(count) for count in answer.stdout.split()]


@gnu_only
@pytest.mark.parametrize(
    "first", ["import darts_xr as dx; dx.load_ensemble('demo')", "import darts_xr.memory as m; m.keep_freed_memory()"]
)  # fmt: skip
def test_a_process_keeps_the_memory_that_it_frees(first: str) -> None:
    assert max(_pages(first)) < 1000


@gnu_only
def test_without_the_library_memory_goes_back_to_the_system() -> None:
    assert min(_pages("import darts_xr")) >= _FRESH


@gnu_only
def test_what_the_environment_says_of_the_allocator_holds() -> None:
    kept = _pages(
        "import darts_xr as dx; dx.load_ensemble('demo')",
        MALLOC_MMAP_THRESHOLD_="131072",
        MALLOC_TRIM_THRESHOLD_="131072",
    )
    assert min(kept) >= _FRESH


def test_another_c_library_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    keep_freed_memory.cache_clear()
    try:
        with caplog.at_level(logging.INFO, logger="darts_xr.memory"):
            assert keep_freed_memory() is False
    finally:
        keep_freed_memory.cache_clear()
    assert "not GNU's C library" in caplog.text


@gnu_only
def test_networks_get_a_thread_that_keeps_large_pieces_where_others_have_arenas_of_their_own() -> None:
    """Threads that took memory before the library was told leave arenas which hold 64 MiB at most."""
    code = """
import threading, torch
from darts_xr.devices import network_threads
from darts_xr.memory import keep_freed_memory, keeps_large_pieces

done = threading.Event()
def live():
    bytearray(10_000)
    done.wait()
before = [threading.Thread(target=live) for _ in range(4)]
for thread in before: thread.start()
keep_freed_memory()
found = []
after = [threading.Thread(target=lambda: found.append(keeps_large_pieces())) for _ in range(4)]
for thread in after: thread.start()
for thread in after: thread.join()
kept = [network_threads(torch.device(kind)).run(keeps_large_pieces) for kind in ("cpu", "meta")]
done.set()
print(all(kept), all(found))
"""
    bare = {name: value for name, value in os.environ.items() if name not in ALLOCATOR_VARIABLES}
    answer = subprocess.run(
        [sys.executable, "-c", code], env=bare, capture_output=True, text=True, check=True
    )
    assert answer.stdout.split() == ["True", "False"]


def test_arrays_of_one_piece_do_not_touch_and_the_piece_lives_as_long_as_the_last() -> None:
    kinds = [((5, 7), "uint8"), ((3,), "float32"), ((0, 4), "uint16"), ((2, 2), bool), ((9, 9), "float64")]
    arrays = own_pages(*kinds)  # type: ignore[arg-type]
    assert [(a.shape, a.dtype) for a in arrays] == [(shape, np.dtype(kind)) for shape, kind in kinds]
    for number, array in enumerate(arrays):
        assert array.size == 0 or array.ctypes.data % 64 == 0
        array[...] = number % 2 if array.dtype == bool else number
    last = arrays.pop()
    assert all((array == (i % 2 if array.dtype == bool else i)).all() for i, array in enumerate(arrays))
    del arrays, array
    assert (last == 4).all()
    assert own_pages() == []


def _some_arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    kinds = [
        ((50, 70), "uint16"),
        ((3, 1), "uint8"),
        ((0, 4), "float32"),
        ((9, 9), ">f8"),
        ((6,), bool),
        ((), "int64"),
    ]
    return {f"{shape} {kind}": (rng.random(shape) * 200).astype(kind) for shape, kind in kinds}  # type: ignore[call-overload]


def test_spilled_arrays_hold_what_they_held_also_after_their_pages_went() -> None:
    given = _some_arrays()
    given["a part"] = np.arange(100, dtype=np.int16).reshape(10, 10)[2:, 1::3]
    kept = spilled(given)
    for _ in range(2):
        for name, array in given.items():
            np.testing.assert_array_equal(kept[name], array)
            assert (kept[name].dtype, kept[name].shape) == (array.dtype, array.shape)
            assert array.size == 0 or kept[name].ctypes.data % 64 == 0
        release_pages([*kept.values(), np.zeros(3), "no array"])
    assert spilled({}) == {}
    one = kept["a part"]
    del kept
    np.testing.assert_array_equal(one, given["a part"])  # the file lives as long as the last of them


def test_spilled_arrays_stay_in_memory_where_no_file_can_be_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = _some_arrays()
    with (
        dask.config.set({"temporary-directory": str(tmp_path / "gone")}),
        caplog.at_level(logging.WARNING, logger="darts_xr.memory"),
    ):
        for _ in range(3):
            kept = spilled(given)
    release_pages(kept.values())
    for name, array in given.items():
        np.testing.assert_array_equal(kept[name], array)
    assert [r.message.count("temporary-directory") for r in caplog.records] == [1]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the process's memory from /proc")
def test_spilled_arrays_are_not_in_the_process_s_memory() -> None:
    code = """
import numpy as np
from darts_xr.memory import release_pages, spilled

def held():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6

kept = spilled({"ones": np.ones(100_000_000, "uint8")})
sums = []
before = held()
sums.append(int(kept["ones"].sum()))
looked_at = held()
release_pages(kept.values())
after = held()
sums.append(int(kept["ones"].sum()))
print(round(looked_at - before), round(after - before), *sums)
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    looked_at, after, *sums = map(int, answer.stdout.split())
    assert sums == [100_000_000] * 2
    assert looked_at > 90
    assert after < 10


def test_only_spilled_pages_are_given_back() -> None:
    """A map of a file that somebody has changed in memory only would lose it."""
    with tempfile.TemporaryFile() as file:
        file.write(bytes(4096))
        file.flush()
        theirs = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY), np.uint8)
    theirs[:] = 7
    release_pages([theirs])
    assert (theirs == 7).all()
