"""``darts-xr verdicts``: what reviewers said, merged into the products."""

from __future__ import annotations

from pathlib import Path

import click

from pipelines.commands.common import PATH, finish, verb


@click.command()
@click.argument("run")
@click.argument("verdicts", type=PATH, nargs=-1, required=True)
@click.option("--out", type=PATH, default=Path("review"), show_default=True, help="Folder for the results.")
@verb
def command(run: str, verdicts: tuple[Path, ...], out: Path, as_json: bool) -> None:
    """Merge VERDICTS, files that the review page of RUN exported, into a verified layer, and score them."""
    from pipelines.review import merge_review
    from pipelines.score_tables import records, show_frame

    result = merge_review(run, verdicts, out)
    tables = {
        "Confirmation": result.confirmation, "Precision by probability and size": result.precision,
        "Agreement": result.consistency,
    } | ({} if result.tiers is None else {"Confidence tiers": result.tiers.table})  # fmt: skip
    if not as_json:
        for title, table in tables.items():
            show_frame(title, table)
    summary = {"tables": {title: records(table) for title, table in tables.items()}}
    finish({**summary, "files": [str(path) for path in result.files]}, as_json, out)
