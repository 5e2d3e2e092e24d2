"""``darts-xr study``: several trainings with one thing changed."""

from __future__ import annotations

from pathlib import Path

import click

from pipelines.commands.common import PATH, finish, verb
from pipelines.console import screen, steps


@click.command()
@click.argument("configuration", type=PATH)
@click.option(
    "--kind", type=click.Choice(["regions", "iterations", "bands"]), required=True,
    help="Leave each region out; use each iteration of the labels; leave bands out.",
)  # fmt: skip
@click.option("--out", type=PATH, default=Path("study"), show_default=True)
@click.option(
    "--devices", type=click.IntRange(1), default=1, show_default=True, help="GPUs that train together."
)
@verb
def command(configuration: Path, kind: str, out: Path, devices: int, as_json: bool) -> None:
    """Cross-validate by region, follow the labels' growth, or take bands away."""
    from pipelines.studies import study as run_study

    with steps() as bar:
        table = run_study(configuration, kind, out=out, say=bar.say, devices=devices)  # type: ignore[arg-type]
    if not as_json:
        screen.print(table.to_string(index=False), highlight=False)
    finish({"rows": table.to_dict("records")}, as_json, out)
