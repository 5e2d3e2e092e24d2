"""``darts-xr coverage``: the coverage files of a run."""

from __future__ import annotations

import click

from pipelines.commands.common import finish, parse_years, verb
from pipelines.console import show_table


@click.command()
@click.argument("run")
@click.option("--years", default=None, help="Such as 2021-2023.")
@click.option("--name", default="darts_xr", show_default=True)
@verb
def command(run: str, years: str | None, name: str, as_json: bool) -> None:
    """Write only the coverage files of RUN."""
    from pipelines.aggregation import coverage as run_coverage

    products = run_coverage(run, years=parse_years(years), name=name)
    areas = {level: round(float(frame["area_km2"].sum()), 3) for level, frame in products.coverage.items()}
    if not as_json:
        show_table("Coverage", ["level", "km²"], list(areas.items()))
    finish({"km2": areas, "files": [str(path) for path in products.files]}, as_json, f"{run}/products")
