"""``darts-xr validate``: object scores against a reference."""

from __future__ import annotations

from pathlib import Path

import click

from pipelines.commands.common import PATH, finish, verb

_SUMMARY = ("all", "mean", "sd")


@click.command()
@click.argument("detected")
@click.argument("reference", type=PATH)
@click.option(
    "--coverage", "limits", type=PATH, default=None, help="What was seen; by default the run's own."
)
@click.option(
    "--cut", type=click.Choice(["leave-out", "count"]), default="leave-out", show_default=True,
    help="Reference objects cut by the rim of the coverage: leave them out, or count all that intersect it as the "
    "paper's Table 7 does.",
)  # fmt: skip
@click.option("--buffer", default=0.0, show_default=True, help="Metres around the reference, for points.")
@click.option("--min-iou", default=0.0, show_default=True, help="Least overlap of a pair; 0 is any contact.")
@click.option("--one-to-one", is_flag=True, help="Each object is in one pair at most.")
@click.option("--reference-date", default=None, help="Column with the date or the year of each object.")
@click.option("--reference-years", default=None, metavar="START,END", help="Columns with a period's ends.")
@click.option("--reference-always", is_flag=True, help="Take the reference for valid in every year.")
@click.option(
    "--regions", type=PATH, default=None, help="Polygons of regions, for scores by region and year."
)
@click.option("--region-name", default=None, help="Column with the name of each region.")
@click.option("--intervals", is_flag=True, help="Add 95 % intervals of F1 from blocks of 10 km.")
@click.option("--out", type=PATH, default=None, help="Folder for the report: HTML, Parquet and JSON.")
@verb
def command(
    detected: str, reference: Path, limits: Path | None, cut: str, buffer: float, min_iou: float, one_to_one: bool,
    reference_date: str | None, reference_years: str | None, reference_always: bool, regions: Path | None,
    region_name: str | None, intervals: bool, out: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Score DETECTED (a run folder, Level 1, Level 2 or any polygons) against REFERENCE; any overlap counts.

    Both sides are limited to what was seen in each year, and in each image. Dates are taken from columns that are
    declared here or by the published schema of an inventory, never guessed from a name.
    """
    from darts_xr.assess import Bootstrap, Comparison, MatchRule
    from pipelines.console import screen
    from pipelines.score_tables import records, show_frame
    from pipelines.validation import PER_IMAGE, read_regions, reference_time, validate

    rule = MatchRule(min_iou=min_iou, one_to_one=one_to_one, cut=cut)  # type: ignore[arg-type]
    result = validate(
        detected, reference, coverage=limits,
        regions=None if regions is None else read_regions(regions, region_name),
        comparison=Comparison(buffer=buffer, rule=rule, bootstrap=Bootstrap() if intervals else None),
        time=reference_time(reference_date, reference_years, reference_always),
    )  # fmt: skip
    page = None
    if out is not None:
        from pipelines.assessment_report import write_report

        page = write_report(result, out)
    if not as_json:
        for title, table in result.tables.items():
            single = table["scope"].isin(_SUMMARY) if title == PER_IMAGE else table["scope"].notna()
            show_frame(title, table[single])
        for note in result.notes:
            screen.print(f"· {note}", highlight=False, markup=False)
    summary = {
        "tables": {title: records(table) for title, table in result.tables.items()},
        "schema": result.reference.schema, "notes": result.notes, "warnings": result.warnings,
    }  # fmt: skip
    finish(summary, as_json, page)
