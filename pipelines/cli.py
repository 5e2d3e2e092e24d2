"""The command ``darts-xr``: every pipeline function as a verb."""

from __future__ import annotations

import functools
import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import yaml

from darts_xr import __version__
from darts_xr.addresses import redact
from darts_xr.errors import DartsError
from pipelines.console import notes, screen, show_scenes, show_table, steps

_PATH = click.Path(path_type=Path)


def _read_config(ctx: click.Context, _: click.Parameter, path: Path | None) -> None:
    """Take a YAML file's entries as the defaults of this verb's options; the command line wins."""
    if path is None:
        return
    try:
        entries = yaml.safe_load(path.read_text()) or {}
    except (OSError, yaml.YAMLError) as error:
        raise click.BadParameter(f"{path} cannot be read: {error}") from error
    known = {parameter.name for parameter in ctx.command.params}
    entries = {str(key).replace("-", "_"): value for key, value in entries.items()}
    if unknown := sorted(set(entries) - known):
        raise click.BadParameter(
            f"{path} has entries that {ctx.command.name} does not know: {', '.join(unknown)}"
        )
    ctx.default_map = {**(ctx.default_map or {}), **entries}


def _verb(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a verb ``--config`` and ``--json``, and make errors of darts_xr messages with exit code 1."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except DartsError as error:
            notes.print(f"[red]{type(error).__name__}[/]: ", end="")
            notes.print(redact(error), markup=False, highlight=False, soft_wrap=True)
            sys.exit(1)

    run = click.option("--json", "as_json", is_flag=True, help="Print a machine-readable summary instead.")(
        run
    )
    return click.option(
        "--config", type=_PATH, callback=_read_config, is_eager=True, expose_value=False,
        help="YAML file with this verb's options.",
    )(run)  # fmt: skip


def _finish(summary: dict[str, Any], as_json: bool, out: Any = None) -> None:
    if as_json:
        click.echo(json.dumps(summary, indent=1, default=str))
    elif out is not None:
        screen.print(f"Written to {out}", highlight=False)


def parse_years(text: str | None) -> list[int] | None:
    """Years from ``2021``, ``2021-2023`` or ``2021,2023``."""
    if text is None:
        return None
    years: list[int] = []
    try:
        for part in str(text).split(","):
            first, _, last = part.partition("-")
            years += range(int(first), int(last or first) + 1)
    except ValueError as error:
        raise click.BadParameter(f"years must look like 2021-2023 or 2021,2023, got {text!r}") from error
    return years


def _rule_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option(
            "--threshold", default=0.5, show_default=True, help="Least probability of an object's pixels."
        ),
        click.option("--border", default=10, show_default=True, help="Border zone, pixels."),
        click.option("--min-pixels", default=32, show_default=True, help="Smallest object, pixels."),
        click.option(
            "--mask-rule", default=None, help="Rule of the valid mask; by default that of the mask at hand."
        ),
    ):
        function = option(function)
    return function


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="darts-xr")
@click.option("-v", "--verbose", count=True, help="More log lines; twice for all.")
def main(verbose: int) -> None:
    """Find retrogressive thaw slumps in PlanetScope images."""
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    for package in ("darts_xr", "pipelines"):
        logging.getLogger(package).setLevel(level)


@main.command()
@click.argument("out", type=_PATH)
@click.option("--seed", default=0, show_default=True, help="Seed of the world.")
@click.option("--scenes", default=6, show_default=True, help="Number of images, two a summer.")
@click.option("--size", default=1536, show_default=True, help="Rows and columns of an image.")
@_verb
def sample(out: Path, seed: int, scenes: int, size: int, as_json: bool) -> None:
    """Write a synthetic world to OUT: images, masks, auxiliary layers and the true outlines."""
    from darts_xr.sample import write_world

    with steps() as bar:
        world = write_world(out, seed=seed, scenes=scenes, size=size, progress=bar.say)
    paths = {name: str(getattr(world, name)) for name in ("catalog", "auxiliary", "truth", "infrastructure")}
    _finish({"seed": seed, "scenes": scenes, "size": size, **paths}, as_json, world.catalog)


@main.command()
@click.option("--out", type=_PATH, default=Path("demo"), show_default=True)
@click.option(
    "--seed", default=7, show_default=True, help="Seed of the synthetic world; no training used 0 to 999."
)
@click.option("--scenes", default=6, show_default=True)
@click.option("--size", default=1536, show_default=True)
@_verb
def demo(out: Path, seed: int, scenes: int, size: int, as_json: bool) -> None:
    """Make a synthetic world, detect, aggregate, and score against its truth."""
    from pipelines.demonstration import demo as run_demo

    with steps() as bar:
        result = run_demo(out, seed=seed, scenes=scenes, size=size, say=bar.say, on_scene=bar.scene)
    if not as_json:
        show_scenes(result.run.scenes)
        ndvi = result.scores["ndvi"]
        shown = ("precision", "recall", "f1")
        show_table(
            f"Objects against the truth of synthetic world {seed}",
            ["", "objects", *shown],
            [
                [name, scores.get("n_detected", ""), *(scores[key] for key in shown)]
                for name, scores in (
                    ("Level 1, per image", result.scores["level1"]),
                    ("Level 2, per year", result.scores["level2"]),
                    (f"best NDVI threshold, < {ndvi['threshold']:.2f}, per image", ndvi),
                )
            ],
        )
        screen.print(f"Quick-looks: {result.run.folder / 'scenes'}/*/quicklook.png", highlight=False)
    summary = {
        "seed": seed,
        "seconds": round(result.seconds, 1),
        "scores": result.scores,
        "run": str(result.run.folder),
    }
    _finish(summary, as_json, result.run.folder / "products")
    if result.run.failed:
        sys.exit(1)


