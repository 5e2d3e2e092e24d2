"""Rasters of many dates into one Zarr store: chunked for series over time, appended as scenes come."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import pystac
import xarray as xr
from numpy.typing import NDArray

from darts_xr.catalog import search
from darts_xr.cube.stored import (
    ABOUT_CLOUDS,
    CLOUDS,
    LABELS,
    SHARD,
    SIDE,
    STATE,
    STEPS,
    UNKNOWN,
    is_store,
    raw_store,
)
from darts_xr.cube.timecube import PROVENANCE, open_cube
from darts_xr.errors import CubeError, EmptySearchError, ParameterError, naming_extra
from darts_xr.globe import Bounds
from darts_xr.percent import NO_DATA, to_stored

if TYPE_CHECKING:
    import zarr

log = logging.getLogger(__name__)

_TEXTS = ("item_id", *PROVENANCE, STATE)


@dataclass(frozen=True)
class StoredCube:
    """What became of each item that a store was to hold.

    Parameters
    ----------
    path : str
        The store.
    added, replaced, unchanged : list of str
        Ids of items that are new in it, that were made again since, and that it had already.
    outside : list of str
        Ids of items that do not lie on the ground of the store, and are not in it.
    gone : list of str
        Ids in the store that the source no longer has; they stay in it.
    """

    path: str
    added: list[str]
    replaced: list[str]
    unchanged: list[str]
    outside: list[str]
    gone: list[str]


# --- one step --------------------------------------------------------------------------------------------------


def _as_stored(raster: xr.DataArray) -> da.Array:
    if raster.name != "probability":
        return raster.data
    return raster.data.map_blocks(to_stored, dtype="uint8", meta=np.empty((0, 0, 0), np.uint8))


def _state(item: pystac.Item, bands: Sequence[str]) -> str:
    """Digest of what an item says of itself, and of its rasters' checksums where it states them."""
    sums = {
        band: item.assets[band].extra_fields.get("file:checksum") for band in bands if band in item.assets
    }
    text = json.dumps([item.properties, sums], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


# --- the store -------------------------------------------------------------------------------------------------


def _begin(path: str, cube: xr.Dataset) -> None:
    """Write a store with everything but time steps."""
    texts = {name: ("time", np.array([], np.dtypes.StringDType())) for name in _TEXTS}
    none = cube.isel(time=slice(0, 0)).drop_vars([name for name in PROVENANCE if name in cube.coords])
    clouds = ("time", np.array([], float), ABOUT_CLOUDS)
    none = none.assign_coords(
        {**texts, "item_id": none["item_id"].copy(data=texts["item_id"][1]), CLOUDS: clouds}
    )
    for variable in none.variables.values():
        variable.encoding = {}
    encoding: dict[str, dict[str, Any]] = {name: {"chunks": (LABELS,)} for name in (*_TEXTS, "synthetic")}
    encoding["time"] = {"units": "microseconds since 1970-01-01", "dtype": "int64", "chunks": (LABELS,)}
    encoding[CLOUDS] = {"chunks": (LABELS,), "_FillValue": None}
    encoding |= {"x": {"_FillValue": None}, "y": {"_FillValue": None}}
    for name, raster in none.data_vars.items():
        encoding[str(name)] = {
            "chunks": (STEPS, SIDE, SIDE), "shards": (STEPS, SHARD, SHARD), "_FillValue": None
        }  # fmt: skip
        if name == "probability":
            # A reader that knows nothing of darts_xr scales it, right to the last digits.
            encoding["probability"] |= {
                "dtype": "uint8", "_FillValue": NO_DATA, "fill_value": NO_DATA, "scale_factor": 0.01
            }  # fmt: skip
        none[name] = raster.copy(data=np.zeros(raster.shape, raster.dtype))
    none.attrs = {"title": "darts_xr cube"}
    none.to_zarr(path, mode="w-", encoding=encoding, zarr_format=3, consolidated=False)


def _runs(slots: Sequence[int]) -> Iterator[slice]:
    """Places in a list of slots that lie side by side in the store, and in one row of chunks."""
    first = 0
    for k in range(1, len(slots) + 1):
        if k == len(slots) or slots[k] != slots[k - 1] + 1 or slots[k] % STEPS == 0:
            yield slice(first, k)
            first = k


def _write(group: zarr.Group, cube: xr.Dataset, states: Sequence[str], slots: NDArray[np.int64]) -> None:
    """Write steps into their slots. Ids come last: without one a step counts as not there."""
    _label(group, "item_id", slots, np.full(len(slots), ""))
    for part in _runs(slots.tolist()):
        at = slice(int(slots[part][0]), int(slots[part][-1]) + 1)
        sources, targets = [], []
        for name, raster in cube.isel(time=part).data_vars.items():
            # A task writes whole files: none is written by two at a time.
            sources.append(_as_stored(raster).rechunk({0: -1, 1: SHARD, 2: SHARD}))
            targets.append(group[str(name)])
        da.store(sources, targets, regions=[(at, slice(None), slice(None))] * len(sources), lock=False)
    for name in (*PROVENANCE, "synthetic"):
        _label(group, name, slots, cube[name].values if name in cube.coords else np.full(len(slots), UNKNOWN))
    clouds = cube[CLOUDS].values if CLOUDS in cube.coords else np.full(len(slots), np.nan)
    _label(group, CLOUDS, slots, clouds)
    _label(group, "time", slots, cube["time"].values.astype("datetime64[us]").astype(np.int64))
    _label(group, STATE, slots, np.array(states))
    _label(group, "item_id", slots, cube["item_id"].values)


def _label(group: zarr.Group, name: str, slots: NDArray[np.int64], values: NDArray[Any]) -> None:
    array: Any = group[name]
    whole = array[:]
    whole[slots] = values
    array[:] = whole


def _resize(group: zarr.Group, steps: int) -> None:
    for _, array in group.arrays():
        if "time" in (array.metadata.dimension_names or ()):  # type: ignore[union-attr]
            array.resize((steps, *array.shape[1:]))


def _on_ground(
    items: Sequence[pystac.Item], stored: xr.Dataset, path: str
) -> tuple[list[pystac.Item], list[str]]:
    """Items that meet the ground of a store, and the ids of the others."""
    west, south, east, north = stored.odc.geobox.extent.to_crs("EPSG:4326").boundingbox
    try:
        found = list(search(items, bbox=(west, south, east, north)))
    except EmptySearchError as error:
        raise EmptySearchError(
            f"no item lies on the ground of {path}; give this region another store"
        ) from error
    return found, sorted({item.id for item in items} - {item.id for item in found})


# --- labelled public function ----------------------------------------------------------------------------------


def store_cube(
    source: Any,
    out: str | os.PathLike[str],
    *,
    bands: Sequence[str] = ("probability",),
    bbox: Bounds | None = None,
    datetime: str | None = None,
    resolution: float | None = None,
    crs: str | None = None,
) -> StoredCube:
    """Write rasters of many dates to one Zarr store, or add to the store what it lacks.

    Probability is stored as the per cent that a run stores: :func:`darts_xr.open_cube` on the store gives the same
    values as on the run. Chunks hold 16 dates of 256 × 256 pixels, so that a series over time reads little. An item
    that the store has is left alone, unless it was made again since. When the writing ends early, the same call goes
    on; steps that were not finished are not shown. One process at a time may write.

    Parameters
    ----------
    source : source
        As for :func:`darts_xr.open_cube`.
    out : path
        The store, ``….zarr``; local, or an address that fsspec knows.
    bands : sequence of str, optional
        As for :func:`darts_xr.open_cube`; the same at every call.
    bbox : tuple of float, optional
        West, south, east, north in degrees. A store keeps the ground that it was begun with; by default that of all
        items.
    datetime : str, optional
        Only items of a day or an interval.
    resolution : float, optional
        Pixel side in metres; by default that of the first item.
    crs : str, optional
        Reference system; by default that of the first item.

    Returns
    -------
    StoredCube
        What was added and what was not. Computed at once, block by block, on the Dask scheduler in force.

    Raises
    ------
    EmptySearchError
        When no item matches.
    CubeError
        When the store holds other bands, or is none of darts_xr.
    ParameterError
        When another ground or grid is asked of a store that is there, or the name does not end in ``.zarr``.
    MissingExtraError
        When ``zarr`` is not installed.

    Examples
    --------
    >>> store_cube("run/catalog.json", "banks.zarr", bbox=(-122, 72, -121, 72.5))  # doctest: +SKIP
    >>> open_cube("banks.zarr").probability.max("time")  # doctest: +SKIP
    """
    with naming_extra("zarr", "a stored cube"):
        import zarr
    path = os.fspath(out)
    if not is_store(path):
        raise ParameterError(f"the name of a store ends in .zarr; got {path!r}")
    known = list(search(source))
    asked = list(search(known, bbox=bbox, datetime=datetime))
    try:
        zarr.open_group(path, mode="r")
    except FileNotFoundError:
        first = open_cube(asked, bands=bands, bbox=bbox, resolution=resolution, crs=crs, chunks=SHARD)
        _begin(path, first)
        log.info("%s: begun with %d x %d pixels", path, first.sizes["y"], first.sizes["x"])
    else:
        if any(value is not None for value in (bbox, resolution, crs)):
            raise ParameterError(
                f"{path} keeps ground and grid that it was begun with: leave bbox, resolution and crs out"
            )
    stored = raw_store(path)
    if set(bands) != set(stored.data_vars):
        raise CubeError(
            f"{path} holds {', '.join(map(str, stored.data_vars))}, not {', '.join(bands)}; give another store"
        )
    items, outside = _on_ground(asked, stored, path)
    now = {item.id: _state(item, bands) for item in items}
    ids = stored["item_id"].values.tolist()
    before = dict(zip(ids, stored[STATE].values.tolist(), strict=True))
    added = [item for item in items if item.id not in before]
    replaced = [item for item in items if before.get(item.id, now[item.id]) != now[item.id]]
    # Slots whose writing was cut off are taken first.
    free = [slot for slot, name in enumerate(ids) if name == ""]
    slots = free + list(range(len(ids), len(ids) + len(added) - len(free)))
    todo = dict(zip((item.id for item in added), slots, strict=False))
    todo |= {item.id: ids.index(item.id) for item in replaced}
    group = zarr.open_group(path, mode="r+")
    _resize(group, max(len(ids), *(slot + 1 for slot in todo.values()), 0))
    changed = sorted((*added, *replaced), key=lambda item: todo[item.id])
    for start in range(0, len(changed), STEPS):
        batch = changed[start : start + STEPS]
        cube = open_cube(batch, bands=bands, like=stored.odc.geobox, chunks=SHARD)
        at = np.array([todo[name] for name in cube["item_id"].values.tolist()])
        cube, at = cube.isel(time=np.argsort(at)), np.sort(at)
        _write(group, cube, [now[name] for name in cube["item_id"].values.tolist()], at)
    gone = sorted({name for name in ids if name} - {item.id for item in known})
    for names, what in (
        (gone, "stay that the source no longer has"),
        (outside, "are left out: not on its ground"),
    ):
        if names:
            log.warning("%s: %d scene(s) %s: %s", path, len(names), what, ", ".join(names[:3]))
    unchanged = [item.id for item in items if item.id not in todo]
    return StoredCube(path, [i.id for i in added], [i.id for i in replaced], unchanged, outside, gone)
