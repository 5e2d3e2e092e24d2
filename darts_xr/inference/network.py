"""The networks: what a checkpoint's header says of its architecture, and the module it describes."""

from __future__ import annotations

import copy
import logging
import math
import time
import warnings
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_weights

from darts_xr.errors import CheckpointError
from darts_xr.inference._torchvision import declare_missing_operators

log = logging.getLogger(__name__)
#: Architectures of segmentation-models-pytorch that a checkpoint may name.
FAMILIES = (
    "Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "DeepLabV3", "DeepLabV3Plus", "PAN", "UPerNet",
)  # fmt: skip


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0


@dataclass(frozen=True)
class Architecture:
    """A segmentation network of the segmentation-models-pytorch family with one output class.

    Parameters
    ----------
    name : str
        Architecture, such as ``"UnetPlusPlus"``.
    encoder : str
        Encoder, such as ``"resnet34"`` or ``"tu-regnetx_002"``.
    depth : int
        Number of halvings in the encoder.
    decoder_channels : tuple of int
        Channels of the decoder, one for each halving; empty: those that the architecture has by default.
    in_channels : int
        Number of bands.
    options : dict
        Further arguments of the architecture.
    """

    name: str = "UnetPlusPlus"
    encoder: str = "resnet34"
    depth: int = 5
    decoder_channels: tuple[int, ...] = (256, 128, 64, 32, 16)
    in_channels: int = 10
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def stride(self) -> int:
        """Sides of the input must be a multiple of this many pixels."""
        return int(2**self.depth)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint's header."""
        return asdict(self) | {"decoder_channels": list(self.decoder_channels)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Architecture:
        """Read a checkpoint's header; unknown or missing entries are named."""
        known = set(cls.__dataclass_fields__)
        if set(values) - known or not {"encoder", "in_channels"} <= set(values):
            raise CheckpointError(
                f"The architecture in the checkpoint's header has the entries {sorted(values)}; expected are "
                f"{sorted(known)}. Was it written by a newer version of darts_xr?"
            )
        plain: dict[str, Any] = {name: entry.default for name, entry in cls.__dataclass_fields__.items()}
        plain |= values
        for name, fits in (
            ("name", isinstance(plain["name"], str)),
            ("encoder", isinstance(plain["encoder"], str)),
            ("depth", _is_count(plain["depth"]) and plain["depth"] <= 8),
            ("in_channels", _is_count(plain["in_channels"])),
            (
                "decoder_channels",
                isinstance(plain["decoder_channels"], list | tuple)
                and all(_is_count(channels) for channels in plain["decoder_channels"]),
            ),
        ):
            if not fits:
                raise CheckpointError(
                    f"The architecture in the checkpoint's header has {name} {str(plain[name])[:40]!r}, which cannot "
                    "be. Save the checkpoint again."
                )
        return cls(**{**values, "decoder_channels": tuple(plain["decoder_channels"])})

    def check(self) -> None:
        """Refuse a family of networks that is not known, without the seconds that building takes."""
        if self.name not in FAMILIES:
            raise CheckpointError(
                f"unknown architecture {self.name!r}; known are {', '.join(FAMILIES)} of segmentation-models-pytorch."
            )

    def build(self) -> nn.Module:
        """Build the network with random weights; never downloads any."""
        self.check()
        declare_missing_operators()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning, module="timm")
            import segmentation_models_pytorch as smp

        options = dict(self.options)
        if self.decoder_channels:
            options["decoder_channels"] = self.decoder_channels
        try:
            network = getattr(smp, self.name)(
                encoder_name=self.encoder,
                encoder_weights=None,
                encoder_depth=self.depth,
                in_channels=self.in_channels,
                classes=1,
                **options,
            )
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            raise CheckpointError(
                f"segmentation-models-pytorch {smp.__version__} cannot build {self.name} with encoder "
                f"{self.encoder!r} of depth {self.depth}: {error}"
            ) from error
        module: nn.Module = network
        return module


def use_batch_statistics(network: nn.Module) -> None:
    """Make batch normalisation use each tile's own statistics, as the published workflow did by accident.

    The network stays in evaluation mode otherwise, and its stored statistics are not changed.
    """
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.track_running_stats = False
            module.running_mean = None
            module.running_var = None


