"""``darts-xr detect``: detection of a catalogue, or its dry run."""

from __future__ import annotations

import os
import sys
from collections import Counter
from dataclasses import asdict
from typing import Any

import click

from pipelines.commands.common import PATH, cluster_options, finish, raster_options, verb, workers


@click.command()
@click.argument("source")
@click.option(
    "--models",
    multiple=True,
    default=("demo",),
    show_default=True,
    help="Checkpoints; repeat for an ensemble.",
)
@click.option(
    "--auxiliary",
    multiple=True,
    help="Elevation, trends and land cover: a STAC source, GeoTIFF or folder, or the word neutral; repeat for more.",
)
@click.option(
    "--neutral",
    multiple=True,
    type=click.Choice(["elevation", "trends"]),
    help="Layer that is filled (level, no trend) instead of read; repeat for both.",
)
@click.option(
    "--fill-gaps", is_flag=True, help="Go on with scenes that a layer does not cover at all; else they fail."
)
@click.option(
    "--out", default="run", show_default=True, help="Run folder, or an fsspec target such as s3://…"
)
@click.option(
    "--landcover",
    default="auxiliary",
    show_default=True,
    help="Source of land cover, or none: no water filter.",
)
@click.option("--infrastructure", type=PATH, default=None, help="Polygons of infrastructure.")
@click.option(
    "--verdicts", multiple=True, type=PATH,
    help="What reviewers said of this run: verdict files or CSV; repeat for more. What is rejected is removed.",
)  # fmt: skip
@click.option("--threshold", default=0.5, show_default=True, help="Least probability of an object's pixels.")
@click.option("--border", default=10, show_default=True, help="Border zone, pixels.")
@click.option("--min-pixels", default=32, show_default=True, help="Smallest object, pixels.")
@click.option("--max-water", default=0.2, show_default=True, help="Largest share of water in an object.")
@click.option(
    "--connectivity",
    type=click.Choice(["8", "4", "legacy"]),
    default="8",
    show_default=True,
    help="Pixels that meet at a corner are one object (8) or not (4); legacy: 8 at borders, 4 for sizes.",
)
@click.option(
    "--mask-rule", default=None, help="Rule of the valid mask; by default that of the mask at hand."
)
@raster_options
@click.option("--only", multiple=True, help="Only the scene of this id; repeat for more.")
@click.option("--retry-failed", is_flag=True, help="Do scenes again that failed before.")
@click.option("--verify", is_flag=True, help="Read the files of finished scenes; do damaged ones again.")
@click.option("--prune", is_flag=True, help="Remove scenes from the folder that are not in SOURCE.")
@click.option(
    "--checksums",
    is_flag=True,
    help="Know all input files by their content, where times cannot be relied on.",
)
@click.option("--max-failures", type=int, help="Give up when more scenes than this have failed.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--members", is_flag=True, help="Also write what each network found alone.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda:N.")
@click.option("--batch-norm", type=click.Choice(["eval", "per-tile"]), default="eval", show_default=True)
@click.option("--tile", type=int, help="Side of a model tile's core, px; by default that of the checkpoints.")
@click.option("--margin", type=int, help="Pixels seen beyond the core; by default those of the checkpoints.")
@cluster_options
@verb
def command(
    source: str,
    dry_run: bool,
    cluster: str | None,
    cluster_option: tuple[str, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Detect slumps in every scene of SOURCE (catalogue, STAC API, stac-geoparquet) into a run folder.

    A run that is in the folder already goes on where it stopped. Ctrl-C finishes the scenes in flight, a second one
    stops at once; the same command goes on later.
    """
    from pipelines.detection import detect, plan
    from pipelines.flow import Limits

    settings, only = _settings(options), options["only"] or None
    limits = Limits(
        max_failures=options["max_failures"], retry_failed=options["retry_failed"], verify=options["verify"]
    )
    if dry_run:
        found = plan(source, settings, only=only, limits=limits, prune=options["prune"])
        _show_plan(found, as_json)
        if found.refused:
            sys.exit(1)
        return
    from pipelines.cautions import cautions, unknown_images
    from pipelines.console import notes, show_scenes, steps

    try:
        with workers(cluster, cluster_option) as client, steps() as bar:
            run = detect(
                source, settings, only=only, limits=limits, prune=options["prune"], client=client,
                on_scene=bar.scene, on_stage=bar.stage,
            )  # fmt: skip
    except KeyboardInterrupt:
        notes.print(f"Stopped. The same command goes on from {settings.out}.", highlight=False)
        os._exit(130)  # not waiting for threads that are amid a scene
    warned = cautions(run.done) + unknown_images(run.record)
    if not as_json:
        show_scenes(run.scenes)
    for caution in warned:
        notes.print(f"[bold red]{caution}[/]", highlight=False)
    state = run.record["state"]
    summary = {
        "run": settings.out, "state": state, "counts": run.record["counts"], "failed": run.failed,
        "left_out": run.left_out, "cautions": warned,
    }  # fmt: skip
    finish(summary, as_json, settings.out)
    if state == "interrupted":
        notes.print("Interrupted: the same command goes on.")
        sys.exit(130)
    if run.failed:
        sys.exit(1)


def _settings(options: dict[str, Any]) -> Any:
    """Gather the options that say how to detect."""
    import darts_xr as dx
    from darts_xr.rasters import RasterLimits
    from pipelines.settings import Rules, Settings

    rules = {name: options[name] for name in ("threshold", "border", "min_pixels", "max_water", "mask_rule")}
    connectivity = options["connectivity"]
    rules["connectivity"] = connectivity if connectivity == "legacy" else int(connectivity)
    return Settings(
        out=options["out"],
        models=dx.load_ensemble(
            *options["models"],
            device=options["device"],
            batch_norm=options["batch_norm"],
            tile=options["tile"],
            margin=options["margin"],
        ),
        auxiliary=_auxiliary(options["auxiliary"]),
        neutral=options["neutral"],
        fill_gaps=options["fill_gaps"],
        landcover=None if options["landcover"] == "none" else options["landcover"],
        infrastructure=options["infrastructure"],
        verdicts=options["verdicts"],
        rules=Rules(**rules),
        members=options["members"],
        checksums=options["checksums"],
        raster_limits=RasterLimits(tuple(options["pixel_size"]), tuple(options["drivers"])),
    )


def _auxiliary(given: tuple[str, ...]) -> Any:
    """Tell apart no source, the word neutral, and one or more sources."""
    if given == ("neutral",):
        return "neutral"
    return list(given) or None


def _show_plan(plan: Any, as_json: bool) -> None:
    """Print what a run would do."""
    from pipelines.console import notes, show_table

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
        for name, reason in plan.refused.items():
            notes.print(f"cannot be done: {name}: {reason}", markup=False, highlight=False, soft_wrap=True)
    finish(asdict(plan), as_json)
