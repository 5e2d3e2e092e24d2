"""What happened in a run, for people: a summary with every scene, as HTML."""

from __future__ import annotations

import html
import os
from pathlib import Path
from typing import Any

from upath import UPath

from pipelines.records import Run, open_run

_STYLE = (
    "body{font-family:sans-serif;margin:2em;max-width:75em}table{border-collapse:collapse}"
    "td,th{padding:.25em .7em;border-bottom:1px solid #ccc;text-align:right}td:first-child,th:first-child"
    "{text-align:left}img{width:100%;max-width:60em}.failed{color:#a00;text-align:left}"
)
_COUNTS = (
    "n_detected", "n_removed_border", "n_removed_small", "n_removed_water", "n_removed_infrastructure", "n_objects",
)  # fmt: skip


def report(run: str | os.PathLike[str] | Run) -> Path | UPath:
    """Write ``RUN/report.html``: totals, scores, what each rule removed, seconds a stage, failures, quick-looks.

    Parameters
    ----------
    run : path or Run
        A run of :func:`pipelines.detect`.

    Returns
    -------
    path
        The page.
    """
    run = run if isinstance(run, Run) else open_run(run)
    record = run.record
    notice = "<p><b>Synthetic scenes: no real observation.</b></p>" if record["synthetic"] else ""
    facts = {
        "darts_xr": record["darts_xr"],
        "ensemble": record["ensemble"],
        "checkpoints": ", ".join(f"{c['name']} {c['sha256'][:12]}" for c in record["checkpoints"]),
        "rules": record["rules"],
        "auxiliary": record["auxiliary"],
        "scenes done / failed": f"{record['counts']['done']} / {record['counts']['failed']}",
        "seconds": record["seconds"],
        **{f"scores, {level}": scores for level, scores in record.get("scores", {}).items()},
    }
    page = [
        f"<!doctype html><meta charset=utf-8><title>darts_xr run</title><style>{_STYLE}</style>",
        f"<h1>Run {html.escape(run.folder.name)}</h1>{notice}",
        _table(["", ""], [[key, value] for key, value in facts.items()]),
        "<h2>Scenes</h2>",
        _table(
            [
                "scene",
                "valid pixels",
                *(name.removeprefix("n_").replace("_", " ") for name in _COUNTS),
                "seconds",
            ],
            [_row(scene) for scene in run.scenes if scene["state"] == "done"],
        ),
    ]
    if run.failed:
        page.append("<h2>Failed</h2>")
        page += [
            f"<p class=failed><b>{html.escape(s['id'])}</b>: {html.escape(s['reason'])}</p>"
            for s in run.failed
        ]
    for scene in run.done:
        picture = html.escape(f"{run.home.scene_place(scene['id'])}/quicklook.png")
        page.append(f"<h3>{html.escape(scene['id'])}</h3><img loading=lazy src='{picture}'>")
    run.home.write_text("report.html", "\n".join(page) + "\n")
    return run.folder / "report.html"


def _row(scene: dict[str, Any]) -> list[Any]:
    counts = [scene["counts"].get(name, 0) for name in _COUNTS]
    return [scene["id"], f"{scene['valid_pixels']:,}", *counts, round(sum(scene["seconds"].values()), 1)]


def _table(head: list[str], rows: list[list[Any]]) -> str:
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{top}</tr>{body}</table>"
