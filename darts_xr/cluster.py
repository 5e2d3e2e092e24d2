"""Where the work runs: one call that starts a Dask cluster fit for the machine, or connects to one."""

from __future__ import annotations

import logging
import os
from typing import Any

from distributed import Client, LocalCluster

log = logging.getLogger(__name__)


class ClusterClient(Client):  # type: ignore[misc]
    """A Dask client that closes the cluster it was started with."""

    def close(self, *args: Any, **kwargs: Any) -> Any:
        """Close client and cluster."""
        cluster = self.cluster
        closed = super().close(*args, **kwargs)
        if cluster is not None:
            cluster.close()
        return closed


def start_cluster(
    address: str | None = None,
    *,
    n_workers: int | None = None,
    threads_per_worker: int = 1,
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
        Workers; by default one a GPU, or one a core.
    threads_per_worker : int, optional
        Threads of each worker.
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
    This process never touches a GPU: the workers do. Without GPUs no NVIDIA library is needed.

    Examples
    --------
    >>> client = start_cluster(n_workers=1)  # doctest: +SKIP
    """
    if address is not None:
        return Client(address)
    gpus = _count_gpus()
    if gpus:
        from dask_cuda import LocalCUDACluster

        cluster = LocalCUDACluster(
            n_workers=n_workers or gpus, threads_per_worker=threads_per_worker, memory_limit=memory_limit,
            dashboard_address=dashboard_address, **options,
        )  # fmt: skip
    else:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        workers = n_workers or max(1, cores // threads_per_worker)
        cluster = LocalCluster(
            n_workers=workers, threads_per_worker=threads_per_worker, memory_limit=memory_limit,
            dashboard_address=dashboard_address, host="127.0.0.1", **options,
        )  # fmt: skip
    log.info("started %s", cluster)
    return ClusterClient(cluster)


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
