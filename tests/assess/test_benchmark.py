from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import matching


def test_benchmark_runs_at_toy_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, in_child = tmp_path / "figures.json", matching.measure

    def measure(folder: Path, buffer: float) -> dict[str, Any]:
        """In a process of its own once, and in this one otherwise."""
        return matching.child(folder, buffer) if buffer else in_child(folder, buffer)

    monkeypatch.setattr(matching, "measure", measure)
    matching.main(["--detections", "600", "--references", "250", "--json", str(out)])
    rows = json.loads(out.read_text())["rows"]
    assert [row["buffer"] for row in rows] == [0, 200]
    assert 0 < rows[0]["true"] <= rows[1]["true"]
