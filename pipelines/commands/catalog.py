"""``darts-xr catalog``: planet deliveries to a catalogue."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from pipelines.commands.common import PATH, finish, raster_options, verb
from pipelines.console import notes, show_table


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
@click.option("--checksums", is_flag=True, help="State the SHA-256 of every file; detect compares it.")
@raster_options
@verb
def command(
    folder: Path, out: Path, masks_only: bool, checksums: bool, pixel_size: tuple[float, float],
    drivers: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    """Build a STAC catalogue from a folder of Planet deliveries.

    Scenes that cannot be used are left out, named with their reason at the end, and make the command end non-zero; the
    catalogue holds the others.
    """
    import pystac

    from darts_xr.catalog import add_checksums, write_catalog, write_stac_geoparquet
    from darts_xr.planet import planet_items
    from darts_xr.rasters import RasterLimits

    left_out: dict[str, str] = {}
    items = planet_items(
        folder, require_image=not masks_only, limits=RasterLimits(pixel_size, drivers),
        on_error=lambda name, error: left_out.update({name: f"{type(error).__name__}: {error}"}),
    )  # fmt: skip
    if checksums:
        items = pystac.ItemCollection(add_checksums(items), clone_items=False)
    if out.suffix == ".parquet":
        path = write_stac_geoparquet(items, out)
    else:
        path = write_catalog(
            items, out, title=folder.resolve().name, description="Scenes of Planet deliveries"
        )
    if not as_json:
        rows = [
            [item.id, item.properties.get("darts:product", ""), f"{item.datetime:%Y-%m-%d}",
             _percent(item.properties.get("eo:cloud_cover")),
             float(item.properties["darts:valid_fraction"])]
            for item in items
        ]  # fmt: skip
        show_table("Scenes", ["scene", "product", "date", "cloud %", "valid"], rows)
        for name, reason in left_out.items():
            notes.print(f"left out {name}: {reason}", markup=False, highlight=False, soft_wrap=True)
        if left_out:
            notes.print(f"{len(items)} kept, {len(left_out)} left out", highlight=False)
    kept = [item.id for item in items]
    finish({"catalog": str(path), "items": kept, "left_out": left_out}, as_json, path)
    if left_out:
        sys.exit(1)


def _percent(cloud_cover: float | None) -> str:
    """Cloud cover as shown: a scene without a mask has none that is known."""
    return "no mask" if cloud_cover is None else f"{cloud_cover:.1f}"
