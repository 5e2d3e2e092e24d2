"""Where a scene's chunks are computed on a worker, and how a worker ends whose GPU has failed."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import dask

log = logging.getLogger(__name__)

_shared: dict[str, Any] = {"users": 0}
_sharing = threading.Lock()


@contextmanager
def own_threads() -> Iterator[str]:
    """On a worker of a cluster, compute chunks on its own threads, shared by its scenes; yields the worker's name.

    Elsewhere Dask's scheduler of the moment computes them.
    """
    worker = this_worker()
    if worker is None:
        yield "this process"
        return
    # Dask's settings belong to the process, so the first scene makes them and the last undoes them.
    with _sharing:
        if _shared["users"] == 0:
            cores = worker.state.nthreads * int(os.environ.get("OMP_NUM_THREADS", "1"))
            _shared["pool"] = ThreadPoolExecutor(cores, thread_name_prefix="chunk")
            _shared["settings"] = dask.config.set(scheduler="threads", pool=_shared["pool"])
        _shared["users"] += 1
    try:
        yield str(worker.address)
    finally:
        with _sharing:
            _shared["users"] -= 1
            if _shared["users"] == 0:
                _shared.pop("settings").__exit__(None, None, None)
                _shared.pop("pool").shutdown(wait=False)


def this_worker() -> Any:
    """Dask worker whose task this thread is doing, or None."""
    from distributed import get_worker

    try:
        return get_worker()
    except ValueError:
        return None


_FAREWELL = 2.0  # seconds in which a record leaves its worker


class _Ending:
    """The end of a worker whose GPU has failed: its nanny starts the process anew, and with it the GPU's state.

    Without it such a worker is the quickest of all, and fails every scene that it can get.
    """

    def __init__(self) -> None:
        self._begun = threading.Event()

    def begin(self) -> None:
        """End this worker's process once the scene's record has left it; nothing where no nanny starts it again."""
        worker = this_worker()
        if worker is None or not worker.nanny or self._begun.is_set():
            return
        self._begun.set()
        log.error("the GPU of worker %s failed: its process is started anew", worker.address)
        timer = threading.Timer(_FAREWELL, os._exit, (1,))
        timer.daemon = True
        timer.start()

    def wait_for_end(self) -> None:
        """Start no scene in a process that is about to end: it goes to another worker then, without a try lost."""
        if self._begun.is_set():
            threading.Event().wait()


ending = _Ending()
