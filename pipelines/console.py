"""What people see on the terminal: a progress bar while a command works, a table when it is done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

# Results go to standard output, everything on the way to standard error, so that --json can be piped.
screen = Console()
notes = Console(stderr=True)


class Steps:
    """One progress bar: a line of text for what is going on, and a bar for scenes."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("starting", total=None)
        self.failed = 0

    def say(self, line: str) -> None:
        """Show what is going on."""
        self._progress.update(self._task, description=line)

    def scene(self, record: Mapping[str, Any], total: int) -> None:
        """Advance by a scene."""
        if record["state"] == "failed":
            self.failed += 1
            self._progress.console.print(
                f"[red]failed[/] {record['id']}: {record['reason']}", highlight=False
            )
            outcome = "failed"
        else:
            outcome = f"{record['counts']['n_objects']} objects"
        self._progress.update(self._task, description=f"{record['id']}: {outcome}", total=total, advance=1)


@contextmanager
def steps() -> Iterator[Steps]:
    """Show a progress bar for the duration of a block."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=notes) as progress:
        yield Steps(progress)


def show_table(title: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table, numbers to the right."""
    table = Table(title=title, title_justify="left")
    for number, name in enumerate(head):
        table.add_column(name, justify="right" if number else "left", no_wrap=number == 0)
    for row in rows:
        table.add_row(*(f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row))
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
