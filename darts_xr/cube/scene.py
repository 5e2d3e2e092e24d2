"""One scene as a lazy, labelled cube: image, index, terrain, trends and valid mask on the image's own pixel grid."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import dask.array as da
import numpy as np
import pystac
import rasterio
import xarray as xr
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from darts_xr.catalog import load_items
from darts_xr.catalog.assets import image_asset, mask_asset, normalize_item
from darts_xr.cube.auxiliary import AUXILIARY_BANDS, auxiliary_layers, neutral_layers
from darts_xr.cube.bands import BANDS, Band
from darts_xr.cube.indices import ndvi
from darts_xr.cube.layers import items_near
from darts_xr.cube.loaders import Engine
from darts_xr.cube.warp import lazy_blocks, on_grid
from darts_xr.errors import MaskError, MissingBandsError
from darts_xr.memory import keep_freed_memory
from darts_xr.planet.bands import IMAGE_BANDS
from darts_xr.planet.masks import MASK_RULES, default_rule, find_rule, valid_mask
from darts_xr.rasters import check_same_grid, naming_read_errors, read_header, utm_code

#: Side of a chunk in pixels unless asked otherwise: whole COG blocks, and 40 MB once all bands are float32.
CHUNK = 1024


def _read_window(rows: slice, cols: slice, *, href: str, bands: tuple[int, ...]) -> NDArray[Any]:
    """Bands of one window, each compressed block decoded once for all of them."""
    with naming_read_errors(href), rasterio.open(href) as dataset:
        window = ((rows.start, rows.stop), (cols.start, cols.stop))
        pixels: NDArray[Any] = dataset.read(list(bands), window=window)
    return pixels


def _valid_block(image: NDArray[Any], mask: NDArray[Any], rule: str) -> NDArray[np.bool_]:
    """Apply the mask, and the image's own no-data: pixels that are 0 in all bands show nothing."""
    valid: NDArray[np.bool_] = valid_mask(mask, rule) & (image != 0).any(axis=0)
    return valid


def _read_lazily(
    href: str, bands: tuple[int, ...], shape: tuple[int, int], dtype: str, chunks: Any
) -> da.Array:
    read = functools.partial(_read_window, href=href, bands=bands)
    return lazy_blocks(read, shape, chunks=chunks, dtype=dtype, lead=len(bands), token=(href, bands))


