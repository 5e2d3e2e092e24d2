"""Read the files of one layer as if they were one raster; errors name the item."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS
from rasterio.errors import RasterioError
from rasterio.windows import Window

from darts_xr.addresses import cause, redact
from darts_xr.cube.decoded import read_window
from darts_xr.cube.plausible import Expected, check_header, void_no_data
from darts_xr.errors import CRSError, DamagedFileError, LayerError, SceneError
from darts_xr.globe import Bounds
from darts_xr.rasters import layer_drivers, open_raster, read_error


@dataclass(frozen=True)
class RasterSource:
    """A raster file to warp from, as far as it is known without opening it.

    Attributes
    ----------
    href
        Path or URL.
    name
        What messages call it: the item's id.
    bands
        Bands to read, counted from 1.
    nodata
        Value of missing pixels where the file does not declare one.
    crs
        Coordinate reference system that the item states, for files that do not.
    bbox
        West, south, east, north in degrees (west > east across the antimeridian); None if not known: the file
        is then opened for each chunk.
    expected
        What its pixels must be; None: anything.
    """

    href: str
    name: str
    bands: tuple[int, ...] = (1,)
    nodata: float | None = None
    crs: str | None = None
    bbox: Bounds | None = None
    expected: Expected | None = None


def open_source(source: RasterSource) -> rasterio.DatasetReader:
    """Open the file of a source; what goes wrong is told with the item's name.

    Raises
    ------
    MissingFileError, DamagedFileError, CRSError
        If there is no such file, it is no readable raster, or neither it nor the item states a CRS.
    LayerError
        If its header says that it holds something else than expected.
    """
    try:
        dataset = open_raster(source.href, layer_drivers(source.href))
    except SceneError as error:
        raise type(error)(f"{source.name}: {error}") from cause(error)
    if dataset.crs is None and source.crs is None:
        dataset.close()
        raise CRSError(
            f"{source.name}: {redact(source.href)} has no coordinate reference system; "
            "write it into the file (gdal_edit.py -a_srs) or into the item (proj:code)"
        )
    if max(source.bands) > dataset.count:
        count = dataset.count
        dataset.close()
        raise DamagedFileError(
            f"{source.name}: {redact(source.href)} has {count} bands, band {max(source.bands)} is needed"
        )
    if source.expected is not None:
        try:
            check_header(dataset, source.bands, source.expected, source.name)
        except LayerError:
            dataset.close()
            raise
    return dataset


def _named(error: RasterioError, source: RasterSource, part: str = "") -> SceneError:
    told = read_error(error, source.href, part)
    return type(told)(f"{source.name}: {told}")


def _read(dataset: rasterio.DatasetReader, source: RasterSource, window: Window) -> NDArray[np.float32]:
    """One window as float32 with NaN where the file says that it has no data."""
    try:
        values = read_window(dataset, source.bands, window)
    except RasterioError as error:
        raise _named(error, source, f", {window}") from cause(error)
    return without_no_data(values, dataset, source)


def without_no_data(
    values: NDArray[Any], dataset: rasterio.DatasetReader, source: RasterSource
) -> NDArray[np.float32]:
    """Pixels (band, y, x) as float32, NaN where they are no data, declared or not.

    Raises
    ------
    LayerError
        If values are out of the range that is expected of the source.
    """
    nodata = dataset.nodata if dataset.nodata is not None else source.nodata
    out: NDArray[np.float32] = values.astype(np.float32, copy=False)
    if nodata is not None and not math.isnan(nodata):
        missing = values == np.asarray(nodata).astype(values.dtype)
        if missing.any():
            out[missing] = np.nan
    if source.expected is not None:
        void_no_data(out, source.expected, source.name, declared=nodata is not None)
    return out


class Mosaic:
    """Files that share a CRS and a pixel lattice, read as if they were one."""

    def __init__(self, crs: str, transform: Affine) -> None:
        self.crs, self.transform = crs, transform
        self.parts: list[tuple[rasterio.DatasetReader, RasterSource, int, int]] = []

    def place(self, crs: str, transform: Affine) -> tuple[int, int] | None:
        """Row and column of another file's first pixel on this lattice, or None if it lies on another."""
        if crs != self.crs:
            return None
        shift = ~self.transform @ transform
        column, row = shift.c, shift.f
        # The lattices must agree across a whole large tile.
        same = max(abs(shift.a - 1), abs(shift.e - 1), abs(shift.b), abs(shift.d)) < 1e-7
        if not same or max(abs(row - round(row)), abs(column - round(column))) > 1e-3:
            return None
        return round(row), round(column)

    def window(self, top: int, left: int, height: int, width: int) -> NDArray[np.float32] | None:
        """Pixels of a window, the first file that has a value winning; None where no file reaches."""
        out = None
        for dataset, source, row, column in self.parts:
            r0, r1 = max(top, row), min(top + height, row + dataset.height)
            c0, c1 = max(left, column), min(left + width, column + dataset.width)
            if r0 >= r1 or c0 >= c1:
                continue
            values = _read(dataset, source, Window(c0 - column, r0 - row, c1 - c0, r1 - r0))
            if out is None:
                if values.shape[-2:] == (height, width):
                    out = values
                    continue
                out = np.full((len(source.bands), height, width), np.nan, np.float32)
            part = out[:, r0 - top : r1 - top, c0 - left : c1 - left]
            np.copyto(part, values, where=np.isnan(part))
        return out


def mosaics_of(sources: Sequence[RasterSource], datasets: Sequence[rasterio.DatasetReader]) -> list[Mosaic]:
    """Group files by reference system and pixel lattice, in the given order."""
    found: list[Mosaic] = []
    for dataset, source in zip(datasets, sources, strict=True):
        crs = dataset.crs.to_wkt() if dataset.crs is not None else CRS(source.crs).to_wkt()
        turns = (-360.0, 0.0, 360.0) if CRS(crs).is_geographic else (0.0,)
        for turn in turns:  # a map in degrees goes on beyond 180°
            transform = Affine.translation(turn, 0) @ dataset.transform
            for mosaic in found:
                if (place := mosaic.place(crs, transform)) is not None:
                    break
            else:
                mosaic, place = Mosaic(crs, transform), (0, 0)
                found.append(mosaic)
            mosaic.parts.append((dataset, source, *place))
    return found
