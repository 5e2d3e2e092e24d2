"""Scenes through workers: a bounded number in flight, retries with back-off, a clean end on Ctrl-C.

A scene is one task. Its chunks are computed on the threads of the worker that has it, so the cluster's scheduler
sees as many tasks as there are scenes in flight, however many pixels they have; the next scene is read and the last
one written while the networks work on this one, because a worker has several scenes in hand.
"""

from __future__ import annotations

import asyncio
import functools
import heapq
import itertools
import logging
import math
import queue
import signal
import threading
import time
import traceback
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from darts_xr.addresses import redact
from darts_xr.errors import OutputError, PipelineError
from pipelines.records import Record

log = logging.getLogger(__name__)

#: Does one scene and returns its record; what went wrong with the scene stands in the record.
Work = Callable[[Any], Record]


class Task(Protocol):
    """A scene to be done."""

    @property
    def id(self) -> str:
        """Id of the scene."""

    @property
    def inputs(self) -> Mapping[str, str]:
        """Hashes of what goes into the scene."""


class Pool(Protocol):
    """Where scenes are done."""

    def capacity(self) -> int:
        """Scenes that may be in flight now."""

    def submit(self, task: Task) -> Any:
        """Start a scene; returns a future with ``add_done_callback``, ``result`` and ``cancel``."""

    def close(self, *, at_once: bool) -> None:
        """Let go of the workers; ``at_once`` leaves scenes in flight alone."""


class LocalPool:
    """Threads of this process.

    Parameters
    ----------
    work : callable
        Does a scene.
    scenes : int
        Scenes in flight: while one is predicted, others are read, cleaned and written.
    """

    def __init__(self, work: Work, scenes: int = 2) -> None:
        self._work, self._scenes = work, scenes
        self._threads = ThreadPoolExecutor(scenes, thread_name_prefix="scene")

    def capacity(self) -> int:
        """Scenes that may be in flight now."""
        return self._scenes

    def submit(self, task: Task) -> Future[Record]:
        """Start a scene."""
        return self._threads.submit(self._work, task)

    def close(self, *, at_once: bool) -> None:
        """End the threads."""
        self._threads.shutdown(wait=not at_once, cancel_futures=True)


class ClusterPool:
    """Workers of a Dask cluster, however many it has at the moment.

    Parameters
    ----------
    client : distributed.Client
        A client of the cluster.
    work : callable
        Does a scene; must pickle.
    """

    #: Scenes for a worker beyond those that its threads work on, so that none waits for the next.
    SPARE = 1

    def __init__(self, client: Any, work: Work) -> None:
        self._client, self._work = client, _packed(work)
        # Dask gives the old result for a key that it still knows, and another run has the same scenes.
        self._run, self._numbers = uuid.uuid4().hex, itertools.count()
        self._capacity, self._asked = 0, -math.inf

    def capacity(self) -> int:
        """Scenes that may be in flight now; a cluster that is still starting gets a few to show that it is wanted."""
        if time.monotonic() - self._asked > 1:  # workers come and go
            with _naming_the_loss():
                threads = self._client.nthreads().values()
            self._capacity = max(2, sum(threads) + self.SPARE * len(threads))
            self._asked = time.monotonic()
        return self._capacity

    def submit(self, task: Task) -> Any:
        """Start a scene; older scenes go first, also when one comes back from a dead worker."""
        number = next(self._numbers)
        scene = self._client.submit(
            _do,
            self._work,
            _packed(task),
            key=("scene", self._run, task.id, number),
            priority=-number,
            pure=False,
            retries=0,
        )
        # Its record comes by itself when it ends; asking for each in turn would wait for as many round trips.
        record = self._client.gather(scene, asynchronous=True)
        return asyncio.run_coroutine_threadsafe(record, self._client.loop.asyncio_loop)

    def close(self, *, at_once: bool) -> None:
        """Nothing to do: the cluster belongs to who started it."""


@contextmanager
def _naming_the_loss() -> Iterator[None]:
    """Say what a connection that broke means for the run."""
    try:
        yield
    except OSError as error:
        raise _lost(error) from error


def _lost(error: BaseException) -> PipelineError:
    return PipelineError(
        f"the cluster is gone ({error or type(error).__name__}). Start one again and run the same command: it goes on "
        "where it stopped."
    )


