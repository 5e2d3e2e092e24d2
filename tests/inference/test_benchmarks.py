from __future__ import annotations

import pytest

from benchmarks import margins, throughput
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
