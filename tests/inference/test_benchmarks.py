from __future__ import annotations

import pytest

from benchmarks import margins, throughput, work
from darts_xr.inference import Architecture
from tests.inference.worlds import small_ensemble


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("members")
    return [member.path for member in small_ensemble(folder).members]


def test_margins_run_at_toy_size(models: list[str]) -> None:
    result = margins.benchmark(models, size=256, tile=64, margins=(0, 8, 64), seeds=(5,))
    changes = [row["largest_change"] for row in result["rows"]]
    assert changes[0] > changes[1] > changes[2]
    assert result["rows"][2]["pixels_per_pixel"] == 9
    assert result["valid_pixels"] > 0


def test_throughput_runs_at_toy_size(models: list[str]) -> None:
    result = throughput.benchmark(models, size=192, chunk=64)
    assert [row["valid_share"] for row in result["rows"]] == pytest.approx([1, 0.65], abs=0.01)
    assert all(row["bare"] > 0 and row["predict"] > 0 for row in result["rows"])
    assert all(row["efficiency"] > 0 for row in result["rows"])


def test_the_swath_leaves_the_collar_that_was_asked_for() -> None:
    assert throughput.swath(500, 0.35).mean() == pytest.approx(0.65, abs=0.005)
    assert not throughput.swath(500, 0.35)[0, 0]


def test_work_is_counted_at_toy_size_and_a_decoded_margin_would_cost_more() -> None:
    design = Architecture(encoder="resnet18", depth=3, decoder_channels=(64, 32, 16), in_channels=3)
    full, cut = work.benchmark(design, sizes=(256,), tile=128, margin=32)["rows"]
    assert full["seen"] == pytest.approx((192 / 128) ** 2, abs=1e-3)
    assert full["work"] < 0.75 * full["seen"]
    assert full["work"] < cut["work"] < cut["seen"]
    assert work.benchmark(design, sizes=(256,), tile=128, margin=0)["rows"][0]["work"] < 1
