"""Dask workers as Slurm jobs: the job script, and a new job where one has ended.

How cores, memory and GPUs of a job are asked for comes in; a running cluster goes out. :func:`darts_xr.start_cluster`
with ``"slurm"`` is the way in.
"""

from __future__ import annotations

import asyncio
import logging
import re
import shlex
import signal
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dask
from dask.utils import parse_timedelta
from distributed.core import Status
from distributed.diagnostics.plugin import SchedulerPlugin
from distributed.security import Security

from darts_xr.errors import MissingExtraError, ParameterError

log = logging.getLogger(__name__)

_MISSING = "Slurm jobs need dask-jobqueue: pip install 'darts-xr[slurm]'"
# Slurm writes the first as days; each of the others, from the right, as here.
_WALLTIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<clock>\d+(?::\d+){0,2})")
_LONGEST_MARGIN = 600  # seconds before the walltime; enough to hand results over on any machine
_RECONNECT_GRACE = 5.0  # seconds after which Dask has surely noted that a worker is lost


def job_size(cores: int | None, memory: str | None) -> tuple[int, str]:
    """Cores and memory of a job, from Dask's settings (``jobqueue.slurm``) where they are not given.

    Parameters
    ----------
    cores : int, optional
        Cores of each job.
    memory : str, optional
        Memory of each job, such as ``"32GB"``.

    Returns
    -------
    tuple
        Cores and memory.

    Raises
    ------
    ImportError
        If ``dask-jobqueue`` is not installed.
    ValueError
        If one of them is neither given nor set.

    Examples
    --------
    >>> job_size(8, "32GB")  # doctest: +SKIP
    (8, '32GB')
    """
    _import_jobqueue()  # brings its settings
    cores = cores or dask.config.get("jobqueue.slurm.cores")
    memory = memory or dask.config.get("jobqueue.slurm.memory")
    if not cores or not memory:
        raise ParameterError(
            "a Slurm job needs a size: give cores and memory, such as cores=8, memory='32GB'"
        )
    return cores, memory


