"""The report of a validation: one self-contained page, and its numbers as Parquet and JSON."""

from __future__ import annotations

import html
import json
import os
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from darts_xr.assess import probability_densities, sweep_years
from darts_xr.assess.match import Matching, Pairs
from darts_xr.assess.periods import DatedReference
from darts_xr.assess.tables import covered_years
from darts_xr.atomic import write_atomic
from darts_xr.errors import AssessmentError
from darts_xr.globe import EQUAL_AREA
from pipelines.score_tables import plain_rows, records
from pipelines.svg import Line, chart, hits_map
from pipelines.validation import PER_IMAGE, PER_YEAR, Validation

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:70em;padding:0 1em;color:#1c2430}"
    "table{border-collapse:collapse;margin:.6em 0 1.6em}td,th{padding:.2em .8em;border-bottom:1px solid #d6dce3;"
    "text-align:right}td:first-child,th:first-child{text-align:left}svg{max-width:100%;height:auto}"
    ".row{display:flex;flex-wrap:wrap;gap:1.5em}li{color:#5b6675}"
)
_THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7)
_BUFFERS = (0.0, 100.0, 200.0, 300.0, 400.0, 500.0)
_WHY_ZERO = (
    "A ratio without denominator is printed as 0 where the other side holds objects, as the paper prints it: a year in "
    "which nothing was detected though slumps were there has precision 0. Where both sides are empty it stays open."
)


def write_report(result: Validation, out: str | os.PathLike[str]) -> Path:
    """Write ``validation.html``, ``metrics.parquet``, ``metrics.json`` and ``objects.parquet``.

    Parameters
    ----------
    result : Validation
        From :func:`pipelines.validation.validate`.
    out : path
        Folder.

    Returns
    -------
    pathlib.Path
        The page: tables, curves over the least probability and over the buffer, and a map of hits and misses. It needs
        no other file and no network. ``metrics.parquet`` holds all tables, one below the other, ``objects.parquet``
        each object with what became of it (``true``, ``false``, ``found``, ``missed``).
    """
    folder = Path(out)
    objects = scored_objects(result)
    sweeps = _curves(result)
    metrics = pd.concat(
        [table.assign(table=title) for title, table in {**result.tables, **sweeps}.items()], ignore_index=True
    )
    write_atomic(folder / "metrics.parquet", lambda part: metrics.to_parquet(part, index=False))
    write_atomic(folder / "objects.parquet", lambda part: objects.to_crs(4326).to_parquet(part, index=False))
    facts = {
        "tables": {title: records(table) for title, table in {**result.tables, **sweeps}.items()},
        "notes": result.notes, "warnings": result.warnings, "schema": result.reference.schema,
        "buffer_m": result.comparison.buffer, "rule": vars(result.comparison.rule),
        "reference_time": vars(result.comparison.time),
    }  # fmt: skip
    text = json.dumps(facts, indent=1) + "\n"
    write_atomic(folder / "metrics.json", lambda part: part.write_text(text, encoding="utf-8"))
    page = _page(result, sweeps, objects)
    return write_atomic(folder / "validation.html", lambda part: part.write_text(page, encoding="utf-8"))


def scored_objects(result: Validation) -> gpd.GeoDataFrame:
    """Each object that was scored by year, with what became of it.

    Parameters
    ----------
    result : Validation
        The scores.

    Returns
    -------
    geopandas.GeoDataFrame
        EPSG:3571: ``side`` (``detected``, ``reference``), ``year`` (int64, 0 where there is none), ``state`` (``true``,
        ``false``, ``found``, ``missed``), ``geometry``.
    """
    found = result.detections.per_year
    dated = DatedReference(result.reference.features, result.comparison.time)
    pairs = Pairs(found, dated.shapes, buffer=result.comparison.buffer, rule=result.comparison.rule)
    years: dict[int, Any]
    try:
        years = dict(covered_years(result.detections.coverage, found))
    except AssessmentError:  # of no year: all together
        years = {0: None}
    parts = []
    for year, seen in years.items():
        of_year = np.asarray(found["year"] == year) if year and "year" in found else np.ones(len(found), bool)
        asked = dated.of_year(year) if year else np.ones(len(dated.shapes), bool)
        parts += _states(pairs, pairs.match(of_year, asked, seen), year)
    return gpd.GeoDataFrame(pd.concat(parts, ignore_index=True), crs=EQUAL_AREA)


