from __future__ import annotations

from benchmarks import pipelining


def test_pipelining_runs_at_toy_size():
    result = pipelining.benchmark(scenes=2, size=256, workers=1, repeats=1)
    assert result["run_seconds"] > 0
    assert result["bare_seconds"] > 0
