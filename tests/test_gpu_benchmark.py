"""The steps of the hour on a GPU run at toy size without one, so that none fails when there is one."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu


def _hour(folder: Path, seconds: float = 600) -> gpu.Hour:
    return gpu.Hour(torch.device("cpu"), small=True, ends=time.perf_counter() + seconds, folder=folder)


@pytest.mark.parametrize("step", list(gpu.STEPS))
def test_steps_run_at_toy_size(step: str, tmp_path: Path) -> None:
    rows = list(gpu.benchmark(step, _hour(tmp_path)))
    assert [row for row in rows if "failed" in row] == []
    figures: list[Any] = [row for row in rows if set(row) != {"part", "seconds"}]
    assert figures
    for row in figures:
        for name, value in row.items():
            if name in ("mpx_s", "ns_px", "predict", "bare", "done"):
                assert value > 0, row


def test_a_part_that_fails_costs_none_of_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Any:
        raise RuntimeError("on purpose")
        yield {}

    parts = [("first", broken), ("second", lambda: iter([{"figure": 1.23456}]))]
    monkeypatch.setitem(gpu.STEPS, "probe", lambda _: iter(parts))
    first, _, second, *_ = gpu.benchmark("probe", _hour(tmp_path))
    assert first["failed"] == "RuntimeError: on purpose"
    assert second == {"part": "second", "figure": 1.2346}
    late = list(gpu.benchmark("probe", _hour(tmp_path, seconds=-1)))
    assert [row["left_out"] for row in late] == ["no time left"] * 2
