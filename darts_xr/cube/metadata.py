"""What scenes, probabilities and cubes say about where they come from.

What identifies a scene (``time``, ``item_id``, ``synthetic``) are scalar coordinates, so that ``xr.concat(scenes,
"time", coords="different")`` keeps them for each scene; how it was made stands in the attributes. Both are plain text
and numbers, which netCDF and Zarr can hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import dask.array as da
import numpy as np
import pandas as pd
import pystac
import xarray as xr

from darts_xr.errors import MissingBandsError

#: Scalar coordinates of a scene, along ``time`` in a cube.
IDENTITY = ("time", "item_id", "synthetic")
SYNTHETIC = "synthetic scene, no real observation"
Labelled = TypeVar("Labelled", xr.Dataset, xr.DataArray)


def utc_time(item: pystac.Item) -> np.datetime64:
    """Acquisition time of an item, UTC.

    Raises
    ------
    MissingBandsError
        If the item has none.
    """
    if item.datetime is None:
        raise MissingBandsError(f"{item.id} has no acquisition time; set the item's datetime")
    moment = pd.Timestamp(item.datetime)
    return (moment.tz_convert("UTC").tz_localize(None) if moment.tzinfo else moment).to_datetime64()


def time_text(time: Any) -> str:
    """Time as STAC writes it; UTC where it states no zone.

    Raises
    ------
    ValueError
        If it is no time.

    Examples
    --------
    >>> time_text(np.datetime64("2021-07-19T20:15:00", "ns")), time_text("2021-07-19T13:15:00-07:00")
    ('2021-07-19T20:15:00Z', '2021-07-19T20:15:00Z')
    """
    moment = pd.Timestamp(time)
    if pd.isna(moment):
        raise ValueError(f"{time!r} is no time")
    moment = moment.tz_convert("UTC") if moment.tzinfo else moment.tz_localize("UTC")
    return moment.isoformat().replace("+00:00", "Z")


def scene_coords(item: pystac.Item) -> dict[str, xr.Variable]:
    """Scalar coordinates that tell an item's scene from others."""
    time = {"standard_name": "time", "long_name": "acquisition time, UTC"}
    return {
        "time": xr.Variable((), utc_time(item).astype("datetime64[ns]"), time),
        "item_id": xr.Variable((), item.id, {"long_name": "id of the STAC item"}),
        "synthetic": xr.Variable(
            (), bool(item.properties.get("darts:synthetic")), {"long_name": "no real observation"}
        ),
    }


def metadata_of(data: xr.Dataset | xr.DataArray | Mapping[str, Any]) -> dict[str, Any]:
    """Attributes and scalar coordinates as one dictionary; nothing is computed.

    Examples
    --------
    >>> metadata_of(xr.DataArray(0, coords={"item_id": "a"}, attrs={"product": "PSScene"}))
    {'product': 'PSScene', 'item_id': 'a'}
    """
    if not isinstance(data, xr.Dataset | xr.DataArray):
        return dict(data)
    scalars = {
        str(name): coord.to_numpy().reshape(-1)[0]
        for name, coord in data.coords.items()
        if coord.ndim == 0 and not isinstance(coord.data, da.Array) and "crs_wkt" not in coord.attrs
    }
    plain = {
        name: value.item() if isinstance(value, np.bool_ | np.str_) else value
        for name, value in scalars.items()
    }
    return {**{str(name): value for name, value in data.attrs.items()}, **plain}


def linked(data: Labelled) -> Labelled:
    """Name the coordinates and the grid mapping of each variable in its encoding, for files; changes ``data``.

    xarray alone leaves the grid mapping out of the list of coordinates, and a file would come back without its CRS.
    """
    others = {str(name): coord for name, coord in data.coords.items() if name not in data.dims}
    arrays = [data] if isinstance(data, xr.DataArray) else list(data.data_vars.values())
    for array in arrays:
        near = sorted(name for name, coord in others.items() if set(coord.dims) <= set(array.dims))
        array.encoding["coordinates"] = " ".join(near)
        if "spatial_ref" in near:
            array.encoding["grid_mapping"] = "spatial_ref"
    for coord in others.values():
        if coord.dtype.kind == "U":
            coord.encoding["dtype"] = "O"  # texts of any length, so that a file can be appended to
    return data
