"""Memory of forward passes: counted, asked for before it is taken."""

from __future__ import annotations

import numpy as np
import psutil
import pytest
import torch
from torch import nn

import darts_xr as dx
from darts_xr.errors import PredictionError
from darts_xr.inference import Architecture, Ensemble, batches
from darts_xr.inference.activations import activation_bytes
from tests.inference.worlds import scene_of, small_ensemble


@pytest.fixture
def ensemble(tmp_path_factory: pytest.TempPathFactory) -> Ensemble:
    return small_ensemble(tmp_path_factory.mktemp("members"))


def test_activations_are_counted_as_pytorch_holds_them(monkeypatch: pytest.MonkeyPatch) -> None:
    class Two(nn.Module):
        """A wide layer that is there until the answer is."""

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            wide = pixels.repeat(1, 8, 1, 1)
            return wide.sum(dim=1, keepdim=True)

    monkeypatch.setattr(Architecture, "build", lambda _: Two())
    network = Architecture(encoder="made up", in_channels=4)
    # 4 bands, 32 channels and the one of the answer are there at the same time, each of 4 bytes.
    assert activation_bytes(network, 256, None) == pytest.approx(4 * (4 + 32 + 1))


def test_a_larger_decoder_takes_more_memory_a_pixel() -> None:
    sizes = [
        activation_bytes(
            Architecture(encoder="tu-regnetx_002", depth=3, decoder_channels=channels, in_channels=4),
            128,
            None,
        )
        for channels in ((16, 8, 8), (64, 32, 32))
    ]
    assert sizes[1] > 1.5 * sizes[0]


def test_encoders_that_read_numbers_off_tensors_are_counted_too() -> None:
    mix = Architecture(name="Unet", encoder="mit_b0", depth=5, in_channels=4)
    assert 100 < activation_bytes(mix, 128, None) < 1000


def test_a_tile_that_the_machine_cannot_hold_is_refused_by_name_and_memory_once_taken_is_kept(
    ensemble: Ensemble, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = scene_of(np.ones((1024, 1024), bool), chunks=(1024, 1024))
    monkeypatch.setattr(batches, "_admitted", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(batches, "free_memory", lambda: 2**27)
        with pytest.raises(
            PredictionError, match=r"1056 × 1056 px.*ten\+seven.*0\.1 GiB are free.*smaller tile"
        ):
            dx.predict(scene, ensemble, tile=1024).compute()
        small = dx.predict(scene, ensemble, tile=512).compute()  # as the message advises
    first = dx.predict(scene, ensemble, tile=1024).compute()
    assert abs(first - small).mean() < 0.01
    monkeypatch.setattr(batches, "free_memory", lambda: 0)  # what the first pass took is still this process's
    np.testing.assert_array_equal(dx.predict(scene, ensemble, tile=1024).compute(), first)


def test_free_memory_is_no_more_than_the_machine_has() -> None:
    assert 0 < batches.free_memory() <= psutil.virtual_memory().total
