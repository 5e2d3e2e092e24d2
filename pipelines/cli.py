"""The command ``darts-xr``: every pipeline function as a verb, each loaded when it is used."""

from __future__ import annotations

import logging
import pkgutil
from importlib import import_module
from typing import cast

import click

from darts_xr import __version__
from pipelines import commands


class Verbs(click.Group):
    """A group whose commands are the modules of :mod:`pipelines.commands`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all verbs."""
        found = {module.name for module in pkgutil.iter_modules(commands.__path__)}
        return sorted(found - {"common"})

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Load a verb; None where there is none of this name."""
        if name not in self.list_commands(ctx):
            return None
        found = cast(click.Command, import_module(f"pipelines.commands.{name}").command)
        found.name = name
        return found


@click.command(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="darts-xr")
@click.option("-v", "--verbose", count=True, help="More log lines in the terminal; twice for all.")
def main(verbose: int) -> None:
    """Find retrogressive thaw slumps in PlanetScope images."""
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    terminal = logging.StreamHandler()
    terminal.setLevel(level)
    logging.basicConfig(
        level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", handlers=[terminal]
    )
    for package in ("darts_xr", "pipelines"):
        logging.getLogger(package).setLevel(min(level, logging.INFO))  # run.log has more than the terminal
