"""``darts-xr auxiliary``: elevation, trend and land-cover files to a catalogue, and what they leave uncovered."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from pipelines.commands.common import PATH, finish, verb

_ENOUGH = 0.99


@click.command()
@click.argument("files", nargs=-1, required=True, type=PATH)
@click.option(
    "--out", type=PATH, default=Path("auxiliary"), show_default=True, help="Folder of the catalogue."
)
@click.option("--for", "scenes", help="Catalogue of scenes: tell which of them lack what.")
@click.option(
    "--kind",
    type=click.Choice(["elevation", "trends", "landcover", "relative_elevation", "slope"]),
    help="What all these files hold; by default each is judged by name, bands and values.",
)
@click.option(
    "--year", type=click.IntRange(1900, 2100), help="Year of all these files, where names do not tell."
)
@verb
def command(
    files: tuple[Path, ...], out: Path, scenes: str | None, kind: Any, year: int | None, as_json: bool
) -> None:
    """Make a catalogue of the elevation, trend and land-cover FILES, GeoTIFFs or folders of them, for detect.

    ArcticDEM strips and mosaic tiles, other DEMs in metres, TCVIS exports, ESRI annual land cover. Files that are none
    of these are left out, named with the reason, and the command ends non-zero.
    """
    from darts_xr.catalog import write_catalog
    from darts_xr.cube import auxiliary_items
    from darts_xr.cube.auxiliary_files import LEFT_OUT

    items = auxiliary_items(files, kind=kind, year=year)
    left_out: dict[str, str] = items.extra_fields[LEFT_OUT]
    description = "Elevation, Landsat trends and land cover, made of files by darts-xr auxiliary."
    path = write_catalog(items, out, title="Auxiliary layers", description=description)
    summary: dict[str, Any] = {
        "catalog": str(path),
        "items": {item.id: item.properties["darts:layer"] for item in items},
        "left_out": left_out,
    }
    if not as_json:
        _show(items, left_out)
    if scenes is not None:
        summary["coverage"] = _gaps(scenes, items, as_json)
    finish(summary, as_json, path)
    if left_out:
        sys.exit(1)


def _show(items: Any, left_out: dict[str, str]) -> None:
    from pipelines.console import notes, show_table

    rows = [
        [
            item.id,
            item.properties["darts:layer"],
            item.properties["darts:layer_known_by"],
            "unknown" if "darts:date" in item.properties else _when(item),
            f"{item.properties['gsd']:g}",
        ]
        for item in items
    ]
    show_table("Layers", ["file", "layer", "known by", "date", "pixel, m"], rows)
    for reason in left_out.values():
        notes.print(f"left out: {reason}", markup=False, highlight=False, soft_wrap=True)
    notes.print(f"{len(rows)} kept, {len(left_out)} left out", highlight=False)


def _when(item: Any) -> str:
    if item.datetime is not None:
        return f"{item.datetime:%Y-%m-%d}"
    about = item.common_metadata
    return f"{about.start_datetime:%Y}-{about.end_datetime:%Y}"


def _gaps(scenes: str, items: Any, as_json: bool) -> dict[str, dict[str, float]]:
    """Tell which scenes lack what, estimated before a run."""
    import darts_xr as dx
    from darts_xr.cube import coverage_gaps
    from pipelines.console import screen, show_table

    table = coverage_gaps(dx.load_items(scenes), items)
    if not as_json:
        lacking = table[table.min(axis=1) < _ENOUGH]
        rows = [
            [str(name), *("none" if share != share else f"{100 * share:.1f}" for share in row)]
            for name, *row in lacking.itertuples()
        ]
        if rows:
            show_table(
                f"Scenes with gaps, {len(rows)} of {len(table)}", ["scene", *(f"{n} %" for n in table)], rows
            )
        else:
            screen.print(f"All {len(table)} scene(s) are covered.", highlight=False)
        if table["landcover"].isna().all():
            screen.print("No land cover: objects in water would not be removed.", highlight=False)
    return {
        str(name): {str(layer): round(float(share), 4) for layer, share in row.dropna().items()}
        for name, row in table.iterrows()
    }
