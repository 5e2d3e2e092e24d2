"""One scene as a lazy, labelled cube: image, index, terrain, trends and valid mask on the image's own pixel grid."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import dask.array as da
import numpy as np
import pystac
import xarray as xr
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from darts_xr.catalog.assets import scene_files
from darts_xr.cube.auxiliary import auxiliary_layers
from darts_xr.cube.auxiliary_files import load_auxiliary
from darts_xr.cube.bands import BANDS, DIFFERENCES, Band
from darts_xr.cube.indices import normalised_difference
from darts_xr.cube.layers import AUXILIARY_BANDS, LAYERS, check_neutral, is_offered, items_near
from darts_xr.cube.loaders import Engine
from darts_xr.cube.measured import MEASURED
from darts_xr.cube.metadata import linked, scene_coords
from darts_xr.cube.warp import lazy_blocks, on_grid
from darts_xr.errors import MissingBandsError, ParameterError
from darts_xr.memory import keep_freed_memory
from darts_xr.planet.bands import IMAGE_BANDS
from darts_xr.planet.masks import MASK_CLASSES, mask_class, valid_mask
from darts_xr.rasters import RasterHeader, RasterLimits, naming_read_errors, open_raster, read_image

#: Side of a chunk in pixels unless asked otherwise: whole COG blocks, and 40 MB once all bands are float32.
CHUNK = 1024
#: Variable that holds what the mask says of a pixel, whatever the mask rule makes of it.
MASK_CLASS = "mask_class"
#: What ``attrs["auxiliary"]`` says of a scene for which no layer was read.
NEUTRAL = "neutral: level terrain and no trend, nothing was measured"


def _read_window(
    rows: slice, cols: slice, *, href: str, bands: tuple[int, ...], image: bool, drivers: tuple[str, ...]
) -> NDArray[Any]:
    """Bands of one window of an image or a mask, each compressed block decoded once for all of them."""
    window = ((rows.start, rows.stop), (cols.start, cols.stop))
    with open_raster(href, drivers) as dataset, naming_read_errors(href):
        if image:
            return read_image(dataset, bands, window)
        return dataset.read(list(bands), window=window)  # type: ignore[no-any-return]


def _valid_block(images: list[NDArray[Any]], masks: list[NDArray[Any]], rule: str) -> NDArray[np.bool_]:
    """Apply the mask, and the image's own no-data: pixels that are 0 in all bands show nothing."""
    (image,), (mask,) = images, masks
    valid: NDArray[np.bool_] = valid_mask(mask, rule) & (image != 0).any(axis=0)
    return valid


def _class_block(images: list[NDArray[Any]], masks: list[NDArray[Any]]) -> NDArray[np.uint8]:
    """Tell what the mask says of each pixel; those that are 0 in all bands are no data."""
    (image,), (mask,) = images, masks
    return mask_class(mask) * (image != 0).any(axis=0)


def _read_lazily(
    header: RasterHeader, bands: tuple[int, ...], chunks: Any, *, image: bool, drivers: tuple[str, ...]
) -> da.Array:
    read = functools.partial(_read_window, href=header.href, bands=bands, image=image, drivers=drivers)
    return lazy_blocks(
        read, header.shape, chunks=chunks, dtype=header.dtype, lead=len(bands), token=(header.href, bands)
    )


def _per_pixel(
    function: Callable[..., Any], pixels: da.Array, flags: da.Array, dtype: Any, **how: Any
) -> da.Array:
    """Apply a function of image and mask, each a list of its one chunk along the bands.

    With ``map_blocks`` and ``drop_axis`` Dask would put these lists together, which copies both.
    """
    out: da.Array = da.blockwise(
        function,
        "yx",
        pixels,
        "byx",
        flags,
        "cyx",
        concatenate=False,
        dtype=dtype,
        meta=np.empty((0, 0), dtype),
        **how,
    )
    return out


