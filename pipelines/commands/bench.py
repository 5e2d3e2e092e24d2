"""``darts-xr bench``: throughput of this machine or cluster, and what the archive would cost on it."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import click

from pipelines.commands.common import PATH, cluster_options, finish, verb, workers


@click.command()
@click.option(
    "--models", multiple=True, default=("published",), show_default=True,
    help="Checkpoints; published: UNet++ with ResNet-34 of 10 and of 7 bands, random weights; demo: the small ones.",
)  # fmt: skip
@click.option("--device", default="auto", show_default=True)
@click.option(
    "--size", type=int,
    help="Side of the synthetic scenes, pixels.  [default: 4096 on a GPU, 1024 on a CPU]",
)  # fmt: skip
@click.option("--repeats", default=3, show_default=True, help="Measurements of each; median, least, most.")
@click.option(
    "--workers", "counts", metavar="1,2,…",
    help="Compare these numbers of workers (with --cluster slurm: of jobs), a cluster for each.",
)  # fmt: skip
@click.option("--sweep", is_flag=True, help="Also the bare networks over batch, tile and precision.")
@click.option(
    "--price-per-hour", type=float, help="Of one worker (one GPU): the archive's price comes of it."
)
@click.option("--folder", type=PATH, help="Scratch folder that all workers see.  [default: a temporary one]")
@click.option("--out", type=PATH, help="Write the result here, as JSON.")
@click.option("--compare", "earlier", type=PATH, help="Compare with the --out of an earlier one.")
@cluster_options
@verb
def command(
    counts: str | None, out: Path | None, earlier: Path | None, cluster: str | None,
    cluster_option: tuple[str, ...], as_json: bool, **asked: Any,
) -> None:  # fmt: skip
    """Measure pixels per second of bare networks, prediction and the whole flow, here or on a cluster."""
    from darts_xr.atomic import write_atomic
    from pipelines.machines import compare, read_result, reference_machines
    from pipelines.throughput import Bench
    from pipelines.throughput import bench as run_bench

    before = None if earlier is None else read_result(earlier)
    request = Bench(workers=_counts(counts), **asked)
    if not request.workers:
        with workers(cluster, cluster_option) as client:
            if client is not None:
                client.wait_for_workers(1)
            result = run_bench(request, client=client)
    else:
        if cluster not in (None, "local", "slurm"):
            raise click.UsageError("--workers starts clusters of its own: with --cluster local or slurm.")

        def start(count: int) -> AbstractContextManager[Any]:
            name = "jobs" if cluster == "slurm" else "n_workers"
            client = workers(cluster or "local", (*cluster_option, f"{name}={count}"))
            client.wait_for_workers(count)
            return client  # type: ignore[no-any-return]

        result = run_bench(request, clusters=start)
    result["reference"] = reference_machines()
    if before is not None:
        result["compared"] = compare(result, before)
    if not as_json:
        _show(result, request.price_per_hour)
    if out is not None:
        text = json.dumps(result, indent=1) + "\n"
        write_atomic(out, lambda part: part.write_text(text, encoding="utf-8"))
    finish(result, as_json, out)


def _counts(text: str | None) -> tuple[int, ...]:
    parts = [] if text is None else [part.strip() for part in str(text).split(",")]
    if not all(part.isdecimal() for part in parts):
        raise click.BadParameter(f"--workers must look like 1,2,4, got {text!r}")
    return tuple(int(part) for part in parts)


def _millions(rate: float) -> str:
    return f"{rate / 1e6:.3f}"


def _show(result: dict[str, Any], price: float | None) -> None:
    """Print the result as tables."""
    from pipelines.console import screen, show_table

    screen.print(f"{result['network']}; {result['device']}, {result['threads']} threads", highlight=False)
    rows = []
    for row in result["measurements"]:
        for name, found in row["pixels_per_second"].items():
            shown = [_millions(found[key]) for key in ("median", "min", "max")]
            rows.append([f"{name}, {row['workers']} worker(s)", *shown])
    side = result["scene_side"]
    show_table(f"Mpx/s, synthetic scenes of {side} × {side}", ["", "median", "least", "most"], rows)
    rows = [
        [
            row["workers"], _millions(row["per_worker"]), scale["speed_up"], f"{row['busy_share']:.0%}",
            f"{row['seen_per_valid']:.2f}",
            row["peak_worker_mib"], row["peak_gpu_mib"] or "",
        ]
        for row, scale in zip(result["measurements"], result["scaling"], strict=True)
    ]  # fmt: skip
    head = [
        "workers",
        "Mpx/s a worker",
        "times the first",
        "networks busy",
        "seen a valid pixel",
        "peak MiB",
        "peak GPU MiB",
    ]
    show_table("Files to polygons", head, rows)
    if result["sweep"]:
        rows = [
            [
                row["precision"], row["tile"], row["batch"],
                *(["out of memory", ""] if row["seen"] is None
                  else [_millions(row["seen"]["median"]), _millions(row["kept"])]),
            ]
            for row in result["sweep"]
        ]  # fmt: skip
        show_table(
            "Bare networks, Mpx/s", ["precision", "tile", "batch", "seen", "kept without margin"], rows
        )
    if "compared" in result:
        rows = [
            [
                f"{row['what']}, {row['workers']} worker(s)", _millions(row["before"]), _millions(row["now"]),
                row["ratio"], "yes" if row["beyond_spread"] else "no",
            ]
            for row in result["compared"]["rows"]
        ]  # fmt: skip
        show_table(
            "Against the earlier one, Mpx/s", ["", "before", "now", "ratio", "more than they spread"], rows
        )
        if not rows:
            screen.print("Nothing to compare: the two have no number of workers in common.", highlight=False)
        for name, (old, new) in result["compared"]["differs"].items():
            screen.print(f"not the same: {name}, {old} before, {new} now", markup=False, highlight=False)
    known = result["reference"]
    rows = [
        [
            f"{machine['machine']}: {machine['network']}",
            _millions(machine["pixels_per_second"]["files to polygons"]), machine["measured"],
        ]
        for machine in known["machines"]
    ]  # fmt: skip
    show_table("Measured before, files to polygons, Mpx/s", ["", "", "on"], rows)
    screen.print(known["note"], highlight=False)
    archive = result["archive"]
    cost = "" if price is None else f", {archive['price']:,.2f} at {price:g} an hour and worker"
    screen.print(
        f"The archive of {archive['scenes']:,} scenes, 880 billion pixels, as if all were valid, with these networks: "
        f"{archive['worker_hours']:,.1f} worker hours{cost}; {archive['hours']:,.1f} h on all that was measured last",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
