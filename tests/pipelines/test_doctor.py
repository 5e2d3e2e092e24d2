"""What the doctor says of this machine."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version

import pytest
from click.testing import CliRunner

from pipelines import diagnosis
from pipelines.cli import main


def test_the_doctor_finds_this_machine_fit_and_runs_the_flow():
    answer = CliRunner().invoke(main, ["doctor", "--json"])
    assert answer.exit_code == 0, answer.output
    checks = {check["name"]: check for check in json.loads(answer.stdout)["checks"]}
    assert checks["torch"]["found"] == version("torch")
    assert "65,536 pixels" in checks["self-test"]["found"]
    assert all(check["remedy"] for check in checks.values() if check["state"] == "bad")


def test_a_missing_extra_comes_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch):
    def without_jobqueue(name: str) -> str:
        if name == "dask-jobqueue":
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(diagnosis, "version", without_jobqueue)
    checks = {check.name: check for check in diagnosis.doctor(self_test=False)}
    assert checks["extra slurm"].state == "missing"
    assert checks["extra slurm"].remedy == "pip install 'darts-xr[slurm]'"
    assert "self-test" not in checks


def test_a_broken_part_is_a_finding_and_ends_with_one(monkeypatch: pytest.MonkeyPatch):
    def broken() -> None:
        raise OSError("libgdal.so: no such file")

    monkeypatch.setattr(diagnosis, "_gdal", broken)
    answer = CliRunner().invoke(main, ["doctor", "--no-self-test"])
    assert answer.exit_code == 1
    assert "libgdal.so" in answer.stdout


def test_few_threads_are_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(8), raising=False)
    found = {check.name: check for check in diagnosis.doctor(self_test=False)}["threads"]
    assert "OMP_NUM_THREADS=1 with 8 cores" in found.found
