"""Where the work runs: one call that starts a Dask cluster, here or as Slurm jobs, or connects to a running one."""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import signal
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import dask
from dask.utils import parse_bytes
from distributed import Client, LocalCluster, Nanny, WorkerPlugin
from distributed.security import Security
from distributed.system import MEMORY_LIMIT

from darts_xr.errors import ClusterError, ParameterError
from darts_xr.memory import ALLOCATOR_VARIABLES

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
_ALLOCATOR_VARIABLES = {name: str(value) for name, value in ALLOCATOR_VARIABLES.items()}
# Dask writes these into this process when it starts another one.
_WRITTEN_BY_DASK = ("PYTHONHASHSEED", "__DASK_PARENT_PID")
_TO_BE_GONE = 60.0  # s for a killed process to be gone
_SPAWN = "distributed.nanny.pre-spawn-environ"
_SATURATION = "distributed.scheduler.worker-saturation"
_SATURATED = 1.0  # a worker is sent no more root tasks than it has threads


def lost_connection_in_one_line(record: logging.LogRecord) -> bool:
    """Filter of a log handler: a connection that ended is told without the stack of Dask's inside, which helps nobody.

    A worker may send its heartbeat while its cluster closes, and what it logs goes to the user's terminal.
    """
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, OSError):
        record.msg, record.args = f"{record.getMessage().rstrip('.')}: {error or type(error).__name__}", None
        record.exc_info = record.exc_text = None
    return True


class _InTheBackground(WorkerPlugin):  # type: ignore[misc]
    """Worker processes leave the terminal to the client: its Ctrl-C, and what is said there."""

    name = "darts_xr-in-the-background"

    def setup(self, worker: Any) -> None:
        if worker.nanny:  # else it is in a user's process
            # What becomes of the tasks is for the client to say; the terminal sends the signal to all.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            for handler in logging.getLogger("distributed").handlers:
                handler.addFilter(lost_connection_in_one_line)


class _PatientNanny(Nanny):  # type: ignore[misc]
    """Waits for a worker that it has killed until the system has freed its memory, which can take a while."""

    async def kill(self, timeout: float = 5, reason: str = "nanny-kill") -> None:
        worker = self.process
        try:
            await super().kill(timeout, reason)
        except TimeoutError:  # Dask grants it one second, and gives the cluster up for ever after
            await asyncio.wait_for(worker.stopped.wait(), _TO_BE_GONE)


