from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import objects


def test_benchmark_runs_at_toy_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, in_child = tmp_path / "figures.json", objects.measure

    def measure(task: str, path: Path) -> dict[str, Any]:
        """In a process of its own once, and in this one otherwise."""
        if task == "level2_ours":
            return in_child(task, path)
        objects.child(task, path)
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    monkeypatch.setattr(objects, "measure", measure)
    objects.main(["--size", "300", "--objects", "6", "--polygons", "100", "--runs", "1", "--json", str(out)])
    figures = json.loads(out.read_text())
    (row,) = figures["objects"]
    assert row["result"][0] > 0
    assert {"ours_s", "plain_s", "times_faster", "ours_peak_mib"} <= set(row)
    (row,) = figures["level2"]
    assert row["cpu_us_per_polygon"] > 0
