"""What happened in a run, for people: one page that needs no other file and no network."""

from __future__ import annotations

import html
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from upath import UPath

from darts_xr.addresses import redact
from pipelines.cautions import auxiliary_coverage, cautions, unknown_images
from pipelines.progress import STAGES
from pipelines.records import Run, open_run
from pipelines.report_data import page_data
from pipelines.results import Results, read_results
from pipelines.svg import bars

_LISTED = 20  # failures that are listed before the table of all scenes has the rest
_RULES = {
    "border": "at the border", "small": "too small", "water": "in water", "infrastructure": "on infrastructure",
    "reviewer": "rejected by reviewer",
}  # fmt: skip


def report(run: str | os.PathLike[str] | Run) -> Path | UPath:
    """Write ``RUN/report.html``: settings, cautions, a map, removal by rule, times, failures, scores, all scenes.

    Parameters
    ----------
    run : path or Run
        A run of :func:`pipelines.detect`.

    Returns
    -------
    path
        The page. It holds its data and script, and asks nothing of any other host; of a run of more than 200 scenes it
        shows quick-looks from the run folder.

    Examples
    --------
    >>> report("run")  # doctest: +SKIP
    """
    run = run if isinstance(run, Run) else open_run(run)
    run.home.write_text("report.html", report_page(run, read_results(run)))
    return run.folder / "report.html"


def report_page(run: Run, results: Results) -> str:
    """Give the text of the page.

    Parameters
    ----------
    run : Run
        The run.
    results : Results
        What its finished scenes hold.

    Returns
    -------
    str
        HTML.
    """
    # "<" as an escape: no text of anybody's can end the element that holds the data.
    data = json.dumps(page_data(run, results), separators=(",", ":")).replace("<", "\\u003c")
    parts = {
        "TITLE": html.escape(run.folder.name),
        "NOTICE": _notice(run),
        "TOTALS": _totals(run, results),
        "FACTS": _facts(run),
        "REMOVAL": _removal(run),
        "TIMES": _times(run),
        "LAYERS": _layers(run),
        "SCORES": _scores(run),
        "YEARS": _by_year(results),
        "FAILURES": _failures(run, results),
        "DATA": data,
    }
    page = files("pipelines").joinpath("report_page.html").read_text(encoding="utf-8")
    return re.sub(r"__([A-Z]+)__", lambda found: parts[found[1]], page)


def _notice(run: Run) -> str:
    lines = [f"{line}." for line in cautions(run.done) + unknown_images(run.record)]
    marks = "<p class=mark>Synthetic scenes: no real observation.</p>" if run.record["synthetic"] else ""
    if not lines:
        return marks
    return f"{marks}<ul class=cautions>{''.join(f'<li>{html.escape(line)}</li>' for line in lines)}</ul>"


def _totals(run: Run, results: Results) -> str:
    counts = run.record["counts"]
    numbers = {
        "scenes done": counts["done"],
        "failed": counts["failed"],
        "in no product": len(
            {*run.left_out, *results.left_out, *results.foreign} - {s["id"] for s in run.failed}
        ),
        "objects": counts.get("n_objects", 0),
        "million valid pixels": f"{counts['valid_pixels'] / 1e6:,.1f}",
    }
    return "".join(
        f"<div><b>{n if isinstance(n, str) else f'{n:,}'}</b>{name}</div>" for name, n in numbers.items()
    )


def _facts(run: Run) -> str:
    record = run.record
    started = min((scene["started"] for scene in run.scenes if "started" in scene), default="")
    seconds = record["seconds"]
    filters = {
        "water filter": "yes" if record["water_filter"] else "no: objects in water are not removed",
        "infrastructure filter": record["infrastructure_filter"] or "no",
    }
    rules = ", ".join(
        f"{name.replace('_', ' ')} {'by product' if value is None else value}"
        for name, value in record["rules"].items()
    )
    facts: dict[str, Any] = {
        "folder": redact(str(run.folder)),
        "state": record["state"],
        "seconds": "it did not end by itself" if seconds is None else f"{seconds:,}",
        "first scene started": started,
        "darts_xr": record["darts_xr"],
        "ensemble": record["ensemble"],
        **{f"network {c['name']}": f"{c['file']}, SHA-256 {c['sha256']}" for c in record["checkpoints"]},
        "batch norm": record.get("batch_norm", ""),
        "rules": rules,
        **filters,
        "auxiliary": record["auxiliary"],
        "scenes filled where a layer has gaps": "yes" if record.get("fill_gaps") else "no",
        "auxiliary items left out": ", ".join(
            f"{k} ({v})" for k, v in record.get("layers_left_out", {}).items()
        ),
    }
    return table(["setting", "value"], [[k, v] for k, v in facts.items() if v != ""])