def _states(pairs: Pairs, part: Matching, year: int) -> list[gpd.GeoDataFrame]:
    sides = (
        ("detected", pairs.found, part.detected_counted, part.detected_hit, ("true", "false")),
        ("reference", pairs.wanted, part.reference_counted, part.reference_hit, ("found", "missed")),
    )
    return [
        gpd.GeoDataFrame(
            {"side": name, "year": year, "state": np.where(hit[counted], *words)},
            geometry=gpd.GeoSeries(shapes[counted], crs=EQUAL_AREA),
            index=range(int(counted.sum())),
            crs=EQUAL_AREA,
        )
        for name, shapes, counted, hit, words in sides
    ]


def _curves(result: Validation) -> dict[str, pd.DataFrame]:
    """Scores against the buffer and the least probability, each year within its own coverage, and pooled."""
    found, wanted = result.detections.per_year, result.reference.features
    seen, comparison = result.detections.coverage, result.comparison
    curves: dict[str, pd.DataFrame] = {}
    if PER_YEAR not in result.tables or "region" in result.tables[PER_YEAR]:
        return curves
    if comparison.rule.min_iou == 0:
        curves["By buffer, m"] = sweep_years(found, wanted, seen, buffers=_BUFFERS, comparison=comparison)
    if {"pval_mean", "pval_mean_of_mean_level1"} & set(found):
        curves["By least mean probability"] = sweep_years(
            found, wanted, seen, thresholds=_THRESHOLDS, comparison=comparison
        )
        curves["Density of mean probability"] = probability_densities(
            found, wanted, buffer=comparison.buffer, coverage=seen
        )
    return curves


# --- the page ----------------------------------------------------------------------------------------------


def _page(result: Validation, sweeps: dict[str, pd.DataFrame], objects: gpd.GeoDataFrame) -> str:
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in [*result.warnings, *result.notes, _WHY_ZERO])
    tables = "".join(
        f"<h2>{html.escape(title)}</h2>{_table(table if title != PER_IMAGE else table.tail(3))}"
        for title, table in result.tables.items()
    )
    curves = "".join(
        f"<h3>{html.escape(title)}</h3>{_table(table)}" for title, table in sweeps.items() if "f1" in table
    )
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Validation</title><style>{_STYLE}</style>"
        f"<h1>Validation</h1><ul>{notes}</ul>{tables}<h2>Curves</h2><div class=row>{_charts(sweeps)}</div>{curves}"
        f"<h2>Hits and misses</h2>{hits_map(_middles(objects), _outline(result))}</html>\n"
    )


def _table(table: pd.DataFrame) -> str:
    head = "".join(f"<th>{html.escape(str(name))}</th>" for name in table)
    rows = "".join(
        "<tr>" + "".join(f"<td>{_cell(cell)}</td>" for cell in row) + "</tr>" for row in plain_rows(table)
    )
    return f"<table><tr>{head}</tr>{rows}</table>"


def _cell(cell: Any) -> str:
    if cell is None:
        return ""
    return f"{cell:.3f}" if isinstance(cell, float) else html.escape(str(cell))


def _charts(sweeps: dict[str, pd.DataFrame]) -> str:
    drawn = []
    for title, table in sweeps.items():
        x = next(name for name in ("buffer", "threshold", "low") if name in table)
        names = ("precision", "recall", "f1") if "f1" in table else ("true", "false")
        lines = [
            Line(name, table[x].to_numpy(np.float64), table[name].to_numpy(np.float64)) for name in names
        ]
        if "kept" in table:
            lines.append(Line("kept", table[x].to_numpy(np.float64), table["kept"].to_numpy(np.float64)))
        drawn.append(chart(title, lines))
    return "".join(drawn)


def _middles(objects: gpd.GeoDataFrame) -> dict[str, NDArray[np.float64]]:
    points = shapely.get_coordinates(shapely.point_on_surface(objects.geometry.to_numpy()))
    return {
        state: points[(objects["state"] == state).to_numpy()]
        for state in ("true", "found", "false", "missed")
    }


def _outline(result: Validation) -> list[NDArray[np.float64]]:
    """Rings of the coverage, coarsened to what a map can show."""
    seen = result.detections.coverage
    if seen is None:
        return []
    whole = shapely.union_all(seen.geometry.to_crs(EQUAL_AREA).to_numpy())
    west, south, east, north = whole.bounds
    coarse = shapely.simplify(whole, max(east - west, north - south) / 500)
    return [shapely.get_coordinates(ring) for ring in shapely.get_rings(shapely.get_parts(coarse))]
