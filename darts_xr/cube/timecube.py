"""Rasters of many scenes as one lazy cube over time, such as years of probability."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import odc.stac
import xarray as xr
from odc.geo.geobox import GeoBox

from darts_xr.catalog import search
from darts_xr.errors import MissingBandsError


def open_cube(
    source: Any,
    *,
    bands: Sequence[str] = ("probability",),
    bbox: tuple[float, float, float, float] | None = None,
    datetime: str | None = None,
    resolution: float | None = None,
    crs: str | None = None,
    chunks: int = 1024,
) -> xr.Dataset:
    """Open rasters of a run's output catalogue as one lazy cube.

    Parameters
    ----------
    source : source
        A run folder's ``catalog.json``, or anything that :func:`darts_xr.search` takes.
    bands : sequence of str, optional
        Assets to open: ``"probability"``, ``"binary"``.
    bbox : tuple of float, optional
        West, south, east, north in degrees; by default all items.
    datetime : str, optional
        A day or an interval ``"2021-07-01/2023-08-31"``.
    resolution : float, optional
        Pixel side in metres; by default that of the first item.
    crs : str, optional
        Reference system of the cube; by default that of the first item.
    chunks : int, optional
        Chunk side in pixels.

    Returns
    -------
    xarray.Dataset
        Lazy, dims (time, y, x), one time step an item. ``probability`` is float32 0 to 1 with NaN where no item
        covers a pixel or it was masked; other bands keep their type.

    Raises
    ------
    EmptySearchError
        When no item matches.
    MissingBandsError
        When an item has no such asset or states no grid.

    Examples
    --------
    >>> cube = open_cube("run/catalog.json", bands=["probability"], resolution=6)  # doctest: +SKIP
    """
    items = list(search(source, bbox=bbox, datetime=datetime))
    for item in items:
        if missing := [band for band in bands if band not in item.assets]:
            raise MissingBandsError(f"{item.id} has no asset {missing[0]!r}; it has {', '.join(item.assets)}")
        if "proj:code" not in item.properties or "proj:transform" not in item.properties:
            raise MissingBandsError(f"{item.id} states no pixel grid (proj:code, proj:transform)")
    first = items[0].properties
    pixel = resolution or abs(float(first["proj:transform"][0]))
    where: dict[str, Any] = {"crs": crs or first["proj:code"], "resolution": pixel}
    if bbox is not None:
        where = {"geobox": _snapped(bbox, where["crs"], pixel)}
    cube = odc.stac.load(
        items,
        bands=list(bands),
        groupby="id",
        chunks={"y": chunks, "x": chunks},
        resampling="nearest",
        **where,
    )
    for name in cube.data_vars:
        if name == "probability":
            percent = cube[name]
            cube[name] = (percent.where(percent != 255) / np.float32(100)).astype("float32")
            cube[name].attrs = {
                "long_name": "probability of an active retrogressive thaw slump",
                "units": "1",
            }
    return cube


def _snapped(bbox: tuple[float, float, float, float], crs: str, pixel: float) -> GeoBox:
    """Grid over a box in degrees, its edges on whole pixels so that neighbouring cubes fit."""
    return GeoBox.from_bbox(
        GeoBox.from_bbox(bbox, "EPSG:4326", shape=(8, 8), tight=True).footprint(crs).boundingbox,
        resolution=pixel,
        tight=False,
    )
