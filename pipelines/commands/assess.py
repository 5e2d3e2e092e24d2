"""``darts-xr assess``: the paper's other validations, its figures, and Table 1."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from pipelines.commands.common import PATH, finish, verb


@click.group()
def command() -> None:
    """Make validations and figures of the paper beside the scores of darts-xr validate."""


def _tell(tables: dict[str, Any], as_json: bool, out: Path | None) -> None:
    """Print tables, and write them as CSV where a folder is given."""
    from pipelines.score_tables import records, show_frame, write_table

    if not as_json:
        for title, table in tables.items():
            show_frame(title, table)
    if out is not None:
        for title, table in tables.items():
            write_table(table, out / f"{title.lower().replace(' ', '_').replace(',', '')}.csv")
    finish({title: records(table) for title, table in tables.items()}, as_json, out)


def _dated(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that date a reference."""
    for option in (
        click.option("--reference-date", default=None, help="Column with the date or year of each object."),
        click.option(
            "--reference-years", default=None, metavar="START,END", help="Columns of a period's ends."
        ),
        click.option("--reference-always", is_flag=True, help="Take the reference for valid in every year."),
    ):
        function = option(function)
    return function


_OUT = click.option("--out", type=PATH, default=None, help="Folder for the tables as CSV.")
_COVERAGE = click.option(
    "--coverage", type=PATH, default=None, help="What was seen; by default the run's own."
)


@command.command()
@click.argument("verdicts", type=PATH)
@click.option("--by", default=None, help="Column that makes rows, such as a region.")
@click.option("--land-cover", default=None, help="Column with the land cover, for the table of errors.")
@_OUT
@verb
def confirm(verdicts: Path, by: str | None, land_cover: str | None, out: Path | None, as_json: bool) -> None:
    """Count what a person said of each detection (column verdict) of a file: validation 1."""
    from darts_xr.assess import confirmation_table, error_table
    from pipelines.validation import read_vectors

    rows = read_vectors(verdicts)
    tables = {"Confirmation": confirmation_table(rows, by=by)}
    if "error_class" in rows:
        wrong = rows[rows["verdict"] == "false"]
        tables["False detections"] = error_table(wrong, landcover=land_cover)
    _tell(tables, as_json, out)


@command.command()
@click.argument("coverage", type=PATH)
@click.option("--regions", type=PATH, default=None, help="Polygons of regions.")
@click.option("--region-name", default=None, help="Column with the name of each region.")
@click.option("--count", default=10, show_default=True, help="Squares a region.")
@click.option("--area", default=100.0, show_default=True, help="Area of a square, km².")
@click.option("--seed", default=0, show_default=True)
@click.option("--out", type=PATH, default=Path("squares"), show_default=True, help="Files, without a suffix.")
@verb
def squares(
    coverage: Path, regions: Path | None, region_name: str | None, count: int, area: float, seed: int, out: Path,
    as_json: bool,
) -> None:  # fmt: skip
    """Draw random squares inside COVERAGE, in which a person then maps every slump: validation 2.

    Afterwards: darts-xr validate RUN drawn.gpkg --coverage squares.gpkg --regions squares.gpkg --region-name region.
    """
    from darts_xr.assess import random_squares
    from darts_xr.products import write_vectors
    from pipelines.validation import read_regions, read_vectors

    drawn = random_squares(
        read_vectors(coverage), count=count, area_km2=area, seed=seed,
        regions=None if regions is None else read_regions(regions, region_name),
    )  # fmt: skip
    paths = write_vectors(drawn, out, metadata={"seed": str(seed)})
    finish({"squares": len(drawn), "files": [str(path) for path in paths]}, as_json, paths[-1])


