"""``darts-xr catalog``: planet deliveries to a catalogue."""

from __future__ import annotations

from pathlib import Path

import click

from pipelines.commands.common import PATH, finish, verb
from pipelines.console import show_table


@click.command()
@click.argument("folder", type=PATH)
@click.option(
    "--out",
    type=PATH,
    default=Path("catalog.json"),
    show_default=True,
    help="A .json catalogue or a .parquet table.",
)
@click.option("--masks-only", is_flag=True, help="Also take scenes that have a mask but no image.")
@verb
def command(folder: Path, out: Path, masks_only: bool, as_json: bool) -> None:
    """Build a STAC catalogue from a folder of Planet deliveries."""
    from darts_xr.catalog import write_catalog, write_stac_geoparquet
    from darts_xr.planet import planet_items

    items = planet_items(folder, require_image=not masks_only)
    if out.suffix == ".parquet":
        path = write_stac_geoparquet(items, out)
    else:
        path = write_catalog(
            items, out, title=folder.resolve().name, description="Scenes of Planet deliveries"
        )
    if not as_json:
        rows = [
            [item.id, item.properties.get("darts:product", ""), f"{item.datetime:%Y-%m-%d}",
             round(float(item.properties.get("eo:cloud_cover") or 0), 1),
             float(item.properties["darts:valid_fraction"])]
            for item in items
        ]  # fmt: skip
        show_table("Scenes", ["scene", "product", "date", "cloud %", "valid"], rows)
    finish({"catalog": str(path), "items": [item.id for item in items]}, as_json, path)
