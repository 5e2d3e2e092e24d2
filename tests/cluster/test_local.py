from __future__ import annotations

import json
import logging
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import dask
import numpy as np
import psutil
import pytest
import torch
from distributed import Client, LocalCluster
from distributed.security import Security

import darts_xr as dx
from darts_xr.cluster import local as cluster_module
from darts_xr.devices import network_threads
from darts_xr.errors import ClusterError
from tests.inference.worlds import scene_of, small_ensemble


def _threads() -> tuple[int, str | None, int]:
    import torch

    return torch.get_num_threads(), os.environ.get("GDAL_NUM_THREADS"), os.getpid()


def _environment() -> tuple[str | None, ...]:
    return tuple(os.environ.get(name) for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "GDAL_CACHEMAX"))


def _open_to(client: Client) -> set[str]:
    """Addresses on which scheduler, workers and their nannies listen."""
    pids = {
        client.run_on_scheduler(os.getpid),
        *client.run(os.getpid).values(),
        *client.run(os.getppid).values(),
    }
    return {
        connection.laddr.ip
        for pid in pids
        for connection in psutil.Process(pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }


@contextmanager
def _dask(*arguments: str, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """One of Dask's own processes, ended by its pid."""
    process = subprocess.Popen(
        [sys.executable, "-m", "dask", *arguments],
        env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def certificates(tmp_path: Path) -> Security:
    """Certificates as a site's own authority would give them, signed by themselves."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed, so there are no certificates")
    certificate, key = str(tmp_path / "certificate.pem"), str(tmp_path / "key.pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    roles = {f"tls_{role}_{kind}": path for role in ("scheduler", "worker", "client")
             for kind, path in (("cert", certificate), ("key", key))}  # fmt: skip
    return Security(tls_ca_file=certificate, require_encryption=True, **roles)


@pytest.fixture
def quiet_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in cluster_module._THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("quiet_environment")
def test_a_cluster_shares_the_cores_out_and_closes_with_its_client() -> None:
    cores = len(os.sched_getaffinity(0))
    before, settings = dict(os.environ), deepcopy(dask.config.get("distributed"))
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
    assert dask.config.get("distributed") == settings
    with pytest.raises(OSError, match="Timed out"):
        Client(address, timeout="1s")


@pytest.mark.usefixtures("quiet_environment")
def test_one_worker_gets_all_cores() -> None:
    cores = len(os.sched_getaffinity(0))
    with dx.start_cluster(n_workers=1, dashboard_address=None) as client:
        assert {threads for threads, _, _ in client.run(_threads).values()} == {cores}


@pytest.mark.usefixtures("quiet_environment")
def test_settings_are_as_before_when_the_cluster_does_not_close_in_time(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before, settings = dict(os.environ), deepcopy(dask.config.get("distributed"))
    client = dx.start_cluster(n_workers=1, dashboard_address=None)
    cluster, close, calls = client.cluster, client.cluster.close, []
    assert dask.config.get("distributed") != settings

    def too_slow() -> None:
        calls.append(close())
        raise TimeoutError("the workers did not end")

    monkeypatch.setattr(cluster, "close", too_slow)
    client.close()
    client.close()  # as Dask does when the object goes; a second attempt on such a cluster never ends
    assert len(calls) == 1
    assert "have not ended" in caplog.text
    assert dict(os.environ) == before
    assert dask.config.get("distributed") == settings
    assert client.status == "closed"
    assert cluster.status.name == "closed"


def test_a_worker_that_takes_long_to_be_gone_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from distributed.process import AsyncProcess

    client = dx.start_cluster(n_workers=1, dashboard_address=None)
    cluster, (pid,) = client.cluster, client.run(os.getpid).values()
    join = AsyncProcess.join

    async def later_than_dask_waits(self: Any, timeout: float | None = None) -> None:
        if timeout is not None:
            raise TimeoutError
        await join(self)

    monkeypatch.setattr(AsyncProcess, "join", later_than_dask_waits)
    client.submit(time.sleep, 300)
    client.close()
    assert cluster.status.name == "closed"
    assert not psutil.pid_exists(pid)


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
        assert cluster_module._visible_gpus(None) == []
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
    monkeypatch.setitem(sys.modules, "pynvml", _cards(3))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with dx.start_cluster() as client:
        assert "1 GPUs" in repr(client)
    assert asked["n_workers"] == 3
    assert asked["threads_per_worker"] >= 2
    assert asked["resources"] == {"GPU": 1}
    assert asked["CUDA_VISIBLE_DEVICES"] == ["0", "1", "2"]


def _cards(count: int) -> types.ModuleType:
    """NVIDIA's library on a machine with so many cards."""
    fake: Any = types.ModuleType("pynvml")
    fake.NVMLError = type("NVMLError", (Exception,), {})
    fake.nvmlInit = lambda: None
    fake.nvmlDeviceGetCount = lambda: count
    fake.nvmlDeviceGetHandleByIndex = lambda number: number
    fake.nvmlDeviceGetUUID = lambda number: f"GPU-{number}a5c-77"
    return fake  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, ["0", "1", "2"]),
        ("1", ["1"]),
        ("2,0", ["2", "0"]),
        (" 0 , 1 ", ["0", "1"]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("0,-1,1", ["0"]),
        ("7", []),
        ("1,7,2", ["1"]),
        ("GPU-1a5c-77", ["GPU-1a5c-77"]),
        ("GPU-2a,GPU-0a", ["GPU-2a", "GPU-0a"]),
        ("GPU-nowhere", []),
        ("MIG-GPU-0a5c-77/1/0,MIG-5f0c", ["MIG-GPU-0a5c-77/1/0", "MIG-5f0c"]),
        ([1, 2], ["1", "2"]),
    ],
)
def test_gpus_are_those_that_cuda_would_see(
    visible: Any, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "dask_cuda", types.ModuleType("dask_cuda"))
    monkeypatch.setitem(sys.modules, "pynvml", _cards(3))
    assert cluster_module._visible_gpus(visible) == expected


@pytest.mark.parametrize("visible", ["", "-1", "NoDevFiles"])
def test_where_no_gpu_is_visible_workers_compute_on_processors(
    visible: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "dask_cuda", types.ModuleType("dask_cuda"))
    monkeypatch.setitem(sys.modules, "pynvml", _cards(2))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with (
        caplog.at_level(logging.INFO, logger="darts_xr.cluster"),
        dx.start_cluster(n_workers=1, processes=False, dashboard_address=None) as client,
    ):
        assert "no GPUs" in repr(client)
    assert f"CUDA_VISIBLE_DEVICES={visible} names none of 2 devices" in caplog.text


def test_a_cluster_whose_client_fails_is_closed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    class Noted(LocalCluster):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            made.append(self)

    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("no plugin today")

    before, settings = dict(os.environ), dask.config.get("distributed")
    monkeypatch.setattr(cluster_module, "LocalCluster", Noted)
    monkeypatch.setattr(cluster_module.ClusterClient, "register_plugin", refuse)
    with pytest.raises(RuntimeError, match="no plugin today"):
        dx.start_cluster(n_workers=1, dashboard_address=None)
    assert [cluster.status.name for cluster in made] == ["closed"]
    assert dict(os.environ) == before
    assert dask.config.get("distributed") == settings


@pytest.mark.parametrize("dashboard", ["127.0.0.1:0", None])
def test_nothing_listens_beyond_this_machine(dashboard: str | None) -> None:
    with dx.start_cluster(n_workers=1, dashboard_address=dashboard) as client:
        assert client.scheduler.address.startswith("tcp://127.0.0.1:")
        assert client.dashboard_link.startswith("http://127.0.0.1:")
        assert _open_to(client) == {"127.0.0.1"}


@pytest.mark.usefixtures("quiet_environment")
def test_workers_that_join_later_start_as_the_first_did_and_results_outlive_those_that_leave() -> None:
    with dx.start_cluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as client:
        (first,) = client.run(_environment).values()
        client.cluster.adapt(minimum=1, maximum=2, interval="200ms")
        futures = client.map(_slow_square, range(20))
        client.wait_for_workers(2, timeout=30)
        assert first[2] == "256"
        assert set(client.run(_environment).values()) == {first}
        client.gather(futures[-1:])
        end = time.monotonic() + 30
        while len(client.scheduler_info(n_workers=-1)["workers"]) > 1:
            assert time.monotonic() < end, "no worker was sent away"
            time.sleep(0.2)
        assert client.gather(futures) == [number**2 for number in range(20)]
    assert os.environ.get("OMP_NUM_THREADS") is None


def _slow_square(number: int) -> int:
    time.sleep(0.3)
    return number**2


def test_workers_that_a_user_starts_get_the_same_environment(tmp_path: Path) -> None:
    environment = cluster_module.worker_environment(3)
    where = ("--scheduler-file", str(tmp_path / "scheduler.json"), "--host", "127.0.0.1",
             "--dashboard-address", "127.0.0.1:0")  # fmt: skip
    with (
        _dask("scheduler", "--port", "0", *where, environment=environment),
        _dask(
            "worker",
            "--nworkers",
            "2",
            "--nthreads",
            "2",
            "--resources",
            "GPU=1",
            *where,
            environment=environment,
        ),
        dx.start_cluster(_address(tmp_path / "scheduler.json")) as client,
    ):
        client.wait_for_workers(2, timeout=40)
        assert "2 workers, 4 threads, 2 GPUs" in repr(client)
        assert set(client.run(_environment).values()) == {("3", "3", "256")}
        saturation = client.run_on_scheduler(dask.config.get, "distributed.scheduler.worker-saturation")
        assert saturation == cluster_module.worker_settings(3)["distributed.scheduler.worker-saturation"]
        on_gpu = cluster_module.gpu_resources(client)
        assert on_gpu == {"GPU": 1.0}
        assert client.submit(sum, (1, 2), resources=on_gpu).result(timeout=20) == 3
        assert _open_to(client) == {"127.0.0.1"}


def _new_pages(size: int) -> int:
    """Pages that the system gives for as many bytes that were taken and freed just before."""
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        taken = bytearray(size)
        taken[::4096] = b"1" * len(taken[::4096])
        given = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        del taken
    return given


def _new_pages_of_networks() -> int:
    return network_threads(torch.device("cpu")).run(_new_pages, 100_000_000)


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only GNU's C library can be told to keep memory"
)
def test_workers_keep_the_memory_that_networks_free() -> None:
    with dx.start_cluster(n_workers=1, threads_per_worker=2, dashboard_address=None) as client:
        # Of 4 KiB, where fresh memory takes 24,415 and 9,766.
        assert client.submit(_new_pages_of_networks).result(timeout=60) < 1000
        assert client.submit(_new_pages, 40_000_000).result(timeout=60) < 1000


