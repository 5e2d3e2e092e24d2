"""``darts-xr bench``: throughput of this machine."""

from __future__ import annotations

import click

from pipelines.commands.common import finish, verb
from pipelines.console import screen, show_table


@click.command()
@click.option("--models", multiple=True, default=("demo",), show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option("--size", default=1536, show_default=True, help="Side of the synthetic scene, pixels.")
@click.option("--repeats", default=3, show_default=True)
@verb
def command(models: tuple[str, ...], device: str, size: int, repeats: int, as_json: bool) -> None:
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
    finish(result, as_json)
