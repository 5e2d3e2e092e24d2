"""Decoding the core of a tile only gives what the whole network gives there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from darts_xr.inference import Architecture
from darts_xr.inference.activations import activation_bytes
from darts_xr.inference.core_network import CoreNetwork, WholeNetwork, checked_core_network, core_network

_CHANNELS = 3


def _network(name: str, encoder: str, depth: int, **options: Any) -> nn.Module:
    """A network whose normalisation is no identity, as after a training."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        network = Architecture(
            name=name, encoder=encoder, depth=depth, in_channels=_CHANNELS,
            decoder_channels=(64, 48, 32, 24, 16)[-depth:], options=options,
        ).build().eval()  # fmt: skip
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr, operator]
                module.running_var.uniform_(0.8, 1.2)  # type: ignore[union-attr, operator]
    return network


@pytest.fixture(
    scope="module",
    params=[
        ("UnetPlusPlus", "resnet18", 5), ("UnetPlusPlus", "tu-regnetx_002", 4), ("Unet", "resnet18", 5),
        ("Unet", "tu-regnetx_002", 3), ("UnetPlusPlus", "resnet18", 2),
        ("Unet", "resnet18", 3, ("decoder_use_norm", False)),
    ],
    ids=lambda given: "-".join(map(str, given)),
)  # fmt: skip
def pair(request: pytest.FixtureRequest) -> tuple[nn.Module, nn.Module, int]:
    """A network, what decodes its cores, and its stride."""
    name, encoder, depth, *options = request.param
    network = _network(name, encoder, depth, **dict(options))
    core = checked_core_network(network, _CHANNELS, 2**depth)
    assert isinstance(core, CoreNetwork)
    return network, core, 2**depth


@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_the_core_is_that_of_the_whole_tile(
    pair: tuple[nn.Module, nn.Module, int], data: st.DataObject
) -> None:
    network, core, stride = pair
    margin = stride * data.draw(st.integers(0, 4), label="margin")
    height, width = (2 * margin + stride * data.draw(st.integers(1, 4), label="core") for _ in range(2))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 9), label="seed"))
    pixels = torch.rand(
        data.draw(st.integers(1, 2), label="tiles"), _CHANNELS, height, width, generator=generator
    )
    with torch.inference_mode():
        found = core(pixels, margin)
        whole = network(pixels)[..., margin : height - margin, margin : width - margin]
    assert found.shape == whole.shape
    torch.testing.assert_close(found, whole, rtol=1e-4, atol=2e-5 * max(1.0, float(whole.abs().max())))


def test_nothing_beyond_the_core_is_decoded_where_no_margin_is_kept(
    pair: tuple[nn.Module, nn.Module, int],
) -> None:
    """The last convolution sees the core, and as far around it as it looks."""
    _, core, stride = pair
    margin = 4 * stride
    seen: list[tuple[int, ...]] = []
    hook = core.head.register_forward_pre_hook(lambda _, given: seen.append(tuple(given[0].shape)))  # type: ignore[union-attr, operator]
    with torch.inference_mode():
        core(torch.rand(1, _CHANNELS, 9 * stride, 9 * stride), margin)
    hook.remove()
    ((_, _, height, width),) = seen
    assert height == width <= stride + 8 < 9 * stride


@pytest.mark.parametrize(
    ("name", "encoder", "options", "why"),
    [
        ("MAnet", "resnet18", {}, "MAnet is neither Unet nor UnetPlusPlus"),
        ("Unet", "vgg11", {}, "has a centre"),
        ("Unet", "resnet18", {"decoder_attention_type": "scse"}, "attends to channels"),
        ("Unet", "resnet18", {"decoder_interpolation": "bilinear"}, "interpolates maps"),
    ],
)
def test_other_networks_compute_whole_tiles(
    name: str, encoder: str, options: dict[str, Any], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    network = _network(name, encoder, 5, **options)
    with caplog.at_level("INFO"):
        core = checked_core_network(network, _CHANNELS, 32)
    assert isinstance(core, WholeNetwork)
    assert why in caplog.text
    pixels = torch.rand(1, _CHANNELS, 96, 128)
    with torch.inference_mode():
        torch.testing.assert_close(core(pixels, 32), network(pixels)[..., 32:64, 32:96])


def test_a_decoder_that_gives_other_numbers_is_not_taken_apart(caplog: pytest.LogCaptureFixture) -> None:
    network = _network("Unet", "resnet18", 3)
    network.decoder.forward = lambda features, inside=network.decoder.forward: inside(features).square()  # type: ignore[union-attr, method-assign, assignment, misc]
    with caplog.at_level("INFO"):
        assert isinstance(checked_core_network(network, _CHANNELS, 8), WholeNetwork)
    assert "other numbers" in caplog.text


def test_it_holds_little_more_than_half_of_the_memory() -> None:
    published = Architecture(in_channels=10)
    whole, core = (activation_bytes(published, 1152, margin) for margin in (None, 64))
    assert core < 0.6 * whole


def test_weights_follow_the_network_to_another_type() -> None:
    core = core_network(_network("UnetPlusPlus", "resnet18", 3)).double()
    with torch.inference_mode():
        assert core(torch.rand(1, _CHANNELS, 48, 48, dtype=torch.float64), 16).dtype is torch.float64


@pytest.mark.parametrize(
    "design", [("Unet", "resnet18", 3, (16, 8, 8)), ("UnetPlusPlus", "tu-regnetx_002", 4, (64, 48, 32, 16))]
)
def test_the_last_bit_does_not_depend_on_the_number_of_threads(
    design: tuple[str, str, int, tuple[int, ...]],
) -> None:
    """One network of the pipelines' tests, and the demo's: a run on another machine must give the same files.

    As far as the network itself allows: on some processors oneDNN sums its encoder on small maps in another order.
    """
    name, encoder, depth, channels = design
    with torch.random.fork_rng():
        torch.manual_seed(3)
        architecture = Architecture(
            name=name, encoder=encoder, depth=depth, decoder_channels=channels, in_channels=_CHANNELS
        )
        network = architecture.build().eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        core = core_network(network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    threads = torch.get_num_threads()
    compared = 0
    try:
        # Not on the smallest windows: there whole tiles of the first design depend on it too.
        for height, width in ((64, 128), (128, 256), (320, 512)):
            shape = (1, _CHANNELS, height + 32, width + 32)
            pixels = torch.rand(shape, generator=torch.Generator().manual_seed(1))
            pixels = pixels.contiguous(memory_format=torch.channels_last)
            whole, cores = [], []
            for count in (1, 2, 3, 8):
                torch.set_num_threads(count)
                with torch.inference_mode():
                    whole.append(network(pixels))
                    cores.append(core(pixels, 16))
            for k in range(1, len(cores)):
                torch.testing.assert_close(cores[0], cores[k], rtol=0, atol=1e-6)
                if torch.equal(whole[0], whole[k]):
                    compared += 1
                    assert torch.equal(cores[0], cores[k])
    finally:
        torch.set_num_threads(threads)
    assert compared >= 6  # of 9
