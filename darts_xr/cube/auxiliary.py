"""Auxiliary STAC items to lazy layers on a scene's grid: terrain and Landsat trends.

Conventions of the items: an asset ``dem`` holds heights in metres; assets ``relative_elevation`` and
``slope`` hold ready-made layers; an asset with bands named ``tc_brightness``, ``tc_greenness`` and
``tc_wetness`` holds the trends. Nothing is opened before it is computed.

What is filled in where no file has data is told from what was measured by the layer ``measured``, which comes
out of the same reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial, reduce
from operator import and_
from typing import Any, Literal

import dask.array as da
import numpy as np
import pystac
import xarray as xr
from odc.geo.geobox import GeoBox

from darts_xr.cube.bands import BANDS
from darts_xr.cube.layers import (
    AUXILIARY_BANDS,
    LAYERS,
    TERRAIN,
    TRENDS,
    Layer,
    band_fields,
    check_neutral,
    is_offered,
    items_near,
    layer_of,
    layer_of_bands,
    missing_layers,
)
from darts_xr.cube.loaders import Engine, layer_reader
from darts_xr.cube.measured import MEASURED, measured_flags
from darts_xr.cube.plausible import ELEVATION, TREND, ready_made
from darts_xr.cube.terrain import Spacing, disk, relative_elevation_inside, slope_inside
from darts_xr.cube.warp import Derivation, Resampling, lazy_blocks, on_grid
from darts_xr.errors import CRSError, MissingBandsError

TerrainGrid = Literal["scene", "dem"]

# Legacy encoding of ready-made relative elevation: int16, (metres + 50) × 300, 0 = no data.
_LEGACY_SCALE, _LEGACY_OFFSET = 1 / 300, -50.0
# What ready-made layers can hold, metres and degrees.
_LIMITS = {"relative_elevation": (-2000.0, 2000.0), "slope": (0.0, 90.0)}


def _reach(names: Sequence[str], radius: float, spacing: Spacing) -> tuple[int, int]:
    """Pixels that the bands' kernels look away from their centre, along y and x."""
    reach_y = reach_x = 1 if "slope" in names else 0
    if "relative_elevation" in names:
        height, width = disk(radius, spacing).shape
        reach_y, reach_x = max(reach_y, height // 2), max(reach_x, width // 2)
    return reach_y, reach_x


def _derive(planes: Any, spacing: Spacing, *, names: Sequence[str], radius: float) -> Any:
    """Terrain bands of heights (1, y, x) that carry the bands' common halo on each side."""
    heights = planes[0]
    halo = _reach(names, radius, spacing)
    shape = (len(names), *(n - 2 * h for n, h in zip(heights.shape, halo, strict=True)))
    out = np.empty(shape, np.float32) if isinstance(planes, np.ndarray) else planes.new_empty(shape)
    for band, name in zip(out, names, strict=True):
        spare_y, spare_x = (h - n for h, n in zip(halo, _reach((name,), radius, spacing), strict=True))
        part = heights[spare_y : heights.shape[0] - spare_y, spare_x : heights.shape[1] - spare_x]
        if name == "slope":
            band[:] = slope_inside(part, spacing)
        else:
            band[:] = relative_elevation_inside(part, radius, spacing)
    return out


def _terrain(
    layer: Layer,
    geobox: GeoBox,
    names: tuple[str, ...],
    *,
    radius: float,
    grid: TerrainGrid,
    chunks: Any,
    engine: Engine,
    device: str,
) -> da.Array:
    """Terrain bands (band, y, x) from the tiles of a DEM: each height is read and warped once."""
    derivation = Derivation(
        len(names), partial(_reach, names, radius), partial(_derive, names=names, radius=radius)
    )
    read = layer_reader(
        layer, geobox, engine=engine, resampling="cubic", device=device,
        derivation=derivation if grid == "dem" else None,
    )  # fmt: skip

    def read_on_scene(rows: slice, cols: slice) -> Any:
        spacing = (abs(geobox.resolution.y), abs(geobox.resolution.x))
        halo = derivation.reach(spacing)
        grown = [slice(s.start - h, s.stop + h) for s, h in zip((rows, cols), halo, strict=True)]
        return derivation.derive(read(*grown), spacing)

    return lazy_blocks(
        read_on_scene if grid == "scene" else read,
        geobox.shape,
        chunks=chunks,
        dtype=np.float32,
        lead=len(names),
        token=("terrain", layer.sources, geobox, names, radius, grid, engine, device),
    )


def _ready_made(
    items: Sequence[pystac.Item], name: str, geobox: GeoBox, *, chunks: Any, engine: Engine, device: str
) -> tuple[da.Array, str] | None:
    """Layer that a catalogue brings along, decoded to metres or degrees, and its items; None if there is none."""
    found = layer_of(items, name, None)
    if found is None:
        return None
    first = (band_fields(found.items[0].assets[name]) or [{}])[0]
    stated = "scale" in first or "offset" in first or str(first.get("data_type", "")).startswith("float")
    if name == "relative_elevation" and not stated:
        scale, offset = _LEGACY_SCALE, _LEGACY_OFFSET
        found = layer_of(items, name, 0.0) or found
    else:
        scale, offset = float(first.get("scale", 1.0)), float(first.get("offset", 0.0))
    low, high = _LIMITS[name]
    limits = ready_made(
        f"{BANDS[name].long_name} ({low:g} to {high:g})", (low - offset) / scale, (high - offset) / scale
    )
    found = replace(found, sources=tuple(replace(source, expected=limits) for source in found.sources))
    read = layer_reader(found, geobox, engine=engine, resampling="cubic", device=device)

    def read_decoded(rows: slice, cols: slice) -> Any:
        return read(rows, cols)[0] * scale + offset

    token = ("ready-made", found.sources, geobox, scale, offset, engine, device)
    return lazy_blocks(read_decoded, geobox.shape, chunks=chunks, dtype=np.float32, token=token), found.names


def _typed_trends(values: Any) -> Any:
    """Trends as bytes, the neutral one where no file has data, and as last plane 1 where all have data."""
    neutral = BANDS["tc_brightness"].neutral
    if not isinstance(values, np.ndarray):
        import torch

        known = values.sum(dim=0, keepdim=True).isfinite()
        return torch.cat([values.nan_to_num(nan=neutral).round().clamp(0, 255).byte(), known.byte()])
    known = np.isfinite(values.sum(axis=0))
    if not known.all():
        values[np.isnan(values)] = neutral
    np.rint(values, out=values)
    typed = np.empty((len(values) + 1, *known.shape), np.uint8)
    np.clip(values, 0, 255, out=typed[:-1], casting="unsafe")
    typed[-1] = known
    return typed


def _trends(
    layer: Layer, geobox: GeoBox, *, resampling: Resampling, chunks: Any, engine: Engine, device: str
) -> da.Array:
    """Trend bands (y, x) as bytes, neutral where no file has data, and as fourth band 1 where all have data."""
    read = layer_reader(layer, geobox, engine=engine, resampling=resampling, device=device)

    def read_typed(rows: slice, cols: slice) -> Any:
        return _typed_trends(read(rows, cols))

    return lazy_blocks(
        read_typed,
        geobox.shape,
        chunks=chunks,
        dtype=np.uint8,
        lead=len(TRENDS) + 1,
        token=("trends", layer.sources, geobox, resampling, engine, device),
    )


def auxiliary_layers(
    items: Iterable[pystac.Item],
    geobox: GeoBox,
    *,
    needed: Iterable[str] = AUXILIARY_BANDS,
    neutral: Iterable[str] = (),
    fill_gaps: bool = False,
    datetime: datetime | None = None,
    chunks: Any = "auto",
    radius: float | None = None,
    terrain_grid: TerrainGrid = "scene",
    trends_resampling: Literal["nearest", "bilinear"] = "bilinear",
    engine: Engine = "exact",
    device: str = "cpu",
) -> dict[str, xr.DataArray]:
    """Provide the auxiliary bands of a scene from STAC items.

    Parameters
    ----------
    items
        Auxiliary items of any collection; those that meet the scene are used.
    geobox
        The scene's pixel grid.
    needed
        Names of bands: "relative_elevation", "slope", "tc_brightness", "tc_greenness", "tc_wetness".
    neutral
        Layers that are not read but filled: "elevation" (level terrain), "trends" (no change).
    fill_gaps
        Also fill layers that no item near the scene has, instead of raising.
    datetime
        Date of the scene: where items overlap, those nearest in time win; without it the first listed win.
    chunks
        Chunk size in pixels: one number, a pair (y, x), or "auto".
    radius
        Radius in metres of relative elevation; the registry's (50 m, the paper's kernel) if None.
    terrain_grid
        "scene" warps the DEM once and derives on the scene's grid; "dem" derives on the DEM's own grid and
        warps the derivatives, as the published layers were made.
    trends_resampling
        "bilinear", or "nearest" as the published checkpoints were trained.
    engine
        Who warps: "exact" (this package), "odc-stac", or "stackstac" (assets of one band only).
    device
        Where layers are warped and derived: ``"cpu"``, or a torch device, on which their chunks stay
        (``darts_xr.device_array.DeviceArray``) until something else than :func:`darts_xr.predict` asks for them.

    Returns
    -------
    dict of DataArray (y, x)
        Lazy, in the order of ``needed``. Terrain is float32 in metres and degrees with NaN in voids; trends
        are uint8 with 127 (no change) where the source has no data. ``attrs["items"]`` names the items that are
        read for the band. Last comes ``measured`` (uint8, CF flags): bit 1 where elevation was measured, bit 2 where
        trends were, none where a layer is neutral. Nothing is opened until computed.

    Raises
    ------
    MissingBandsError
        If no item that meets the scene provides a band; the message says what the items offer instead, which
        names are expected, and the ways out.
    EngineError
        If the engine is unknown, not installed, or cannot read such an asset or derive on the DEM's own grid.
    MissingFileError, DamagedFileError, CRSError
        When computed; the message names the item.
    LayerError
        When computed, if a file is no such layer by its type, unit or values; undeclared no-data values
        (-9999, -32767, huge numbers; 0 in all bands of trends) are taken as such.
    """
    names = tuple(dict.fromkeys(needed))
    if unknown := sorted(set(names) - set(AUXILIARY_BANDS)):
        raise MissingBandsError(f"{unknown} are no auxiliary bands; those are {list(AUXILIARY_BANDS)}")
    if geobox.crs is None or geobox.crs.geographic:
        raise CRSError(f"the scene's grid must be in a projected CRS in metres, not {geobox.crs}")
    neutral = check_neutral(neutral)
    near = items_near(items, geobox, datetime)
    if fill_gaps:
        neutral = (*neutral, *(layer for layer in LAYERS if not is_offered(layer, near)))
    size = float(radius if radius is not None else BANDS["relative_elevation"].radius or 50.0)
    filled = neutral_layers(
        geobox, [n for n in names if any(n in LAYERS[layer] for layer in neutral)], chunks
    )
    layers: dict[str, da.Array] = {name: layer.data for name, layer in filled.items()}
    notes: dict[str, dict[str, Any]] = {name: {"source": "neutral"} for name in filled}
    known: dict[str, da.Array] = {}

    how: dict[str, Any] = {"chunks": chunks, "engine": engine, "device": device}
    terrain = tuple(name for name in names if name in TERRAIN and name not in filled)
    if terrain and (dem := layer_of(near, "dem", -9999.0, ELEVATION)):
        stack = _terrain(dem, geobox, terrain, radius=size, grid=terrain_grid, **how)
        for index, name in enumerate(terrain):
            layers[name] = stack[index]
            notes[name] = {"terrain_grid": terrain_grid, "items": dem.names}
        if "relative_elevation" in terrain:
            notes["relative_elevation"]["radius"] = size
    else:
        for name in terrain:
            if (ready := _ready_made(near, name, geobox, **how)) is not None:
                layers[name], notes[name] = ready[0], {"terrain_grid": "ready-made", "items": ready[1]}
    if terrain and all(name in layers for name in terrain):
        known["elevation"] = reduce(and_, (da.isfinite(layers[name]) for name in terrain))

    if any(name in TRENDS and name not in filled for name in names) and (
        trends := layer_of_bands(near, TRENDS, TREND)
    ):
        stack = _trends(trends, geobox, resampling=trends_resampling, **how)
        for index, name in enumerate(TRENDS):
            layers[name] = stack[index]
            notes[name] = {"resampling": trends_resampling, "items": trends.names}
        known["trends"] = stack[len(TRENDS)]

    if missing := [name for name in names if name not in layers]:
        raise MissingBandsError(missing_layers(missing, near))
    labelled = {name: _label(layers[name], geobox, name, **notes[name]) for name in names}
    return {**labelled, MEASURED: measured_flags(known, geobox, chunks)}


def _label(data: da.Array, geobox: GeoBox, name: str, **attrs: Any) -> xr.DataArray:
    band = BANDS[name]
    attrs = {"source": band.source, **attrs}
    return on_grid(data, geobox, name, long_name=band.long_name, units=band.units, **attrs)


def neutral_layers(
    geobox: GeoBox, needed: Iterable[str] = AUXILIARY_BANDS, chunks: Any = "auto"
) -> dict[str, xr.DataArray]:
    """Stand in level terrain and a neutral trend where no auxiliary data are at hand.

    Returns
    -------
    dict of DataArray (y, x)
        Lazy constants of the types of :func:`auxiliary_layers`; ``attrs["source"]`` is "neutral".

    Examples
    --------
    >>> from odc.geo.geobox import GeoBox
    >>> grid = GeoBox.from_bbox((0, 0, 30, 30), "EPSG:32608", resolution=3)
    >>> neutral_layers(grid, ["tc_wetness"])["tc_wetness"].values[0, 0]
    np.uint8(127)
    """
    layers = {}
    for name in needed:
        dtype = np.dtype(np.float32 if name in TERRAIN else np.uint8)
        data = da.full(tuple(geobox.shape), BANDS[name].neutral, chunks=chunks, dtype=dtype)
        layers[name] = _label(data, geobox, name).assign_attrs(source="neutral")
    return layers
