"""``darts-xr validate``: object scores against a reference."""

from __future__ import annotations

from pathlib import Path

import click

from pipelines.commands.common import PATH, finish, verb
from pipelines.console import show_table


@click.command()
@click.argument("detected", type=PATH)
@click.argument("reference", type=PATH)
@click.option("--coverage", "limits", type=PATH, default=None, help="Polygons that limit both sides.")
@click.option("--buffer", default=0.0, show_default=True, help="Metres by which the reference is grown.")
@click.option("--by-year", is_flag=True, help="One row a year of the detections.")
@verb
def command(
    detected: Path, reference: Path, limits: Path | None, buffer: float, by_year: bool, as_json: bool
) -> None:
    """Score the objects of DETECTED against those of REFERENCE; any overlap counts."""
    from pipelines.validation import validate as run_validate

    table = run_validate(detected, reference, coverage=limits, buffer=buffer, by_year=by_year)
    if not as_json:
        shown = ["tp", "fp", "fn", "precision", "recall", "f1"]
        show_table(
            "Object scores",
            ["", *shown],
            [[scope, *row] for scope, row in zip(table.index, table[shown].to_numpy().tolist(), strict=True)],
        )
    finish({str(scope): row.to_dict() for scope, row in table.iterrows()}, as_json)
