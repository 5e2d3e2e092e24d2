"""Hard ground: where a network finds slumps that are none, in cells of a few pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from darts_xr.atomic import write_atomic

CELL = 8  # px, side of a cell
_THRESHOLD = 0.5


def hard_cells(p: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Find the cells of which a network wrongly takes half or more for a slump.

    Parameters
    ----------
    p : torch.Tensor
        Probability, (patch, y, x).
    labels : torch.Tensor
        Labels, (patch, y, x): 1 slump, 0 none, 255 unknown.

    Returns
    -------
    torch.Tensor
        Cells, (patch, y / 8, x / 8) bool. Those in and beside a slump are none: its rim is uncertain.

    Examples
    --------
    >>> import torch
    >>> hard_cells(torch.ones(1, 32, 32), torch.zeros(1, 32, 32)).shape
    torch.Size([1, 4, 4])
    """
    wrong = ((p >= _THRESHOLD) & (labels == 0)).float()[:, None]
    slump = (labels == 1).float()[:, None]
    share = functional.avg_pool2d(wrong, CELL, ceil_mode=True)
    near = functional.max_pool2d(functional.max_pool2d(slump, CELL, ceil_mode=True), 3, stride=1, padding=1)
    return ((share >= 0.5) & (near == 0))[:, 0]


class HardGround:
    """Hard cells of all patches of a store; none until they were looked for.

    Parameters
    ----------
    path : pathlib.Path, optional
        File that keeps them, for a training that goes on; read where it exists.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._packed: NDArray[np.uint8] | None = None  # a bit a cell, along x
        if path is not None and path.is_file():
            self._packed = np.load(path, allow_pickle=False)

    def keep(self, cells: NDArray[np.bool_], *, write: bool = True) -> None:
        """Take the cells of all patches, (patch, y, x) bool, and write them to the file."""
        self._packed = packed = np.packbits(cells, axis=-1)
        if self.path is not None and write:
            write_atomic(self.path, lambda part: _save(part, packed))

    def of(self, rows: torch.Tensor) -> torch.Tensor | None:
        """Cells of some patches, (patch, y, x) bool."""
        if self._packed is None:
            return None
        some = self._packed[rows.cpu().numpy()]
        return torch.from_numpy(np.unpackbits(some, axis=-1, count=some.shape[1]).astype(bool))

    def patches(self, rows: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Which of some patches have any."""
        if self._packed is None:
            return np.zeros(len(rows), bool)
        found: NDArray[np.bool_] = self._packed[rows].any(axis=(1, 2))
        return found


def _save(path: str | Path, array: NDArray[np.uint8]) -> None:
    with open(path, "wb") as file:
        np.save(file, array)
