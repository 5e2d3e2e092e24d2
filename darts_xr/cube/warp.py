"""Bring raster files of any grid onto a scene's grid, lazily, one task a chunk.

A task opens the files that its chunk needs, reads one window from each, joins the windows on the source's own
pixel lattice and only then interpolates: neither the seams between files nor those between chunks can show.
Source coordinates are exact on a coarse lattice that is tied to the scene's pixel grid and linear between
(error below 0.001 pixel), so that they do not depend on the chunking; GDAL's own approximation does, by 0.01
pixel.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any, Literal

import dask.array as da
import numpy as np
import rasterio
import xarray as xr
from dask.base import tokenize
from numpy.typing import DTypeLike, NDArray
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords
from pyproj import CRS

from darts_xr.cube.bands import standard_name
from darts_xr.cube.interpolation import fill_rim_of, interpolate
from darts_xr.cube.loops import compiled
from darts_xr.cube.mosaic import Mosaic, RasterSource, mosaics_of, open_source
from darts_xr.device_array import DeviceArray
from darts_xr.errors import CRSError, ParameterError
from darts_xr.globe import boxes_meet, grid_bounds, transformer
from darts_xr.rasters import HTTP_OPTIONS

log = logging.getLogger(__name__)

Resampling = Literal["nearest", "bilinear", "cubic"]
Spacing = tuple[float, float]

# Scene pixels between two exactly transformed points. 32 pixels of 3 m bend by less than 1 mm.
_CELL = 32
# Lines that torch interpolates at a time on a processor.
_STRIP = 64
# Source pixels around a block: two for the cubic kernel, two from which a void's rim is filled, one spare.
_REACH = 5


@dataclass(frozen=True)
class Derivation:
    """Bands to derive on the source's own grid before they are warped.

    Attributes
    ----------
    bands
        How many come out.
    reach
        Halo in pixels (y, x) that ``derive`` eats, given the source's pixel size in its own units.
    derive
        From planes (band, y, x) with a halo to the derived planes without it, arrays or tensors.
    """

    bands: int
    reach: Callable[[Spacing], tuple[int, int]]
    derive: Callable[[Any, Spacing], Any]


@lru_cache(maxsize=64)
def _is_geographic(crs: str) -> bool:
    return CRS(crs).is_geographic


def _wkt(geobox: GeoBox) -> str:
    if geobox.crs is None:
        raise CRSError("the scene's grid has no coordinate reference system: nothing can be warped onto it")
    return str(geobox.crs.to_wkt())


# --- coordinates and interpolation -------------------------------------------------------------------------


class _Lattice:
    """Source pixel coordinates of a block, exact at every 32nd pixel of the scene and linear between."""

    def __init__(self, geobox: GeoBox, rows: slice, cols: slice, mosaic: Mosaic) -> None:
        self.first = (math.floor((rows.start + 0.5) / _CELL), math.floor((cols.start + 0.5) / _CELL))
        nodes = [
            np.arange(f, math.floor((s.stop - 0.5) / _CELL) + 2) * float(_CELL)
            for f, s in zip(self.first, (rows, cols), strict=True)
        ]
        v, u = np.meshgrid(*nodes, indexing="ij")
        project = transformer(_wkt(geobox), mosaic.crs).transform
        x, y = project(*(geobox.affine @ (u, v)))  # type: ignore[operator]
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            raise CRSError(
                f"{mosaic.parts[0][1].name}: the scene's grid cannot be projected into the file's CRS"
            )
        if _is_geographic(mosaic.crs):  # no jump from 180 to -180 inside a scene
            middle = project(*(geobox.affine @ (0.0, 0.0)))[0]
            x = (x - middle + 180) % 360 - 180 + middle
        column, row = ~mosaic.transform @ (x, y)
        self.row, self.column = row - 0.5, column - 0.5  # from pixel corners to pixel centres

    def reaches(self, rows: slice, cols: slice) -> tuple[tuple[int, int], ...]:
        """First and last (exclusive) row and column that the pixels of a part of the block and their kernels touch."""
        (y, y_part), (x, x_part) = (
            np.divmod((np.arange(part.start, part.stop) + 0.5) / _CELL - first, 1)
            for part, first in zip((rows, cols), self.first, strict=True)
        )
        y, x = y.astype(np.intp), x.astype(np.intp)
        found = []
        for nodes in (self.row, self.column):
            lines = nodes[y] * (1 - y_part[:, None]) + nodes[y + 1] * y_part[:, None]
            ends = [lines[:, x[k]] * (1 - x_part[k]) + lines[:, x[k] + 1] * x_part[k] for k in (0, -1)]
            reached = np.concatenate([*ends, lines[:, x[0] + 1 : x[-1] + 1].ravel()])
            found.append((math.floor(reached.min()) - _REACH, math.floor(reached.max()) + 2 + _REACH))
        return tuple(found)

    def lines(self, rows: slice, top: int, left: int) -> tuple[NDArray[np.float64], ...]:
        """Rows and columns in the window at ``top``, ``left`` at the nodes of some lines, and their steps a pixel."""
        y, part = np.divmod((np.arange(rows.start, rows.stop) + 0.5) / _CELL - self.first[0], 1)
        at, part = y.astype(np.intp), part[:, None]
        found = []
        for nodes, corner in ((self.row, top), (self.column, left)):
            line = nodes[at] * (1 - part) + nodes[at + 1] * part - corner
            found += [line, np.diff(line, axis=1) / _CELL]
        return tuple(found)


def warp_block(
    sources: Sequence[RasterSource],
    geobox: GeoBox,
    rows: slice,
    cols: slice,
    *,
    resampling: Resampling,
    device: str = "cpu",
    derivation: Derivation | None = None,
) -> Any:
    """Warp files onto pixels ``rows`` × ``cols`` of a grid, which may lie outside of it; reads at once.

    Returns
    -------
    array (band, y, x)
        float32, NaN where no file has data: a NumPy array, or a tensor on any other device than ``"cpu"``.
    """
    shape = (rows.stop - rows.start, cols.stop - cols.start)
    block = geobox.translate_pix(cols.start, rows.start).expand(shape)
    where = grid_bounds(block.pad(_REACH))
    near = [source for source in sources if source.bbox is None or boxes_meet(source.bbox, where)]
    datasets = []
    out = None
    try:
        for source in near:
            datasets.append(open_source(source))
        for mosaic in mosaics_of(near, datasets):
            values = _warp_mosaic(mosaic, geobox, rows, cols, resampling, device, derivation)
            if out is None or values is None:
                out = values if out is None else out
            elif isinstance(out, np.ndarray):
                np.copyto(out, values, where=np.isnan(out))
            else:
                out = values.where(out.isnan(), out)
    finally:
        for dataset in datasets:
            dataset.close()
    if out is not None:
        return out
    bands = derivation.bands if derivation else len(sources[0].bands)
    void = np.full((bands, *shape), np.nan, np.float32)
    return void if device == "cpu" else _on_device([void], device)[0]


def _warp_mosaic(
    mosaic: Mosaic,
    geobox: GeoBox,
    rows: slice,
    cols: slice,
    resampling: Resampling,
    device: str,
    derivation: Derivation | None,
) -> Any:
    """Pixels from one mosaic, as :func:`warp_block` gives them; None where it does not reach."""
    lattice = _Lattice(geobox, rows, cols, mosaic)
    rim = [lattice.reaches(rows, slice(c, c + 1)) for c in (cols.start, cols.stop - 1)]
    rim += [lattice.reaches(slice(r, r + 1), cols) for r in (rows.start, rows.stop - 1)]
    top, left = (min(parts[axis][0] for parts in rim) for axis in (0, 1))
    bottom, right = (max(parts[axis][1] for parts in rim) for axis in (0, 1))
    spacing = (abs(mosaic.transform.e), abs(mosaic.transform.a))
    halo_y, halo_x = derivation.reach(spacing) if derivation else (0, 0)
    read = mosaic.window(top - halo_y, left - halo_x, bottom - top + 2 * halo_y, right - left + 2 * halo_x)
    if read is None:
        return None
    has_void = math.isnan(read.min())  # one pass, no mask
    columns = slice(*(column - lattice.first[1] * _CELL for column in (cols.start, cols.stop)))
    loops = compiled("sampling") if device == "cpu" else None
    arrays: list[Any] = [read, *lattice.lines(rows, top, left)]
    pixels, *lines = arrays if loops is not None else _on_device(arrays, device)
    if derivation:
        if _is_geographic(mosaic.crs):
            raise CRSError(f"{mosaic.parts[0][1].name}: bands cannot be derived on a grid in degrees")
        pixels = derivation.derive(pixels, spacing)
    if loops is not None:
        return _by_compiled_loops(loops, pixels, lines, columns, resampling, has_void)
    warped = _by_torch(pixels, lines, columns, resampling, has_void)
    return warped.numpy() if device == "cpu" else warped


def _on_device(arrays: Sequence[NDArray[Any]], device: str) -> list[Any]:
    """Bring arrays to a device, as tensors; what is asked of it from now on finds them there."""
    import torch

    from darts_xr.devices import await_event, upload

    where = torch.device(device)
    tensors, arrived = upload({str(number): array for number, array in enumerate(arrays)}, where)
    await_event(arrived, where)
    return list(tensors.values())


def _by_compiled_loops(
    loops: ModuleType,
    pixels: NDArray[np.float32],
    lines: Sequence[NDArray[np.float64]],
    columns: slice,
    resampling: Resampling,
    has_void: bool,
) -> NDArray[np.float32]:
    """Interpolate a window at the pixels of lines, one by one."""
    out = np.empty((len(pixels), len(lines[0]), columns.stop - columns.start), np.float32)
    fills = resampling != "nearest" and has_void
    known = fill_rim_of(pixels) if fills else pixels
    if resampling == "bilinear":  # a small window: 30 m pixels
        known = known.astype(np.float64)
    getattr(loops, resampling)(known, loops.Lines(*lines), _CELL, columns.start, out)
    if fills:
        for plane, target in zip(pixels, out, strict=True):
            loops.void_where_nearest_is(plane, loops.Lines(*lines), _CELL, columns.start, target)
    return out


def _by_torch(
    pixels: Any, lines: Sequence[Any], columns: slice, resampling: Resampling, has_void: bool
) -> Any:
    """Interpolate a window on its device; on a processor in strips that stay in its cache."""
    import torch

    where = pixels.device
    along = torch.arange(columns.start, columns.stop, device=where)
    rows = _STRIP if where.type == "cpu" else max(1, len(lines[0]))
    strips = [
        interpolate(
            pixels, [line[top : top + rows] for line in lines], along, _CELL, resampling, has_void=has_void
        )
        for top in range(0, len(lines[0]), rows)
    ]
    return torch.cat(strips, dim=1)


# --- Dask wiring and the labelled function -----------------------------------------------------------------


def lazy_blocks(
    read: Callable[[slice, slice], Any],
    shape: Sequence[int],
    *,
    chunks: Any,
    dtype: DTypeLike,
    lead: int | None = None,
    token: Any,
) -> da.Array:
    """Build a lazy array whose chunks come from ``read(rows, cols)``, ``lead`` bands going first.

    Tensors that it gives stay where they are, as ``darts_xr.device_array.DeviceArray``.
    """
    grid = da.core.normalize_chunks("auto" if chunks is None else chunks, tuple(shape), dtype=dtype)
    full = grid if lead is None else ((lead,), *grid)

    def block(block_info: Any = None) -> NDArray[Any] | DeviceArray:
        *_, (top, bottom), (left, right) = block_info[None]["array-location"]
        with rasterio.Env(**HTTP_OPTIONS):
            made = read(slice(top, bottom), slice(left, right))
        return made if isinstance(made, np.ndarray) else DeviceArray(made)

    out: da.Array = da.map_blocks(
        block,
        chunks=full,
        dtype=dtype,
        meta=np.empty((0,) * len(full), dtype),
        name=f"warp-{tokenize(token, full, np.dtype(dtype).str)}",
    )
    return out


def warp_onto(
    sources: RasterSource | Sequence[RasterSource],
    geobox: GeoBox,
    *,
    resampling: Resampling = "cubic",
    chunks: Any = "auto",
    margin_px: int = 0,
    dtype: DTypeLike = np.float32,
    nodata: float = math.nan,
    device: str = "cpu",
) -> xr.DataArray:
    """Warp raster files onto a scene's pixel grid.

    Parameters
    ----------
    sources
        Files of one layer, such as the tiles of a mosaic, with the same number of bands. They may overlap
        (the first that has a value wins) and may lie in several reference systems.
    geobox
        The scene's grid.
    resampling
        "cubic" (Keys, a = -1/2), "bilinear" or "nearest". Values are point samples: a source much finer
        than the scene is not averaged.
    chunks
        Chunk size in pixels: one number, a pair (y, x), or "auto".
    margin_px
        Pixels by which the result is larger than the scene on each side.
    dtype, nodata
        Type of the result and the value where no file has data. Integers are rounded and clipped.
    device
        torch device that interpolates.

    Returns
    -------
    DataArray (y, x), or (band, y, x) if the sources have several bands
        Lazy; nothing is opened until it is computed. A pixel is void where the nearest source pixel is void;
        voids do not bleed into their neighbours.

    Raises
    ------
    ValueError
        If there is no source, or the sources' numbers of bands differ.
    MissingFileError, DamagedFileError, CRSError
        When computed, with the item's name.
    """
    listed = (sources,) if isinstance(sources, RasterSource) else tuple(sources)
    if len(counts := {len(source.bands) for source in listed}) != 1:
        raise ParameterError(f"sources must all have the same number of bands, got {sorted(counts)}")
    kind, bands = np.dtype(dtype), counts.pop()
    grown = geobox.pad(margin_px) if margin_px else geobox

    def read(rows: slice, cols: slice) -> NDArray[Any]:
        # Positions count from the scene's own corner, so that a margin does not move the coordinate lattice.
        rows, cols = (slice(s.start - margin_px, s.stop - margin_px) for s in (rows, cols))
        values = warp_block(listed, geobox, rows, cols, resampling=resampling, device=device)
        host = values if isinstance(values, np.ndarray) else values.cpu().numpy()
        typed = as_type(host, kind, nodata)
        return typed if bands > 1 else typed[0]

    data = lazy_blocks(
        read,
        grown.shape,
        chunks=chunks,
        dtype=kind,
        lead=bands if bands > 1 else None,
        token=(listed, geobox, resampling, margin_px, nodata, device),
    )
    return on_grid(data, grown)


def as_type(values: NDArray[np.float32], dtype: np.dtype[Any], nodata: float) -> NDArray[Any]:
    """Cast, in place rounding and clipping for integers, with ``nodata`` for NaN."""
    if dtype.kind == "f":
        return values.astype(dtype, copy=False)
    limits = np.iinfo(dtype)
    np.rint(values, out=values)
    np.clip(values, limits.min, limits.max, out=values)
    if math.isnan(values.min()):
        values[np.isnan(values)] = 0.0 if math.isnan(nodata) else nodata
    return values.astype(dtype)


@lru_cache(maxsize=8)
def _coordinates(geobox: GeoBox) -> xr.Coordinates:
    """Coordinates of a grid, with their indexes: a scene's layers share them."""
    grid = xr.Dataset(coords=xr_coords(geobox, dims=("y", "x")))
    kind = "projection_{}_coordinate" if geobox.crs is None or geobox.crs.projected else None
    for axis, degrees in (("y", "latitude"), ("x", "longitude")):
        name = kind.format(axis) if kind else degrees
        grid[axis].attrs |= {
            "standard_name": name,
            "long_name": f"{axis} of the pixel's centre",
            "axis": axis.upper(),
        }
    return grid.coords


def on_grid(data: da.Array, geobox: GeoBox, name: str | None = None, **attrs: Any) -> xr.DataArray:
    """Label the last two axes of an array with a grid's coordinates."""
    dims = ("band",) * (data.ndim - 2) + ("y", "x")
    attrs = {**standard_name(name or ""), **attrs}
    out = xr.DataArray(data, coords=_coordinates(geobox), dims=dims, name=name, attrs=attrs)
    out.encoding["grid_mapping"] = "spatial_ref"
    return out
