"""``darts-xr doctor``: whether this machine is fit, and what it lacks."""

from __future__ import annotations

import sys
from dataclasses import asdict

import click

from pipelines.commands.common import finish, verb


@click.command()
@click.option("--no-self-test", is_flag=True, help="Only look; detect nothing.")
@verb
def command(no_self_test: bool, as_json: bool) -> None:
    """Look at this machine: versions, GPUs, GDAL, memory, threads, what is missing and the line that brings it.

    Ends with 1 where something is broken; what is only optional does not count.
    """
    from pipelines.diagnosis import doctor

    checks = doctor(self_test=not no_self_test)
    if not as_json:
        from pipelines.console import screen, show_table

        show_table("This machine", ["", "", "found"], [[c.name, c.state, c.found] for c in checks])
        for check in checks:
            if check.remedy:
                screen.print(f"{check.name}: ", end="", highlight=False)
                screen.print(check.remedy, markup=False, highlight=False, soft_wrap=True)
    finish({"checks": [asdict(check) for check in checks]}, as_json)
    if any(check.state == "bad" for check in checks):
        sys.exit(1)
