"""Scenes through workers, with works that end as a test wants: order, bounds, retries, and ends of all kinds."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from typing import Any

import pytest
from distributed import KilledWorker
from hypothesis import given, settings
from hypothesis import strategies as st

from darts_xr.errors import OutputError, PipelineError
from pipelines.flow import Ending, Limits, LocalPool, run_flow
from pipelines.records import Record

QUICK = Limits(delay=0.001)


@dataclass(frozen=True)
class Scene:
    """A task that ends as its list says, one entry a try."""

    id: str
    outcomes: tuple[str, ...] = ("done",)
    seconds: float = 0.0
    inputs: dict[str, str] = field(default_factory=lambda: {"item": "0123"}, hash=False)


@dataclass
class Works:
    """Does scenes and remembers when."""

    tries: dict[str, int] = field(default_factory=dict)
    times: dict[str, list[float]] = field(default_factory=dict)

    def __call__(self, scene: Scene) -> Record:
        number = self.tries[scene.id] = self.tries.get(scene.id, 0) + 1
        self.times.setdefault(scene.id, []).append(time.monotonic())
        time.sleep(scene.seconds)
        outcome = scene.outcomes[min(number, len(scene.outcomes)) - 1]
        if outcome == "worker dies":
            raise KilledWorker(scene.id, None, 3)
        if outcome == "unknown":
            raise KeyError("nobody expected this")
        if outcome == "disk full":
            raise OutputError("no space left")
        if outcome == "cluster gone":
            raise CancelledError(scene.id)
        record: Record = {"id": scene.id, "state": "done", "inputs": scene.inputs}
        if outcome != "done":
            record |= {
                "state": "failed",
                "reason": f"{outcome} {number}",
                "transient": outcome == "transient",
                "memory": outcome == "memory",
            }
        return record


class CountingPool(LocalPool):
    """A pool of changing size that counts what is in flight."""

    def __init__(self, work: Callable[[Any], Record], sizes: tuple[int, ...]) -> None:
        super().__init__(work, max(sizes))
        self.sizes, self.size = itertools.cycle(sizes), 0
        self.started: list[str] = []
        self.in_flight, self.lock = 0, threading.Lock()
        self.closed: list[bool] = []

    def capacity(self) -> int:
        self.size = next(self.sizes)
        return self.size

    def submit(self, task: Any) -> Any:
        with self.lock:
            self.in_flight += 1
            assert self.in_flight <= self.size
        self.started.append(task.id)
        future = super().submit(task)
        future.add_done_callback(self._ended)
        return future

    def _ended(self, _: Any) -> None:
        with self.lock:
            self.in_flight -= 1

    def close(self, *, at_once: bool) -> None:
        self.closed.append(at_once)
        super().close(at_once=at_once)


def _flow(
    scenes: list[Scene], *, sizes: tuple[int, ...] = (2,), limits: Limits = QUICK, on_record: Any = None
) -> tuple[Ending, dict[str, Record], CountingPool]:
    """Run scenes and give back how it ended, the records and the pool; a second record of a scene fails."""
    pool, records = CountingPool(Works(), sizes), dict[str, Record]()

    def note(record: Record) -> None:
        assert record["id"] not in records
        records[record["id"]] = record
        if on_record is not None:
            on_record(record)

    return run_flow(scenes, pool, limits, note), records, pool


outcomes = st.lists(
    st.sampled_from(["done", "failed", "transient", "memory", "worker dies", "unknown"]),
    min_size=1,
    max_size=5,
)


@settings(max_examples=60, deadline=None)
@given(
    plans=st.lists(st.tuples(outcomes, st.sampled_from([0.0, 0.0005, 0.002])), max_size=12),
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple),
    tries=st.integers(1, 4),
)
def test_whatever_happens_each_scene_gets_one_record_in_bounded_flight_and_order(
    plans: list[tuple[list[str], float]], sizes: tuple[int, ...], tries: int
):
    scenes = [Scene(f"{n:02d}", tuple(plan), seconds) for n, (plan, seconds) in enumerate(plans)]
    ending, records, pool = _flow(scenes, sizes=sizes, limits=Limits(tries=tries, delay=0.001))
    assert set(records) == {scene.id for scene in scenes}
    failures = 0
    for scene in scenes:
        told = [scene.outcomes[min(k, len(scene.outcomes) - 1)] for k in range(tries)]
        passing = list(
            itertools.takewhile(lambda outcome: outcome in ("transient", "memory", "worker dies"), told)
        )
        expected = min(len(passing) + 1, tries)
        record = records[scene.id]
        assert record["tries"] == expected
        assert len(record["earlier_reasons"]) == expected - 1
        assert record["state"] == ("done" if told[expected - 1] == "done" else "failed")
        assert record["inputs"] == scene.inputs  # without them the next start would not know what failed
        assert not {"transient", "memory"} & record.keys()
        failures += record["state"] == "failed"
    assert ending == Ending("complete", failures)
    first_starts = list(dict.fromkeys(pool.started))
    assert first_starts == [scene.id for scene in scenes]
    assert pool.closed == [False]


def test_tasks_are_taken_one_by_one_as_workers_get_free():
    taken: list[str] = []

    def tasks():
        for number in range(50):
            taken.append(str(number))
            yield Scene(str(number))

    pool, records = CountingPool(Works(), (3,)), []
    # Three in flight, beside those that ended while the first records were written.
    run_flow(tasks(), pool, QUICK, lambda record: records.append(len(taken)))
    assert records[0] <= 3
    assert all(ahead <= number + 4 for number, ahead in enumerate(records))


def test_a_server_that_fails_twice_costs_two_waits_of_doubled_length():
    works = Works()
    records: list[Record] = []
    scene = Scene("a", ("transient", "transient", "done"))
    run_flow([scene], LocalPool(works), Limits(delay=0.2), records.append)
    (record,) = records
    assert record["tries"] == 3
    assert record["earlier_reasons"] == ["transient 1", "transient 2"]
    first, second = (after - before for before, after in itertools.pairwise(works.times["a"]))
    assert 0.2 <= first < 0.39
    assert 0.4 <= second < 0.8


def test_other_scenes_go_on_while_one_waits_for_its_next_try():
    ended: list[str] = []
    scenes = [Scene("a", ("transient", "done")), *(Scene(str(n)) for n in range(6))]
    run_flow(scenes, LocalPool(Works()), Limits(delay=0.3), lambda record: ended.append(record["id"]))
    assert ended[-1] == "a"


def test_too_many_failures_let_the_scenes_in_flight_end_and_start_no_other():
    scenes = [Scene(f"{n:02d}", ("failed",), 0.01) for n in range(20)]
    ending, records, pool = _flow(scenes, sizes=(3,), limits=Limits(max_failures=4))
    assert ending.state == "too many failures"
    assert ending.failures == len(records) == len(pool.started)
    assert 5 <= len(records) <= 8
    assert pool.closed == [False]


def test_as_many_failures_as_allowed_are_no_reason_to_stop():
    scenes = [Scene(f"{n:02d}", ("failed",)) for n in range(4)]
    ending, records, _ = _flow(scenes, limits=Limits(max_failures=4))
    assert ending == Ending("complete", 4)
    assert len(records) == 4


def test_a_run_that_gave_up_leaves_scenes_between_two_tries_without_a_verdict():
    scenes = [Scene("slow", ("transient",)), *(Scene(f"{n:02d}", ("failed",), 0.01) for n in range(6))]
    ending, records, _ = _flow(scenes, limits=Limits(max_failures=1, delay=30))
    assert ending.state == "too many failures"
    assert "slow" not in records


def test_a_full_disk_ends_the_flow_at_once():
    scenes = [
        Scene("00"),
        Scene("01", ("disk full",)),
        *(Scene(f"{n:02d}", seconds=0.01) for n in range(2, 40)),
    ]
    records: list[Record] = []
    pool = CountingPool(Works(), (2,))
    with pytest.raises(OutputError, match="no space"):
        run_flow(scenes, pool, QUICK, records.append)
    assert len(pool.started) < 8
    assert pool.closed == [True]


def test_a_record_that_cannot_be_written_ends_the_flow_at_once():
    def full(record: Record) -> None:
        raise OutputError("no space left")

    pool = CountingPool(Works(), (2,))
    with pytest.raises(OutputError):
        run_flow([Scene(str(n)) for n in range(10)], pool, QUICK, full)
    assert len(pool.started) <= 4


def test_a_cluster_that_is_gone_ends_the_flow_with_a_name():
    with pytest.raises(PipelineError, match="cluster is gone"):
        _flow([Scene("00", ("cluster gone",)), *(Scene(str(n)) for n in range(10))])


def test_ctrl_c_finishes_the_scenes_in_flight(caplog: pytest.LogCaptureFixture):
    def interrupt(record: Record) -> None:
        if record["id"] == "03":
            os.kill(os.getpid(), signal.SIGINT)

    scenes = [Scene(f"{n:02d}", seconds=0.02) for n in range(40)]
    ending, records, pool = _flow(scenes, sizes=(3,), on_record=interrupt)
    assert ending.state == "interrupted"
    assert set(records) == set(pool.started)
    assert 0 < len(records) < 10
    assert "interrupted: " in caplog.text
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_never_breaks_into_the_writing_of_a_record():
    written: list[str] = []

    def slow(record: Record) -> None:
        written.append("begun")
        if len(written) == 1:
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.005)
        written.append("ended")

    ending, records, _ = _flow([Scene(str(n), seconds=0.01) for n in range(9)], on_record=slow)
    assert ending.state == "interrupted"
    assert written == ["begun", "ended"] * len(records)


def test_a_second_ctrl_c_leaves_the_scenes_in_flight_alone():
    scenes = [Scene(f"{n:02d}", seconds=2) for n in range(6)]
    timers = [threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT)) for delay in (0.1, 0.2)]
    pool, records = CountingPool(Works(), (2,)), []
    for timer in timers:
        timer.start()
    with pytest.raises(KeyboardInterrupt):
        run_flow(scenes, pool, QUICK, records.append)
    assert not records  # of the two in flight
    assert pool.closed == [True]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    pool.close(at_once=False)


def test_ctrl_c_while_scenes_wait_for_their_next_try_ends_at_once():
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    began = time.monotonic()
    ending, records, _ = _flow([Scene("a", ("transient",))], limits=Limits(delay=30))
    assert ending.state == "interrupted"
    assert not records
    assert time.monotonic() - began < 2


def test_a_handler_of_someone_else_keeps_ctrl_c():
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        ending, records, _ = _flow(
            [Scene(str(n)) for n in range(5)],
            on_record=lambda record: os.kill(os.getpid(), signal.SIGINT) if record["id"] == "2" else None,
        )
    finally:
        signal.signal(signal.SIGINT, before)
    assert heard == [signal.SIGINT]
    assert ending.state == "complete"
    assert len(records) == 5


def test_a_flow_runs_in_any_thread():
    endings: list[Ending] = []
    thread = threading.Thread(target=lambda: endings.append(_flow([Scene("a"), Scene("b")])[0]))
    thread.start()
    thread.join(10)
    assert endings == [Ending()]


# --- memory -----------------------------------------------------------------------------------------------------


class Hungry(Works):
    """Scenes whose ids begin with "big" lack memory at first, and then while more than so many are in flight."""

    def __init__(self, room: int, together: int = 1) -> None:
        super().__init__()
        self.room, self.now, self.lock = room, 0, threading.Lock()
        self.together = threading.Barrier(
            together, timeout=60
        )  # the "last" ones wait until they are that many
        self.company: dict[str, list[int]] = {}  # most scenes in flight during each try

    def __call__(self, scene: Scene) -> Record:
        with self.lock:
            self.now += 1
        seen = [self.now]
        for _ in range(5):
            time.sleep(0.004)
            seen.append(self.now)
        if scene.id.startswith("last"):
            self.together.wait()
        first = scene.id not in self.company
        self.company.setdefault(scene.id, []).append(max(seen))
        lacking = scene.id.startswith("big") and (first or max(seen) > self.room)
        with self.lock:
            self.now -= 1
        return super().__call__(Scene(scene.id, ("memory",) if lacking else ("done",)))


@pytest.mark.parametrize("room", [1, 3])
def test_a_scene_that_lacks_memory_is_tried_again_with_fewer_in_hand(room: int):
    works, records = Hungry(room, together=8), dict[str, Record]()
    scenes = [Scene("big 1"), Scene("big 2"), *(Scene(f"{n:03d}") for n in range(200))]
    scenes += [Scene(f"last {n}") for n in range(8)]  # all eight at once again
    ending = run_flow(
        scenes, LocalPool(works, 8), QUICK, lambda record: records.update({record["id"]: record})
    )
    assert ending == Ending()
    assert len(records) == 210
    for name in ("big 1", "big 2"):
        assert 2 <= records[name]["tries"] <= 4
        assert works.company[name][-1] <= room


def test_a_scene_that_lacks_memory_alone_fails_for_good_after_a_try_alone():
    works, records = Hungry(0), dict[str, Record]()
    scenes = [Scene("big"), *(Scene(f"{n:02d}") for n in range(20))]
    ending = run_flow(
        scenes, LocalPool(works, 4), QUICK, lambda record: records.update({record["id"]: record})
    )
    assert ending.failures == 1
    assert records["big"]["tries"] == 4
    assert works.company["big"][-1] == 1
    assert len(records) == 21


def test_what_lacked_memory_is_told_from_other_failures():
    from pipelines.scenes import lacks_memory

    inner = MemoryError("Unable to allocate 8 GiB")
    outer = ValueError("while predicting")
    outer.__cause__ = inner
    assert lacks_memory(inner)
    assert lacks_memory(outer)
    assert not lacks_memory(ValueError("no such band"))
