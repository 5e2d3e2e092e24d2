"""torchmetrics imports torchvision, whose compiled operators do not load beside a CPU build of torch."""

from __future__ import annotations

from darts_xr.inference._torchvision import declare_missing_operators

declare_missing_operators()