def _removal(run: Run) -> str:
    counts = run.record["counts"]
    total = counts.get("n_detected", 0)
    if not total:
        return "<p>Nothing was detected.</p>"
    left, steps = total, [("detected", total, f"{total:,}")]
    for rule, words in _RULES.items():
        gone = counts.get(f"n_removed_{rule}", 0)
        left -= gone
        steps.append((f"less {words}", left, f"{left:,} (−{gone:,})"))
    steps.append(
        ("objects", counts["n_objects"], f"{counts['n_objects']:,} ({counts['n_objects'] / total:.0%})")
    )
    unknown = counts.get("n_unknown_landcover", 0)
    also = f"<p>{unknown:,} of them lie where no land cover is known.</p>" if unknown else ""
    return bars("Objects left after each rule", steps) + also


def _times(run: Run) -> str:
    totals = [sum(scene["seconds"].get(stage, 0) for scene in run.done) for stage in STAGES]
    if not sum(totals):
        return "<p>No scene was finished.</p>"
    rows = [
        (stage.replace("_", " "), seconds, f"{_span(seconds)} ({seconds / len(run.done):,.2f} s a scene)")
        for stage, seconds in zip(STAGES, totals, strict=True)
    ]
    return bars("Time by stage, summed over the scenes", rows)


def _span(seconds: float) -> str:
    return f"{seconds:,.1f} s" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def _layers(run: Run) -> str:
    covered = auxiliary_coverage(run.done)
    neutral = Counter(layer for scene in run.done for layer in scene.get("neutral", ()))
    rows = []
    for layer in sorted({*covered, *neutral}):
        shares = covered.get(layer)
        told = (
            [f"{shares['mean']:.1%}", f"{shares['least']:.1%}", shares["scenes"]] if shares else ["", "", 0]
        )
        rows.append([layer, *told, neutral.get(layer, 0)])
    head = [
        "layer",
        "of valid pixels, mean",
        "least of a scene",
        "scenes it was read for",
        "scenes it is neutral in",
    ]
    page = table(head, rows) if rows else "<p>No layer beside the images was read.</p>"
    unusual = Counter(band for scene in run.done for band in scene.get("drift", {}).get("unusual", ()))
    compared = sum("drift" in scene for scene in run.done)
    if compared:
        found = "some are unlike all of them" if unusual else "none is unlike all of them"
        said = f"{compared:,} scene(s) were compared with those of the training; {found}."
        page += f"<h3>Unlike the training</h3><p>{said}</p>"
        if unusual:
            page += table(
                ["band", "scenes unlike any of the training"],
                [[b, f"{n:,}"] for b, n in unusual.most_common()],
            )
    return page


def _scores(run: Run) -> str:
    scores = run.record.get("scores", {})
    names = list(dict.fromkeys(name for level in scores.values() for name in level))
    rows = [[level, *(_number(values.get(name, "")) for name in names)] for level, values in scores.items()]
    page = table(["level", *(name.replace("_", " ") for name in names)], rows) if rows else ""
    if run.home.local is not None:
        for found in sorted(run.home.local.glob("*/validation.html")):
            link = html.escape(quote(found.relative_to(run.home.local).as_posix()))
            page += (
                f"<p><a href='{link}'>Report of the validation in {html.escape(found.parent.name)}</a></p>"
            )
    return f"<section><h2>Scores against a truth</h2>{page}</section>" if page else ""


def _number(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _by_year(results: Results) -> str:
    rows = []
    for year in results.years:
        scenes = results.of_years([year]).scenes
        rows.append([year, f"{len(scenes):,}", f"{sum(len(scene.level1) for scene in scenes):,}"])
    return table(["year", "scenes", "objects"], rows) if rows else ""


def _failures(run: Run, results: Results) -> str:
    page = ""
    if run.failed:
        kinds = Counter(scene["reason"].partition(":")[0] for scene in run.failed)
        told = [[kind, f"{n:,}"] for kind, n in kinds.most_common()]
        rows = [[s["id"], s["tries"], "; ".join([s["reason"], *s["earlier_reasons"]])] for s in run.failed]
        page += f"<h2>Failed</h2>{table(['kind of failure', 'scenes'], told)}"
        page += _listed(["scene", "tries", "reason"], rows, "failed")
    failed = {scene["id"] for scene in run.failed}
    left_out = {
        k: v for k, v in (run.left_out | results.left_out | results.foreign).items() if k not in failed
    }
    if left_out:
        page += "<h2>In no product</h2>" + _listed(
            ["scene", "reason"], [list(x) for x in sorted(left_out.items())], "left out"
        )
    return f"<section>{page}</section>" if page else ""


def _listed(head: Sequence[str], rows: Sequence[Sequence[Any]], word: str) -> str:
    more = len(rows) - _LISTED
    rest = f"<p>And {more:,} more: filter the table of scenes by “{word}”.</p>" if more > 0 else ""
    return table(head, rows[:_LISTED], kind="reasons") + rest


def table(head: Iterable[str], rows: Iterable[Sequence[Any]], *, kind: str = "plain") -> str:
    """Table of escaped texts."""
    top = "".join(f"<th scope=col>{html.escape(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table class={kind}><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
