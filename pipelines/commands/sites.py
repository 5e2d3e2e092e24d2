"""``darts-xr sites``: each site of a run over the years."""

from __future__ import annotations

from pathlib import Path

import click

from pipelines.commands.common import PATH, finish, verb


@click.command()
@click.argument("run")
@click.option(
    "--out", type=PATH, default=Path("sites"), show_default=True, help="Folder of table and figure."
)
@click.option(
    "--images", default=None, help="STAC source of the scenes of RUN: tells their offsets and snow."
)
@verb
def command(run: str, out: Path, images: str | None, as_json: bool) -> None:
    """Follow each site of RUN: not covered, not detected or detected in each year, growth and retreat."""
    from pipelines.following import histories, write_histories

    table = histories(run, images=images)
    files = write_histories(table, out)
    states = {str(state): int(count) for state, count in table["state"].value_counts().items()}
    if not as_json:
        from pipelines.console import show_table

        show_table("Sites and years", ["state", "rows"], sorted(states.items()))
    summary = {
        "sites": int(table["site"].nunique()),
        "states": states,
        "files": [str(file) for file in files],
    }
    finish(summary, as_json, out)