def open_scene(
    item: pystac.Item,
    *,
    auxiliary: Any = None,
    neutral: Sequence[str] = (),
    fill_gaps: bool = False,
    bands: Sequence[str | Band] | None = None,
    chunks: Any = "auto",
    mask_rule: str | None = None,
    engine: Engine = "exact",
    device: str = "cpu",
    limits: RasterLimits | None = None,
) -> xr.Dataset:
    """Open a PlanetScope scene as a lazy Dataset on its own pixel grid.

    Parameters
    ----------
    item : pystac.Item
        Image and usable-data mask, as :func:`darts_xr.search` and :func:`darts_xr.planet_items` give them.
    auxiliary : source, sequence of sources, "neutral" or None, optional
        Where elevation and trends come from: anything that :func:`darts_xr.search` takes, GeoTIFFs, folders of them
        (see :func:`darts_xr.auxiliary_items`), or several of these. ``"neutral"`` fills level terrain and no trend, and
        says so in the attributes. None leaves these bands out.
    neutral : sequence of str, optional
        Layers that are filled and not read, of "elevation" and "trends"; named in the attributes.
    fill_gaps : bool, optional
        Fill also layers that nothing near the scene has, instead of raising.
    bands : sequence of str or Band, optional
        Bands to open, by default all that ``auxiliary`` can give. ``ensemble.definitions`` has them derived as the
        networks were trained: radius of the relative elevation, resampling of the trends, grid of the terrain kernels.
    chunks : int, tuple or "auto", optional
        Chunk side in pixels, or a pair (y, x); "auto" is 1024.
    mask_rule : str, optional
        One of :data:`darts_xr.planet.MASK_RULES`; by default ``"udm2"`` where there is one, else ``"udm1"``.
    engine : {"exact", "odc-stac", "stackstac"}, optional
        Who warps the auxiliary layers. The default is exact and independent of the chunks; stackstac reads assets of
        one band only, such as a DEM.
    device : str, optional
        Where the exact engine warps and derives terrain and trends; other engines always do on the processor. On a
        torch device, such as ``"cuda"``, their chunks stay there for :func:`darts_xr.predict`, and the processor only
        reads and decompresses; whatever else asks for them gets a copy. Values may differ in the last digits. In chunks
        of 1024, the default; others are put together by the processor.
    limits : RasterLimits, optional
        What pixel sizes, formats and dimensions image and mask may have; by default those of PlanetScope.

    Returns
    -------
    xarray.Dataset
        Lazy, dims (y, x), coordinates of pixel centres and ``spatial_ref``. ``blue``, ``green``, ``red``, ``nir``
        (uint16, reflectance × 10000, 0 = no data), ``ndvi`` (float32), with an auxiliary source ``relative_elevation``
        (float32, m), ``slope`` (float32, degrees), ``tc_brightness``, ``tc_greenness``, ``tc_wetness`` (uint8, 127 = no
        change) and ``measured`` (uint8 flags: 1 elevation, 2 trends; what is not set was filled), ``mask_class``
        (uint8, :data:`darts_xr.planet.MASK_CLASSES`) unless ``bands`` leaves it out, and ``valid`` (bool).
        Scalar coordinates: ``time`` (UTC), ``item_id`` and ``synthetic``. Attributes name product, constellation, mask
        rule, the auxiliary items that are read and the layers that are neutral. Headers are read to build it, pixels
        only when it is computed. It can be written with ``to_netcdf`` and ``to_zarr``.

    Raises
    ------
    MissingFileError, DamagedFileError
        When image or mask is not there or cannot be read (truncated data show when computed).
    GridMismatchError
        When image and mask have different grids.
    CRSError, SceneError
        When the image has no CRS, is not in UTM, or its grid is none that Planet delivers.
    UnsupportedProductError, MaskError
        When the image is no surface reflectance, or the mask is missing or does not suit the rule.
    MissingBandsError
        When the auxiliary source does not cover the scene.
    EngineError
        When the engine is unknown, not installed, or cannot read such an asset.

    Notes
    -----
    Nitze et al. 2025 (Sci. Data 12:1512), Methods, "Data preprocessing".

    Examples
    --------
    >>> items = darts_xr.planet_items("delivery")  # doctest: +SKIP
    >>> scene = open_scene(items[0], auxiliary="auxiliary/catalog.json")  # doctest: +SKIP
    """
    keep_freed_memory()
    limits = limits or RasterLimits()
    files = scene_files(item, mask_rule=mask_rule, limits=limits)
    image, rule = files.image, files.rule.name
    grid = GeoBox(image.shape, image.transform, files.crs)
    sizes = _chunk_sizes(chunks, image)
    numbers = tuple(files.positions[name] for name in IMAGE_BANDS)
    pixels = _read_lazily(image, numbers, sizes, image=True, drivers=limits.drivers)
    numbers = tuple(range(1, files.mask.count + 1))
    flags = _read_lazily(files.mask, numbers, sizes, image=False, drivers=limits.drivers)
    variables = {
        name: on_grid(pixels[k], grid, name, long_name=BANDS[name].long_name, units="1e-4", nodata=0)
        for k, name in enumerate(IMAGE_BANDS)
    }
    variables |= {
        name: normalised_difference(variables[first], variables[second], name)
        for name, (first, second) in DIFFERENCES.items()
    }
    definitions = BANDS | {band.name: band for band in bands or () if isinstance(band, Band)}
    names = None if bands is None else [band.name if isinstance(band, Band) else band for band in bands]
    all_neutral = isinstance(auxiliary, str) and auxiliary == "neutral"
    neutral = check_neutral(LAYERS if all_neutral else neutral)
    # What the mask says is no band of a network.
    plain = None if names is None else [name for name in names if name != MASK_CLASS]
    wanted = _wanted_bands(item, plain, auxiliary, neutral)
    needed = tuple(name for name in AUXILIARY_BANDS if name in wanted)
    derivation = _derivation([definitions[name] for name in needed])
    attrs = _attributes(item, rule)
    if needed:
        # Warps and kernels always run on the same lattice, so that rounding does not depend on the chunks asked for.
        asked = [layer for layer in LAYERS if set(LAYERS[layer]) & set(needed)]
        read = set(asked) - set(neutral)
        near = items_near(load_auxiliary(auxiliary), grid, item.datetime) if read else []
        filled = [layer for layer in asked if layer in neutral or (fill_gaps and not is_offered(layer, near))]
        layers = auxiliary_layers(
            near,
            grid,
            needed=needed,
            neutral=filled,
            datetime=item.datetime,
            chunks=CHUNK,
            engine=engine,
            device=device,
            **derivation,
        )
        variables |= {
            name: layer.chunk(dict(zip(("y", "x"), sizes, strict=True))) for name, layer in layers.items()
        }
        read_items = {name for layer in layers.values() for name in layer.attrs.get("items", "").split(", ")}
        attrs["auxiliary"] = ", ".join(sorted(read_items - {""})) or NEUTRAL
        if filled:
            attrs["neutral"] = ", ".join(filled)
    valid = _per_pixel(_valid_block, pixels, flags, bool, rule=rule)
    variables["valid"] = on_grid(
        valid, grid, "valid", long_name="pixel may be used", units="1", nodata=0, mask_rule=rule
    )
    if names is None or MASK_CLASS in names:
        kinds = _per_pixel(_class_block, pixels, flags, np.uint8)
        variables[MASK_CLASS] = on_grid(
            kinds, grid, MASK_CLASS, long_name="what the mask says", units="1", nodata=0,
            flag_values=list(MASK_CLASSES),
            flag_meanings=" ".join(n.replace(" ", "_") for n in MASK_CLASSES.values()),
        )  # fmt: skip
    kept = [name for name in BANDS if name in variables and (bands is None or name in wanted)]
    kept += [name for name in (MEASURED, MASK_CLASS, "valid") if name in variables]
    scene = xr.Dataset({name: variables[name] for name in kept}, attrs=attrs)
    return linked(scene.assign_coords(scene_coords(item)))


