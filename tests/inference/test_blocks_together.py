"""Blocks that wait for a device share its passes, and nothing else: neither faults nor the precision."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

from darts_xr import devices, predict
from darts_xr.devices import NetworkThreads, network_threads
from darts_xr.errors import PredictionError
from darts_xr.inference import Ensemble
from darts_xr.inference.core_network import WholeNetwork
from tests.inference.worlds import scene_of, small_ensemble

_CPU = torch.device("cpu")
_SOON = 0.5  # seconds in which threads that were started have asked


class _Noting(nn.Module):
    """Gives a band back, in the type in which it computes; notes how many tiles came at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.passes: list[int] = []

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        self.passes.append(len(pixels))
        if (pixels[:, 2] > 19).any():  # 60000 / 3000 is 20
            raise ValueError("cannot look at this")
        return (pixels[:, 1:2] * 1000).to(
            torch.float16 if torch.is_autocast_enabled("cpu") else torch.float32
        )


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> _Noting:
    """One thread for passes, in which several tiles fit as on a GPU."""
    noting = _Noting()
    monkeypatch.setattr(devices, "_runners", {})
    monkeypatch.setattr(torch, "get_num_threads", lambda: os.cpu_count())
    monkeypatch.setattr("darts_xr.inference.batches.batch_pixels", lambda *_: 2**24)
    monkeypatch.setattr("darts_xr.inference.forward.blocks_together", lambda _: 8)
    monkeypatch.setattr(
        "darts_xr.inference.forward.network_of", lambda *_, **__: (WholeNetwork(noting), _CPU)
    )
    return noting


@pytest.fixture
def scenes() -> list[xr.Dataset]:
    made = [scene_of(np.ones((64, 64), bool), seed=seed) for seed in range(3)]
    for name, scene in zip("abc", made, strict=True):
        scene.attrs["item_id"] = f"scene-{name}"
        scene["blue"] = scene["blue"] // 100  # times 1000 / 3000: far below what float16 holds
    return made


def _at_once(scenes: list[xr.Dataset], ensemble: Ensemble) -> list[Future[xr.DataArray]]:
    """Predict scenes that all wait for the device's thread before it is free."""
    with _occupied(network_threads(_CPU).run), ThreadPoolExecutor(len(scenes)) as pool:
        asked = [pool.submit(predict(scene, ensemble).compute, scheduler="synchronous") for scene in scenes]
        time.sleep(_SOON)
        _free.set()
        for future in asked:
            future.exception()
    return asked


_free = threading.Event()


@contextmanager
def _occupied(run: Callable[..., Any]) -> Iterator[None]:
    """Keep the one thread busy until ``_free`` is set."""
    _free.clear()
    holder = threading.Thread(target=run, args=(_free.wait,))
    holder.start()
    time.sleep(_SOON / 5)
    try:
        yield
    finally:
        _free.set()
        holder.join()


def test_tiles_of_several_scenes_go_through_a_network_at_once(
    network: _Noting, scenes: list[xr.Dataset], tmp_path: Path
) -> None:
    ensemble = small_ensemble(tmp_path)
    alone = [predict(scene, ensemble).compute() for scene in scenes]
    assert set(network.passes) == {1}
    network.passes.clear()
    together = [future.result() for future in _at_once(scenes, ensemble)]
    assert network.passes == [3, 3]  # one pass of each member
    for one, other in zip(alone, together, strict=True):
        xr.testing.assert_identical(one, other)


def test_a_scene_that_fails_is_named_and_the_others_are_done(
    network: _Noting, scenes: list[xr.Dataset], tmp_path: Path
) -> None:
    scenes[1]["green"][10, 10] = 60000
    first, broken, last = _at_once(scenes, small_ensemble(tmp_path))
    with pytest.raises(PredictionError, match=r"scene-b: member ten failed on the tile.*row 0, column 0"):
        broken.result()
    assert network.passes[0] == 3
    for future in (first, last):
        assert np.isfinite(future.result()).all()


def test_only_the_scene_whose_numbers_are_too_large_is_computed_again(
    network: _Noting, scenes: list[xr.Dataset], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scenes[2]["blue"][5, 5] = 60000  # 20,000 of what float16 holds, times ten bands' scale
    scenes[2]["blue"] = scenes[2]["blue"].astype("float32") * 10
    with caplog.at_level(logging.WARNING):
        found = [
            future.result() for future in _at_once(scenes, small_ensemble(tmp_path, precision="float16"))
        ]
    repeated = [r.getMessage() for r in caplog.records if "repeated in float32" in r.getMessage()]
    assert len(repeated) == 1
    assert "scene-c" in repeated[0]
    assert all(np.isfinite(each).all() for each in found)


def test_work_that_waits_is_taken_in_one_go_and_no_more_than_asked_for() -> None:
    threads, taken = NetworkThreads(1), []

    def double(items: list[int]) -> list[Any]:
        taken.append(sorted(items))
        return [ValueError("odd") if item % 2 else 2 * item for item in items]

    with _occupied(threads.run), ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(threads.together, "kind", double, item, most=4) for item in range(6)]
        time.sleep(_SOON)
        _free.set()
        assert [future.exception() is not None for future in asked] == [False, True] * 3
    assert [future.result() for future in asked[::2]] == [0, 4, 8]
    assert sorted(len(items) for items in taken) == [2, 4]
    assert sorted(item for items in taken for item in items) == list(range(6))


def test_a_fault_of_the_work_itself_reaches_all_who_wait() -> None:
    threads = NetworkThreads(1)

    def broken(_: list[int]) -> Iterator[int]:
        raise OSError("no device")

    with _occupied(threads.run), ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(threads.together, "kind", broken, item, most=4) for item in range(2)]
        time.sleep(_SOON)
        _free.set()
        assert all(isinstance(future.exception(), OSError) for future in asked)
