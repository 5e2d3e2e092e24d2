"""How far a run is said to be: never back, never far ahead of the work, in a terminal, in a notebook, on a cluster."""

from __future__ import annotations

import io
import random
from pathlib import Path

import pytest
from distributed import Client
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from pipelines.console import show_table, steps
from pipelines.progress import STAGES, Event, RunProgress
from tests.pipelines.small import Small

# Of the work of a scene, for each one in hand: stages here cost up to half more or less than expected.
TOLERANCE = 0.1


def _scene(scene: str, seed: int) -> tuple[list[tuple[Event, float]], dict]:
    """What a scene tells while it is done, with the share of its work that is done then, and its record."""
    rng = random.Random(seed)
    costs = {stage: cost * rng.uniform(0.5, 1.5) for stage, cost in STAGES.items()}
    whole, before, told = sum(costs.values()), 0.0, []
    for stage, cost in costs.items():
        chunks = rng.randint(1, 9) if stage == "read_and_predict" else 1
        for chunk in range(1, chunks + 1):
            done = (before + cost * chunk / chunks) / whole
            told.append((Event(scene, stage, chunk / chunks, done), done))
        before += cost
    return told, {"id": scene, "state": "done", "seconds": costs}


@settings(max_examples=60, deadline=None)
@given(
    scenes=st.integers(1, 9), skipped=st.integers(0, 3), at_once=st.integers(1, 4),
    seed=st.integers(0, 2**16), lost=st.floats(0, 0.9),
)  # fmt: skip
def test_the_share_never_falls_and_is_never_far_ahead_of_the_work(
    scenes: int, skipped: int, at_once: int, seed: int, lost: float
):
    rng, progress, total = random.Random(seed), RunProgress(), scenes + skipped
    for number in range(skipped):
        progress.scene({"id": f"old {number}", "skipped": "done before"}, total)
    waiting = [(f"{number:02d}", *_scene(f"{number:02d}", seed + number)) for number in range(scenes)]
    in_hand: dict[str, tuple] = {}
    done, shown = dict.fromkeys((name for name, *_ in waiting), 0.0), 0.0
    while waiting or in_hand:
        while waiting and len(in_hand) < at_once:
            name, told, record = waiting.pop(0)
            in_hand[name] = (iter(told), record)
        name = rng.choice(sorted(in_hand))
        told, record = in_hand[name]
        if (step := next(told, None)) is None:
            progress.scene(record, total)
            done[name] = 1.0
            del in_hand[name]
        else:
            done[name] = step[1]
            if rng.random() >= lost:  # events may be left out, not invented
                progress.event(step[0], total)
        now = progress.share
        assert now >= shown
        assert now <= (sum(done.values()) + TOLERANCE * len(in_hand)) / scenes + 1e-9
        shown = now
    assert shown == 1
    assert progress.ended == total


def test_a_scene_that_is_tried_again_and_an_event_that_comes_late_take_nothing_back():
    progress = RunProgress()
    progress.event(Event("a", "write", 0.5, 9.0), 2)
    before = progress.share
    progress.event(Event("a", "open", 1.0, 0.5), 2)  # its worker died
    assert progress.share == before > 0.4
    progress.scene({"id": "a", "state": "done"}, 2)
    assert not progress.event(Event("a", "objects", 1.0, 8.0), 2)
    assert progress.share == 0.5


@pytest.mark.parametrize("place", ["terminal", "notebook"])
def test_the_live_view_has_a_row_for_each_scene_in_hand(place: str, monkeypatch: pytest.MonkeyPatch):
    screen, pages = io.StringIO(), []
    console = Console(file=screen, width=160, force_terminal=True, force_jupyter=place == "notebook")
    if place == "notebook":
        pytest.importorskip("ipywidgets")
        monkeypatch.setattr("IPython.display.display", lambda shown: pages.append(getattr(shown, "html", "")))
    with steps(console) as view:
        view.stage(Event("20210701_a", "read_and_predict", 0.5, 3.0), 4)
        view.stage(Event("20210702_[b]", "open", 1.0, 0.5), 4)
        rows = {task.description.strip(): task.percentage for task in view.tasks}
        assert rows["20210701_a: reading and predicting"] == pytest.approx(47.5)
        assert rows["20210702_\\[b]: opening"] == pytest.approx(1)
        assert rows["no scene done yet"] == pytest.approx((47.5 + 1) / 4)
        view.refresh()
        assert "20210701_a: reading and predicting" in screen.getvalue() + "".join(pages)
        record = {"id": "20210701_a", "state": "done", "counts": {"n_objects": 3}, "pixels": 10}
        view.scene(record, 4)
        assert len(view.tasks) == 2
        assert view.tasks[0].fields["facts"].startswith("1/4 scenes")
        assert view.tasks[0].percentage > 25
        for number in range(20):  # a large cluster: no more rows than a screen holds
            view.stage(Event(f"many {number}", "open", 0.0, 0.0), 40)
        assert len(view.tasks) == 1 + 8
        assert "21 in hand" in view.tasks[0].fields["facts"]


@pytest.mark.parametrize("where", ["this process", "a cluster"])
def test_scenes_tell_what_they_are_at(
    small: Small, tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("pipelines.progress._EVERY", 0.0)
    told: list[tuple[Event, int]] = []
    how = {"on_stage": lambda event, total: told.append((event, total))}
    if where == "a cluster":
        with Client(processes=False, n_workers=1, threads_per_worker=2, dashboard_address=None) as client:
            run = small.detect(tmp_path, small.items[:2], client=client, **how)
    else:
        run = small.detect(tmp_path, small.items[:2], **how)
    assert len(run.done) == 2
    assert {total for _, total in told} == {2}
    for record in run.done:
        stages = [event.stage for event, _ in told if event.scene == record["id"]]
        assert list(dict.fromkeys(stages)) == list(STAGES)
        shares = [e.share for e, _ in told if (e.scene, e.stage) == (record["id"], "read_and_predict")]
        assert shares == sorted(shares)
        assert (shares[0], shares[-1]) == (0, 1)
        assert sum(record["seconds"].values()) > 0


def test_a_table_keeps_its_numbers_on_a_narrow_screen(monkeypatch: pytest.MonkeyPatch):
    shown = io.StringIO()
    monkeypatch.setattr("pipelines.console.screen", Console(file=shown, width=80))
    show_table("Measured", ["", "Mpx/s", "precision"], [["words of a long description " * 4, 0.127, 0.303]])
    assert all(word in shown.getvalue() for word in ("Mpx/s", "0.127", "precision", "0.303"))