class ClusterClient(Client):  # type: ignore[misc]
    """A Dask client that closes the cluster it was started with, and says what it runs on."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._undo = ExitStack()
        self._closed_cluster = False
        try:
            super().__init__(*args, **kwargs)
        except BaseException:
            # Dask has made it the default client by now, and every later call would go to it.
            super().close()
            raise

    def closes_with(self, undo: ExitStack) -> None:
        """Take over what must be undone after the cluster has closed."""
        self._undo = undo

    def close(self, *args: Any, **kwargs: Any) -> Any:
        """Close client and cluster; Dask's settings are as before, also when one of the two does not close."""
        cluster = self.cluster
        with self._undo:
            try:
                return super().close(*args, **kwargs)
            finally:
                # Once: Dask waits without end for a cluster whose first closing failed.
                if cluster is not None and not self._closed_cluster:
                    self._closed_cluster = True
                    try:
                        cluster.close()
                    except TimeoutError:
                        log.warning(
                            "some workers of %s have not ended; this process does not wait for them", cluster
                        )

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
    security: Security | bool | None = None,
    **options: Any,
) -> Client:
    """Start a cluster, on this machine or as Slurm jobs, or connect to a running one.

    Parameters
    ----------
    address : str, optional
        Address of a running scheduler; nothing is started then. ``"slurm"``: workers in Slurm jobs. None: workers on
        this machine, one a GPU where there are GPUs.
    n_workers : int, optional
        Workers on this machine, or in each Slurm job; by default one a GPU, or one a core as far as the memory goes
        round.
    threads_per_worker : int, optional
        Threads of each worker that run tasks; by default 4 beside a GPU, else 1.
    memory_limit : str or float, optional
        Memory of a worker on this machine, such as ``"8GB"``.
    dashboard_address : str, optional
        Where the dashboard listens; by default on this machine alone, at any free port. None: no dashboard.
    security : distributed.security.Security or bool, optional
        Certificates for TLS. True makes temporary ones, for which ``cryptography`` must be installed; this is the
        default for Slurm jobs, since their scheduler is open to the network.
    **options
        Further arguments of ``LocalCUDACluster`` or ``LocalCluster``; with an address, of ``distributed.Client``;
        with ``"slurm"``, of :func:`darts_xr.cluster.slurm.slurm_cluster`: ``jobs``, ``cores``, ``memory``, ``gpus``,
        ``walltime``, ``partition``, ``account``, and so on.

    Returns
    -------
    distributed.Client
        Closing it, or leaving its ``with`` block, also closes the cluster that was started.

    Raises
    ------
    ValueError
        If settings of workers are given for a cluster that has its own, or do not suit Slurm.
    ImportError
        If Slurm is asked for and ``dask-jobqueue`` is not installed.

    Notes
    -----
    Each worker gets its share of the cores: where it has fewer threads than cores, torch uses the rest within a task.
    A GPU worker computes one block at a time, while its other threads prepare the next; it also carries the Dask
    resource ``GPU``, for tasks that need the whole card (see :func:`gpu_resources`). This process never touches a GPU:
    the workers do. Without GPUs no NVIDIA library is needed.

    Until the client is closed, Dask's settings in this process hold what its workers need, so that workers which join
    later, by ``client.cluster.scale`` or ``client.cluster.adapt``, start as the first ones did.

    Examples
    --------
    >>> client = start_cluster(n_workers=1)  # doctest: +SKIP
    >>> client = start_cluster("slurm", jobs=(0, 8), gpus=1, cores=8, memory="32GB")  # doctest: +SKIP
    """
    if address == "slurm":
        if memory_limit != "auto":
            raise ParameterError(
                "memory_limit is of workers on this machine; Slurm jobs take memory, shared by its workers"
            )
        return _start_jobs(n_workers, threads_per_worker, dashboard_address, security, **options)
    if address is not None:
        if n_workers is not None or threads_per_worker is not None:
            raise ParameterError(
                f"the workers of {address} are running: leave out n_workers and threads_per_worker"
            )
        try:
            return ClusterClient(address, security=security, **options)
        except (OSError, ValueError) as error:
            raise ClusterError(
                f"there is no Dask scheduler at {address!r} ({error}); give its address, such as tcp://10.0.0.1:8786, "
                "or 'local' on the command line to start a cluster here"
            ) from error
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    visible = options.pop("CUDA_VISIBLE_DEVICES", os.environ.get("CUDA_VISIBLE_DEVICES"))
    cards = _visible_gpus(visible)
    gpus = len(cards)
    workers, threads, share = _share_out(cores, MEMORY_LIMIT, gpus, n_workers, threads_per_worker)
    settings: dict[str, Any] = {
        "n_workers": workers,
        "threads_per_worker": threads,
        "memory_limit": memory_limit,
        "dashboard_address": dashboard_address or "127.0.0.1:0",
        "security": security,
        **options,
    }
    if dashboard_address is None:
        settings["scheduler_kwargs"] = {**settings.get("scheduler_kwargs", {}), "dashboard": False}
    with ExitStack() as failed, ExitStack() as undo:
        asked = worker_settings(share)
        written = (*asked[_SPAWN], *_WRITTEN_BY_DASK)
        undo.enter_context(_environment_kept(written))  # workers that join later write it again
        undo.enter_context(dask.config.set(asked))
        with _environment_kept(written):
            if gpus:
                from dask_cuda import LocalCUDACluster

                cluster = LocalCUDACluster(
                    **{"resources": {"GPU": 1}, "CUDA_VISIBLE_DEVICES": cards, **settings}
                )
            else:
                nanny = {} if "processes" in options else {"worker_class": _PatientNanny}
                cluster = LocalCluster(**nanny | settings)
        failed.callback(cluster.close)
        log.info("started %s", cluster)
        client = ClusterClient(cluster)
        client.register_plugin(_InTheBackground())
        client.closes_with(undo.pop_all())
        failed.pop_all()
        return client


def _start_jobs(
    n_workers: int | None,
    threads_per_worker: int | None,
    dashboard_address: str | None,
    security: Security | bool | None,
    *,
    gpus: int = 0,
    cores: int | None = None,
    memory: str | None = None,
    **options: Any,
) -> ClusterClient:
    """Workers in Slurm jobs, and the client that ends them."""
    from darts_xr.cluster import slurm

    cores, memory = slurm.job_size(cores, memory)
    if gpus and n_workers not in (None, gpus):
        raise ParameterError(
            f"a Slurm job with {gpus} GPUs has {gpus} workers, one a GPU; got n_workers={n_workers}"
        )
    workers, threads, share = _share_out(cores, parse_bytes(memory), gpus, n_workers, threads_per_worker)
    with dask.config.set({_SATURATION: worker_settings(share)[_SATURATION]}):
        cluster = slurm.slurm_cluster(
            gpus=gpus, cores=cores, memory=memory, workers=workers, threads=threads,
            environment=worker_environment(share), dashboard_address=dashboard_address,
            security=True if security is None else security, **options,
        )  # fmt: skip
    log.info("started %s", cluster)
    return ClusterClient(cluster)


