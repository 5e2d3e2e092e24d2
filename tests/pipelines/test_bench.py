"""``darts-xr bench`` at toy size: a small network, small scenes, and figures that fit together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from distributed import LocalCluster

import darts_xr as dx
from darts_xr.cluster import ClusterClient
from darts_xr.errors import ParameterError, PipelineError
from darts_xr.inference import save_checkpoint
from pipelines.cli import main
from pipelines.machines import compare, read_result, reference_machines
from pipelines.throughput import ARCHIVE_PIXELS, Bench, bench, last_rate, networks
from tests.pipelines.small import Small

pytestmark = pytest.mark.xdist_group("bench")  # measured once


def _bench(*arguments: object):
    return CliRunner().invoke(main, ["bench", *map(str, arguments)])


@pytest.fixture(scope="module")
def written(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result of one worker in one process, with sweep and price."""
    folder = tmp_path_factory.mktemp("bench")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        answer = _bench(
            "--models", small.model, "--device", "cpu", "--size", 256, "--repeats", 2, "--sweep",
            "--price-per-hour", 2.5, "--out", folder / "result.json",
        )  # fmt: skip
        assert answer.exit_code == 0, answer.output
        assert "No GPU measured yet" in answer.output
        assert last_rate(dx.load_ensemble(small.model)) > 0
        assert last_rate(dx.load_ensemble("demo")) is None
    assert "2.5 an hour and worker" in " ".join(answer.output.split())
    return folder / "result.json"


def test_the_figures_of_a_result_fit_together(written: Path):
    result = read_result(written)
    (row,) = result["measurements"]
    for found in row["pixels_per_second"].values():
        assert 0 < found["min"] <= found["median"] <= found["max"]
    flow = row["pixels_per_second"]["files to polygons"]["median"]
    assert row["per_worker"] == flow
    members = row["pixels_per_second"]["members in predict"]["median"]
    assert row["busy_share"] == pytest.approx(flow * row["seen_per_valid"] / members, abs=2e-3)
    assert (
        1 < row["seen_per_valid"] < 3
    )  # tiles of 256 with a margin of 16, cut to swaths that fill 65 % of the frame
    assert row["peak_worker_mib"] > 100
    assert row["peak_gpu_mib"] is None
    hours = ARCHIVE_PIXELS / flow / 3600
    assert result["archive"]["worker_hours"] == pytest.approx(hours, abs=0.1)
    assert result["archive"]["price"] == pytest.approx(2.5 * hours, abs=0.1)
    assert result["scaling"] == [{"workers": 1, "speed_up": 1.0, "per_worker": 1.0}]
    cells = {(cell["precision"], cell["tile"], cell["batch"]) for cell in result["sweep"]}
    assert cells == {(p, t, b) for p in ("float32", "bfloat16") for t in (64, 128, 256) for b in (1, 2)}
    assert all(0 < cell["kept"] < cell["seen"]["median"] for cell in result["sweep"])
    assert "Unet/resnet18 of 3 bands" in result["network"]
    assert result["synthetic"] is True


