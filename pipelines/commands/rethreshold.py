"""``darts-xr rethreshold``: other objects from the stored probability of a run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from pipelines.commands.common import PATH, finish, verb


@click.command()
@click.argument("run")
@click.option("--out", help="New run folder, or an fsspec target such as s3://…")
@click.option(
    "--threshold", type=float, help="Least probability of an object's pixels.  [default: the run's]"
)
@click.option("--border", type=int, help="Border zone, pixels.  [default: the run's]")
@click.option("--min-pixels", type=int, help="Smallest object, pixels.  [default: the run's]")
@click.option("--max-water", type=float, help="Largest share of water in an object.  [default: the run's]")
@click.option(
    "--landcover", help="Source of land cover; none: without the water filter.  [default: that of the run]"
)
@click.option(
    "--infrastructure",
    help="Polygons of infrastructure; none: without that filter.  [default: those of the run]",
)
@click.option(
    "--verdicts", multiple=True, type=PATH,
    help="What reviewers said of RUN, as for detect; repeat for more.  [default: what the run was made with]",
)  # fmt: skip
@click.option("--curve", type=PATH, help="Write count and area over thresholds to this CSV file instead.")
@verb
def command(
    run: str, out: str | None, landcover: str | None, infrastructure: str | None, curve: Path | None,
    verdicts: tuple[Path, ...], as_json: bool, **rules: Any,
) -> None:  # fmt: skip
    """Make the objects of RUN again under other rules, without the networks, into another run folder."""
    from pipelines.filter_layers import Layers
    from pipelines.rethresholding import rethreshold, threshold_curve

    if (out is None) == (curve is None):
        raise click.UsageError("Give --out for a new run folder, or --curve for a table over thresholds.")
    given = {"water": landcover, "infrastructure": infrastructure}
    layers = Layers(
        None if landcover == "none" else landcover,
        None if infrastructure == "none" else infrastructure,
        verdicts,
        tuple(name for name, value in given.items() if value == "none"),
    )
    asked = {name: value for name, value in rules.items() if value is not None}
    if curve is not None:
        if "threshold" in asked:
            raise click.UsageError("--curve goes over all thresholds: leave out --threshold, or give --out.")
        table = threshold_curve(run, layers=layers, **asked)
        table.to_csv(curve)
        if not as_json:
            from pipelines.console import show_table

            rows = table[["n_objects", "area_m2"]].reset_index().to_numpy().tolist()
            shown = [[f"{t:.2f}", int(n), f"{area / 1e4:.1f}"] for t, n, area in rows]
            show_table("Objects over thresholds", ["threshold", "objects", "area, ha"], shown)
        finish({"curve": str(curve), "rows": table.reset_index().to_dict("records")}, as_json, curve)
        return
    made = rethreshold(run, str(out), layers=layers, **asked)
    if not as_json:
        from pipelines.console import show_scenes

        show_scenes(made.scenes)
    finish({"run": out, "counts": made.record["counts"], "failed": made.failed}, as_json, out)
    if made.failed:
        sys.exit(1)
