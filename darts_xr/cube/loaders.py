"""Who reads an auxiliary layer: this package's exact warp, or other people's loaders, for comparison and their users.

The default engine (``"exact"``, :mod:`darts_xr.cube.warp`) is exact to 0.002 pixels and independent of the chunks;
odc-stac and stackstac warp with GDAL, whose approximate coordinates are off by up to 0.02 pixels and depend on the
block. Whichever it is, a reader gives the pixels of one block, and nothing else knows of engines.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import odc.stac
import rasterio.enums
import xarray as xr
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from darts_xr.cube.layers import Layer, band_fields
from darts_xr.cube.warp import Derivation, Resampling, warp_block
from darts_xr.errors import EngineError

Engine = Literal["exact", "odc-stac", "stackstac"]
ENGINES: tuple[Engine, ...] = ("exact", "odc-stac", "stackstac")

#: Pixels ``rows`` × ``cols`` of a grid, which may lie outside of it: float32 (band, y, x), NaN where there are none. A
#: tensor where the reader was told of a device.
Reader = Callable[[slice, slice], Any]


def layer_reader(
    layer: Layer,
    geobox: GeoBox,
    *,
    engine: Engine,
    resampling: Resampling,
    device: str = "cpu",
    derivation: Derivation | None = None,
) -> Reader:
    """Make the function that reads a block of a layer on a grid; opens nothing.

    Parameters
    ----------
    layer : Layer
        Files of one layer; the first that has a value wins.
    geobox : GeoBox
        The grid.
    engine : {"exact", "odc-stac", "stackstac"}
        Who reads. stackstac reads assets of one band only and needs the extra ``stackstac``.
    resampling : str
        ``"cubic"``, ``"bilinear"`` or ``"nearest"``.
    device : str, optional
        Where the exact engine interpolates: ``"cpu"`` gives NumPy arrays, a torch device tensors that lie there.
    derivation : Derivation, optional
        Bands to derive on the layer's own grid before it is warped, which only the exact engine can.

    Raises
    ------
    EngineError
        When the engine is unknown, not installed, or cannot read such an asset or derive on its grid.
    """
    if engine == "exact":
        return partial(
            warp_block, layer.sources, geobox, resampling=resampling, device=device, derivation=derivation
        )
    if engine not in ENGINES:
        raise EngineError(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}")
    if derivation is not None:
        raise EngineError(
            f"engine={engine!r} cannot derive bands on the source's own grid, as the bands asked for say; "
            "take bands whose kernel_grid is 'scene', or the default engine"
        )
    if len(set(layer.keys)) != 1:
        raise EngineError(
            f"engine={engine!r} needs assets of one name, these items have {', '.join(sorted(set(layer.keys)))}; "
            "rename them, or use the default engine"
        )
    if engine == "stackstac":
        _check_stackstac(layer)
    load = {"odc-stac": _by_odc_stac, "stackstac": _by_stackstac}[engine]
    return partial(_load_block, load, layer, geobox, resampling)


@dataclass(frozen=True)
class _Place:
    """Where a loader is to put a layer, and how."""

    geobox: GeoBox
    resampling: str


def _load_block(
    load: Callable[[Layer, _Place], NDArray[Any]],
    layer: Layer,
    geobox: GeoBox,
    resampling: str,
    rows: slice,
    cols: slice,
) -> NDArray[np.float32]:
    shape = (rows.stop - rows.start, cols.stop - cols.start)
    block = geobox.translate_pix(cols.start, rows.start).expand(shape)
    return np.asarray(load(layer, _Place(block, resampling)), np.float32)


def _by_odc_stac(layer: Layer, place: _Place) -> NDArray[Any]:
    # One group for all items: they become one mosaic, not time steps.
    names = [f"{layer.keys[0]}.{number}" for number in layer.sources[0].bands]
    loaded = odc.stac.load(
        layer.items, bands=names, geobox=place.geobox, resampling=place.resampling, dtype="float32", nodata=np.nan,
        groupby=lambda item, parsed, index: "all",
    )  # fmt: skip
    return np.stack([loaded[name].values[0] for name in names])


def _check_stackstac(layer: Layer) -> None:
    try:
        import stackstac  # noqa: F401
    except ImportError as error:
        raise EngineError("engine='stackstac' needs the extra: pip install 'darts-xr[stackstac]'") from error
    for item, key in zip(layer.items, layer.keys, strict=True):
        if (count := len(band_fields(item.assets[key]))) > 1:
            raise EngineError(
                f"{item.id}: stackstac reads assets of one band only, {key!r} has {count}; "
                "use engine='odc-stac' or the default"
            )


def _by_stackstac(layer: Layer, place: _Place) -> NDArray[Any]:
    import stackstac

    box = place.geobox
    stacked = stackstac.stack(
        list(layer.items), assets=[layer.keys[0]], epsg=None if box.crs is None else box.crs.epsg,
        bounds=tuple(box.boundingbox), snap_bounds=False, resolution=(abs(box.resolution.x), abs(box.resolution.y)),
        xy_coords="center", chunksize=max(box.shape), resampling=rasterio.enums.Resampling[place.resampling],
        dtype=np.dtype("float32"), fill_value=np.float32(np.nan), rescale=False, sortby_date=False,
    )  # fmt: skip
    mosaic: xr.DataArray = stackstac.mosaic(stacked, dim="time")
    return mosaic.compute(scheduler="synchronous").values  # type: ignore[no-untyped-call]
