"""Small tables in HTML, by which objects show themselves in a notebook."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any


def html_table(title: str, rows: Iterable[Sequence[Any]], *, head: Sequence[str] = ()) -> str:
    """Table with a heading; every text in it is escaped.

    Examples
    --------
    >>> html_table("Run", [["scenes", "<2>"]])
    '<div><b>Run</b><table><tbody><tr><td>scenes</td><td>&lt;2&gt;</td></tr></tbody></table></div>'
    """
    top = "".join(f"<th>{html.escape(str(cell))}</th>" for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows
    )
    top = f"<thead><tr>{top}</tr></thead>" if top else ""
    return f"<div><b>{html.escape(title)}</b><table>{top}<tbody>{body}</tbody></table></div>"
