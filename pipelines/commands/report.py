"""``darts-xr report``: a page about a run."""

from __future__ import annotations

import click

from pipelines.commands.common import finish, verb
from pipelines.console import show_scenes


@click.command()
@click.argument("run")
@verb
def command(run: str, as_json: bool) -> None:
    """Summarise RUN as an HTML page."""
    from pipelines.records import open_run
    from pipelines.reports import report as run_report

    opened = open_run(run)
    page = run_report(opened)
    if not as_json:
        show_scenes(opened.scenes)
    finish({"report": str(page), "counts": opened.record["counts"], "failed": opened.failed}, as_json, page)
