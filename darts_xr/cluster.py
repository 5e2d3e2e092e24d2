"""Where the work runs: one call that starts a Dask cluster fit for the machine, or connects to one."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dask
from distributed import Client, LocalCluster
from distributed.system import MEMORY_LIMIT

log = logging.getLogger(__name__)

#: Memory that a worker should have for one forward pass, the chunks around it and its libraries, bytes.
WORKER_MEMORY = 3 * 2**30
_GPU_THREADS = 4  # of each GPU worker: one computes, the others read, derive, move and write
# Read by torch, the linear algebra under NumPy and SciPy, and numba when a worker imports them.
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
_GDAL_VARIABLES = {
    "GDAL_NUM_THREADS": "1",
    "GDAL_CACHEMAX": "256",
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
}


class ClusterClient(Client):  # type: ignore[misc]
    """A Dask client that closes the cluster it was started with, and says what it runs on."""

    def close(self, *args: Any, **kwargs: Any) -> Any:
        """Close client and cluster."""
        cluster = self.cluster
        closed = super().close(*args, **kwargs)
        if cluster is not None:
            cluster.close()
        return closed

    def __repr__(self) -> str:
        if self.status != "running":
            return f"<start_cluster: {self.status}>"
        workers = self.scheduler_info(n_workers=-1)["workers"].values()
        threads = sum(worker["nthreads"] for worker in workers)
        gpus = int(sum(worker["resources"].get("GPU", 0) for worker in workers))
        return (
            f"<start_cluster: {len(workers)} workers, {threads} threads, {gpus or 'no'} GPUs, dashboard "
            f"{self.dashboard_link}>"
        )


def start_cluster(
    address: str | None = None,
    *,
    n_workers: int | None = None,
    threads_per_worker: int | None = None,
    memory_limit: str | float = "auto",
    dashboard_address: str | None = "127.0.0.1:0",
    **options: Any,
) -> Client:
    """Start a local cluster, one worker a GPU where there are GPUs, or connect to a running one.

    Parameters
    ----------
    address : str, optional
        Address of a running scheduler; nothing is started then.
    n_workers : int, optional
        Workers; by default one a GPU, or one a core as far as the memory goes round.
    threads_per_worker : int, optional
        Threads of each worker that run tasks; by default 4 beside a GPU, else 1.
    memory_limit : str or float, optional
        Memory of a worker, such as ``"8GB"``.
    dashboard_address : str, optional
        Where the dashboard listens; by default on this machine alone, at any free port. None: no dashboard.
    **options
        Further arguments of ``LocalCUDACluster`` or ``LocalCluster``.

    Returns
    -------
    distributed.Client
        Closing it, or leaving its ``with`` block, also closes the cluster that was started.

    Notes
    -----
    Each worker gets its share of the cores: where it has fewer threads than cores, torch uses the rest within a task.
    A GPU worker computes one block at a time, while its other threads prepare the next; it also carries the Dask
    resource ``GPU``, for tasks of your own that need the whole card. This process never touches a GPU: the workers do.
    Without GPUs no NVIDIA library is needed.

    Examples
    --------
    >>> client = start_cluster(n_workers=1)  # doctest: +SKIP
    """
    if address is not None:
        return ClusterClient(address)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    gpus = _count_gpus()
    if gpus:
        workers = n_workers or gpus
        threads = threads_per_worker or min(_GPU_THREADS, max(2, cores // workers))
    else:
        threads = threads_per_worker or 1
        workers = n_workers or max(1, min(cores // threads, int(MEMORY_LIMIT // WORKER_MEMORY)))
    settings: dict[str, Any] = {
        "n_workers": workers,
        "threads_per_worker": threads,
        "memory_limit": memory_limit,
        "dashboard_address": dashboard_address or "127.0.0.1:0",
        **options,
    }
    if dashboard_address is None:
        settings["scheduler_kwargs"] = {**settings.get("scheduler_kwargs", {}), "dashboard": False}
    with _environment_kept(), dask.config.set(worker_settings(cores // workers // threads)):
        if gpus:
            from dask_cuda import LocalCUDACluster

            cluster = LocalCUDACluster(**{"resources": {"GPU": 1}, **settings})
        else:
            cluster = LocalCluster(**{"host": "127.0.0.1", **settings})
    log.info("started %s", cluster)
    return ClusterClient(cluster)


def worker_settings(threads: int) -> dict[str, Any]:
    """Dask settings under which workers start.

    Parameters
    ----------
    threads : int
        Threads that torch and the numeric libraries may use within one task; at least 1 is given.

    Returns
    -------
    dict
        For ``dask.config.set``: environment of the worker processes, and a scheduler that does not let reading run
        ahead of prediction.
    """
    environment = dict.fromkeys(_THREAD_VARIABLES, str(max(1, threads))) | _GDAL_VARIABLES
    return {
        "distributed.nanny.pre-spawn-environ": {
            **dask.config.get("distributed.nanny.pre-spawn-environ"),
            **environment,
        },
        "distributed.scheduler.worker-saturation": 1.0,
    }


@contextmanager
def _environment_kept() -> Iterator[None]:
    """Undo what Dask writes into this process's own environment to hand it to the workers."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


def _count_gpus() -> int:
    """GPUs that dask-cuda can use; 0, with the reason logged, where it cannot."""
    try:
        import dask_cuda  # noqa: F401  needs the NVIDIA libraries at import
        import pynvml
    except ImportError as error:
        log.info("no GPU workers: %s", error)
        return 0
    try:
        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError as error:
        log.info("no GPU workers: %s", error)
        return 0
