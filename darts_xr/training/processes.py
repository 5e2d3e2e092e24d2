"""Several processes that train one network, each on a device of its own."""

# ruff: noqa: E402

from __future__ import annotations

from darts_xr.inference._torchvision import declare_missing_operators

declare_missing_operators()  # a started process begins by importing this module, and Lightning imports torchvision

import logging
import warnings

import pytorch_lightning as pl
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.strategies.launchers.multiprocessing import _MultiProcessingLauncher


def silence_lightning() -> None:
    """Keep Lightning's advice, which is for those who write loops, out of the user's log."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning|torch.utils.data|torch.optim")


class SilentLightning(pl.Callback):
    """Silence Lightning in a started process, which knows nothing of what was set in its parent."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Begin."""
        silence_lightning()


class _Launcher(_MultiProcessingLauncher):
    """Lightning's own; by its home a started process knows that this module comes first."""


class SpawnedDDP(DDPStrategy):
    """Data parallel training in processes that are started, not forked: the parent may have used CUDA already."""

    def __init__(self) -> None:
        # Some encoders have layers behind the last one that the decoder takes.
        super().__init__(start_method="spawn", find_unused_parameters=True)

    def _configure_launcher(self) -> None:
        self._launcher = _Launcher(self, start_method="spawn")
