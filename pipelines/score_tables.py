"""Tables of scores for people and for programs: what a row has not is a blank, or null."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipelines.console import screen

_WIDEST = 400  # characters
_EXACT = ("buffer", "threshold")
_SHORT = {"precision": "prec.", "references": "refs"}


def plain_rows(table: pd.DataFrame) -> list[list[Any]]:
    """Cells as plain Python values: integers stay integers, what is missing is None."""
    columns = [table[name].astype(object) for name in table]
    return [[_plain(cell) for cell in row] for row in zip(*columns, strict=True)]


def _plain(cell: Any) -> Any:
    if cell is None or cell is pd.NA or (isinstance(cell, float) and pd.isna(cell)):
        return None
    return cell.item() if hasattr(cell, "item") else cell


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of a table for JSON."""
    names = [str(name) for name in table]
    return [dict(zip(names, row, strict=True)) for row in plain_rows(table)]


def show_frame(title: str, table: pd.DataFrame) -> None:
    """Print a table that fits a narrow terminal; an empty cell is a blank."""
    shown = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for number, name in enumerate(table):
        shown.add_column(
            _SHORT.get(str(name), str(name)), justify="right" if number else "left", no_wrap=True
        )
    for row in plain_rows(table):
        shown.add_row(*(Text(_text(cell, str(name))) for cell, name in zip(row, table, strict=True)))
    # A number that is cut is none: a wide table runs over the edge instead.
    wide = Console(file=screen.file, width=_WIDEST)
    needed = wide.measure(shown).maximum
    (screen if needed <= screen.width else Console(file=screen.file, width=needed)).print(shown)


def _text(cell: Any, name: str) -> str:
    if cell is None:
        return ""
    if isinstance(cell, float):
        return f"{cell:g}" if name in _EXACT else f"{cell:.3f}"
    text = str(cell)
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text)


def write_table(table: pd.DataFrame, path: Path) -> Path:
    """Write a table as CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False)
    return path