def _address(scheduler_file: Path) -> str:
    end = time.monotonic() + 30
    while not scheduler_file.exists():
        assert time.monotonic() < end, "the scheduler did not start"
        time.sleep(0.1)
    return str(json.loads(scheduler_file.read_text())["address"])


def test_a_shell_takes_the_lines_for_workers() -> None:
    lines = cluster_module.export_lines(5)
    shown = subprocess.run(["sh", "-c", f"{lines}\nenv"], capture_output=True, text=True, check=True).stdout
    assert {f"{k}={v}" for k, v in cluster_module.worker_environment(5).items()} <= set(shown.splitlines())


def test_the_guide_shows_the_lines_for_workers() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "clusters.md").read_text()
    shown = re.findall(r"^(export .*)$", guide, flags=re.MULTILINE)
    assert shown == cluster_module.export_lines(2).splitlines()


@pytest.mark.parametrize(
    ("carried", "expected"), [({"GPU": 1}, {"GPU": 1.0}), (None, {}), ({"GPU": 0.5}, {})]
)
def test_gpu_resources_are_asked_for_only_where_every_worker_has_them(
    carried: dict[str, float] | None, expected: dict[str, float]
) -> None:
    with dx.start_cluster(n_workers=1, dashboard_address=None, resources=carried) as client:
        asked = cluster_module.gpu_resources(client)
        assert asked == expected
        assert client.submit(sum, (1, 2), resources=asked).result(timeout=20) == 3
        client.cluster.scale(0)
        end = time.monotonic() + 20
        while client.scheduler_info(n_workers=-1)["workers"]:
            assert time.monotonic() < end
            time.sleep(0.1)
        assert cluster_module.gpu_resources(client) == {}


