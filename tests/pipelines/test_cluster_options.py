"""How a cluster is asked for on the command line."""

from __future__ import annotations

from typing import Any

import click
import pytest
from click.testing import CliRunner

from pipelines.cli import main
from pipelines.commands.common import workers


def _asked(monkeypatch: pytest.MonkeyPatch, cluster: str, *given: str) -> tuple[Any, dict[str, Any]]:
    seen: list[tuple[Any, dict[str, Any]]] = []
    monkeypatch.setattr(
        "darts_xr.cluster.start_cluster", lambda address, **options: seen.append((address, options))
    )
    workers(cluster, given)
    return seen[0]


def test_slurm_gets_its_jobs_from_options(monkeypatch: pytest.MonkeyPatch):
    given = (
        "jobs=1-8",
        "cores=16",
        "memory=64GB",
        "walltime=04:00:00",
        "directives=--constraint=a100",
        "directives=-q x",
    )
    address, options = _asked(monkeypatch, "slurm", *given)
    assert address == "slurm"
    assert options == {
        "jobs": (1, 8), "cores": 16, "memory": "64GB", "walltime": "04:00:00",
        "directives": ["--constraint=a100", "-q x"],
    }  # fmt: skip


def test_local_and_addresses_reach_start_cluster(monkeypatch: pytest.MonkeyPatch):
    assert _asked(monkeypatch, "local", "n_workers=2") == (None, {"n_workers": 2})
    assert _asked(monkeypatch, "tcp://127.0.0.1:8786") == ("tcp://127.0.0.1:8786", {})


@pytest.mark.parametrize("text", ["jobs", "=4", "jobs=", "no name=3"])
def test_an_option_without_name_or_value_is_refused(text: str):
    with pytest.raises(click.UsageError, match="jobs=4"):
        workers("slurm", [text])


def test_options_need_a_cluster_and_the_help_names_slurm():
    with pytest.raises(click.UsageError, match="needs --cluster"):
        workers(None, ["jobs=4"])
    assert "slurm: as Slurm jobs" in " ".join(CliRunner().invoke(main, ["detect", "--help"]).output.split())


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_there_for_each_documented_shell(shell: str):
    answer = CliRunner().invoke(main, [], prog_name="darts-xr", env={"_DARTS_XR_COMPLETE": f"{shell}_source"})
    assert answer.exit_code == 0
    assert "_DARTS_XR_COMPLETE" in answer.output
