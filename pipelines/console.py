"""What people see on the terminal: a progress bar while a command works, a table when it is done."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from pipelines.progress import Event, RunProgress

# Results go to standard output, everything on the way to standard error, so that --json can be piped.
screen = Console()
notes = Console(stderr=True)


def _plain(text: str) -> str:
    """Text as it may be shown: an id that somebody else chose must not steer the terminal."""
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text)


_ROWS = 8  # scenes in hand that are shown; a cluster has more
_WORDS = {
    "open": "opening",
    "read_and_predict": "reading and predicting",
    "objects": "objects",
    "write": "writing",
}


class Steps:
    """Live view of what is going on: share of the work done, scenes done, pixels a second, failures, time left.

    A row below for each scene in hand names its stage.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("starting", total=None, facts="")
        self._began, self._pixels, self._failed, self._skipped = time.monotonic(), 0, 0, 0
        self._work = RunProgress()
        self._rows: dict[str, Any] = {}
        self._lock = threading.Lock()  # events come from other threads

    @property
    def tasks(self) -> list[Task]:
        """What is shown: the run, then the scenes in hand."""
        return self._progress.tasks

    def refresh(self) -> None:
        """Draw it now; it draws itself ten times a second."""
        self._progress.refresh()

    def say(self, line: str) -> None:
        """Show what is going on."""
        self._progress.update(self._task, description=escape(_plain(line)))

    def stage(self, event: Event, total: int) -> None:
        """Show what a scene in hand is at; to be given as ``on_stage``."""
        with self._lock:
            if not self._work.event(event, total):
                return
            if event.scene not in self._rows and len(self._rows) < _ROWS:
                self._rows[event.scene] = self._progress.add_task("", total=1.0, facts="")
            if event.scene in self._rows:
                self._progress.update(
                    self._rows[event.scene],
                    description=f"  {escape(_plain(event.scene))}: {_WORDS[event.stage]}",
                    completed=self._work.share_of(event),
                )
            self._advance(total, **({} if self._work.ended else {"description": "no scene done yet"}))

    def scene(self, record: Mapping[str, Any], total: int) -> None:
        """Advance by a scene; to be given as ``on_scene``."""
        with self._lock:
            name = escape(_plain(str(record["id"])))
            if record["state"] == "failed":
                self._failed += 1
                self._progress.console.print(
                    f"[red]failed[/] {name}: {escape(_plain(record['reason']))}",
                    highlight=False,
                    soft_wrap=True,
                )
                outcome = "failed"
            else:
                outcome = f"{record['counts']['n_objects']} objects"
            if "skipped" in record:
                self._skipped += 1
            else:
                self._pixels += record.get("pixels", 0)
            self._work.scene(record, total)
            if (row := self._rows.pop(record["id"], None)) is not None:
                self._progress.remove_task(row)
            self._advance(total, description=f"{name}: {outcome}")

    def _advance(self, total: int, **shown: Any) -> None:
        rate = self._pixels / max(time.monotonic() - self._began, 1e-3)
        facts = f"{self._work.ended}/{total} scenes, {rate / 1e6:.2f} Mpx/s"
        facts += f", {self._work.in_hand} in hand" if self._work.in_hand > _ROWS else ""
        facts += f", {self._skipped} as before" if self._skipped else ""
        facts += f", [red]{self._failed} failed[/]" if self._failed else ""
        self._progress.update(self._task, total=1.0, completed=self._work.share, facts=facts, **shown)


@contextmanager
def steps(console: Console | None = None) -> Iterator[Steps]:
    """Show a live view for the duration of a block, in a terminal or a notebook.

    Parameters
    ----------
    console : rich.console.Console, optional
        Where; by default standard error.

    Examples
    --------
    >>> with steps() as view:
    ...     view.say("starting")
    """
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[facts]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    console = console or notes
    with Progress(*columns, console=console) as progress:
        yield Steps(progress)
        if console.is_jupyter:  # whose bar is a widget, which a saved notebook does not keep
            whole = progress.tasks[0]
            console.print(f"{whole.description}, {whole.fields['facts']}", highlight=False, soft_wrap=True)


def show_table(title: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table, numbers to the right."""
    table = Table(title=title, title_justify="left")
    # An id breaks nowhere. Words do, else they would leave a narrow screen no room for the numbers.
    ids = not any(" " in str(row[0]) for row in rows)
    for number, name in enumerate(head):
        table.add_column(name, justify="right" if number else "left", no_wrap=ids and number == 0)
    for row in rows:
        # As Text: brackets in an id are no markup.
        table.add_row(
            *(Text(f"{cell:.3f}" if isinstance(cell, float) else _plain(str(cell))) for cell in row)
        )
    screen.print(table)


def show_scenes(scenes: Sequence[Mapping[str, Any]]) -> None:
    """Print what was found in each scene."""
    rows = []
    for scene in scenes:
        if scene["state"] == "failed":
            rows.append([scene["id"], "failed", "", "", "", ""])
            continue
        counts = scene["counts"]
        filtered = counts["n_removed_water"] + counts["n_removed_infrastructure"]
        filtered += counts.get("n_removed_reviewer", 0)  # runs of before have none
        cleaned = counts["n_removed_border"] + counts["n_removed_small"]
        rows.append(
            [
                scene["id"],
                f"{scene['valid_pixels'] / 1e6:.2f}",
                counts["n_detected"],
                cleaned,
                filtered,
                counts["n_objects"],
            ]
        )
    show_table("Scenes", ["scene", "valid Mpx", "found", "at border, small", "filters", "objects"], rows)