def fold_batch_norm(network: nn.Module, channels: int, side: int) -> nn.Module:
    """Fold batch normalisation into the convolution before it, which saves a pass over each of their outputs.

    Which convolution feeds which normalisation is seen by running the network once; the folded network must then give
    the same output, else the network comes back as it was.

    Parameters
    ----------
    network : torch.nn.Module
        In evaluation mode, on the CPU, float32.
    channels, side : int
        Bands and side in pixels of an input that the network takes.

    Returns
    -------
    torch.nn.Module
        A folded copy, or ``network``.
    """
    folded = copy.deepcopy(network)
    probe = torch.rand(1, channels, side, side, generator=torch.Generator().manual_seed(0))
    makers: dict[int, tuple[nn.Conv2d, torch.Tensor]] = {}  # by identity of the output, which is kept alive
    pairs: list[tuple[nn.Conv2d, nn.Module]] = []

    def made(module: nn.Module, _: Any, output: torch.Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            makers[id(output)] = (module, output)

    def taken(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if id(inputs[0]) in makers:
            pairs.append((makers[id(inputs[0])][0], module))

    norms = [m for m in folded.modules() if isinstance(m, nn.BatchNorm2d)]
    hooks = [m.register_forward_hook(made) for m in folded.modules() if isinstance(m, nn.Conv2d)]
    hooks += [m.register_forward_pre_hook(taken) for m in norms]
    with torch.inference_mode():
        expected = folded(probe)
    for hook in hooks:
        hook.remove()
    replacements: dict[nn.Module, nn.Module] = {}
    for convolution, norm in pairs:
        _fold(convolution, norm)
        replacements[norm] = getattr(norm, "act", nn.Identity())  # timm's normalisation holds its activation
    for parent in list(folded.modules()):
        for name, child in parent.named_children():
            if child in replacements:
                setattr(parent, name, replacements[child])
    with torch.inference_mode():
        found = folded(probe)
    if not same_answer(found, expected):
        log.info("batch normalisation stays: folded, the network gives other numbers")
        return network
    return folded


def same_answer(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether two ways of computing logits differ by no more than sums in float32 in another order do."""
    return bool((found - expected).abs().max() <= 1e-4 * max(1.0, float(expected.abs().max())))


def divide_logits(network: nn.Module, temperature: float) -> None:
    """Make a network give its logits divided by a temperature: its last layer is linear, so that takes its weights.

    Guo et al. 2017, On Calibration of Modern Neural Networks.
    """
    last = next(m for m in reversed(list(network.segmentation_head.modules())) if isinstance(m, nn.Conv2d))  # type: ignore[union-attr]
    with torch.no_grad():
        last.weight /= temperature
        if last.bias is not None:
            last.bias /= temperature


def keep_encoder_exact(network: nn.Module) -> None:
    """Let the encoder run in float32 where the rest runs in bfloat16.

    bfloat16 has three significant digits: too few for the input and what is first made of it, enough for the decoder.
    With a bfloat16 encoder the outlines of objects moved by up to 4 % of their area; half precision with more digits
    (float16) needs no such care.
    """
    encoder: nn.Module = network.encoder  # type: ignore[assignment]
    inside = encoder.forward

    def forward(pixels: torch.Tensor) -> Any:
        kind = pixels.device.type
        if torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) is torch.bfloat16:
            with torch.autocast(kind, enabled=False):
                return inside(pixels.float())
        return inside(pixels)

    encoder.forward = forward  # type: ignore[method-assign]


def _fold(convolution: nn.Conv2d, norm: Any) -> None:
    convolution.weight, bias = fuse_conv_bn_weights(
        convolution.weight,
        convolution.bias,
        norm.running_mean,
        norm.running_var,
        norm.eps,
        norm.weight,
        norm.bias,
    )
    convolution.bias = bias


@cache
def bfloat16_slowdown(device: torch.device) -> float:
    """Measure how many times as long a convolution takes a CPU in bfloat16 as in float32; 1 for other devices.

    What a processor says of itself does not tell: a training step took one with AVX2 alone 10 times as long, and 1.3
    times one with AVX-512 and bfloat16, but without AMX (torch 2.13, docs/decisions.md).
    """
    if device.type != "cpu":
        return 1.0
    seconds = {torch.float32: math.inf, torch.bfloat16: math.inf}
    with torch.no_grad():
        for _ in range(7):  # in turns, and the least of each: others may be at work too
            for kind in seconds:
                image = torch.ones(4, 32, 96, 96, dtype=kind).contiguous(memory_format=torch.channels_last)
                kernel = torch.ones(32, 32, 3, 3, dtype=kind)
                begun = time.perf_counter()
                functional.conv2d(image, kernel)
                seconds[kind] = min(seconds[kind], time.perf_counter() - begun)
    return seconds[torch.bfloat16] / seconds[torch.float32]


def preferred_device() -> torch.device:
    """Return the process's first GPU, or the CPU where there is none."""
    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
