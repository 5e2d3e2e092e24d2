"""Tables of scores for people and for programs: what a row has not is a blank, or null."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from pipelines.console import show_table


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
    """Print a table; an empty cell is a blank."""
    rows = [["" if cell is None else cell for cell in row] for row in plain_rows(table)]
    show_table(title, [str(name) for name in table], rows)


def write_table(table: pd.DataFrame, path: Path) -> Path:
    """Write a table as CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False)
    return path
