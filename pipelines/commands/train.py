"""``darts-xr train``: networks from a configuration."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from pipelines.commands.common import PATH, finish, verb
from pipelines.console import notes, screen, steps


@click.command()
@click.argument("configuration", type=PATH)
@click.option("--out", type=PATH, default=Path("models"), show_default=True)
@click.option(
    "--devices", type=click.IntRange(1), default=1, show_default=True, help="GPUs that train together."
)
@verb
def command(configuration: Path, out: Path, devices: int, as_json: bool) -> None:
    """Train, judge and calibrate the networks that CONFIGURATION describes.

    The same command goes on where it was killed.
    """
    from pipelines.training import train as run_train

    try:
        with steps() as bar:
            trained = run_train(configuration, out=out, devices=devices, say=bar.say)
    except KeyboardInterrupt:
        notes.print(f"Stopped. The same command goes on from {out}.", highlight=False)
        sys.exit(130)
    summary = {
        c.name: {
            "file": c.path,
            "sha256": c.sha256,
            "scores": c.training.get("pixel_scores"),
            "temperature": c.temperature,
        }
        for c in trained.checkpoints
    }
    if not as_json:
        for name, facts in summary.items():
            screen.print(name, facts["scores"] or "not scored: no validation")
    finish({"members": summary, "objects": trained.objects, "card": str(out / "MODEL_CARD.md")}, as_json, out)
