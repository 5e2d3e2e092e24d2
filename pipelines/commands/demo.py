"""``darts-xr demo``: the whole flow on a synthetic world."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from pipelines.commands.common import PATH, finish, verb
from pipelines.console import screen, show_scenes, show_table, steps


@click.command()
@click.option("--out", type=PATH, default=Path("demo"), show_default=True)
@click.option(
    "--seed", default=7, show_default=True, help="Seed of the synthetic world; no training used 0 to 999."
)
@click.option("--scenes", default=6, show_default=True)
@click.option("--size", default=1536, show_default=True)
@verb
def command(out: Path, seed: int, scenes: int, size: int, as_json: bool) -> None:
    """Make a synthetic world, detect, aggregate, and score against its truth."""
    from pipelines.demonstration import demo as run_demo

    with steps() as bar:
        result = run_demo(
            out, seed=seed, scenes=scenes, size=size, say=bar.say, on_scene=bar.scene, on_stage=bar.stage
        )
    if not as_json:
        show_scenes(result.run.scenes)
        ndvi = result.scores["ndvi"]
        shown = ("precision", "recall", "f1")
        show_table(
            f"Objects against the truth of synthetic world {seed}",
            ["", "objects", *shown],
            [
                [name, scores.get("n_detected", ""), *(scores[key] for key in shown)]
                for name, scores in (
                    ("Level 1, per image", result.scores["level1"]),
                    ("Level 2, per year", result.scores["level2"]),
                    (f"best NDVI threshold, < {ndvi['threshold']:.2f}, per image", ndvi),
                )
            ],
        )
        screen.print(f"Quick-looks: {result.run.folder / 'scenes'}/*/quicklook.png", highlight=False)
    summary = {
        "seed": seed,
        "seconds": round(result.seconds, 1),
        "scores": result.scores,
        "run": str(result.run.folder),
    }
    finish(summary, as_json, result.run.folder / "products")
    if result.run.failed:
        sys.exit(1)
