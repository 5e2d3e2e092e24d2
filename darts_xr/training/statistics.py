"""How the bands of the training scenes are distributed, for the check whether a scene is like them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from darts_xr.inference import Checkpoint
from darts_xr.inference.drift import band_histogram, summarise
from darts_xr.inference.structured import VALID
from darts_xr.training.patches import PatchStore

_THIN = 4  # every fourth pixel of each row and column is enough for a histogram


def training_statistics(member: Checkpoint, store: PatchStore, rows: NDArray[np.integer]) -> dict[str, Any]:
    """Statistics of a member's bands over its training patches, scene by scene.

    Parameters
    ----------
    member : Checkpoint
        Bands and their scaling.
    store : PatchStore
        Where the patches lie.
    rows : numpy.ndarray
        Training patches.

    Returns
    -------
    dict
        For ``save_checkpoint(statistics=…)``; see :func:`darts_xr.inference.scene_drift`.
    """
    arrays = store.arrays()
    places = {name: (kind, place) for kind, names in store.layout.items() for place, name in enumerate(names)}
    scenes = store.table["scene"].to_numpy()
    found: dict[str, dict[str, NDArray[np.int64]]] = {}
    for row in np.asarray(rows):
        patch = {kind: arrays[kind][int(row)].read().result()[:, ::_THIN, ::_THIN] for kind in store.layout}
        kind, place = places[VALID]
        valid = patch[kind][place] > 0
        own = found.setdefault(scenes[row], {})
        for band in member.bands:
            kind, place = places[band.name]
            counts = band_histogram(band, patch[kind][place], valid)
            own[band.name] = own.get(band.name, 0) + counts
    return summarise(found.values())
