"""U-Nets that decode the core of a tile only, and no enlarged map: the same answer with fewer multiplications.

Networks see a tile with a margin, and what they say of the margin is dropped. The encoder needs it; the decoder, in
which UNet++ with ResNet-34 does seven of ten multiplications, needs a few pixels of it on each level. So every map of
the decoder is cut to what the core's answer depends on.

A block of the decoder doubles the map below it by repeating pixels, and convolves it together with maps of its own
level. On each of the four pixels that come of one, a kernel of 3×3 meets 2×2 different ones: with its weights summed
beforehand, four kernels of 2×2 on the map below do the same with four ninths of the multiplications. In half precision
the block's own kernel is used.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import nn

from darts_xr.inference.network import same_answer

log = logging.getLogger(__name__)

# Which rows of a 3×3 kernel fall on the two rows of the map below around an even and an odd row of the doubled one.
_ROWS = torch.tensor([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], dtype=torch.float64)
_BLOCK_REACH = 2  # px; two convolutions of 3×3


@dataclass(frozen=True)
class _Step:
    """One block of a decoder: a map from the one below it and from others of its own level.

    Maps of the encoder are named by their level, the number of halvings (:func:`_encoded`), others by their block.
    """

    block: str
    level: int
    below: str
    beside: tuple[str, ...]


class WholeNetwork(nn.Module):
    """A network that computes whole tiles, of which the core is kept.

    Parameters
    ----------
    network : torch.nn.Module
        Takes (tile, band, y, x) and gives logits (tile, 1, y, x).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: torch.Tensor, margin: int) -> torch.Tensor:
        """Logits of the pixels that lie ``margin`` pixels or more from the tile's edges, (tile, 1, y, x)."""
        return _cut(self.network(pixels), margin)


