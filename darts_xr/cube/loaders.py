"""Auxiliary layers by other people's loaders: odc-stac and stackstac, for comparison and for their users.

The default engine (``"exact"``, :mod:`darts_xr.cube.warp`) is exact to 0.002 pixels and independent of the chunks;
these two warp with GDAL, whose approximate coordinates are off by up to 0.02 pixels and depend on the block.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import odc.stac
import pystac
import rasterio.enums
import xarray as xr
from odc.geo.geobox import GeoBox

from darts_xr.cube.layers import band_fields
from darts_xr.errors import EngineError

Engine = Literal["exact", "odc-stac", "stackstac"]
ENGINES: tuple[Engine, ...] = ("exact", "odc-stac", "stackstac")


def load_bands(
    items: Sequence[pystac.Item],
    key: str,
    bands: Sequence[str],
    geobox: GeoBox,
    *,
    engine: Literal["odc-stac", "stackstac"],
    resampling: str,
    chunks: int,
) -> xr.Dataset:
    """Load bands of one asset of several items as one mosaic on a grid.

    Parameters
    ----------
    items : sequence of pystac.Item
        Items that have the asset; the first that has a value wins.
    key : str
        The asset.
    bands : sequence of str
        Names of its bands to load, as the item lists them; the asset's key for a single unnamed band.
    geobox : GeoBox
        The grid.
    engine : {"odc-stac", "stackstac"}
        Who loads. stackstac reads assets of one band only and needs the extra ``stackstac``.
    resampling : str
        ``"cubic"``, ``"bilinear"`` or ``"nearest"``.
    chunks : int
        Chunk side in pixels.

    Returns
    -------
    xarray.Dataset
        Lazy, one float32 variable a band, dims (y, x), NaN where no item has data.

    Raises
    ------
    EngineError
        When stackstac is not installed, or is asked for an asset of several bands.
    """
    if engine == "odc-stac":
        return _by_odc_stac(items, key, bands, geobox, resampling, chunks)
    return _by_stackstac(items, key, bands, geobox, resampling, chunks)


def _by_odc_stac(
    items: Sequence[pystac.Item], key: str, bands: Sequence[str], geobox: GeoBox, resampling: str, chunks: int
) -> xr.Dataset:
    # One group for all items: they become one mosaic, not time steps.
    names = {
        name: f"{key}.{number + 1}" for number, name in enumerate(_band_names(items[0], key)) if name in bands
    }
    loaded = odc.stac.load(
        items, bands=list(names.values()), geobox=geobox, resampling=resampling, dtype="float32", nodata=np.nan,
        chunks={"y": chunks, "x": chunks}, groupby=lambda item, parsed, index: "all",
    )  # fmt: skip
    return loaded.isel(time=0, drop=True).rename({alias: name for name, alias in names.items()})


def _by_stackstac(
    items: Sequence[pystac.Item], key: str, bands: Sequence[str], geobox: GeoBox, resampling: str, chunks: int
) -> xr.Dataset:
    try:
        import stackstac
    except ImportError as error:
        raise EngineError("engine='stackstac' needs the extra: pip install 'darts-xr[stackstac]'") from error
    for item in items:
        if (count := len(_band_names(item, key))) > 1:
            raise EngineError(
                f"{item.id}: stackstac reads assets of one band only, {key!r} has {count}; "
                "use engine='odc-stac' or the default"
            )
    epsg = None if geobox.crs is None else geobox.crs.epsg
    stacked = stackstac.stack(
        list(items), assets=[key], epsg=epsg, bounds=tuple(geobox.boundingbox), snap_bounds=False,
        resolution=(abs(geobox.resolution.x), abs(geobox.resolution.y)), xy_coords="center", chunksize=chunks,
        resampling=rasterio.enums.Resampling[resampling], dtype=np.dtype("float32"), fill_value=np.float32(np.nan),
        rescale=False, sortby_date=False,
    )  # fmt: skip
    mosaic = stackstac.mosaic(stacked, dim="time").isel(band=0, drop=True)
    return xr.Dataset({bands[0]: (("y", "x"), mosaic.data)})


def _band_names(item: pystac.Item, key: str) -> list[str]:
    fields = band_fields(item.assets[key])
    return [str(field.get("name", key)) for field in fields] or [key]


def check_engine(engine: Any) -> Engine:
    """Refuse an engine that does not exist."""
    if engine not in ENGINES:
        raise EngineError(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}")
    return engine  # type: ignore[no-any-return]
