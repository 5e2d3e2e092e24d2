"""Small networks and scenes that the tests of prediction share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import nn

from darts_xr.cube.bands import BANDS, select_bands
from darts_xr.inference import Architecture, Checkpoint, Ensemble, load_ensemble, save_checkpoint

SEVEN = tuple(BANDS)[:7]


def lively(network: nn.Module, seed: int) -> nn.Module:
    """Give a network random statistics and enough contrast that its probabilities differ from pixel to pixel."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
                module.running_mean.copy_(0.1 * torch.randn(module.running_mean.shape, generator=generator))
                module.running_var.copy_(0.5 + torch.rand(module.running_var.shape, generator=generator))
    return network


def small_checkpoint(
    path: Path, bands: Any = None, *, seed: int = 0, tile: int = 64, margin: int = 16
) -> Checkpoint:
    """Checkpoint of a UNet++ of depth 3 with a small encoder and few channels."""
    wanted = select_bands(bands)
    architecture = Architecture(
        encoder="tu-regnetx_002", depth=3, decoder_channels=(16, 8, 8), in_channels=len(wanted)
    )
    torch.manual_seed(seed)
    return save_checkpoint(
        path, lively(architecture.build(), seed), name=path.stem, architecture=architecture, bands=wanted, tile=tile,
        margin=margin, training={"synthetic": True}, licence="MIT",
    )  # fmt: skip


def small_ensemble(folder: Path, **options: Any) -> Ensemble:
    """Two members, one with ten and one with seven bands."""
    paths = [folder / "ten.safetensors", folder / "seven.safetensors"]
    if not paths[0].exists():
        small_checkpoint(paths[0], seed=1)
        small_checkpoint(paths[1], SEVEN, seed=2)
    return load_ensemble(*paths, device="cpu", **options)


def scene_of(valid: NDArray[np.bool_], *, chunks: Any = None, seed: int = 0) -> xr.Dataset:
    """A scene of noise with all ten bands in their stored types; lazy when ``chunks`` are given."""
    rng = np.random.default_rng(seed)
    shape = valid.shape
    bands: dict[str, Any] = {
        name: rng.integers(100, 3000, shape).astype("uint16") for name in ("blue", "green", "red", "nir")
    }
    bands["ndvi"] = rng.uniform(-1, 1, shape).astype("float32")
    bands["relative_elevation"] = rng.normal(0, 8, shape).astype("float32")
    bands["slope"] = rng.uniform(0, 40, shape).astype("float32")
    bands |= {
        f"tc_{name}": rng.integers(0, 256, shape).astype("uint8")
        for name in ("brightness", "greenness", "wetness")
    }
    coords = {"y": 7_800_000.0 - 3 * np.arange(shape[0]), "x": 400_000.0 + 3 * np.arange(shape[1])}
    scene = xr.Dataset(
        {name: (("y", "x"), bands[name]) for name in BANDS} | {"valid": (("y", "x"), valid)},
        coords=coords,
        attrs={"item_id": "20210701_noise"},
    )
    return scene if chunks is None else scene.chunk(dict(zip(("y", "x"), chunks, strict=True)))
