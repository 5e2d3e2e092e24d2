from __future__ import annotations

import json
from pathlib import Path

from benchmarks import matching


def test_benchmark_runs_at_toy_size(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    matching.main(["--detections", "600", "--references", "250", "--json", str(out)])
    rows = json.loads(out.read_text())["rows"]
    assert [row["buffer"] for row in rows] == [0, 200]
    assert 0 < rows[0]["true"] <= rows[1]["true"]
