"""``darts-xr train``: networks from a configuration."""

from __future__ import annotations

from pathlib import Path

import click

from pipelines.commands.common import PATH, finish, verb
from pipelines.console import screen, steps


@click.command()
@click.argument("configuration", type=PATH)
@click.option("--out", type=PATH, default=Path("models"), show_default=True)
@verb
def command(configuration: Path, out: Path, as_json: bool) -> None:
    """Train the networks that CONFIGURATION describes."""
    from pipelines.training import train as run_train

    with steps() as bar:
        checkpoints = run_train(configuration, out=out, say=bar.say)
    summary = {
        c.name: {"file": c.path, "sha256": c.sha256, "scores": c.training["pixel_scores"]}
        for c in checkpoints
    }
    if not as_json:
        for name, facts in summary.items():
            screen.print(name, facts["scores"])
    finish(summary, as_json, out)
