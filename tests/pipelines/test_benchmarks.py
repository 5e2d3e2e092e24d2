"""Benchmarks of runs run at toy size, so that they cannot rot."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import archive, scene_memory


def test_the_archive_runs_at_toy_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(archive, "_PROCESSES", 1)
    result = archive.benchmark(4, scenes=60, speedup=10, folder=tmp_path)
    assert 0 < result["gpu_busy"] <= 1
    assert result["scenes_per_s"] > 0
    # Four threads and a spare scene for each worker, however many scenes there are.
    assert 0 < result["most_tasks_in_scheduler"] <= 20
    assert set(result["memory_mib"]) == {"client", "scheduler"}
    assert list(tmp_path.iterdir()) == []


def test_scenes_of_the_archive_have_its_mean_size(tmp_path: Path):
    images, layers = archive.archive_items(400, tmp_path)
    shapes = [item.properties["proj:shape"] for item in images]
    mean = sum(height * width for height, width in shapes) / len(shapes)
    assert mean == pytest.approx(archive.PIXELS / archive.SCENES, rel=0.05)
    assert {"dem", "trends", "landcover"} == {key for item in layers for key in item.assets}


def test_the_memory_of_a_worker_is_measured_at_toy_size():
    result = scene_memory.measure([256], ["demo"], repeats=1, threads=1)
    (row,) = result["sizes"]
    assert row["peak_mib"] > row["before_mib"] > 0
    assert row["seconds"] > 0
    assert result["growth"] == 0