def test_tls_keeps_out_who_has_no_certificate(certificates: Security) -> None:
    with dx.start_cluster(n_workers=1, dashboard_address=None, security=certificates) as client:
        address = client.scheduler.address
        assert address.startswith("tls://127.0.0.1:")
        assert all(worker.startswith("tls://") for worker in client.run(os.getpid))
        with dx.start_cluster(address, security=certificates) as second:
            assert second.submit(sum, (1, 2)).result() == 3
        with pytest.raises(TypeError, match="TLS"):
            dx.start_cluster(address, timeout="2s")
        with pytest.raises(ClusterError, match=r"there is no Dask scheduler at .tcp"):
            dx.start_cluster(address.replace("tls://", "tcp://"), timeout="2s")


def test_tls_with_temporary_certificates() -> None:
    pytest.importorskip("cryptography")
    with dx.start_cluster(n_workers=1, dashboard_address=None, security=True) as client:
        assert client.scheduler.address.startswith("tls://127.0.0.1:")
        assert client.submit(sum, (1, 2)).result() == 3


def test_a_running_cluster_takes_no_settings_of_workers() -> None:
    with pytest.raises(ValueError, match="leave out n_workers"):
        dx.start_cluster("tcp://127.0.0.1:8786", n_workers=2)


def _lose_the_scheduler(dask_worker: Any) -> str:
    """What a worker logs when its heartbeat meets a connection that has ended."""
    import io

    from distributed.comm import CommClosedError

    handler = next(
        h for h in logging.getLogger("distributed").handlers if isinstance(h, logging.StreamHandler)
    )
    before, handler.stream = handler.stream, io.StringIO()
    try:
        try:
            raise CommClosedError("Stream closed")
        except CommClosedError:
            logging.getLogger("distributed.worker").exception("Failed to communicate with scheduler.")
        try:
            raise KeyError("a fault of its own")
        except KeyError:
            logging.getLogger("distributed.worker").exception("Unexpected.")
        return handler.stream.getvalue()
    finally:
        handler.stream = before


def test_workers_tell_a_lost_connection_in_one_line_and_a_fault_in_full() -> None:
    with dx.start_cluster(n_workers=1, dashboard_address=None) as client:
        (told,) = client.run(_lose_the_scheduler).values()
    lost, fault = told.split("Unexpected.")
    assert lost.count("\n") == 1
    assert "Failed to communicate with scheduler: Stream closed" in lost
    assert "Traceback" in fault
    assert "a fault of its own" in fault