def gpu_resources(client: Client) -> dict[str, float]:
    """Dask resources that a task which needs a GPU can ask for on this cluster.

    Parameters
    ----------
    client : distributed.Client
        Client of any cluster whose workers have arrived (``client.wait_for_workers``).

    Returns
    -------
    dict
        ``{"GPU": 1.0}`` where every worker carries that resource, else empty: a task that asks for what no worker has
        would wait for ever.

    Examples
    --------
    >>> with dask.annotate(resources=gpu_resources(client)):  # doctest: +SKIP
    ...     prob = dx.predict(scene, ensemble)
    """
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    on_gpu = bool(workers) and all(worker["resources"].get("GPU", 0) >= 1 for worker in workers)
    return {"GPU": 1.0} if on_gpu else {}


def worker_environment(threads: int) -> dict[str, str]:
    """Environment for ``dask scheduler``, ``dask worker`` and ``dask cuda worker`` that you start yourself.

    Parameters
    ----------
    threads : int
        Threads that torch and the numeric libraries may use within one task: cores of the machine, divided by its
        workers and by the threads of each; at least 1 is given.

    Returns
    -------
    dict
        Variables and their values, the same as workers of :func:`start_cluster` get.

    Examples
    --------
    >>> worker_environment(8)["OMP_NUM_THREADS"]
    '8'
    """
    saturation = "DASK_" + _SATURATION.upper().replace(".", "__").replace("-", "_")
    return {**_for_processes(threads), saturation: str(_SATURATED)}


def export_lines(threads: int) -> str:
    r"""Give the lines of a shell that set :func:`worker_environment`.

    Parameters
    ----------
    threads : int
        As in :func:`worker_environment`.

    Returns
    -------
    str
        One ``export`` a line.

    Examples
    --------
    >>> export_lines(8).splitlines()[0]
    'export OMP_NUM_THREADS=8'
    """
    return "\n".join(
        f"export {name}={shlex.quote(value)}" for name, value in worker_environment(threads).items()
    )


def worker_settings(threads: int) -> dict[str, Any]:
    """Dask settings under which workers start.

    Parameters
    ----------
    threads : int
        As in :func:`worker_environment`.

    Returns
    -------
    dict
        For ``dask.config.set``: environment of the worker processes, and a scheduler that does not let reading run
        ahead of prediction.

    Examples
    --------
    >>> worker_settings(2)["distributed.nanny.pre-spawn-environ"]["GDAL_NUM_THREADS"]
    '1'
    """
    return {_SPAWN: {**dask.config.get(_SPAWN), **_for_processes(threads)}, _SATURATION: _SATURATED}


def _for_processes(threads: int) -> dict[str, str]:
    return dict.fromkeys(_THREAD_VARIABLES, str(max(1, threads))) | _GDAL_VARIABLES | _ALLOCATOR_VARIABLES


def _share_out(
    cores: int, memory: float, gpus: int, n_workers: int | None, threads_per_worker: int | None
) -> tuple[int, int, int]:
    """Workers on one machine, threads of each that run tasks, and threads within each task."""
    if gpus:
        workers = n_workers or gpus
        threads = threads_per_worker or min(_GPU_THREADS, max(2, cores // workers))
    else:
        threads = threads_per_worker or 1
        workers = n_workers or max(1, min(cores // threads, int(memory // WORKER_MEMORY)))
    return workers, threads, cores // workers // threads


@contextmanager
def _environment_kept(names: Iterable[str]) -> Iterator[None]:
    """Undo what Dask writes into this process's own environment to hand it to the workers."""
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _visible_gpus(visible: str | Sequence[str | int] | None) -> list[str]:
    """Names of the GPUs that dask-cuda can use, as CUDA reads ``CUDA_VISIBLE_DEVICES``.

    A list ends before the first entry that names no device, such as ``-1`` or ``NoDevFiles``; None names all devices.
    Entries are numbers, or UUIDs of cards (``GPU-…``, also shortened) or of their parts (``MIG-…``).
    """
    try:
        import dask_cuda  # noqa: F401  needs the NVIDIA libraries at import
        import pynvml
    except ImportError as error:
        log.info("no GPU workers: %s", error)
        return []
    try:
        pynvml.nvmlInit()
        count = int(pynvml.nvmlDeviceGetCount())
        names = [pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByIndex(i)) for i in range(count)]
    except pynvml.NVMLError as error:
        log.info("no GPU workers: %s", error)
        return []
    if visible is None:
        return [str(number) for number in range(count)]
    entries = visible.split(",") if isinstance(visible, str) else visible
    found: list[str] = []
    for entry in (str(entry).strip() for entry in entries):
        number = entry.isdecimal() and int(entry) < count
        card = entry.startswith("GPU-") and any(name.startswith(entry) for name in names)
        if not (number or card or entry.startswith("MIG-")) or entry in found:
            break
        found.append(entry)
    if not found:
        log.info("no GPU workers: CUDA_VISIBLE_DEVICES=%s names none of %d devices", visible, count)
    return found
