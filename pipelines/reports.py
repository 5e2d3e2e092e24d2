"""What happened in a run, for people: a summary with every scene, as HTML."""

from __future__ import annotations

import html
import os
from pathlib import Path
from typing import Any

from upath import UPath

from pipelines.cautions import auxiliary_coverage, cautions
from pipelines.progress import STAGES
from pipelines.records import Run, open_run
from pipelines.schema import COUNTS

_STYLE = (
    "body{font-family:sans-serif;margin:2em;max-width:75em}table{border-collapse:collapse}"
    "td,th{padding:.25em .7em;border-bottom:1px solid #ccc;text-align:right}td:first-child,th:first-child"
    "{text-align:left}img{width:100%;max-width:60em}.failed td{color:#a00;text-align:left}"
    ".caution{color:#a00}"
)


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
    notice += "".join(f"<p class=caution><b>{html.escape(line)}.</b></p>" for line in cautions(run.done))
    facts = {
        "darts_xr": record["darts_xr"],
        "ensemble": record["ensemble"],
        "checkpoints": ", ".join(f"{c['name']} {c['sha256'][:12]}" for c in record["checkpoints"]),
        "rules": record["rules"],
        "water filter": "yes" if record["water_filter"] else "no: objects in water are not removed",
        "infrastructure filter": record["infrastructure_filter"] or "no",
        "auxiliary": record["auxiliary"],
        **{
            f"auxiliary coverage, {layer}": f"{shares['mean']:.1%} of valid pixels, least {shares['least']:.1%}"
            for layer, shares in auxiliary_coverage(run.done).items()
        },
        "scenes done / failed": f"{record['counts']['done']} / {record['counts']['failed']}",
        "state": record["state"],
        "seconds": "it did not end by itself" if record["seconds"] is None else record["seconds"],
        "seconds by stage, all scenes": _stages(run),
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
                *(name.removeprefix("n_").replace("_", " ") for name in COUNTS),
                *(f"s, {stage.replace('_', ' ')}" for stage in STAGES),
                "tries",
                "warnings",
            ],
            [_row(scene) for scene in run.done],
        ),
    ]
    if run.failed:
        page.append("<h2>Failed</h2>")
        rows = [[s["id"], s["tries"], "; ".join([s["reason"], *s["earlier_reasons"]])] for s in run.failed]
        page.append(_table(["scene", "tries", "reason"], rows, kind="failed"))
    if run.left_out:
        page.append("<h2>In no product</h2>")
        page.append(_table(["scene", "reason"], [list(row) for row in sorted(run.left_out.items())]))
    for scene in run.done:
        if "quicklook.png" not in scene["outputs"]:
            continue  # made again from the stored probability, without the image
        picture = html.escape(f"{run.home.scene_place(scene['id'])}/quicklook.png")
        page.append(f"<h3>{html.escape(scene['id'])}</h3><img loading=lazy src='{picture}'>")
    run.home.write_text("report.html", "\n".join(page) + "\n")
    return run.folder / "report.html"


def _row(scene: dict[str, Any]) -> list[Any]:
    counts = [scene["counts"].get(name, 0) for name in COUNTS]
    seconds = [f"{scene['seconds'].get(stage, 0):.1f}" for stage in STAGES]
    return [
        scene["id"], f"{scene['valid_pixels']:,}", *counts, *seconds, scene["tries"], "; ".join(scene["warnings"])
    ]  # fmt: skip


def _stages(run: Run) -> str:
    totals = {stage: sum(scene["seconds"].get(stage, 0) for scene in run.done) for stage in STAGES}
    return ", ".join(f"{stage.replace('_', ' ')} {seconds:.1f}" for stage, seconds in totals.items())


def _table(head: list[str], rows: list[list[Any]], *, kind: str = "scenes") -> str:
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table class={kind}><tr>{top}</tr>{body}</table>"
