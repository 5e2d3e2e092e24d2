"""The benchmarks of training run, at toy size, and report what they promise."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.training import measure, peak_memory

PEEL = Path("../shared/data/rts-experts-peel")


def test_figures_of_training_have_their_parts():
    figures = measure(size=256, side=64, batch=2, steps=2, workers=0)
    rates = figures["patches_a_second"]
    assert set(rates) == {"from the store", "from the cube", "bare training step", "cut and written"}
    assert all(rate > 0 for rate in rates.values())
    assert 0 <= figures["loader_wait_share"] <= 1


def test_cutting_does_not_need_memory_for_the_whole_scene():
    short, long = peak_memory(4096, 1024), peak_memory(24576, 1024)
    # Both fill a shard, and are as wide; all bands of the longer scene in their own types would take 500 MiB more.
    assert (short["patches"], long["patches"]) == (5, 27)
    assert long["peak_MiB"] < short["peak_MiB"] + 250


@pytest.mark.realdata
@pytest.mark.skipif(not PEEL.is_dir(), reason=f"{PEEL} is not here")
def test_real_slumps_are_scored_beside_simpler_classifiers_and_experts(tmp_path: Path):
    from benchmarks.peel import measure as measure_peel

    figures = measure_peel(PEEL, tmp_path, seeds=1, epochs=1)
    assert set(figures) == {
        "threshold", "gradient boosting", "UNet++", "expert against expert", "expert against majority", "scored",
    }  # fmt: skip
    assert figures["scored"]["slump_pixels"] == 81
    assert figures["expert against expert"]["runs"] == 66
    assert (tmp_path / "peel.png").is_file()