@command.command()
@click.argument("detected")
@click.argument("points", type=PATH)
@_COVERAGE
@click.option("--buffers", default="0,100,200,300,400,500", show_default=True, help="Metres.")
@_dated
@_OUT
@verb
def points(
    detected: str,
    points: Path,
    coverage: Path | None,
    buffers: str,
    reference_date: str | None,
    reference_years: str | None,
    reference_always: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """Score DETECTED against an inventory of POINTS, by the buffer around them: validation 3, Fig. 6."""
    from darts_xr.assess import Comparison, read_inventory, sweep_years
    from pipelines.validation import read_detections, reference_time

    try:
        metres = [float(part) for part in buffers.split(",")]
    except ValueError as error:
        raise click.BadParameter(f"buffers must look like 0,100,200, got {buffers!r}") from error
    found, wanted = read_detections(detected, coverage), read_inventory(points)
    time = reference_time(reference_date, reference_years, reference_always) or wanted.time
    curve = sweep_years(
        found.per_year, wanted.features, found.coverage, buffers=metres, comparison=Comparison(time=time)
    )
    _tell({"Scores by buffer": curve}, as_json, out)


@command.command()
@click.argument("detected")
@click.argument("reference", type=PATH)
@_COVERAGE
@click.option("--buffer", default=0.0, show_default=True)
@_dated
@_OUT
@verb
def sensitivity(
    detected: str,
    reference: Path,
    coverage: Path | None,
    buffer: float,
    reference_date: str | None,
    reference_years: str | None,
    reference_always: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """Scores and kept share against the least mean probability, and its densities (the paper's Fig. 14)."""
    from darts_xr.assess import Comparison, probability_densities, read_inventory, sweep_years
    from pipelines.validation import read_detections, reference_time

    found, inventory = read_detections(detected, coverage), read_inventory(reference)
    wanted = inventory.features
    time = reference_time(reference_date, reference_years, reference_always) or inventory.time
    sweep = sweep_years(
        found.per_year, wanted, found.coverage, thresholds=(0.5, 0.55, 0.6, 0.65, 0.7),
        comparison=Comparison(buffer=buffer, time=time),
    )  # fmt: skip
    density = probability_densities(found.per_year, wanted, buffer=buffer, coverage=found.coverage)
    _tell({"Scores by least mean probability": sweep, "Densities": density}, as_json, out)


@command.command()
@click.argument("detected")
@click.argument("reference", type=PATH)
@_COVERAGE
@click.option("--cell", default=10_000.0, show_default=True, help="Side of a cell, metres.")
@_OUT
@verb
def grid(
    detected: str, reference: Path, coverage: Path | None, cell: float, out: Path | None, as_json: bool
) -> None:
    """Gridded comparison: classes of counts in cells, with the paper's classes and with all (Fig. 16e)."""
    from darts_xr.assess import grid_counts, gridded_comparison, read_inventory
    from darts_xr.errors import PipelineError
    from pipelines.validation import read_detections

    found, wanted = read_detections(detected, coverage), read_inventory(reference).features
    if found.coverage is None:
        raise PipelineError("A gridded comparison needs to know what was seen: give --coverage.")
    cells = grid_counts(found.per_year, wanted, found.coverage, cell=cell)
    tables = {}
    for classes in ("published", "complete"):
        matrix = gridded_comparison(cells, classes=classes)  # type: ignore[arg-type]
        title = f"Cells, {classes} classes, {matrix.attrs['left_out']} left out"
        tables[title] = matrix.reset_index()
    _tell(tables, as_json, out)


@command.command()
@click.argument("run")
@click.option("--resolution", default=4, show_default=True, help="H3 resolution.")
@click.option("--land", type=PATH, default=None, help="Polygons of land; else the share is of what was seen.")
@click.option("--out", type=PATH, default=Path("density"), show_default=True, help="Files, without a suffix.")
@verb
def density(run: str, resolution: int, land: Path | None, out: Path, as_json: bool) -> None:
    """Share of thaw slumps in hexagons, a year (the paper's Fig. 15)."""
    from darts_xr.assess import h3_density_by_year
    from darts_xr.products import write_vectors
    from pipelines.validation import read_detections, read_vectors

    found = read_detections(run, whole=True)
    assert found.coverage is not None
    cells = h3_density_by_year(
        found.per_year,
        found.coverage,
        resolution=resolution,
        land=None if land is None else read_vectors(land),
    )
    paths = write_vectors(cells, out)

    years = sorted({int(year) for year in cells["year"]})
    finish({"cells": len(cells), "years": years, "files": [str(path) for path in paths]}, as_json, out)


@command.command()
@click.argument("run")
@click.option("--resolution", default=4, show_default=True, help="H3 resolution.")
@click.option(
    "--out", type=PATH, default=Path("expected_area"), show_default=True, help="Files, without a suffix."
)
@verb
def area(run: str, resolution: int, out: Path, as_json: bool) -> None:
    """Sum probability times pixel area in hexagons, a year: the slump area that is expected, without a threshold."""
    from darts_xr.assess import expected_area
    from darts_xr.products import write_vectors
    from pipelines.console import steps

    with steps() as bar:
        cells = expected_area(
            f"{run}/catalog.json", resolution=resolution, on_cell=lambda c, y: bar.say(f"{c} {y}")
        )
    paths = write_vectors(cells, out)
    hectares = (cells.groupby("year")["expected_area_m2"].sum() / 1e4).round(3).to_dict()
    finish({"expected_ha": hectares, "files": [str(path) for path in paths]}, as_json, out)


@command.command()
@click.argument("drawings", type=PATH, nargs=-1, required=True)
@click.option(
    "--model", type=PATH, multiple=True, help="Detections of a model, beside the experts; repeat for more."
)
@_OUT
@verb
def experts(drawings: tuple[Path, ...], model: tuple[Path, ...], out: Path | None, as_json: bool) -> None:
    """F1 of each expert's DRAWINGS (one file an expert) against each other and the majority, and of models."""
    from darts_xr.assess import expert_matrix, recall_by_agreement
    from pipelines.validation import read_vectors

    by_name = {_expert(path): read_vectors(path) for path in drawings}
    models = {path.stem: read_vectors(path) for path in model}
    tables = {"F1": expert_matrix(by_name, models=models).reset_index()}
    tables |= {
        f"Recall of {name} by agreement": recall_by_agreement(found, by_name)
        for name, found in models.items()
    }
    _tell(tables, as_json, out)


def _expert(path: Path) -> str:
    """Folder and file name: experts often get a folder each for files of one name."""
    return f"{path.parent.name}/{path.stem}"
