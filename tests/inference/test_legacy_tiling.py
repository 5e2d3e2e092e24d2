from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from darts_xr.errors import TilingError
from darts_xr.inference import Ensemble, network_input, predict
from darts_xr.inference.core_network import WholeNetwork
from tests.helpers import raise_if_dask_computes
from tests.inference.worlds import scene_of, small_ensemble


class _Cheap(nn.Module):
    """Stands for a network: what it says of a pixel depends on where the pixel lies in the window."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        height, width = pixels.shape[-2:]
        place = torch.linspace(-2, 2, height)[:, None] + torch.linspace(-1, 1, width)[None]
        return pixels.mean(1, keepdim=True) + place


def plain_sliding_window(pixels: NDArray[np.float32], network: nn.Module) -> NDArray[np.float32]:
    """The published inference, written down as it is described, in one go over the whole image."""
    patch, margin = 1024, 256
    height, width = pixels.shape[1:]
    ramp = np.concatenate(
        [
            np.arange(margin) / (margin - 1),
            np.ones(patch - 2 * margin),
            np.arange(margin)[::-1] / (margin - 1),
        ]
    )
    weights = np.outer(ramp, ramp)
    total, weight = np.zeros((height, width)), np.zeros((height, width))
    for y in range(0, height, patch - margin):
        for x in range(0, width, patch - margin):
            y0, x0 = min(y, height - patch), min(x, width - patch)
            with torch.inference_mode():
                window = torch.from_numpy(pixels[None, :, y0 : y0 + patch, x0 : x0 + patch])
                p = torch.sigmoid(network(window))[0, 0].numpy()
            total[y0 : y0 + patch, x0 : x0 + patch] += weights * p
            weight[y0 : y0 + patch, x0 : x0 + patch] += weights
    weight[weight == 0] = 1
    return (total / weight).astype(np.float32)


def expected(ensemble: Ensemble, valid: NDArray[np.bool_], networks: list[nn.Module]) -> NDArray[np.float32]:
    scene = scene_of(valid)
    stack = torch.from_numpy(np.stack([scene[name].values.astype("float32") for name in ensemble.bands]))
    mask = torch.from_numpy(valid)
    votes = [
        plain_sliding_window(network_input(stack, ensemble.bands, mask, member).numpy(), network)
        for member, network in zip(ensemble.members, networks, strict=True)
    ]
    return np.where(valid, np.mean(votes, axis=0), np.nan)


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory: pytest.TempPathFactory) -> Ensemble:
    return small_ensemble(tmp_path_factory.mktemp("members"))


@pytest.mark.parametrize(
    ("shape", "chunks"),
    [
        ((1024, 1024), (1024, 1024)),  # four times the same window
        ((1100, 1800), (500, 700)),  # the last column of windows is counted twice
        ((1793, 1050), (64, 1050)),
    ],
)
def test_equals_a_plain_reimplementation(
    ensemble: Ensemble, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int], chunks: tuple[int, int]
) -> None:
    monkeypatch.setattr(
        "darts_xr.inference.forward.network_of",
        lambda *_, **__: (WholeNetwork(_Cheap()), torch.device("cpu")),
    )
    valid = np.ones(shape, bool)
    valid[:300, :1030] = False
    with raise_if_dask_computes():
        prob = predict(scene_of(valid, chunks=chunks), ensemble, tiling="legacy")
    result = prob.compute()
    np.testing.assert_allclose(result, expected(ensemble, valid, [_Cheap(), _Cheap()]), atol=1e-6)
    assert (result[-1].where(valid[-1]) == 0).all()  # the published ring
    assert "legacy" in result.attrs["tiling"]


def test_equals_it_with_the_networks_themselves(ensemble: Ensemble) -> None:
    valid = np.ones((1024, 1100), bool)
    networks = [member.load_network() for member in ensemble.members]
    prob = predict(scene_of(valid, chunks=(512, 512)), ensemble, tiling="legacy").compute()
    np.testing.assert_allclose(prob, expected(ensemble, valid, networks), atol=1e-6)


def test_windows_without_a_valid_pixel_are_not_predicted(
    ensemble: Ensemble, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    class Counting(_Cheap):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            calls.append(pixels.shape)
            return super().forward(pixels)

    monkeypatch.setattr(
        "darts_xr.inference.forward.network_of",
        lambda *_, **__: (WholeNetwork(Counting()), torch.device("cpu")),
    )
    valid = np.zeros((1024, 2500), bool)
    valid[:, 2400:] = True
    prob = predict(scene_of(valid, chunks=(1024, 1024)), ensemble, tiling="legacy").compute()
    assert len(calls) == 2  # the last window, once for each member
    assert int(prob.notnull().sum()) == int(valid.sum())


def test_smaller_scenes_are_refused_when_asked_for(ensemble: Ensemble) -> None:
    with pytest.raises(TilingError, match=r'1023 × 2000 px.*at least 1024.*Use tiling="lattice"'):
        predict(scene_of(np.ones((1023, 2000), bool)), ensemble, tiling="legacy")


def test_a_window_asks_only_for_the_published_windows_that_cover_it(
    ensemble: Ensemble, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    class Counting(_Cheap):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            calls.append(pixels.shape)
            return super().forward(pixels)

    monkeypatch.setattr(
        "darts_xr.inference.forward.network_of",
        lambda *_, **__: (WholeNetwork(Counting()), torch.device("cpu")),
    )
    scene = scene_of(np.ones((1024, 2500), bool), chunks=(512, 512))
    part = predict(scene, ensemble, tiling="legacy", window=(slice(500, 520), slice(800, 900))).compute()
    assert len(calls) == 4  # two windows, two members
    whole = predict(scene, ensemble, tiling="legacy").compute()
    np.testing.assert_array_equal(part, whole[500:520, 800:900])