@main.command()
@click.argument("folder", type=_PATH)
@click.option(
    "--out",
    type=_PATH,
    default=Path("catalog.json"),
    show_default=True,
    help="A .json catalogue or a .parquet table.",
)
@click.option("--masks-only", is_flag=True, help="Also take scenes that have a mask but no image.")
@_verb
def catalog(folder: Path, out: Path, masks_only: bool, as_json: bool) -> None:
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
    _finish({"catalog": str(path), "items": [item.id for item in items]}, as_json, path)


@main.command()
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
@click.option("--infrastructure", type=_PATH, default=None, help="Polygons of infrastructure.")
@click.option("--only", multiple=True, help="Only the scene of this id; repeat for more.")
@click.option("--retry-failed", is_flag=True, help="Do scenes again that failed before.")
@click.option(
    "--max-failures", type=int, default=None, help="Give up when more scenes than this have failed."
)
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--members", is_flag=True, help="Also write what each network found alone.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda:N.")
@click.option("--batch-norm", type=click.Choice(["eval", "per-tile"]), default="eval", show_default=True)
@click.option(
    "--cluster", default=None, help="Address of a Dask scheduler, or the word local to start a cluster."
)
@_rule_options
@_verb
def detect(
    source: str, models: tuple[str, ...], auxiliary: str | None, out: str, landcover: str, infrastructure: Path | None,
    only: tuple[str, ...], retry_failed: bool, max_failures: int | None, dry_run: bool, members: bool, device: str,
    batch_norm: Any, cluster: str | None, threshold: float, border: int, min_pixels: int, mask_rule: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Detect slumps in every scene of SOURCE (catalogue, STAC API, stac-geoparquet) into a run folder.

    A run that is in the folder already goes on where it stopped. Ctrl-C finishes the scenes in flight, a second one
    stops at once; the same command goes on later.
    """
    import darts_xr as dx
    from pipelines.detection import detect as run_detect
    from pipelines.detection import plan
    from pipelines.flow import Limits
    from pipelines.settings import Rules

    ensemble = dx.load_ensemble(*models, device=device, batch_norm=batch_norm)
    rules = Rules(threshold=threshold, border=border, min_pixels=min_pixels, mask_rule=mask_rule)
    asked: dict[str, Any] = {
        "models": ensemble, "auxiliary": auxiliary, "out": out, "rules": rules,
        "landcover": None if landcover == "none" else landcover, "infrastructure": infrastructure,
        "only": only or None, "members": members, "retry_failed": retry_failed,
    }  # fmt: skip
    if dry_run:
        _show_plan(plan(source, **asked), as_json)
        return
    limits = Limits(max_failures=max_failures)
    try:
        with _workers(cluster) as client, steps() as bar:
            run = run_detect(source, **asked, limits=limits, client=client, on_scene=bar.scene)
    except KeyboardInterrupt:
        notes.print(f"Stopped. The same command goes on from {out}.", highlight=False)
        os._exit(130)  # not waiting for threads that are amid a scene
    if not as_json:
        show_scenes(run.scenes)
    state = run.record["state"]
    _finish({"run": out, "state": state, "counts": run.record["counts"], "failed": run.failed}, as_json, out)
    if state == "interrupted":
        notes.print("Interrupted: the same command goes on.")
        sys.exit(130)
    if run.failed:
        sys.exit(1)


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
    if not as_json:
        reasons = Counter(step["reason"].partition(":")[0] for step in plan.steps)
        show_table("Scenes", ["what", "scenes"], sorted(reasons.items()))
        expected = (
            "no darts-xr bench yet" if plan.seconds is None else f"{plan.seconds / 60:.1f} min on one worker"
        )
        show_table(
            "To be done",
            ["", ""],
            [
                ["scenes", plan.scenes],
                ["Mpx", round(plan.pixels / 1e6, 1)],
                ["image and mask, MB", round(plan.bytes / 1e6, 1)],
                ["expected", expected],
            ],
        )
    _finish(asdict(plan), as_json)


@main.command()
@click.argument("run")
@click.option("--years", default=None, help="Such as 2021-2023.")
@click.option("--name", default="darts_xr", show_default=True, help="Base name of the products.")
@click.option("--by-year", is_flag=True, help="One set of products a year instead of one of all years.")
@_verb
def aggregate(run: str, years: str | None, name: str, by_year: bool, as_json: bool) -> None:
    """Write Level 1, Level 2 and coverage of RUN to RUN/products."""
    from pipelines.aggregation import aggregate as run_aggregate

    with steps() as bar:
        bar.say("Level 1, Level 2 and coverage")
        products = run_aggregate(run, years=parse_years(years), name=name, by_year=by_year)
    counts = {"level1": len(products.level1), "level2": len(products.level2)}
    if not as_json:
        per_year = products.level2.groupby("year")["area_ha"]
        found, hectares = per_year.size().to_dict(), per_year.sum().to_dict()
        covered = products.coverage["level2"].set_index("year")["area_km2"].to_dict()
        rows = [
            [str(year), km2, found.get(year, 0), float(hectares.get(year, 0))]
            for year, km2 in covered.items()
        ]
        show_table("Level 2", ["year", "covered km²", "slumps", "slumps ha"], rows)
    _finish({**counts, "files": [str(path) for path in products.files]}, as_json, f"{run}/products")


@main.command()
@click.argument("run")
@click.option("--years", default=None, help="Such as 2021-2023.")
@click.option("--name", default="darts_xr", show_default=True)
@_verb
def coverage(run: str, years: str | None, name: str, as_json: bool) -> None:
    """Write only the coverage files of RUN."""
    from pipelines.aggregation import coverage as run_coverage

    products = run_coverage(run, years=parse_years(years), name=name)
    areas = {level: round(float(frame["area_km2"].sum()), 3) for level, frame in products.coverage.items()}
    if not as_json:
        show_table("Coverage", ["level", "km²"], list(areas.items()))
    _finish({"km2": areas, "files": [str(path) for path in products.files]}, as_json, f"{run}/products")


@main.command()
@click.argument("detected", type=_PATH)
@click.argument("reference", type=_PATH)
@click.option("--coverage", "limits", type=_PATH, default=None, help="Polygons that limit both sides.")
@click.option("--buffer", default=0.0, show_default=True, help="Metres by which the reference is grown.")
@click.option("--by-year", is_flag=True, help="One row a year of the detections.")
@_verb
def validate(
    detected: Path, reference: Path, limits: Path | None, buffer: float, by_year: bool, as_json: bool
) -> None:
    """Score the objects of DETECTED against those of REFERENCE; any overlap counts."""
    from pipelines.validation import validate as run_validate

    table = run_validate(detected, reference, coverage=limits, buffer=buffer, by_year=by_year)
    if not as_json:
        shown = ["tp", "fp", "fn", "precision", "recall", "f1"]
        show_table(
            "Object scores",
            ["", *shown],
            [[scope, *row] for scope, row in zip(table.index, table[shown].to_numpy().tolist(), strict=True)],
        )
    _finish({str(scope): row.to_dict() for scope, row in table.iterrows()}, as_json)


@main.command()
@click.argument("configuration", type=_PATH)
@click.option("--out", type=_PATH, default=Path("models"), show_default=True)
@_verb
def train(configuration: Path, out: Path, as_json: bool) -> None:
    """Train the networks that CONFIGURATION describes."""
    from pipelines.training import train as run_train

    with steps() as bar:
        checkpoints = run_train(configuration, out=out, say=bar.say)
    summary = {
        c.name: {"file": c.path, "sha256": c.sha256, "scores": c.training["pixel_scores"]}
        for c in checkpoints
    }
    if not as_json:
        for name, facts in summary.items():
            screen.print(name, facts["scores"])
    _finish(summary, as_json, out)


@main.command()
@click.argument("run")
@_verb
def report(run: str, as_json: bool) -> None:
    """Summarise RUN as an HTML page."""
    from pipelines.records import open_run
    from pipelines.reports import report as run_report

    opened = open_run(run)
    page = run_report(opened)
    if not as_json:
        show_scenes(opened.scenes)
    _finish({"report": str(page), "counts": opened.record["counts"], "failed": opened.failed}, as_json, page)


@main.command()
@click.option("--models", multiple=True, default=("demo",), show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option("--size", default=1536, show_default=True, help="Side of the synthetic scene, pixels.")
@click.option("--repeats", default=3, show_default=True)
@_verb
def bench(models: tuple[str, ...], device: str, size: int, repeats: int, as_json: bool) -> None:
    """Measure pixels per second of bare networks, prediction and the whole flow on this machine."""
    from pipelines.throughput import bench as run_bench

    result = run_bench(models=models, device=device, size=size, repeats=repeats)
    if not as_json:
        rows = [
            [name, f"{rate / 1e6:.3f}", result["efficiency"].get(name, 1.0)]
            for name, rate in result["pixels_per_second"].items()
        ]
        show_table(
            f"Throughput on {result['device']}, synthetic scene", ["", "Mpx/s", "of the bare members"], rows
        )
        screen.print(f"880 billion pixels on one such device: {result['archive_hours']:.1f} h")
    _finish(result, as_json)