class CoreNetwork(nn.Module):
    """A ``Unet`` or ``UnetPlusPlus`` of segmentation-models-pytorch that decodes the core of a tile only.

    Parameters
    ----------
    network : torch.nn.Module
        Its encoder and head are used as they are.
    steps : sequence
        Blocks of its decoder in the order in which they are computed.
    """

    def __init__(self, network: Any, steps: list[_Step]) -> None:
        super().__init__()
        self.encoder, self.head = network.encoder, network.segmentation_head
        channels = {_encoded(level): count for level, count in enumerate(self.encoder.out_channels)}
        blocks = dict(network.decoder.blocks.named_children())
        self.blocks = nn.ModuleDict()
        for step in steps:
            self.blocks[step.block] = _CoreBlock(
                blocks[step.block], channels[step.below], sum(channels[name] for name in step.beside)
            )
            channels[step.block] = blocks[step.block].conv2[0].out_channels
        self._steps = steps
        self._wanted = _wanted(steps, self.head[0].kernel_size[0] // 2)
        last_use = {name: step for step in steps for name in (step.below, *step.beside)}
        self._done = {step: [name for name, last in last_use.items() if last == step] for step in steps}

    def forward(self, pixels: torch.Tensor, margin: int) -> torch.Tensor:
        """Logits of the pixels that lie ``margin`` pixels or more from the tile's edges, (tile, 1, y, x)."""
        encoded = list(enumerate(self.encoder(pixels)))[1:]
        maps = {_encoded(level): found for level, found in encoded}
        rims = {_encoded(level): margin >> level for level, _ in encoded}  # px of a map around the core
        del encoded
        for step in self._steps:
            rim = min(self._wanted[step], margin >> step.level)
            below = _cut(maps[step.below], rims[step.below] - rim // 2)
            beside = [_cut(maps[name], rims[name] - rim) for name in step.beside]
            joined = torch.cat(beside, dim=1) if beside else None
            del beside
            for name in self._done[step]:
                del maps[name]
            maps[step.block], rims[step.block] = self.blocks[step.block](below, joined), rim
            del below, joined
        name = self._steps[-1].block
        return _cut(self.head(maps[name]), rims[name])


class _CoreBlock(nn.Module):
    """A decoder's block whose first convolution is done in two parts: on the map below, and on those beside."""

    def __init__(self, block: Any, below: int, beside: int) -> None:
        super().__init__()
        whole, self.norm, self.act = block.conv1
        self.whole = whole
        if below + beside != whole.in_channels:
            raise ValueError(f"{whole.in_channels} channels, of which {below} and {beside} are known")
        weights = whole.weight.detach()
        count = whole.out_channels
        self.lower = nn.Conv2d(below, 4 * count, 2, bias=whole.bias is not None and not beside)
        self.lower.weight = nn.Parameter(_four_kernels(weights[:, :below]))
        self.beside = nn.Conv2d(beside, count, 3, padding=1, bias=whole.bias is not None) if beside else None
        if self.beside is not None:
            self.beside.weight = nn.Parameter(weights[:, below:].clone())
        if whole.bias is not None:
            (self.lower if self.beside is None else self.beside).bias = nn.Parameter(
                whole.bias.detach().repeat(1 if beside else 4)
            )
        self.second = block.conv2

    def forward(self, below: torch.Tensor, beside: torch.Tensor | None) -> torch.Tensor:
        """Map of twice the size of the one below."""
        return self.second(self.act(self.norm(self._first(below, beside))))  # type: ignore[no-any-return]

    def _first(self, below: torch.Tensor, beside: torch.Tensor | None) -> torch.Tensor:
        kind = below.device.type
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
            # In half precision the two parts would be rounded before they are added, and once more after.
            doubled = nn.functional.interpolate(below, scale_factor=2.0, mode="nearest")
            total: torch.Tensor = self.whole(
                doubled if beside is None else torch.cat([doubled, beside], dim=1)
            )
            return total
        # The zeros around are written out: with a convolution's own, oneDNN (torch 2.13) sums kernels of 2×2 in an
        # order that depends on the number of threads, also on large maps.
        four = self.lower(nn.functional.pad(below, (1, 1, 1, 1)))  # one pixel more on each axis than below
        height, width = below.shape[-2:]
        if self.beside is None:
            total = torch.empty(
                (len(below), four.shape[1] // 4, 2 * height, 2 * width), dtype=four.dtype, device=four.device,
                memory_format=torch.channels_last,
            )  # fmt: skip
        else:
            total = self.beside(beside)
        for (row, col), part in zip(product((0, 1), repeat=2), four.chunk(4, dim=1), strict=True):
            here = total[..., row::2, col::2]
            part = part[..., row : row + height, col : col + width]
            if self.beside is None:
                here.copy_(part)
            else:
                here += part
        return total


def _four_kernels(weights: torch.Tensor) -> torch.Tensor:
    """Kernels (4 × out, in, 2, 2) that do to a map what (out, in, 3, 3) do to the map doubled by repeating pixels."""
    rows = _ROWS.to(weights.device)
    four = [
        torch.einsum("pr,oirs,qs->oipq", rows[y], weights.double(), rows[x])
        for y, x in product((0, 1), repeat=2)
    ]
    return torch.cat(four).to(weights.dtype)


def _wanted(steps: list[_Step], head: int) -> dict[_Step, int]:
    """Pixels around the core that each block must be given, on its level; even, so that the map below ends there."""
    correct = {steps[-1].block: head}  # px around the core that those who use a map rely on
    wanted = {}
    for step in reversed(steps):
        rim = correct[step.block] + _BLOCK_REACH
        wanted[step] = rim + rim % 2
        for name in step.beside:
            correct[name] = max(correct.get(name, 0), rim)
        correct[step.below] = max(correct.get(step.below, 0), wanted[step] // 2)
    return wanted


def _cut(pixels: torch.Tensor, rim: int) -> torch.Tensor:
    return pixels[..., rim : pixels.shape[-2] - rim, rim : pixels.shape[-1] - rim]


def _encoded(level: int) -> str:
    return f"encoded_{level}"


def _unet(depth: int) -> list[_Step]:
    steps = []
    below = _encoded(depth)
    for number in range(depth):
        level = depth - 1 - number
        steps.append(_Step(str(number), level, below, (_encoded(level),) if level else ()))
        below = str(number)
    return steps


def _unet_plus_plus(depth: int) -> list[_Step]:
    """Level by level, so that of the dense maps those of two levels are alive at a time."""
    steps = []
    for layer in range(depth - 1):
        level = depth - 1 - layer
        for row in range(layer, -1, -1):
            below = _encoded(level + 1) if row == layer else f"x_{row}_{layer - 1}"
            dense = tuple(f"x_{other}_{layer}" for other in range(row + 1, layer + 1))
            steps.append(_Step(f"x_{row}_{layer}", level, below, (*dense, _encoded(level))))
    steps.append(_Step(f"x_0_{depth - 1}", 0, f"x_0_{depth - 2}", ()))
    return steps


_FAMILIES = {"Unet": _unet, "UnetPlusPlus": _unet_plus_plus}


def core_network(network: Any) -> nn.Module:
    """Make a network that gives the logits of the core of a tile, with less work where its kind is known.

    Parameters
    ----------
    network : torch.nn.Module
        In evaluation mode. Encoder and head are shared with what comes back.

    Returns
    -------
    torch.nn.Module
        A :class:`CoreNetwork`, or a :class:`WholeNetwork` of other kinds. Takes tiles (tile, band, y, x) and a margin
        in pixels, 0 or a multiple of the network's stride.
    """
    if (why := _unsuited(network)) is not None:
        log.info("whole tiles are decoded: %s", why)
        return WholeNetwork(network)
    return CoreNetwork(network, _FAMILIES[type(network).__name__](network.encoder._depth)).eval()


def checked_core_network(network: Any, channels: int, stride: int) -> nn.Module:
    """As :func:`core_network`, and compared once with the network itself; where they differ, it computes whole tiles.

    Parameters
    ----------
    network : torch.nn.Module
        In evaluation mode, on the CPU, float32.
    channels, stride : int
        Its bands, and the step of the sides that it takes, pixels.
    """
    whole, core = WholeNetwork(network), core_network(network)
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        for margin in (0, 3 * stride):  # with the second, maps of all levels are cut
            side = 2 * margin + stride
            probe = torch.rand(1, channels, side + stride, side, generator=generator)
            if not same_answer(core(probe, margin), whole(probe, margin)):
                log.info("whole tiles are decoded: decoding the core alone gives other numbers")
                return whole
    return core


def _unsuited(network: Any) -> str | None:
    """Say why a network cannot be decoded in parts; None where it can."""
    kind = type(network).__name__
    if kind not in _FAMILIES:
        return f"{kind} is neither {' nor '.join(_FAMILIES)}"
    encoder = network.encoder
    if 0 in encoder.out_channels[1:] or encoder.output_stride != 2**encoder._depth:
        return "its encoder leaves a level out"
    if not isinstance(network.decoder.center, nn.Identity):
        return "its decoder has a centre"
    if not all(isinstance(part, nn.Identity) for part in list(network.segmentation_head)[1:2]):
        return "its head resizes"
    for block in network.decoder.blocks.children():
        if block.interpolation_mode != "nearest":
            return f"it interpolates maps ({block.interpolation_mode})"
        if not all(_is_identity(a) for a in (block.attention1, block.attention2)):
            return "its decoder attends to channels"
    return None


def _is_identity(attention: Any) -> bool:
    return isinstance(getattr(attention, "attention", attention), nn.Identity)
