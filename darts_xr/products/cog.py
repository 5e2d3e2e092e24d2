"""Products as rasters: probability in per cent and binary objects, as cloud-optimised GeoTIFFs."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import rasterio
import rioxarray  # noqa: F401  registers .rio
import xarray as xr
from numpy.typing import NDArray

from darts_xr.errors import ProductError
from darts_xr.percent import NO_DATA, to_percent
from darts_xr.products.files import write_product
from darts_xr.products.styles import PALETTES


def _binary_block(objects: NDArray[np.integer], probability: NDArray[Any]) -> NDArray[np.uint8]:
    unseen = probability == NO_DATA if probability.dtype == np.uint8 else np.isnan(probability)
    return np.where(unseen, np.uint8(NO_DATA), (objects > 0).view(np.uint8))


@dataclass(frozen=True, slots=True)
class Packed:
    """A compressed block of bytes, and its shape."""

    shape: tuple[int, ...]
    content: bytes


def _pack(block: NDArray[np.uint8]) -> Packed:
    return Packed(block.shape, zlib.compress(block.tobytes(), level=1))


def _unpack(block: Packed) -> NDArray[np.uint8]:
    return np.frombuffer(zlib.decompress(block.content), np.uint8).reshape(block.shape)


def _blockwise(kernel: Callable[..., Any], *arrays: xr.DataArray) -> da.Array | NDArray[np.uint8]:
    if any(isinstance(array.data, da.Array) for array in arrays):
        return da.map_blocks(
            kernel,
            *(da.asarray(array.data) for array in arrays),
            dtype=np.uint8,
            meta=np.empty((0, 0), np.uint8),
        )
    return kernel(*(array.values for array in arrays))


def probability_percent(probability: xr.DataArray, *, threshold: float = 0.5) -> xr.DataArray:
    """Express probability in whole per cent, each pixel on the side of the threshold that it was on.

    Parameters
    ----------
    probability : xarray.DataArray
        (y, x) float, 0 to 1, NaN where masked.
    threshold : float
        The threshold of the objects. Values are rounded to the nearest per cent, but not across it: 0.4962 becomes 49
        at a threshold of 0.5, so that the pixels of 50 % and more are those that the rule takes. At other thresholds
        the stored numbers are rounded ones.

    Returns
    -------
    xarray.DataArray
        (y, x) uint8, 0 to 100, 255 where masked; lazy when the input is.
        :func:`darts_xr.label_objects` takes it, also as read back from its file.
    """
    data = _blockwise(functools.partial(to_percent, threshold=threshold), probability)
    attrs = {**probability.attrs, "units": "percent", "nodata": NO_DATA}
    return xr.DataArray(
        data, dims=probability.dims, coords=probability.coords, name="probability", attrs=attrs
    )


def packed(raster: xr.DataArray) -> xr.DataArray:
    """Compress the chunks of a lazy raster (y, x) uint8, for ``dask.persist`` alone: they hold no pixels any more.

    What waits for the end of a scene takes less memory so. See :func:`unpacked`.
    """
    return raster.copy(data=_blockwise(_pack, raster))


def unpacked(raster: xr.DataArray) -> xr.DataArray:
    """Give the persisted result of :func:`packed` its pixels back, lazily."""
    return raster.copy(data=_blockwise(_unpack, raster))


def binary_objects(labels: xr.DataArray, probability: xr.DataArray) -> xr.DataArray:
    """Turn cleaned objects into a mask.

    Parameters
    ----------
    labels : xarray.DataArray
        (y, x) object numbers, 0 = none.
    probability : xarray.DataArray
        (y, x), NaN where masked, or as :func:`probability_percent` gives it.

    Returns
    -------
    xarray.DataArray
        (y, x) uint8: 1 in objects, 0 elsewhere, 255 where masked; lazy when the inputs are.
    """
    data = _blockwise(_binary_block, labels, probability)
    attrs = {**probability.attrs, "long_name": "objects after cleaning", "units": "1", "nodata": NO_DATA}
    return xr.DataArray(data, dims=labels.dims, coords=labels.coords, name="binary", attrs=attrs)


def write_raster(
    raster: xr.DataArray, path: str | Path, *, metadata: Mapping[str, str] | None = None
) -> Path:
    """Write one band as cloud-optimised GeoTIFF, whole or not at all, in the colours that it is shown in.

    Parameters
    ----------
    raster : xarray.DataArray
        (y, x) uint8 in memory, from :func:`probability_percent` or :func:`binary_objects`. Its name decides the colour
        table (:data:`darts_xr.products.PALETTES`), by which a GIS draws the numbers; one of another name has none.
    path : path
        The file.
    metadata : mapping of str to str, optional
        What made it, as TIFF tags.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    ProductError
        When the raster is not in memory, or the file cannot be written.
    """
    if isinstance(raster.data, da.Array):
        raise ProductError(f"{Path(path).name}: the raster is lazy; compute it before writing")
    palette = PALETTES.get(str(raster.name))
    height, width = raster.shape
    profile = {
        "driver": "COG", "width": width, "height": height, "count": 1, "dtype": "uint8", "nodata": NO_DATA,
        "crs": raster.rio.crs, "transform": raster.rio.transform(), "compress": "DEFLATE", "blocksize": 512,
        "overview_resampling": "nearest",
    }  # fmt: skip

    def write(part: Path) -> None:
        with rasterio.MemoryFile(ext=".tif") as whole:
            with whole.open(**profile) as file:  # rioxarray writes no colour table
                file.write(raster.values, 1)
                file.update_tags(**dict(metadata or {}))
                if palette is not None:
                    file.write_colormap(1, palette)
            # Not by GDAL, which may say nothing when the disk is full.
            part.write_bytes(whole.getbuffer())

    write_product(Path(path), write)
    return Path(path)
