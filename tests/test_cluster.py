from __future__ import annotations

import logging
import os
import sys
import types
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
from distributed import Client

import darts_xr as dx
from darts_xr import cluster as cluster_module
from tests.inference.worlds import scene_of, small_ensemble


def _threads() -> tuple[int, str | None, int]:
    import torch

    return torch.get_num_threads(), os.environ.get("GDAL_NUM_THREADS"), os.getpid()


@pytest.fixture
def quiet_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in cluster_module._THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("quiet_environment")
def test_a_cluster_shares_the_cores_out_and_closes_with_its_client() -> None:
    cores = len(os.sched_getaffinity(0))
    before = dict(os.environ)
    with dx.start_cluster(n_workers=2) as client:
        found = client.run(_threads)
        assert len(found) == 2
        assert {threads for threads, _, _ in found.values()} == {max(1, cores // 2)}
        assert {gdal for _, gdal, _ in found.values()} == {"1"}
        assert "2 workers, 2 threads, no GPUs, dashboard http://127.0.0.1:" in repr(client)
        address, local = client.scheduler.address, client.cluster
        with dx.start_cluster(address) as second:
            assert second.scheduler.address == address
            assert "2 workers" in repr(second)
        assert client.submit(sum, (1, 2)).result() == 3  # leaving a connection leaves the cluster
    assert local.status.name == "closed"
    assert dict(os.environ) == before
    with pytest.raises(OSError, match="Timed out"):
        Client(address, timeout="1s")


@pytest.mark.usefixtures("quiet_environment")
def test_one_worker_gets_all_cores() -> None:
    cores = len(os.sched_getaffinity(0))
    with dx.start_cluster(n_workers=1, dashboard_address=None) as client:
        assert {threads for threads, _, _ in client.run(_threads).values()} == {cores}


def test_a_killed_worker_costs_no_result(tmp_path: Path) -> None:
    ensemble = small_ensemble(tmp_path)
    valid = np.ones((256, 256), bool)
    with dask.config.set(scheduler="synchronous"):
        expected = dx.predict(scene_of(valid), ensemble).compute()
    with (
        dx.start_cluster(n_workers=2, dashboard_address=None) as client,
        dask.config.set(scheduler="distributed"),
    ):
        prob = dx.predict(scene_of(valid, chunks=(64, 64)), ensemble).persist()
        victim = min(pid for _, _, pid in client.run(_threads).values())
        os.kill(victim, 9)
        np.testing.assert_allclose(prob.compute(), expected, atol=1e-5)


def test_no_gpu_library_means_no_gpu_and_a_reason_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "dask_cuda", None)
    with caplog.at_level(logging.INFO, logger="darts_xr.cluster"):
        assert cluster_module._count_gpus() == 0
    assert "no GPU workers" in caplog.text


def test_gpus_get_a_worker_each_with_threads_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def stub(**options: Any) -> Any:
        from distributed import LocalCluster

        asked.update(options)
        return LocalCluster(
            n_workers=1, processes=False, dashboard_address="127.0.0.1:0", resources=options["resources"]
        )

    fake = types.ModuleType("dask_cuda")
    fake.LocalCUDACluster = stub  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dask_cuda", fake)
    monkeypatch.setattr(cluster_module, "_count_gpus", lambda: 3)
    with dx.start_cluster() as client:
        assert "1 GPUs" in repr(client)
    assert asked["n_workers"] == 3
    assert asked["threads_per_worker"] >= 2
    assert asked["resources"] == {"GPU": 1}
