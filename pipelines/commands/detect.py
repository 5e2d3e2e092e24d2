"""``darts-xr detect``: detection of a catalogue, or its dry run."""

from __future__ import annotations

import logging
import os
import sys
from collections import Counter
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

import click

from pipelines.commands.common import PATH, finish, verb


@click.command()
@click.argument("source")
@click.option(
    "--models",
    multiple=True,
    default=("demo",),
    show_default=True,
    help="Checkpoints; repeat for an ensemble.",
)
@click.option("--auxiliary", default=None, help="STAC source of elevation and trends, or the word neutral.")
@click.option(
    "--out", default="run", show_default=True, help="Run folder, or an fsspec target such as s3://…"
)
@click.option(
    "--landcover", default="auxiliary", show_default=True, help="STAC source of land cover, or none."
)
@click.option("--infrastructure", type=PATH, default=None, help="Polygons of infrastructure.")
@click.option("--threshold", default=0.5, show_default=True, help="Least probability of an object's pixels.")
@click.option("--border", default=10, show_default=True, help="Border zone, pixels.")
@click.option("--min-pixels", default=32, show_default=True, help="Smallest object, pixels.")
@click.option(
    "--mask-rule", default=None, help="Rule of the valid mask; by default that of the mask at hand."
)
@click.option("--only", multiple=True, help="Only the scene of this id; repeat for more.")
@click.option("--retry-failed", is_flag=True, help="Do scenes again that failed before.")
@click.option("--max-failures", type=int, help="Give up when more scenes than this have failed.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--members", is_flag=True, help="Also write what each network found alone.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda:N.")
@click.option("--batch-norm", type=click.Choice(["eval", "per-tile"]), default="eval", show_default=True)
@click.option("--cluster", help="Address of a Dask scheduler, or the word local to start a cluster.")
@verb
def command(source: str, dry_run: bool, cluster: str | None, as_json: bool, **options: Any) -> None:
    """Detect slumps in every scene of SOURCE (catalogue, STAC API, stac-geoparquet) into a run folder.

    A run that is in the folder already goes on where it stopped. Ctrl-C finishes the scenes in flight, a second one
    stops at once; the same command goes on later.
    """
    from pipelines.detection import detect, plan
    from pipelines.flow import Limits

    settings, only = _settings(options), options["only"] or None
    limits = Limits(max_failures=options["max_failures"], retry_failed=options["retry_failed"])
    if dry_run:
        _show_plan(plan(source, settings, only=only, limits=limits), as_json)
        return
    from pipelines.console import notes, show_scenes, steps

    try:
        with _workers(cluster) as client, steps() as bar:
            run = detect(source, settings, only=only, limits=limits, client=client, on_scene=bar.scene)
    except KeyboardInterrupt:
        notes.print(f"Stopped. The same command goes on from {settings.out}.", highlight=False)
        os._exit(130)  # not waiting for threads that are amid a scene
    if not as_json:
        show_scenes(run.scenes)
    state = run.record["state"]
    summary = {"run": settings.out, "state": state, "counts": run.record["counts"], "failed": run.failed}
    finish(summary, as_json, settings.out)
    if state == "interrupted":
        notes.print("Interrupted: the same command goes on.")
        sys.exit(130)
    if run.failed:
        sys.exit(1)


def _settings(options: dict[str, Any]) -> Any:
    """Gather the options that say how to detect."""
    import darts_xr as dx
    from pipelines.settings import Rules, Settings

    rules = {name: options[name] for name in ("threshold", "border", "min_pixels", "mask_rule")}
    return Settings(
        out=options["out"],
        models=dx.load_ensemble(
            *options["models"], device=options["device"], batch_norm=options["batch_norm"]
        ),
        auxiliary=options["auxiliary"],
        landcover=None if options["landcover"] == "none" else options["landcover"],
        infrastructure=options["infrastructure"],
        rules=Rules(**rules),
        members=options["members"],
    )


def _workers(cluster: str | None) -> Any:
    """Client of the cluster that was asked for, None for this process."""
    if cluster is None:
        return nullcontext()
    from darts_xr.cluster import start_cluster

    # Dask lets its loggers tell everything, in the midst of the progress bar.
    logging.getLogger("distributed").setLevel(logging.getLogger("pipelines").level)
    return start_cluster(None if cluster == "local" else cluster)


def _show_plan(plan: Any, as_json: bool) -> None:
    """Print what a run would do."""
    from pipelines.console import show_table

    if not as_json:
        reasons = Counter(step["reason"].partition(":")[0] for step in plan.steps)
        show_table("Scenes", ["what", "scenes"], sorted(reasons.items()))
        expected = (
            "no darts-xr bench yet" if plan.seconds is None else f"{plan.seconds / 60:.1f} min on one worker"
        )
        rows = [
            ["scenes", plan.scenes],
            ["Mpx", round(plan.pixels / 1e6, 1)],
            ["image and mask, MB", round(plan.bytes / 1e6, 1)],
            ["expected", expected],
        ]
        show_table("To be done", ["", ""], rows)
    finish(asdict(plan), as_json)
