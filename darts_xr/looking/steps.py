"""What a cube is made of, as a table."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from darts_xr.cube.stored import CLOUDS
from darts_xr.cube.timecube import PROVENANCE
from darts_xr.errors import ParameterError


def scenes(cube: xr.Dataset | xr.DataArray) -> pd.DataFrame:
    """Tell which scene each time step of a cube is, and how it was made; nothing is computed.

    Parameters
    ----------
    cube : xarray.Dataset or xarray.DataArray
        (time, y, x), of :func:`darts_xr.open_cube`.

    Returns
    -------
    pandas.DataFrame
        One row a time step, index ``time``: ``item_id``, ``date`` (YYYY-MM-DD), ``synthetic`` (bool), ``cloud_cover``
        (per cent, as the item states it), and what the items say of constellation, product, mask rule, auxiliary items,
        ensemble, checkpoints, batch norm, tiling and rules, as far as the cube has it.

    Raises
    ------
    ParameterError
        When it has no time steps.

    Examples
    --------
    >>> cube = xr.DataArray([1, 2], coords={"time": np.array(["2021-07-01", "2022-07-01"], "datetime64[ns]"),
    ...                                     "item_id": ("time", ["a", "b"])}, dims="time")
    >>> scenes(cube).values.tolist()
    [['a', '2021-07-01'], ['b', '2022-07-01']]
    """
    if "time" not in cube.dims:
        raise ParameterError(
            "this is one scene and no cube over time: its coordinates and attributes tell what it is"
        )
    times = pd.DatetimeIndex(np.asarray(cube["time"].values), name="time")
    columns: dict[str, Any] = {
        name: cube[name].values
        for name in ("item_id", "synthetic", CLOUDS, *PROVENANCE)
        if name in cube.coords and cube[name].dims == ("time",)
    }
    table = pd.DataFrame(columns, index=times)
    table.insert(min(1, len(table.columns)), "date", times.strftime("%Y-%m-%d"))
    return table