def test_numbers_of_workers_are_compared_and_set_against_an_earlier_result(
    small: Small, written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    asked: list[tuple[str | None, tuple[str, ...]]] = []

    def cluster(name: str | None, given: tuple[str, ...]) -> ClusterClient:
        """One in this process, since it starts at once."""
        asked.append((name, given))
        count = int(given[-1].removeprefix("n_workers="))
        return ClusterClient(
            LocalCluster(n_workers=count, threads_per_worker=1, processes=False, dashboard_address=None)
        )

    monkeypatch.setattr("pipelines.commands.bench.workers", cluster)
    answer = _bench(
        "--models", small.model, "--device", "cpu", "--size", 256, "--repeats", 1, "--workers", "1,2",
        "--compare", written, "--cluster-option", "memory_limit=3GB", "--json",
    )  # fmt: skip
    assert answer.exit_code == 0, answer.output
    assert asked == [("local", ("memory_limit=3GB", f"n_workers={count}")) for count in (1, 2)]
    result = json.loads(answer.stdout)
    assert [row["workers"] for row in result["measurements"]] == [1, 2]
    assert [row["scenes"] for row in result["measurements"]] == [2, 4]
    one, two = (row["pixels_per_second"]["files to polygons"]["median"] for row in result["measurements"])
    assert result["scaling"][1]["speed_up"] == pytest.approx(two / one, abs=2e-3)
    assert {row["workers"] for row in result["compared"]["rows"]} == {1}
    hours = result["archive"]
    assert hours["hours"] == pytest.approx(hours["worker_hours"] / 2, abs=0.2)


def test_a_comparison_tells_a_change_from_the_spread_of_repeats(written: Path):
    before = read_result(written)
    now = json.loads(written.read_text()) | {"device": "another"}
    for result, rate in ((before, 100), (now, 1000)):
        spread = {"median": rate, "min": 0.9 * rate, "max": 1.1 * rate}
        result["measurements"][0]["pixels_per_second"]["bare members"] = spread
    found = compare(now, before)
    by_name = {row["what"]: row for row in found["rows"]}
    assert by_name["bare members"]["ratio"] == 10
    assert by_name["bare members"]["beyond_spread"] is True
    assert by_name["files to polygons"]["beyond_spread"] is False
    assert found["differs"] == {"device": ["cpu", "another"]}


def test_by_default_the_networks_are_of_the_published_architecture(tmp_path: Path):
    ensemble = networks(Bench(), tmp_path)
    shapes = [(m.architecture.name, m.architecture.encoder, len(m.bands)) for m in ensemble.members]
    assert shapes == [("UnetPlusPlus", "resnet34", 10), ("UnetPlusPlus", "resnet34", 7)]
    assert {member.architecture.depth for member in ensemble.members} == {5}
    assert (ensemble.tile, ensemble.margin) == (1024, 64)
    weights = torch.cat([p.flatten() for p in ensemble.members[0].load_network().parameters()])
    assert weights.numel() > 20e6


def test_what_makes_no_sense_is_refused(tmp_path: Path):
    with pytest.raises(ParameterError, match="repeats"):
        Bench(repeats=0)
    with pytest.raises(ParameterError, match="workers"):
        Bench(workers=(1, 0))
    with pytest.raises(PipelineError, match="no result of darts-xr bench"):
        read_result(tmp_path / "nothing.json")
    assert _bench("--workers", "two").exit_code == 2
    assert _bench("--workers", "2", "--cluster", "tcp://127.0.0.1:1").exit_code == 2


def test_reference_machines_are_measured_ones_without_a_gpu_until_one_is():
    known = reference_machines()
    assert "No GPU measured yet" in known["note"]
    assert {machine["device"] for machine in known["machines"]} == {"cpu"}
    results = (Path(__file__).parents[2] / "benchmarks" / "RESULTS.md").read_text()
    for machine in known["machines"]:
        for rate in machine["pixels_per_second"].values():
            assert f"{rate:,}" in results


def test_scenes_smaller_than_a_tile_say_nothing_to_a_plan(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    larger, member = tmp_path / "larger.safetensors", dx.load_ensemble(small.model).members[0]
    save_checkpoint(
        larger, member.architecture.build(), name="larger", architecture=member.architecture, bands=member.bands,
        tile=512, margin=member.margin, training={"synthetic": True}, licence="MIT",
    )  # fmt: skip
    bench(Bench(models=(larger,), device="cpu", size=256, repeats=1))
    assert "smaller than a tile" in caplog.text
    assert last_rate(dx.load_ensemble(larger)) is None


def test_results_without_a_common_number_of_workers_compare_nothing(written: Path):
    result = read_result(written)
    other = {**result, "measurements": [{**result["measurements"][0], "workers": 2}]}
    assert compare(result, other)["rows"] == []