def open_scene(
    item: pystac.Item,
    *,
    auxiliary: Any = None,
    bands: Sequence[str | Band] | None = None,
    chunks: Any = "auto",
    mask_rule: str | None = None,
    engine: Engine = "exact",
) -> xr.Dataset:
    """Open a PlanetScope scene as a lazy Dataset on its own pixel grid.

    Parameters
    ----------
    item : pystac.Item
        Image and usable-data mask, as :func:`darts_xr.search` and :func:`darts_xr.planet_items` give them.
    auxiliary : source, "neutral" or None, optional
        Where elevation and trends come from: anything that :func:`darts_xr.search` takes. ``"neutral"`` fills level
        terrain and no trend, and says so in the attributes. None leaves these bands out.
    bands : sequence of str or Band, optional
        Bands to open, by default all that ``auxiliary`` can give. ``ensemble.definitions`` has them derived as the
        networks were trained: radius of the relative elevation, resampling of the trends, grid of the terrain kernels.
    chunks : int, tuple or "auto", optional
        Chunk side in pixels, or a pair (y, x); "auto" is 1024.
    mask_rule : str, optional
        One of :data:`darts_xr.cube.MASK_RULES`; by default ``"udm2"`` where there is one, else ``"udm1"``.
    engine : {"exact", "odc-stac", "stackstac"}, optional
        Who warps the auxiliary layers. The default is exact and independent of the chunks; stackstac reads assets of
        one band only, such as a DEM.

    Returns
    -------
    xarray.Dataset
        Lazy, dims (y, x), coordinates of pixel centres and ``spatial_ref``. ``blue``, ``green``, ``red``, ``nir``
        (uint16, reflectance × 10000, 0 = no data), ``ndvi`` (float32), with an auxiliary source ``relative_elevation``
        (float32, m), ``slope`` (float32, degrees), ``tc_brightness``, ``tc_greenness``, ``tc_wetness`` (uint8, 127 = no
        change), and ``valid`` (bool). Attributes name item, date, product, mask rule and auxiliary items. Headers are
        read to build it, pixels only when it is computed.

    Raises
    ------
    MissingFileError, DamagedFileError
        When image or mask is not there or cannot be read (truncated data show when computed).
    GridMismatchError
        When image and mask have different grids.
    CRSError
        When the image has no CRS or is not in UTM.
    UnsupportedProductError, MaskError
        When the image is no surface reflectance, or the mask does not suit the rule.
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
    item = normalize_item(item)
    _, image_file, positions = image_asset(item)
    masked = mask_asset(item, kind=MASK_RULES[mask_rule].mask if mask_rule in MASK_RULES else None)
    if masked is None:
        raise MaskError(
            f"{item.id} has no usable-data mask (udm2 or udm1), so clouds cannot be told from ground. "
            "Order the scene with its udm2 and build the catalogue again."
        )
    _, mask_file, kind = masked
    image, mask = read_header(image_file.href), read_header(mask_file.href)
    code = utm_code(image.crs, image.name)
    check_same_grid(image, mask)
    rule = mask_rule or default_rule(kind == "udm2", kind == "udm1")
    grid = GeoBox(image.shape, image.transform, code)
    find_rule(rule, mask.count, name=mask.name)  # now, not while computing
    sizes = da.core.normalize_chunks(
        CHUNK if chunks in ("auto", None) else chunks, image.shape, dtype=image.dtype
    )

    pixels = _read_lazily(
        image_file.href, tuple(positions[name] for name in IMAGE_BANDS), image.shape, image.dtype, sizes
    )
    flags = _read_lazily(mask_file.href, tuple(range(1, mask.count + 1)), mask.shape, mask.dtype, sizes)
    variables = {
        name: on_grid(pixels[k], grid, name, long_name=BANDS[name].long_name, units="1", nodata=0)
        for k, name in enumerate(IMAGE_BANDS)
    }
    variables["ndvi"] = ndvi(variables["red"], variables["nir"])
    definitions = BANDS | {band.name: band for band in bands or () if isinstance(band, Band)}
    names = None if bands is None else [band.name if isinstance(band, Band) else band for band in bands]
    wanted = _wanted_bands(item, names, auxiliary)
    needed = tuple(name for name in AUXILIARY_BANDS if name in wanted)
    derivation = _derivation([definitions[name] for name in needed])
    attrs = _attributes(item, rule)
    if needed and isinstance(auxiliary, str) and auxiliary == "neutral":
        variables |= neutral_layers(grid, needed, chunks=sizes)
        attrs["auxiliary"] = "neutral: level terrain and no trend, nothing was measured"
    elif needed:
        # Warps and kernels always run on the same lattice, so that rounding does not depend on the chunks asked for.
        found = [] if auxiliary == [] else load_items(auxiliary)  # nothing near is the layers' affair to name
        near = items_near(found, grid, item.datetime)
        layers = auxiliary_layers(
            near,
            grid,
            needed=needed,
            datetime=item.datetime,
            chunks=CHUNK,
            engine=engine,
            **derivation,
        )
        variables |= {
            name: layer.chunk(dict(zip(("y", "x"), sizes, strict=True))) for name, layer in layers.items()
        }
        attrs["auxiliary"] = ", ".join(sorted(source.id for source in near))
    valid = da.map_blocks(
        _valid_block, pixels, flags, rule=rule, drop_axis=0, dtype=bool, meta=np.empty((0, 0), bool)
    )
    variables["valid"] = on_grid(valid, grid, "valid", long_name="pixel may be used", mask_rule=rule)
    kept = [name for name in BANDS if name in variables and (bands is None or name in wanted)]
    return xr.Dataset({name: variables[name] for name in (*kept, "valid")}, attrs=attrs)


def _wanted_bands(item: pystac.Item, bands: Sequence[str] | None, auxiliary: Any) -> tuple[str, ...]:
    if bands is None:
        return tuple(name for name in BANDS if auxiliary is not None or name not in AUXILIARY_BANDS)
    if unknown := sorted(set(bands) - set(BANDS)):
        raise MissingBandsError(
            f"{item.id}: no such bands: {', '.join(unknown)}; known are {', '.join(BANDS)}"
        )
    missing = [name for name in AUXILIARY_BANDS if name in bands]
    if missing and auxiliary is None:
        raise MissingBandsError(
            f"{item.id}: {', '.join(missing)} come from auxiliary layers and none were given. Give a source of "
            'auxiliary STAC items (elevation, Landsat trends) that covers the scene, or "neutral" to fill level '
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
    if item.datetime is None:
        raise MissingBandsError(f"{item.id} has no acquisition time; set the item's datetime")
    properties = item.properties
    attrs: dict[str, Any] = {
        "item_id": item.id,
        "datetime": item.datetime.isoformat().replace("+00:00", "Z"),
        "product": properties.get("darts:product", "unknown"),
        "constellation": properties.get("constellation", "unknown"),
        "mask_rule": rule,
    }
    if properties.get("darts:synthetic"):
        attrs["synthetic"] = "synthetic scene, no real observation"
    return attrs
