"""Benchmarks of the cube run at toy size, so that they cannot rot."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import feed, terrain


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("feed")
    feed.write_files(folder, 150)
    return folder


@pytest.mark.parametrize("stage", feed.STAGES)
def test_every_stage_of_the_feed_runs(stage: str, files: Path) -> None:
    result = feed.run_stage(stage, files, 150, 64, 2)
    assert set(result) == {"seconds", "cpu_seconds", "peak_mib"}
    assert result["seconds"] > 0


def test_terrain_benchmark_beats_direct_convolution() -> None:
    result = terrain.benchmark(128, slow_size=128, radius=60.0, repeats=1)
    slower = result["relative_elevation_times_slower"]
    assert slower["darts_xr"] == 1
    assert slower["scipy.ndimage.convolve"] > 1
    assert result["slope_ns_per_pixel"]["darts_xr"] > 0
