"""``darts-xr aggregate``: the products of a run."""

from __future__ import annotations

import click

from pipelines.commands.common import finish, parse_years, verb
from pipelines.console import show_table, steps


@click.command()
@click.argument("run")
@click.option("--years", default=None, help="Such as 2021-2023.")
@click.option("--name", default="darts_xr", show_default=True, help="Base name of the products.")
@click.option(
    "--intersect-years", default=None, help="Years of the coverage that is covered in each; by default all."
)
@click.option("--dataset-version", default="darts_xr", show_default=True, help="Such as v1.2.")
@click.option(
    "--dataset-information", default="RTS footprint", show_default=True, help="What the features are."
)
@click.option("--by-year", is_flag=True, help="One set of products a year instead of one of all years.")
@click.option("--strict", is_flag=True, help="Refuse when any scene would be left out.")
@verb
def command(run: str, name: str, by_year: bool, strict: bool, as_json: bool, **options: str | None) -> None:
    """Write Level 1, Level 2, coverage and Table 1 of RUN to RUN/products.

    Products hold the scenes of the run's last source, made with its last settings, whose files are whole; what is left
    out is named.
    """
    from pipelines.aggregation import Dataset
    from pipelines.aggregation import aggregate as run_aggregate

    with steps() as bar:
        bar.say("Level 1, Level 2 and coverage")
        products = run_aggregate(
            run, years=parse_years(options["years"]), intersect_years=parse_years(options["intersect_years"]),
            name=name, dataset=Dataset(str(options["dataset_version"]), str(options["dataset_information"])),
            by_year=by_year, strict=strict,
        )  # fmt: skip
    counts = {"level1": len(products.level1), "level2": len(products.level2), "left_out": products.left_out}
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
