"""The networks: what a checkpoint's header says of its architecture, and the module it describes."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from darts_xr.errors import CheckpointError
from darts_xr.inference._torchvision import declare_missing_operators


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
        Channels of the decoder, one for each halving.
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
        return cls(**{**values, "decoder_channels": tuple(values["decoder_channels"])})

    def build(self) -> nn.Module:
        """Build the network with random weights; never downloads any."""
        declare_missing_operators()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning, module="timm")
            import segmentation_models_pytorch as smp

        try:
            network = getattr(smp, self.name)(
                encoder_name=self.encoder,
                encoder_weights=None,
                encoder_depth=self.depth,
                decoder_channels=self.decoder_channels,
                in_channels=self.in_channels,
                classes=1,
                **self.options,
            )
        except (AttributeError, KeyError, ValueError, TypeError) as error:
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


def preferred_device() -> torch.device:
    """Return the process's first GPU, or the CPU where there is none."""
    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