def _import_jobqueue() -> None:
    """Import dask-jobqueue, which makes Ctrl-C and SIGTERM end this process at once, and undo that."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        import dask_jobqueue  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(_MISSING) from error
    if threading.current_thread() is threading.main_thread():
        for number, handler in before.items():
            signal.signal(number, handler)


def slurm_cluster(
    *,
    cores: int,
    memory: str,
    workers: int,
    threads: int,
    environment: Mapping[str, str],
    jobs: int | tuple[int, int] = 1,
    gpus: int = 0,
    walltime: str | None = None,
    partition: str | None = None,
    account: str | None = None,
    interface: str | None = None,
    log_folder: str | Path = "slurm-logs",
    directives: Sequence[str] = (),
    prologue: Sequence[str] = (),
    security: Security | bool = True,
    dashboard_address: str | None = "127.0.0.1:0",
    **options: Any,
) -> Any:
    """Start a scheduler in this process and ask Slurm for jobs that run its workers.

    :func:`darts_xr.start_cluster` gives ``workers``, ``threads`` and ``environment``; the others are yours.

    Parameters
    ----------
    cores : int
        Cores of each job.
    memory : str
        Memory of each job, such as ``"32GB"``, shared by its workers.
    workers : int
        Worker processes in each job.
    threads : int
        Threads of each worker that run tasks.
    environment : mapping
        Variables under which workers start.
    jobs : int or tuple of two int, optional
        Jobs to keep running; a pair (fewest, most) follows the work.
    gpus : int, optional
        GPUs of each job: it then runs ``dask cuda worker``, one worker a GPU, each with the Dask resource ``GPU``.
    walltime : str, optional
        Time limit of each job as Slurm writes it, such as ``"04:00:00"``; Dask's setting by default, 30 minutes.
    partition, account : str, optional
        Where the jobs queue, and who pays.
    interface : str, optional
        Network interface of scheduler and workers, such as ``"ib0"``.
    log_folder : str or Path, optional
        For the jobs' output, and with TLS for temporary certificates; on storage that all nodes share.
    directives : sequence of str, optional
        Further options of ``sbatch``, such as ``"--constraint=a100"``; they overrule those given here.
    prologue : sequence of str, optional
        Lines of shell before the worker starts, such as ``"module load cuda"``.
    security : distributed.security.Security or bool, optional
        Certificates for TLS; True makes temporary ones, False lets anybody on the network in.
    dashboard_address : str, optional
        Where the dashboard listens. None: no dashboard.
    **options
        Further arguments of ``dask_jobqueue.SLURMCluster``.

    Returns
    -------
    dask_jobqueue.SLURMCluster
        Closing it cancels its jobs.

    Raises
    ------
    ValueError
        If the walltime is not one of Slurm's forms.
    ImportError
        If temporary certificates are asked for and ``cryptography`` is not installed.

    Notes
    -----
    Workers end by themselves some minutes before the walltime: they hand over their results, and a new job is asked
    for. A job that Slurm preempts or whose node fails goes back into the queue.

    Examples
    --------
    >>> client = dx.start_cluster("slurm", jobs=4, cores=16, memory="64GB", partition="long")  # doctest: +SKIP
    """
    from dask_jobqueue import SLURMCluster  # type: ignore[attr-defined]

    folder = Path(log_folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    walltime = walltime or dask.config.get("jobqueue.slurm.walltime")
    variables = {**environment, **_lifetime(_seconds(walltime))}
    # Open mode: a job that comes back keeps what it wrote before.
    asked = ["--requeue", "--open-mode=append", *([f"--gres=gpu:{gpus}"] if gpus else []), *directives]
    on_gpu = {"worker_command": "dask cuda worker"} if gpus else {}
    # Pages of workers would be open to everybody on the nodes, without a password.
    arguments = ["--dashboard-address", "127.0.0.1:0", *(["--resources", "GPU=1"] if gpus else [])]
    cluster: Any = SLURMCluster(
        cores=workers * threads, job_cpu=cores, processes=workers, memory=memory, walltime=walltime, queue=partition,
        account=account, interface=interface, log_directory=str(folder), shared_temp_directory=str(folder),
        job_extra_directives=asked, worker_extra_args=arguments, security=security or None,
        job_script_prologue=[*(f"export {k}={shlex.quote(v)}" for k, v in variables.items()), *prologue],
        scheduler_options={
            "dashboard_address": dashboard_address or "127.0.0.1:0", "dashboard": dashboard_address is not None,
            **options.pop("scheduler_options", {}),
        },
        **{**on_gpu, **options},
    )  # fmt: skip
    cluster.scheduler.add_plugin(_Replacement(cluster))
    if isinstance(jobs, tuple):
        cluster.adapt(minimum_jobs=jobs[0], maximum_jobs=jobs[1])
    else:
        cluster.scale(jobs=jobs)
    return cluster


class _Replacement(SchedulerPlugin):  # type: ignore[misc]
    """Asks for a new job where all workers of one have come and gone, such as at the end of their lifetime.

    Dask counts such a job as still there, also where the cluster follows the work. A job whose workers never came is
    left alone: its next try would fail alike.
    """

    name = "darts-xr-replacement"

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster
        self._arrived: set[str] = set()
        self._closing: set[asyncio.Task[None]] = set()

    def add_worker(self, scheduler: Any, worker: str) -> None:
        """Note that a worker arrived."""
        self._arrived.add(str(scheduler.workers[worker].name))

    def remove_worker(self, scheduler: Any, worker: str, **_: Any) -> None:
        """Look for ended jobs once a worker that only lost its connection would be back."""
        grace = parse_timedelta(dask.config.get("distributed.deploy.lost-worker-timeout"))
        asyncio.get_running_loop().call_later(grace + _RECONNECT_GRACE, self._replace)

    def _replace(self) -> None:
        cluster = self._cluster
        if cluster.status != Status.running:
            return
        running = {str(state.name) for state in cluster.scheduler.workers.values()}
        for job, spec in cluster.worker_spec.items():
            names = {f"{job}{suffix}" for suffix in spec.get("group", [""])}
            if not names & self._arrived or names & running:
                continue
            log.info("job of %s has ended; asking for another", job)
            self._arrived -= names
            if ended := cluster.workers.pop(job, None):
                closing = asyncio.ensure_future(ended.close())  # Slurm may have put it back into the queue
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)
        cluster.scale(jobs=len(cluster.worker_spec))


def _seconds(walltime: str) -> int:
    """Seconds of a walltime as Slurm writes it: minutes, M:S, H:M:S, D-H, D-H:M or D-H:M:S."""
    match = _WALLTIME.fullmatch(walltime)
    if match is None:
        raise ParameterError(f"walltime {walltime!r} is none of Slurm's forms, such as '04:00:00' or '1-12'")
    parts = [int(part) for part in match["clock"].split(":")]
    if match["days"] is not None:
        hours, minutes, seconds = [*parts, 0, 0][:3]
    elif len(parts) == 3:
        hours, minutes, seconds = parts
    else:
        hours, (minutes, seconds) = 0, [*parts, 0][:2]
    return ((int(match["days"] or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def _lifetime(walltime: int) -> dict[str, str]:
    """Variables that let workers end between one and three margins before the walltime, not all at once.

    Variables and not options, because ``dask cuda worker`` has no such options.
    """
    margin = min(_LONGEST_MARGIN, walltime // 20)
    setting = "DASK_DISTRIBUTED__WORKER__LIFETIME__"
    return {f"{setting}DURATION": f"{walltime - 2 * margin}s", f"{setting}STAGGER": f"{margin}s"}
