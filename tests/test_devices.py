"""All passes of a process run in the same few threads, whoever asks for them."""

from __future__ import annotations

import multiprocessing
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dask
import numpy as np
import pytest
import torch
from torch import nn

from darts_xr import devices, predict
from darts_xr.devices import network_threads
from darts_xr.inference.core_network import WholeNetwork
from tests.inference.worlds import scene_of, small_ensemble

_CPU = torch.device("cpu")


def test_networks_run_in_one_thread_for_all_threads_of_dask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[int] = set()

    class Noting(nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            seen.add(threading.get_ident())
            return pixels[:, :1]

    monkeypatch.setattr(devices, "_runners", {})
    monkeypatch.setattr(torch, "get_num_threads", lambda: os.cpu_count())
    monkeypatch.setattr(
        "darts_xr.inference.forward.network_of", lambda *_, **__: (WholeNetwork(Noting()), _CPU)
    )
    prob = predict(scene_of(np.ones((512, 512), bool), chunks=(64, 64)), small_ensemble(tmp_path), tile=64)
    with dask.config.set(scheduler="threads", num_workers=4):
        assert np.isfinite(prob.compute()).all()
    assert len(seen) == 1
    assert threading.get_ident() not in seen


def test_cores_that_torch_leaves_get_a_thread_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_runners", {})
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    meet = threading.Barrier(4, timeout=20)
    with ThreadPoolExecutor(4) as asking:
        for future in [asking.submit(network_threads(_CPU).run, meet.wait) for _ in range(4)]:
            future.result()  # four at once, or the barrier breaks


def _in_child(queue: multiprocessing.Queue[int]) -> None:
    queue.put(network_threads(_CPU).run(os.getpid))


def test_a_forked_process_has_threads_of_its_own() -> None:
    assert network_threads(_CPU).run(os.getpid) == os.getpid()
    context = multiprocessing.get_context("fork")
    queue: multiprocessing.Queue[int] = context.Queue()
    child = context.Process(target=_in_child, args=(queue,))
    child.start()
    assert queue.get(timeout=30) == child.pid
    child.join()
