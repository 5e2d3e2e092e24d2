"""Pixels to a device and back, and the threads in which networks run there."""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from darts_xr.device_array import DeviceArray
from darts_xr.memory import keep_freed_memory, keeps_large_pieces

log = logging.getLogger(__name__)

T = TypeVar("T")
FloatArray = NDArray[np.float32]

_THREADS_TRIED = 256  # the C library makes up to 8 arenas a core

_runners: dict[tuple[int, str], NetworkThreads] = {}
_opening = threading.Lock()
_thread = threading.local()


class NetworkThreads:
    """Threads in which networks run; whoever asks waits for a free one, and for the answer.

    A pass in the thread that asks would bring threads of its own to a CPU, which get in the way of those of the pass
    before, and a plan cache of its own to a GPU.

    Parameters
    ----------
    count : int
        Passes at a time.
    """

    def __init__(self, count: int) -> None:
        self._free: queue.SimpleQueue[ThreadPoolExecutor] = queue.SimpleQueue()
        for _ in range(count):
            self._free.put(_thread_with_kept_memory())
        self._waiting: dict[Hashable, dict[Future[Any], Any]] = {}
        self._lock = threading.Lock()

    def run(self, work: Callable[..., T], *args: Any, **options: Any) -> T:
        """Do some work in one of the threads."""
        thread = self._free.get()
        try:
            return thread.submit(work, *args, **options).result()
        finally:
            self._free.put(thread)

    def together(
        self, kind: Hashable, work: Callable[[list[Any]], Sequence[Any]], item: Any, *, most: int
    ) -> Any:
        """Do some work on an item, and in one go on those that others brought while the threads were busy.

        Parameters
        ----------
        kind : hashable
            Items of one kind go together.
        work : callable
            Takes items and gives for each what came of it, or the exception that its owner is to get.
        item : object
            This thread's own.
        most : int
            Items at a time.
        """
        mine: Future[Any] = Future()
        with self._lock:
            self._waiting.setdefault(kind, {})[mine] = item
        self.run(self._take, kind, work, mine, most)
        return mine.result()  # another thread may have taken it

    def _take(
        self, kind: Hashable, work: Callable[[list[Any]], Sequence[Any]], mine: Future[Any], most: int
    ) -> None:
        """Do an item that still waits, and others that do."""
        with self._lock:
            waiting = self._waiting.get(kind, {})
            if mine not in waiting:
                return
            owners = [mine, *(owner for owner in waiting if owner is not mine)][:most]
            items = [waiting.pop(owner) for owner in owners]
            if not waiting:
                del self._waiting[kind]
        try:
            results = work(items)
        except BaseException as error:
            for owner in owners:
                owner.set_exception(error)
            return
        for owner, result in zip(owners, results, strict=True):
            if isinstance(result, BaseException):
                owner.set_exception(result)
            else:
                owner.set_result(result)


def _thread_with_kept_memory() -> ThreadPoolExecutor:
    """Start a thread whose large arrays stay with the process; without, the system clearing pages is a sixth of a pass.

    Those that got another arena of the C library live on until one is found: the next thread would be given theirs.
    """
    known = keep_freed_memory()  # where it does not know how, any thread will do
    tried: list[ThreadPoolExecutor] = []
    for _ in range(_THREADS_TRIED):
        tried.append(ThreadPoolExecutor(1, thread_name_prefix="networks"))
        if not known or tried[-1].submit(keeps_large_pieces).result():
            break
    else:
        log.info("the networks' thread gives large arrays back to the system when it frees them")
    for other in tried[:-1]:
        other.shutdown(wait=False)
    return tried[-1]


def network_threads(device: torch.device) -> NetworkThreads:
    """Threads that run all passes on a device: one, or on a CPU as many as torch's own threads leave cores for."""
    key = os.getpid(), str(device)  # a forked process has none of its parent's threads
    with _opening:
        if key not in _runners:
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            count = 1 if device.type == "cuda" else max(1, cores // torch.get_num_threads())
            _runners[key] = NetworkThreads(count)
        return _runners[key]


def upload(
    arrays: Mapping[str, Any], device: torch.device
) -> tuple[dict[str, torch.Tensor], torch.cuda.Event | None]:
    """Bring arrays to the device, where they are not there yet.

    On a GPU the copies run beside what is computed there, and are done with the event.
    """
    tensors = {
        name: array.tensor if isinstance(array, DeviceArray) else torch.from_numpy(array)
        for name, array in arrays.items()
    }
    if device.type != "cuda":
        return {name: tensor.to(device) for name, tensor in tensors.items()}, None
    stream = _copy_stream(device)
    for name, tensor in tensors.items():
        if tensor.device.type == "cpu":
            with torch.cuda.stream(stream):
                tensors[name] = tensor.pin_memory().to(device, non_blocking=True)
            tensors[name].record_stream(torch.cuda.default_stream(device))
        else:
            tensors[name] = tensor.to(device)
    return tensors, stream.record_event()


def await_event(event: torch.cuda.Event | None, device: torch.device) -> None:
    """Let what this thread asks of the device from now on run after an event; the host does not wait."""
    if event is not None:
        torch.cuda.current_stream(device).wait_event(event)


def record(device: torch.device) -> torch.cuda.Event | None:
    """Mark the place in a GPU's queue up to which this thread's work lies."""
    return torch.cuda.current_stream(device).record_event() if device.type == "cuda" else None


def download(
    result: torch.Tensor, finite: torch.Tensor | None, done: torch.cuda.Event | None
) -> tuple[FloatArray, bool]:
    """Bring the result to the host, and whether it is finite; on a GPU the next block computes meanwhile."""
    if done is None:
        return result.numpy(), finite is None or bool(finite)
    stream = _copy_stream(result.device)
    stream.wait_event(done)
    with torch.cuda.stream(stream):
        host = torch.empty(result.shape, dtype=result.dtype, pin_memory=True)
        host.copy_(result, non_blocking=True)
        sound = finite is None or bool(finite)  # waits for the copy too
    result.record_stream(stream)
    stream.synchronize()
    return host.numpy(), sound


def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    """Stream on which a thread moves pixels, beside the one on which networks run."""
    streams: dict[torch.device, torch.cuda.Stream] = _thread.__dict__.setdefault("streams", {})
    if device not in streams:
        streams[device] = torch.cuda.Stream(device)
    return streams[device]
