"""Ground that fools a network: patches without slumps in which it finds some."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from darts_xr.atomic import write_atomic
from darts_xr.inference import Checkpoint
from darts_xr.inference.network import preferred_device
from darts_xr.training.draws import plain_loader, planes_of
from darts_xr.training.module import scaled_input
from darts_xr.training.patches import LABELS, TABLE, PatchStore
from darts_xr.training.settings import Recipe

_THRESHOLD = 0.5


def mine_hard(store: PatchStore, members: Sequence[Checkpoint], *, min_pixels: int = 32) -> PatchStore:
    """Mark patches without slumps in which networks find some, for ``Sampling.hard``.

    Parameters
    ----------
    store : PatchStore
        Patches.
    members : sequence of Checkpoint
        Networks, whose mean probability counts.
    min_pixels : int
        False pixels from which on a patch is hard; by default the smallest object of a detection.

    Returns
    -------
    PatchStore
        With a column ``hard`` in its table, which is also written to disk.

    Examples
    --------
    >>> store = mine_hard(store, load_ensemble("demo").members)  # doctest: +SKIP
    """
    device = preferred_device()
    networks = [m.load_network().to(device, memory_format=torch.channels_last) for m in members]  # type: ignore[call-overload]
    rows = np.flatnonzero(store.table["n_positive"].to_numpy() == 0)
    wrong = np.zeros(len(store), int)
    with torch.inference_mode():
        for batch in plain_loader(store, rows, Recipe()):
            planes = planes_of({key: value.to(device) for key, value in batch.items()}, store.layout)
            votes = [
                torch.sigmoid(n(scaled_input(planes, m))[:, 0])
                for n, m in zip(networks, members, strict=True)
            ]
            found = (torch.stack(votes).mean(0) >= _THRESHOLD) & (batch[LABELS].to(device) == 0)
            wrong[batch["row"].numpy()] = found.sum((1, 2)).cpu().numpy()
    table = store.table.assign(hard=wrong >= min_pixels)
    write_atomic(store.path / TABLE, lambda part: table.to_parquet(part))
    return replace(store, table=table)