def _packed(content: Any) -> bytes:
    """Pickle, compressed: the scheduler need not understand it, and keeps its last 1,000 messages to each worker."""
    from distributed.protocol import pickle

    return zlib.compress(pickle.dumps(content), 1)


def _unpacked(packed: bytes) -> Any:
    from distributed.protocol import pickle

    return pickle.loads(zlib.decompress(packed))


_unpacked_once = functools.lru_cache(maxsize=2)(_unpacked)  # what is the same for all scenes of a run


def _do(work: bytes, task: bytes) -> Record:
    """Do a scene on a worker."""
    return dict(_unpacked_once(work)(_unpacked(task)))


@dataclass
class Limits:
    """When a scene is tried again, and when a run gives up.

    Parameters
    ----------
    tries : int
        How often a scene is tried when servers or workers fail or memory runs out; for want of memory with half as
        many scenes in flight each time, and alone at last.
    delay : float
        Seconds before the second try; doubled for each further one.
    max_failures : int, optional
        Failed scenes after which no further one is started.
    retry_failed : bool
        Do scenes again that failed for good in an earlier run, although nothing changed.
    verify : bool
        Read the files of finished scenes and do those again whose content is not what was written; without it only
        files that are gone or of another size or time are looked into.
    """

    tries: int = 4
    delay: float = 2.0
    max_failures: int | None = None
    retry_failed: bool = False
    verify: bool = False


@dataclass
class Ending:
    """How a flow ended.

    Parameters
    ----------
    state : str
        "complete", "interrupted" or "too many failures".
    failures : int
        Scenes that failed for good.
    """

    state: str = "complete"
    failures: int = 0


@dataclass(order=True)
class _Waiting:
    ready: float
    number: int
    task: Any = field(compare=False)
    earlier: list[str] = field(compare=False, default_factory=list)
    most: float = field(
        compare=False, default=math.inf
    )  # scenes in flight, itself included, that leave it memory


def run_flow(
    tasks: Iterable[Task],
    pool: Pool,
    limits: Limits,
    on_record: Callable[[Record], None],
    on_lines: Callable[[list[Any]], None] = lambda lines: None,
) -> Ending:
    """Do all scenes.

    Parameters
    ----------
    tasks : iterable of Task
        Scenes in the order in which they are started; taken one by one.
    pool : Pool
        Where they are done.
    limits : Limits
        Retries and failures.
    on_record : callable
        Called in this thread with the record of each scene as it ends, once a scene.
    on_lines : callable
        Called in this thread with what was said on a worker during each try of a scene (``"log"`` of what it returned).

    Returns
    -------
    Ending
        After Ctrl-C: "interrupted", when the scenes in flight have ended.

    Raises
    ------
    OutputError
        When the run folder cannot be written; no further scene is started.
    KeyboardInterrupt
        On a second Ctrl-C; scenes in flight are left alone.
    """
    flow = _Flow(iter(tasks), pool, limits, on_record, on_lines)
    try:
        with _noting_ctrl_c(flow):
            while not flow.is_over:
                flow.advance()
    except BaseException:
        flow.abandon()
        pool.close(at_once=True)
        raise
    pool.close(at_once=False)
    return flow.ending


