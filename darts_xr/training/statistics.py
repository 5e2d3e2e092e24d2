"""How the bands of the training scenes are distributed: for the scale of networks, and to tell scenes unlike them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from darts_xr.cube import Band
from darts_xr.cube.bands import VALID
from darts_xr.errors import TrainingError
from darts_xr.inference import Checkpoint
from darts_xr.inference.drift import band_histogram, summarise
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
    scenes = store.table["scene"].to_numpy()
    found: dict[str, dict[str, NDArray[np.int64]]] = {}
    for row, planes, valid in _thinned(store, rows):
        own = found.setdefault(scenes[row], {})
        for band in member.bands:
            own[band.name] = own.get(band.name, 0) + band_histogram(band, planes[band.name], valid)
    return summarise(found.values())


def standardised(bands: Iterable[Band], store: PatchStore, rows: NDArray[np.integer]) -> tuple[Band, ...]:
    """Scale bands so that over the training patches each has mean 0 and standard deviation 1.

    Parameters
    ----------
    bands : iterable of Band
        Bands, of which only offset and divisor change; a checkpoint states both.
    store : PatchStore
        Where the patches lie.
    rows : numpy.ndarray
        Training patches.

    Returns
    -------
    tuple of Band
        The same bands in the same order. Invalid pixels, which networks see as 0, then have the mean.

    Raises
    ------
    TrainingError
        A band has one value everywhere.

    Notes
    -----
    On the published scale 1 m of relative elevation is 0.01 and a usual difference of near-infrared 0.16: a
    network at random begins with hardly any terrain.

    Examples
    --------
    >>> standardised(select_bands(), store, store.rows)  # doctest: +SKIP
    """
    bands = tuple(bands)
    count, sums, squares = np.zeros((3, len(bands)))
    for _, planes, valid in _thinned(store, rows):
        # About the neutral value: squares of small differences lose no digits.
        values = np.stack([planes[b.name][valid].astype(float) - b.neutral for b in bands])
        known = np.isfinite(values)
        values[~known] = 0
        count += known.sum(axis=1)
        sums += values.sum(axis=1)
        squares += (values**2).sum(axis=1)
    mean = sums / np.maximum(count, 1)
    deviation = np.sqrt(np.maximum(squares / np.maximum(count, 1) - mean**2, 0))
    if flat := [band.name for band, d in zip(bands, deviation, strict=True) if not d > 0]:
        raise TrainingError(
            f"{store.path} has one value everywhere in {', '.join(flat)}, which cannot be standardised; leave the band "
            'out of the member, or take scaling "published"'
        )
    return tuple(
        replace(band, offset=float(f"{-(m + band.neutral):.6g}"), divisor=float(f"{d:.6g}"))
        for band, m, d in zip(bands, mean, deviation, strict=True)
    )


def _thinned(
    store: PatchStore, rows: NDArray[np.integer]
) -> Iterator[tuple[int, dict[str, NDArray[Any]], NDArray[np.bool_]]]:
    """Row, bands by name and valid pixels of each patch, thinned out."""
    arrays = store.arrays()
    for row in np.asarray(rows).tolist():
        kinds = {kind: arrays[kind][row].read().result()[:, ::_THIN, ::_THIN] for kind in store.layout}
        planes = {
            name: kinds[kind][place]
            for kind, names in store.layout.items()
            for place, name in enumerate(names)
        }
        yield row, planes, planes[VALID] > 0
