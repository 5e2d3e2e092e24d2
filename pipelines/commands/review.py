"""``darts-xr review``: a page on which a person judges detections."""

from __future__ import annotations

from pathlib import Path

import click

from pipelines.commands.common import PATH, finish, verb


@click.command()
@click.argument("run")
@click.option(
    "--sample", type=click.Choice(["stratified", "random"]), default="stratified", show_default=True,
    help="Evenly from all classes of probability and size, or all alike.",
)  # fmt: skip
@click.option("--n", default=200, show_default=True, help="Detections to judge; a tenth of them comes twice.")
@click.option("--images", default=None, help="STAC source of the scenes that the run was made from.")
@click.option("--seed", default=0, show_default=True, help="Seed of the sample and its order.")
@click.option("--out", type=PATH, default=Path("review"), show_default=True, help="Folder for the page.")
@verb
def command(run: str, sample: str, n: int, images: str | None, seed: int, out: Path, as_json: bool) -> None:
    """Write one offline page on which a person judges detections of RUN by keyboard.

    The page exports a verdict file, which darts-xr verdicts merges into the products.
    """
    from darts_xr.assess import SamplePlan
    from pipelines.console import steps
    from pipelines.review import make_review

    plan = SamplePlan(n=n, kind=sample, seed=seed)  # type: ignore[arg-type]
    with steps() as bar:
        page = make_review(run, out, images=images, plan=plan, say=bar.say)
    finish({"page": str(page)}, as_json, page)