def _chunk_sizes(chunks: Any, image: RasterHeader) -> tuple[tuple[int, ...], ...]:
    """Sizes of the chunks along y and x."""
    asked = CHUNK if (isinstance(chunks, str) and chunks == "auto") or chunks is None else chunks
    try:
        sizes = da.core.normalize_chunks(asked, image.shape, dtype=image.dtype)
        if min(map(min, sizes)) < 1:
            raise ValueError("chunks have at least one pixel")
    except (TypeError, ValueError, ArithmeticError, LookupError) as error:
        raise ParameterError(
            f"chunks must be a side in pixels, a pair (y, x), or 'auto'; {chunks!r} is none ({error})"
        ) from error
    return sizes


def _wanted_bands(
    item: pystac.Item, bands: Sequence[str] | None, auxiliary: Any, neutral: Sequence[str]
) -> tuple[str, ...]:
    given = AUXILIARY_BANDS if auxiliary is not None else tuple(n for layer in neutral for n in LAYERS[layer])
    if bands is None:
        return tuple(name for name in BANDS if name in given or name not in AUXILIARY_BANDS)
    if unknown := sorted(set(bands) - set(BANDS)):
        raise MissingBandsError(
            f"{item.id}: no such bands: {', '.join(unknown)}; known are {', '.join(BANDS)}"
        )
    missing = [name for name in AUXILIARY_BANDS if name in bands and name not in given]
    if missing:
        raise MissingBandsError(
            f"{item.id}: {', '.join(missing)} come from auxiliary layers and none were given. Give a source of "
            'elevation and Landsat trends that covers the scene (STAC items or GeoTIFFs), or "neutral" to fill level '
            "terrain and no trend, which is written into the output's metadata."
        )
    return tuple(bands)


def _derivation(bands: Sequence[Band]) -> dict[str, Any]:
    """Tell how auxiliary layers are derived, from the definitions of the bands that are wanted."""
    terrain = next((band.kernel_grid for band in bands if band.source == "arcticdem"), "scene")
    trends = next((band.resampling for band in bands if band.source == "landsat-trends"), "bilinear")
    return {
        "radius": next((band.radius for band in bands if band.radius is not None), None),
        "terrain_grid": terrain,
        "trends_resampling": "nearest" if trends == "nearest" else "bilinear",
    }


def _attributes(item: pystac.Item, rule: str) -> dict[str, Any]:
    return {
        "product": item.properties.get("darts:product", "unknown"),
        "constellation": item.properties.get("constellation", "unknown"),
        "mask_rule": rule,
    }
