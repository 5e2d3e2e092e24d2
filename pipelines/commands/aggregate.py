"""``darts-xr aggregate``: the products of a run."""

from __future__ import annotations

import click

from pipelines.commands.common import finish, parse_years, verb
from pipelines.console import show_table, steps


@click.command()
@click.argument("run")
@click.option("--years", default=None, help="Such as 2021-2023.")
@click.option("--name", default="darts_xr", show_default=True, help="Base name of the products.")
@click.option("--by-year", is_flag=True, help="One set of products a year instead of one of all years.")
@verb
def command(run: str, years: str | None, name: str, by_year: bool, as_json: bool) -> None:
    """Write Level 1, Level 2 and coverage of RUN to RUN/products."""
    from pipelines.aggregation import aggregate as run_aggregate

    with steps() as bar:
        bar.say("Level 1, Level 2 and coverage")
        products = run_aggregate(run, years=parse_years(years), name=name, by_year=by_year)
    counts = {"level1": len(products.level1), "level2": len(products.level2)}
    if not as_json:
        per_year = products.level2.groupby("year")["area_ha"]
        found, hectares = per_year.size().to_dict(), per_year.sum().to_dict()
        covered = products.coverage["level2"].set_index("year")["area_km2"].to_dict()
        rows = [
            [str(year), km2, found.get(year, 0), float(hectares.get(year, 0))]
            for year, km2 in covered.items()
        ]
        show_table("Level 2", ["year", "covered km²", "slumps", "slumps ha"], rows)
    finish({**counts, "files": [str(path) for path in products.files]}, as_json, f"{run}/products")
