"""How a cube lies in a Zarr store, and how it is read again."""

from __future__ import annotations

import os

import numpy as np
import xarray as xr

from darts_xr.cube.metadata import linked
from darts_xr.errors import CubeError, naming_extra
from darts_xr.percent import to_probability

STEPS = 16  # time steps of a chunk
SIDE = 256  # px of a chunk
SHARD = 1024  # px of a file, which holds the chunks of its ground
LABELS = 1024  # time steps of a chunk of coordinates
#: Coordinate that tells what a step was made from: a digest, another one when the scene was made again.
STATE = "state"
UNKNOWN = "unknown"
#: Coordinate along ``time`` with the cloud cover, where an item states it, and its attributes.
CLOUDS = "cloud_cover"
ABOUT_CLOUDS = {"long_name": "cloud cover, as the item states it", "units": "percent"}


def is_store(source: object) -> bool:
    """Whether a source is the address of a Zarr store, by its name.

    Examples
    --------
    >>> is_store("banks.zarr"), is_store("run/catalog.json")
    (True, False)
    """
    return isinstance(source, str | os.PathLike) and os.fspath(source).rstrip("/").endswith(".zarr")


def raw_store(path: str) -> xr.Dataset:
    """Open a store as it lies on disk: per cent, in the order of arrival, also steps that were never finished.

    Raises
    ------
    CubeError
        When there is no store of darts_xr.
    """
    with naming_extra("zarr", "a stored cube"):
        import zarr  # noqa: F401
    try:
        cube = xr.open_zarr(path, mask_and_scale=False, consolidated=False)
    except (OSError, ValueError, KeyError) as error:
        raise CubeError(
            f"{path} is no Zarr store that can be read ({error}); darts-xr cube writes one"
        ) from error
    if lacking := {"time", "item_id", STATE, CLOUDS} - set(cube.coords):
        raise CubeError(f"{path} has no {', '.join(sorted(lacking))}: darts-xr cube did not write it")
    labels = {name: coord.load() for name, coord in cube.coords.items() if coord.dims == ("time",)}
    plain = {
        name: coord.copy(data=np.array(coord.values.tolist(), "U")) if coord.dtype.kind == "T" else coord
        for name, coord in labels.items()
    }
    return cube.assign_coords(plain)


def read_store(path: str | os.PathLike[str]) -> xr.Dataset:
    """Open a stored cube lazily, its steps in the order of time and id, as :func:`darts_xr.open_cube` gives it."""
    cube = raw_store(os.fspath(path))
    ids = cube["item_id"].values
    whole = np.flatnonzero(ids != "")  # a step is there once its id is
    order = whole[np.lexsort((ids[whole], cube["time"].values[whole]))]
    if not np.array_equal(order, np.arange(len(ids))):
        cube = cube.isel(time=order)
    texts = {name: coord for name, coord in cube.coords.items() if coord.dtype.kind == "U"}
    cube = cube.drop_vars([name for name, text in texts.items() if name == STATE or (text == UNKNOWN).all()])
    if cube[CLOUDS].isnull().all():  # no item stated it
        cube = cube.drop_vars(CLOUDS)
    for name, raster in cube.data_vars.items():
        if name == "probability":
            kept = {key: raster.attrs[key] for key in ("long_name", "units")}
            cube[name] = raster.copy(
                data=raster.data.map_blocks(
                    to_probability, dtype="float32", meta=np.empty((0, 0, 0), "float32")
                )
            )
            cube[name].attrs = kept
    cube.attrs = {}
    return linked(cube)
