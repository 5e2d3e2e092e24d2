"""Scenes, or what was found in them, as one lazy cube over time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import odc.stac
import pystac
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from odc.geo.geom import bbox_union
from odc.geo.xr import xr_reproject

from darts_xr.catalog import search
from darts_xr.cube.metadata import IDENTITY, linked, scene_coords, utc_time
from darts_xr.cube.scene import MASK_CLASS, open_scene
from darts_xr.cube.stored import ABOUT_CLOUDS, CLOUDS, is_store, read_store
from darts_xr.errors import MissingBandsError, ParameterError
from darts_xr.globe import Bounds
from darts_xr.percent import NO_DATA
from darts_xr.planet.bands import IMAGE_BANDS

#: What a run's items say of each scene beside its id and date; texts, along ``time`` in a cube.
PROVENANCE = (
    "constellation", "product", "mask_rule", "auxiliary", "ensemble", "checkpoints", "batch_norm", "tiling", "rules",
)  # fmt: skip
SCENE_BANDS = (*IMAGE_BANDS, "ndvi", MASK_CLASS, "valid")


_concat: Any = xr.Variable.concat  # xarray gives it no types


def _step(item: pystac.Item) -> dict[str, Any]:
    """Coordinates of one time step: what identifies the scene, and what its item says of how it was made."""
    stated = {name: item.properties.get(f"darts:{name}", item.properties.get(name)) for name in PROVENANCE}
    return {**scene_coords(item), **{name: str(value) for name, value in stated.items() if value is not None}}


def _along_time(steps: Sequence[dict[str, Any]]) -> dict[str, xr.Variable]:
    """Coordinates of all steps, one after the other; "unknown" where an item does not say what another says."""
    names = dict.fromkeys(name for step in steps for name in step)
    columns = {name: [xr.Variable((), step.get(name, "unknown")) for step in steps] for name in names}
    return {name: _concat(column, "time") for name, column in columns.items()}


def _grid(
    boxes: Sequence[GeoBox], like: Any, bbox: Bounds | None, resolution: float | None, crs: str | None
) -> GeoBox:
    """Grid of the cube: that of ``like``, or over a box in degrees or all items, its edges on whole pixels."""
    if like is not None:
        grid = like if isinstance(like, GeoBox) else like.odc.geobox
        epsg = grid.crs and grid.crs.epsg  # a file gives the same CRS in full
        return GeoBox(grid.shape, grid.affine, f"EPSG:{epsg}") if epsg else grid
    code, pixel = crs or str(boxes[0].crs), resolution or abs(boxes[0].resolution.x)
    around = boxes if bbox is None else [GeoBox.from_bbox(bbox, "EPSG:4326", shape=(8, 8), tight=True)]
    whole = bbox_union(box.footprint(code).boundingbox for box in around)
    return GeoBox.from_bbox(whole, resolution=pixel, tight=False)


def _stated_grid(item: pystac.Item) -> GeoBox:
    stated = item.properties
    if lacking := [name for name in ("proj:code", "proj:shape", "proj:transform") if name not in stated]:
        raise MissingBandsError(f"{item.id} states no pixel grid ({', '.join(lacking)})")
    return GeoBox(stated["proj:shape"], Affine(*stated["proj:transform"][:6]), stated["proj:code"])


def _of_layers(items: Sequence[pystac.Item], bands: Sequence[str], grid: GeoBox, chunks: int) -> xr.Dataset:
    """Rasters that items name by themselves, as those of a run do."""
    cube = odc.stac.load(
        items, bands=list(bands), geobox=grid, groupby=lambda item, parsed, index: index,
        chunks={"y": chunks, "x": chunks}, resampling="nearest",
    )  # fmt: skip
    for name, raster in cube.data_vars.items():
        if name == "probability":
            cube[name] = (raster.where(raster != NO_DATA) / np.float32(100)).astype("float32")
            cube[name].attrs = {
                "long_name": "probability of an active retrogressive thaw slump",
                "units": "1",
            }
    return cube


def _of_scenes(scenes: Sequence[xr.Dataset], grid: GeoBox, chunks: int) -> xr.Dataset:
    """Bands of scenes, each pixel the nearest of its scene; 0, or False for ``valid``, beyond its edge."""
    steps = []
    for scene in scenes:
        moved = {}
        for name, raster in scene.drop_vars(IDENTITY).data_vars.items():
            plain = raster.astype("uint8") if raster.dtype == bool else raster  # GDAL warps no booleans
            missing = np.nan if raster.dtype.kind == "f" else 0
            warped = xr_reproject(
                plain, grid, resampling="nearest", dst_nodata=missing, chunks=(chunks, chunks)
            )
            moved[name] = warped.astype(raster.dtype).assign_attrs(raster.attrs)
        steps.append(xr.Dataset(moved))
    return xr.concat(steps, "time", coords="minimal", compat="override", combine_attrs="drop")


def open_cube(
    source: Any,
    *,
    bands: Sequence[str] = ("probability",),
    bbox: Bounds | None = None,
    datetime: str | None = None,
    resolution: float | None = None,
    crs: str | None = None,
    like: xr.Dataset | xr.DataArray | GeoBox | None = None,
    chunks: int = 1024,
) -> xr.Dataset:
    """Open scenes, or the results of a run, as one lazy cube over time.

    Parameters
    ----------
    source : source
        A run folder's ``catalog.json``, a catalogue of scenes, or anything that :func:`darts_xr.search` takes; or a
        Zarr store of :func:`darts_xr.store_cube` (``….zarr``), which has bands, ground and grid of its own.
    bands : sequence of str, optional
        Assets of a run: ``"probability"``, ``"binary"``. Or bands of scenes: ``"blue"``, ``"green"``, ``"red"``,
        ``"nir"``, ``"ndvi"``, ``"mask_class"``, ``"valid"``.
    bbox : tuple of float, optional
        West, south, east, north in degrees; by default all items.
    datetime : str, optional
        A day or an interval ``"2021-07-01/2023-08-31"``.
    resolution : float, optional
        Pixel side in metres; by default that of the first item.
    crs : str, optional
        Reference system of the cube; by default that of the first item.
    like : xarray.Dataset, xarray.DataArray or GeoBox, optional
        Take this grid, such as that of another cube, in place of ``resolution`` and ``crs``.
    chunks : int, optional
        Chunk side in pixels.

    Returns
    -------
    xarray.Dataset
        Lazy, dims (time, y, x), one time step an item, in the order of time and id. ``probability`` is float32 0 to 1
        with NaN where no item covers a pixel or it was masked; bands of scenes keep their type, with 0 (``valid``:
        False, ``ndvi``: NaN) where the scene has no pixel. Each time step has as coordinates ``item_id``, ``synthetic``
        and, as far as its item states them, cloud cover (per cent, of images), constellation, product, mask rule,
        auxiliary items, ensemble, checkpoints, tiling and rules; ``cube.isel(time=3)`` is what
        :func:`darts_xr.level1` takes as a scene.

    Raises
    ------
    EmptySearchError
        When no item matches.
    MissingBandsError
        When an item has no such asset or states no grid, or a store holds no such band.
    ParameterError
        When another ground or grid is asked of a store.
    CubeError
        When a store cannot be read.

    Examples
    --------
    >>> cube = open_cube("run/catalog.json", resolution=6)  # doctest: +SKIP
    >>> images = open_cube("catalog.json", bands=["red", "nir"], like=cube)  # doctest: +SKIP
    """
    if is_store(source):
        if any(value is not None for value in (bbox, datetime, resolution, crs, like)):
            raise ParameterError(
                f"{source} has ground, dates and grid of its own; open it whole and take a part with .sel(…)"
            )
        stored = read_store(source)
        if missing := [band for band in bands if band not in stored]:
            raise MissingBandsError(
                f"{source} holds no {missing[0]!r}; it holds {', '.join(map(str, stored.data_vars))}"
            )
        return stored[list(bands)]
    found = search(source, bbox=bbox, datetime=datetime)
    items = sorted(found, key=lambda item: (utc_time(item), item.id))
    if set(bands) <= set(SCENE_BANDS):
        wanted = [band for band in bands if band != "valid"]
        scenes = [open_scene(item, bands=wanted, chunks=chunks)[list(bands)] for item in items]
        grid = _grid([scene.odc.geobox for scene in scenes], like, bbox, resolution, crs)
        cube = _of_scenes(scenes, grid, chunks)
        steps = [
            _step(item) | {"mask_rule": s.attrs["mask_rule"]} for item, s in zip(items, scenes, strict=True)
        ]
        clouds = [item.properties.get("eo:cloud_cover") for item in items]
        if any(share is not None for share in clouds):
            percent = [np.nan if share is None else float(share) for share in clouds]
            cube = cube.assign_coords({CLOUDS: ("time", percent, ABOUT_CLOUDS)})
    else:
        for item in items:
            if missing := [band for band in bands if band not in item.assets]:
                raise MissingBandsError(
                    f"{item.id} has no asset {missing[0]!r}; it has {', '.join(item.assets)}"
                )
        grid = _grid([_stated_grid(item) for item in items], like, bbox, resolution, crs)
        cube = _of_layers(items, bands, grid, chunks)
        steps = [_step(item) for item in items]
    return linked(cube.assign_coords(_along_time(steps)))
