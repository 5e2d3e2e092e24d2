"""What people see on the terminal: a progress bar while a command works, a table when it is done."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

# Results go to standard output, everything on the way to standard error, so that --json can be piped.
screen = Console()
notes = Console(stderr=True)


def _plain(text: str) -> str:
    """Text as it may be shown: an id that somebody else chose must not steer the terminal."""
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text)


class Steps:
    """Live view of what is going on: the last scene, scenes done, pixels a second, failures, time left."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("starting", total=None, facts="")
        self._began, self._pixels, self._failed, self._skipped = time.monotonic(), 0, 0, 0

    def say(self, line: str) -> None:
        """Show what is going on."""
        self._progress.update(self._task, description=escape(_plain(line)))

    def scene(self, record: Mapping[str, Any], total: int) -> None:
        """Advance by a scene; to be given as ``on_scene``."""
        name = escape(_plain(str(record["id"])))
        if record["state"] == "failed":
            self._failed += 1
            self._progress.console.print(
                f"[red]failed[/] {name}: {escape(_plain(record['reason']))}", highlight=False, soft_wrap=True
            )
            outcome = "failed"
        else:
            outcome = f"{record['counts']['n_objects']} objects"
        if "skipped" in record:
            self._skipped += 1
        else:
            self._pixels += record.get("pixels", 0)
        rate = self._pixels / max(time.monotonic() - self._began, 1e-3)
        facts = f"{rate / 1e6:.2f} Mpx/s"
        facts += f", {self._skipped} as before" if self._skipped else ""
        facts += f", [red]{self._failed} failed[/]" if self._failed else ""
        self._progress.update(
            self._task, description=f"{name}: {outcome}", total=total, advance=1, facts=facts
        )


@contextmanager
def steps() -> Iterator[Steps]:
    """Show a live view for the duration of a block, in a terminal or a notebook.

    Examples
    --------
    >>> with steps() as view:
    ...     view.say("starting")
    """
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[facts]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=notes) as progress:
        yield Steps(progress)


def show_table(title: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table, numbers to the right."""
    table = Table(title=title, title_justify="left")
    for number, name in enumerate(head):
        table.add_column(name, justify="right" if number else "left", no_wrap=number == 0)
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
    show_table("Scenes", ["scene", "valid Mpx", "found", "at border, small", "water, roads", "objects"], rows)
