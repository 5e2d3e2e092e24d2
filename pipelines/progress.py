"""How far a run is: what the scenes in hand are at, told by whoever does them, weighed by what their stages cost."""

from __future__ import annotations

import math
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

from pipelines.worker_threads import this_worker

#: What a scene's seconds are told for, with the share of its time that each took when it was measured (two demos of six
#: scenes on a CPU, networks of the demo). A run goes by its own scenes once one has ended.
STAGES = {"open": 0.01, "read_and_predict": 0.93, "objects": 0.02, "write": 0.04}
_EVERY = 0.25  # seconds between two events of a scene within a stage
_WORKERS = 8  # more of them tell less often: five scenes each, so no more than 160 events a second in all


class Event(NamedTuple):
    """What a scene in hand is at.

    Parameters
    ----------
    scene : str
        Id of the scene.
    stage : str
        One of ``STAGES``.
    share : float
        Part of the stage that is done, 0 to 1.
    seconds : float
        Since the scene began.
    """

    scene: str
    stage: str
    share: float
    seconds: float


#: Called with an event and the number of scenes to be done; from any thread.
OnStage = Callable[[Event, int], None]


@dataclass(frozen=True)
class Watch:
    """Where the scenes of a run tell what they are at, and how often; travels with them.

    Parameters
    ----------
    topic : str
        Name of the run among others; on a cluster a topic of Dask's events.
    every : float
        Least seconds between two events of a scene.
    """

    topic: str
    every: float


_listeners: dict[str, Callable[[Event], None]] = {}


@contextmanager
def watching(client: Any, on_stage: OnStage | None, total: int) -> Iterator[Watch | None]:
    """Hear of the scenes in hand for the duration of a block.

    Parameters
    ----------
    client : distributed.Client or None
        Cluster that does the scenes; None for this process.
    on_stage : callable, optional
        Gets the events. None: nobody listens, and nothing is told.
    total : int
        Scenes to be done.

    Yields
    ------
    Watch or None
        For :class:`Meter`.
    """
    if on_stage is None:
        yield None
        return
    topic = f"darts_xr-{uuid.uuid4().hex}"
    if client is None:
        _listeners[topic] = lambda event: on_stage(event, total)
        try:
            yield Watch(topic, _EVERY)
        finally:
            del _listeners[topic]
        return
    asked_for = getattr(client.cluster, "worker_spec", ())  # also those that are still to come
    workers = max(len(asked_for), len(client.scheduler_info(n_workers=-1)["workers"]))
    client.subscribe_topic(topic, lambda message: on_stage(Event(*message[1]), total))
    try:
        yield Watch(topic, _EVERY * max(1.0, workers / _WORKERS))
    finally:
        if client.status == "running":  # else there is nobody to tell
            client.unsubscribe_topic(topic)


class Meter:
    """Seconds of a scene by stage, and word of it while it is done.

    Parameters
    ----------
    scene : str
        Id of the scene.
    watch : Watch, optional
        Who listens.
    """

    def __init__(self, scene: str, watch: Watch | None = None) -> None:
        self.seconds: dict[str, float] = {}
        self._scene, self._watch = scene, watch
        self._began = self._last = time.perf_counter()
        self._told = -math.inf
        self._tell(next(iter(STAGES)), 0.0)

    def lap(self, stage: str) -> None:
        """Note that a stage has ended."""
        now = time.perf_counter()
        self.seconds[stage], self._last = round(now - self._last, 3), now
        for after, following in pairwise(STAGES):
            if after == stage:
                self._tell(following, 0.0, begins=True)

    def counting(self, array: Any) -> tuple[Any, ...]:
        """Give a callback, as Dask's schedulers take it, that tells how many chunks of an array are there."""
        from dask.core import flatten

        left = set(flatten(array.__dask_keys__()))
        total = len(left)

        def note(key: Any, *_: Any) -> None:
            if key in left:
                left.discard(key)
                self._tell("read_and_predict", 1 - len(left) / total)

        return (None, None, None, note, None)  # what to call after each task, among what Dask can call

    def _tell(self, stage: str, share: float, *, begins: bool = False) -> None:
        now = time.perf_counter()
        if self._watch is None:
            return
        if now - self._told < self._watch.every and not (begins and self._watch.every <= _EVERY):
            return
        self._told = now
        event = Event(self._scene, stage, round(share, 4), round(now - self._began, 2))
        if (worker := this_worker()) is not None:
            worker.log_event(self._watch.topic, list(event))
        elif listener := _listeners.get(self._watch.topic):  # none when the run was stopped
            listener(event)


class RunProgress:
    """Share of a run's work that is done, from records and events in any order and from any thread.

    Scenes count alike, whatever their size. A scene in hand counts by what its stages cost in the scenes before it, so
    that the share is off by no more than these scenes. It never falls: where a scene is tried again, it stands still.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ended: set[str] = set()
        self._done = self._skipped = self._total = 0
        self._in_hand: dict[str, Event] = {}
        self._seconds = dict.fromkeys(STAGES, 0.0)  # of scenes that ended
        self._shown = 0.0

    def event(self, event: Event, total: int) -> bool:
        """Take in an event; returns whether its scene is still in hand."""
        with self._lock:
            self._total = total
            if event.scene in self._ended:
                return False  # it was overtaken by the record
            self._in_hand[event.scene] = event
            return True

    def scene(self, record: Mapping[str, Any], total: int) -> None:
        """Take in the record of a scene that ended."""
        with self._lock:
            self._total = total
            self._ended.add(record["id"])
            self._in_hand.pop(record["id"], None)
            if "skipped" in record:
                self._skipped += 1
                return
            self._done += 1
            for stage, seconds in record.get("seconds", {}).items():
                self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds

    @property
    def ended(self) -> int:
        """Scenes that ended, with those that were done before."""
        return self._done + self._skipped

    @property
    def in_hand(self) -> int:
        """Scenes that told what they are at, and have not ended."""
        return len(self._in_hand)

    def share_of(self, event: Event) -> float:
        """Share of a scene's work that is done."""
        known = sum(self._seconds.values()) > 0
        costs = self._seconds if known else STAGES
        before = sum(costs[stage] for stage in list(STAGES)[: list(STAGES).index(event.stage)])
        return (before + costs[event.stage] * event.share) / sum(costs.values())

    @property
    def share(self) -> float:
        """Share of the run's work that is done, 0 to 1; scenes that were done before are no work."""
        with self._lock:
            work = self._total - self._skipped
            if work <= 0:
                self._shown = 1.0 if self._total else 0.0
            else:
                parts = sum(map(self.share_of, self._in_hand.values()))
                self._shown = max(self._shown, min(1.0, (self._done + parts) / work))
            return self._shown
