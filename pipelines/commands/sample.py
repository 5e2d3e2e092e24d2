"""``darts-xr sample``: a synthetic world on disk."""

from __future__ import annotations

from pathlib import Path

import click

from pipelines.commands.common import PATH, finish, verb
from pipelines.console import steps


@click.command()
@click.argument("out", type=PATH)
@click.option("--seed", default=0, show_default=True, help="Seed of the world.")
@click.option("--scenes", default=6, show_default=True, help="Number of images, two a summer.")
@click.option("--size", default=1536, show_default=True, help="Rows and columns of an image.")
@verb
def command(out: Path, seed: int, scenes: int, size: int, as_json: bool) -> None:
    """Write a synthetic world to OUT: images, masks, auxiliary layers and the true outlines."""
    from darts_xr.sample import write_world

    with steps() as bar:
        world = write_world(out, seed=seed, scenes=scenes, size=size, progress=bar.say)
    paths = {name: str(getattr(world, name)) for name in ("catalog", "auxiliary", "truth", "infrastructure")}
    finish({"seed": seed, "scenes": scenes, "size": size, **paths}, as_json, world.catalog)