@contextmanager
def _noting_ctrl_c(flow: _Flow) -> Iterator[None]:
    """Make the first Ctrl-C a note to the flow, for as an exception it could land amid a line of the record."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield  # Ctrl-C is someone else's
        return

    def note(*_: Any) -> None:
        if flow.interrupted:
            raise KeyboardInterrupt
        flow.interrupted = True
        flow.ended.put(None)  # wakes the flow

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


class _Flow:
    """Scenes waiting, in flight and ended."""

    def __init__(
        self,
        tasks: Any,
        pool: Pool,
        limits: Limits,
        on_record: Callable[[Record], None],
        on_lines: Callable[[list[Any]], None],
    ) -> None:
        self.tasks, self.pool, self.limits = tasks, pool, limits
        self.on_record, self.on_lines = on_record, on_lines
        self.running: dict[Any, _Waiting] = {}
        self.again: list[_Waiting] = []  # heap of scenes to be tried again
        self.ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.numbers = itertools.count()
        self.exhausted = self.interrupted = False
        self.ending = Ending()

    @property
    def is_over(self) -> bool:
        stopped = self.ending.state != "complete"
        return not self.running and (stopped or (self.exhausted and not self.again))

    def advance(self) -> None:
        """Start what may start, then take in one scene that ended."""
        if self.ending.state == "complete":
            self._fill()
        try:
            future = self.ended.get(timeout=self._patience())
        except queue.Empty:
            return
        if future is not None:
            waiting = self.running.pop(future)
            self._take(waiting, future)
        elif self.ending.state == "complete":
            log.warning("interrupted: %d scenes in flight are finished first", len(self.running))
            self.ending.state = "interrupted"

    def _patience(self) -> float:
        """Seconds to wait for a scene to end before looking whether another one may start."""
        may_start = self.ending.state == "complete" and len(self.running) < min(
            self.pool.capacity(), self._most_in_hand(), self.again[0].most if self.again else math.inf
        )
        if self.again and may_start:
            return min(1.0, max(0.01, self.again[0].ready - time.monotonic()))
        return 1.0 if self.running else 0.01

    def _fill(self) -> None:
        capacity = self.pool.capacity()
        while not self.interrupted and len(self.running) < min(capacity, self._most_in_hand()):
            if self.again and self.again[0].ready <= time.monotonic():
                if len(self.running) >= self.again[0].most:
                    return  # others end first, and none is started meanwhile
                self._start(heapq.heappop(self.again))
                continue
            if self.exhausted or (task := next(self.tasks, None)) is None:
                self.exhausted = True
                return
            self._start(_Waiting(0.0, next(self.numbers), task))

    def _most_in_hand(self) -> float:
        """Scenes that may be in flight beside those that lacked memory before."""
        return min((waiting.most for waiting in self.running.values()), default=math.inf)

    def _start(self, waiting: _Waiting) -> None:
        future = self.pool.submit(waiting.task)
        self.running[future] = waiting
        future.add_done_callback(self.ended.put)

    def _take(self, waiting: _Waiting, future: Any) -> None:
        record = _outcome(waiting.task, future)
        self.on_lines(record.pop("log", []))
        tries = len(waiting.earlier) + 1
        starved = record.pop("memory", False)
        transient = record.pop("transient", False) or starved
        if transient and tries < self.limits.tries and self.ending.state == "complete":
            delay = self.limits.delay * 2 ** (tries - 1)
            most = waiting.most
            if starved:  # the last try is alone
                others = min(most, len(self.running) + 1)
                most = 1 if tries + 1 >= self.limits.tries else max(1, others // 2)
            log.warning(
                "%s: try %d failed, again in %.0f s%s: %s", waiting.task.id, tries, delay,
                f" with at most {most:.0f} scene(s) in hand" if starved else "", record["reason"],
            )  # fmt: skip
            ready = time.monotonic() + delay
            earlier = [*waiting.earlier, record["reason"]]
            heapq.heappush(self.again, _Waiting(ready, waiting.number, waiting.task, earlier, most))
            return
        if transient and self.ending.state != "complete":
            return  # no verdict: the next start of this run tries it again
        self.on_record({**record, "tries": tries, "earlier_reasons": waiting.earlier})
        if record["state"] == "failed":
            self.ending.failures += 1
            limit = self.limits.max_failures
            if limit is not None and self.ending.failures > limit and self.ending.state == "complete":
                self.ending.state = "too many failures"

    def abandon(self) -> None:
        for future in self.running:
            future.cancel()


def _outcome(task: Task, future: Any) -> Record:
    """Record of a scene; a worker that died under it is a reason to try again."""
    try:
        return dict(future.result())
    except OutputError:
        raise
    except Exception as error:  # whatever a worker or the cluster raises
        from distributed import KilledWorker  # where it was raised, it is loaded
        from distributed.comm import CommClosedError

        if isinstance(error, CancelledError | CommClosedError):
            raise _lost(error) from error
        died = isinstance(error, KilledWorker)
        reason = "its workers died, perhaps for want of memory"
        if not died:
            reason = redact(f"{type(error).__name__}: {error}")
            where = redact("".join(traceback.format_exception(error)))
            log.error("%s failed outside of darts_xr: %s", task.id, where)
        return {
            "id": task.id, "state": "failed", "reason": reason, "memory": died, "inputs": dict(task.inputs)
        }  # fmt: skip
