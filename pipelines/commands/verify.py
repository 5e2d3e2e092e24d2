"""``darts-xr verify``: whether a run folder holds what was written there."""

from __future__ import annotations

import sys
from dataclasses import asdict

import click

from pipelines.commands.common import finish, verb


@click.command()
@click.argument("run")
@verb
def command(run: str, as_json: bool) -> None:
    """Read every file of RUN and say which are damaged, gone or out of date, and what to do again.

    Ends with 1 where anything is found.
    """
    from pipelines.verification import verify as run_verify

    result = run_verify(run)
    summary = {
        "scenes": result.scenes,
        "products": result.products,
        "findings": [asdict(finding) for finding in result.findings],
    }
    if not as_json:
        from pipelines.console import screen, show_table

        if result.findings:
            rows = [[finding.what, finding.reason, finding.redo] for finding in result.findings]
            show_table("Not as it was written", ["what", "why", "again with"], rows)
        else:
            screen.print(
                f"{result.scenes} scenes and {result.products} files of products are as they were written."
            )
    finish(summary, as_json)
    if result.findings:
        sys.exit(1)
