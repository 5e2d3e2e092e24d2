"""``darts-xr cube``: the rasters of a run over time, in one Zarr store."""

from __future__ import annotations

from dataclasses import asdict

import click

from pipelines.commands.common import finish, verb


@click.command()
@click.argument("run")
@click.option("--out", required=True, help="The store, ….zarr; what it lacks is added when it is there.")
@click.option("--band", "bands", multiple=True, default=("probability",), show_default=True,
              type=click.Choice(["probability", "binary"]), help="Repeat for more.")  # fmt: skip
@click.option(
    "--bbox", type=float, nargs=4, help="West, south, east, north in degrees.  [default: all scenes]"
)
@click.option("--datetime", help="Only scenes of a day or an interval, such as 2021-07-01/2023-08-31.")
@click.option("--resolution", type=float, help="Pixel side, metres.  [default: the first scene's]")
@click.option("--crs", help="Reference system, such as EPSG:3413.  [default: the first scene's]")
@verb
def command(
    run: str, out: str, bands: tuple[str, ...], bbox: tuple[float, float, float, float] | None,
    datetime: str | None, resolution: float | None, crs: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Write the probability of RUN over time to one Zarr store, or add to it what it lacks."""
    from pipelines.cubes import store_run

    stored = store_run(run, out, bands=bands, bbox=bbox, datetime=datetime, resolution=resolution, crs=crs)
    if not as_json:
        from pipelines.console import show_table

        counts = asdict(stored)
        rows = [[name, len(counts[name])] for name in ("added", "replaced", "unchanged", "outside", "gone")]
        show_table("Scenes", ["", "scenes"], rows)
    finish(asdict(stored), as_json, out)
