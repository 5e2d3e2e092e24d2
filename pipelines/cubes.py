"""The rasters of a run as one store over time."""

from __future__ import annotations

import logging
import os
from typing import Any

import darts_xr as dx
from darts_xr.cube import StoredCube
from darts_xr.digests import multihash
from pipelines.records import Run, open_run
from pipelines.results import read_results

log = logging.getLogger(__name__)


def store_run(run: str | os.PathLike[str] | Run, out: str | os.PathLike[str], **options: Any) -> StoredCube:
    """Write a run's rasters to one Zarr store, or add to the store what it lacks of them.

    A scene that was made again since, under whatever settings, takes the place of what the store had of it.

    Parameters
    ----------
    run : path or Run
        A run of :func:`pipelines.detect`.
    out : path
        The store, ``….zarr``.
    **options
        ``bands``, ``bbox``, ``datetime``, ``resolution``, ``crs`` of :func:`darts_xr.store_cube`.

    Returns
    -------
    StoredCube
        What was added and what was not.

    Examples
    --------
    >>> store_run("run", "banks.zarr", bbox=(-122, 72, -121, 72.5))  # doctest: +SKIP
    """
    run = run if isinstance(run, Run) else open_run(run)
    # Scenes whose files are gone or not what was written are left out there, with a warning.
    outputs = {scene.record["id"]: scene.record["outputs"] for scene in read_results(run).scenes}
    items = [item for item in dx.search(str(run.folder / "catalog.json")) if item.id in outputs]
    if lacking := sorted(outputs.keys() - {item.id for item in items}):
        log.warning(
            "%d scene(s) are not in the catalogue of %s, so they are left out (%s); darts-xr detect with the same "
            "settings writes it anew", len(lacking), run.folder, ", ".join(lacking[:3])
        )  # fmt: skip
    for item in items:
        for key in ("probability", "binary"):
            # The record knows what the file holds; the item says only how it was made.
            item.assets[key].extra_fields["file:checksum"] = multihash(
                outputs[item.id][f"{key}.tif"]["sha256"]
            )
    return dx.store_cube(items, out, **options)
