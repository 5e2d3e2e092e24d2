"""Finding image and masks among an item's assets, also of items that others wrote."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import pystac
import shapely
from odc.geo.geobox import GeoBox
from rasterio.crs import CRS
from rasterio.errors import CRSError as RasterioCRSError

from darts_xr.addresses import file_name
from darts_xr.errors import (
    CRSError,
    GridMismatchError,
    MaskError,
    UnknownProductError,
    UnsupportedProductError,
)
from darts_xr.globe import bounds_of, box_polygons, grid_bounds
from darts_xr.planet.bands import (
    IMAGE_BANDS,
    band_positions,
    check_image,
    image_bands,
    image_fields,
    mask_fields,
    standard_bands,
)
from darts_xr.planet.masks import MaskRule, find_rule
from darts_xr.planet.names import classify
from darts_xr.rasters import RasterHeader, RasterLimits, check_grid, check_same_grid, read_header, utm_code
from darts_xr.stac import IMAGE_EXTENSIONS, grid_fields

# Asset keys and Planet asset types, best first.
_IMAGE_KEYS = (
    "image",
    "ortho_analytic_4b_sr",
    "analytic_sr",
    "sr",
    "surface_reflectance",
    "ortho_analytic_8b_sr",
    "analytic_8b_sr",
)
_REFUSED_KEYS = (
    "ortho_analytic_4b",
    "ortho_analytic_8b",
    "ortho_analytic_3b",
    "analytic",
    "analytic_dn",
    "basic_analytic_4b",
    "basic_analytic_8b",
    "ortho_visual",
)
_SHARED = 0.3  # least share that the boxes of item and image have in common, of the smaller one
_UDM2_KEYS = ("udm2", "ortho_udm2")
_UDM1_KEYS = ("udm1", "udm", "ortho_udm", "ortho_analytic_udm")


class ImageAsset(NamedTuple):
    """The surface reflectance image of an item."""

    key: str
    asset: pystac.Asset
    bands: dict[str, int]  # 1-based index of blue, green, red, nir


class MaskAsset(NamedTuple):
    """A usable-data mask of an item."""

    key: str
    asset: pystac.Asset
    kind: Literal["udm2", "udm1"]


def image_asset(item: pystac.Item) -> ImageAsset:
    """Find an item's surface reflectance image and which of its bands are blue, green, red and nir.

    The file's name decides where it is a Planet name, else the key or Planet's asset type, else the role
    ``reflectance`` with four named bands. Nothing is opened.

    Parameters
    ----------
    item : pystac.Item
        Of :func:`planet_items`, of a STAC API, of Planet's own catalogues.

    Returns
    -------
    ImageAsset
        Named tuple ``(key, asset, bands)``; ``bands`` counts from 1.

    Raises
    ------
    UnsupportedProductError
        The item offers top-of-atmosphere radiance or a visual product only.
    UnknownProductError
        It offers no image that is known.

    Examples
    --------
    >>> import datetime, pystac
    >>> item = pystac.Item("a", None, None, datetime.datetime(2021, 7, 1), {})
    >>> item.add_asset("ortho_analytic_8b_sr", pystac.Asset("a.tif"))
    >>> image_asset(item).bands
    {'blue': 2, 'green': 4, 'red': 6, 'nir': 8}
    """
    ranked: list[tuple[int, str]] = []
    refused: list[str] = []
    for key, asset in item.assets.items():
        role = _role(key, asset)
        if role == "refused":
            refused.append(key)
        elif isinstance(role, int):
            ranked.append((role, key))
    if ranked:
        key = min(ranked)[1]
        asset = item.assets[key]
        return ImageAsset(key, asset, _band_indices(item.id, key, asset))
    if refused:
        raise UnsupportedProductError(
            f"item {item.id} offers {', '.join(sorted(refused))}, top-of-atmosphere radiance or a visual "
            "product, but no surface reflectance; order surface reflectance (asset ortho_analytic_4b_sr, "
            "bundle analytic_sr_udm2)"
        )
    raise UnknownProductError(
        f"item {item.id} has no PlanetScope surface reflectance image among its assets "
        f"({', '.join(sorted(item.assets)) or 'none'}); give it the key 'image' or 'ortho_analytic_4b_sr', "
        "or the role 'reflectance' and eo:bands"
    )


def mask_asset(item: pystac.Item, *, kind: Literal["udm2", "udm1"] | None = None) -> MaskAsset | None:
    """Find an item's usable-data mask: its udm2, else its udm1.

    Parameters
    ----------
    item : pystac.Item
        As for :func:`image_asset`.
    kind : {"udm2", "udm1"}, optional
        Look for this one only.

    Returns
    -------
    MaskAsset or None
        Named tuple ``(key, asset, kind)``; None where the item has no such mask.

    Examples
    --------
    >>> import datetime, pystac
    >>> item = pystac.Item("a", None, None, datetime.datetime(2021, 7, 1), {})
    >>> item.add_asset("udm", pystac.Asset("https://server/20220812_174337_02_2421_3B_udm2.tif"))
    >>> mask_asset(item).kind
    'udm2'
    """
    kinds: tuple[Literal["udm2", "udm1"], ...] = (kind,) if kind else ("udm2", "udm1")
    for wanted in kinds:
        for key in sorted(item.assets):
            if _role(key, item.assets[key]) == wanted:
                return MaskAsset(key, item.assets[key], wanted)
    return None


@dataclass(frozen=True)
class SceneFiles:
    """What a scene offers: its image and its mask, opened once and found to fit each other.

    Attributes
    ----------
    image, mask : RasterHeader
        Headers; both on the same pixels.
    positions : dict of int
        Band number of blue, green, red and nir in the image, counted from 1.
    rule : MaskRule
        Rule that turns the mask into "valid".
    crs : str
        EPSG code of the UTM zone.
    """

    image: RasterHeader
    mask: RasterHeader
    positions: dict[str, int]
    rule: MaskRule
    crs: str


def scene_files(
    item: pystac.Item, *, mask_rule: str | None = None, limits: RasterLimits | None = None
) -> SceneFiles:
    """Open what an item offers, once, and check all that a header tells.

    Catalogue, plan and cube all ask here, so that what passes a dry run also opens.

    Parameters
    ----------
    item : pystac.Item
        As for :func:`image_asset`; not changed.
    mask_rule : str, optional
        One of :data:`darts_xr.planet.MASK_RULES`; by default ``"udm2"`` where there is one, else ``"udm1"``.
    limits : RasterLimits, optional
        What pixel sizes, formats and dimensions may be.

    Returns
    -------
    SceneFiles

    Raises
    ------
    UnsupportedProductError, UnknownProductError
        The item offers no surface reflectance, or the file is another than the item says.
    MaskError
        It has no mask, an unknown rule is asked for, or the mask does not suit the rule.
    CRSError, SceneError, GridMismatchError
        Grid or CRS are unfit, image and mask differ, or the image lies elsewhere than the item says.
    MissingFileError, DamagedFileError, RemoteReadError
        A file cannot be opened.
    """
    limits = limits or RasterLimits()
    found = image_asset(item)
    wanted = None if mask_rule is None else find_rule(mask_rule).mask
    masked = mask_asset(item, kind=wanted)
    if masked is None:
        raise MaskError(
            f"{item.id} has no usable-data mask ({wanted or 'udm2 or udm1'}), so clouds cannot be told from ground. "
            "Order the scene with its udm2 and build the catalogue again."
        )
    image, mask = (read_header(_href(asset), limits.drivers) for asset in (found.asset, masked.asset))
    crs = utm_code(image.crs, image.name)
    check_grid(image, limits)
    positions = _named_bands(found.asset) or band_positions(image_bands(image))
    check_image(image, positions)
    check_same_grid(image, mask)
    rule = find_rule(mask_rule or masked.kind, mask.count, name=mask.name)
    _check_place(item, image, crs)
    return SceneFiles(image, mask, positions, rule, crs)


def _check_place(item: pystac.Item, image: RasterHeader, crs: str) -> None:
    """Refuse an image that lies elsewhere than its item says: another one was meant."""
    if item.bbox is None:
        return
    stated = shapely.union_all(box_polygons(bounds_of(item.bbox)))
    seen = shapely.union_all(box_polygons(grid_bounds(GeoBox(image.shape, image.transform, crs))))
    shared = shapely.intersection(stated, seen).area
    if shared < _SHARED * min(stated.area, seen.area):
        where = ", ".join(f"{value:.3f}" for value in seen.bounds)
        raise GridMismatchError(
            f"{item.id}: the image {image.name} lies at {where} (west, south, east, north), not where the item says "
            f"({', '.join(f'{value:.3f}' for value in item.bbox)}); build the catalogue again"
        )


def normalize_item(item: pystac.Item) -> pystac.Item:
    """Copy an item to the asset keys and fields that darts_xr writes, for catalogues of scenes that others described.

    The image becomes ``image``, the masks ``udm2`` and ``udm1``; ``raster:bands``, ``eo:bands``, ``bands``
    and the proj fields that are missing are filled from the files' headers, which are opened only then. Other
    assets stay.

    Parameters
    ----------
    item : pystac.Item
        As for :func:`image_asset`; not changed.

    Returns
    -------
    pystac.Item

    Raises
    ------
    UnsupportedProductError, UnknownProductError
        As for :func:`image_asset`.
    CRSError, SceneError, GridMismatchError, MaskError
        A header that had to be read shows an unfit grid or mask.
    MissingFileError, DamagedFileError
        A file that had to be opened cannot be.
    """
    image = image_asset(item)
    udm2, udm1 = mask_asset(item, kind="udm2"), mask_asset(item, kind="udm1")
    masks = [mask for mask in (udm2, udm1) if mask is not None]
    result = item.clone()
    chosen = {image.key: "image", **{mask.key: mask.kind for mask in masks}}
    result.assets = {}
    for key, asset in item.clone().assets.items():
        name = chosen.get(key, key if key not in chosen.values() else f"{key}_of_delivery")
        result.add_asset(name, asset)

    image_file = None
    if _has_grid(result):
        stated = {**result.properties, **result.assets["image"].extra_fields}["proj:code"]
        utm_code(_crs(stated, item.id), f"the image of item {item.id}")
    if not (_has_fields(result, "image") and _has_grid(result)):
        image_file = read_header(_href(result.assets["image"]))
        code = utm_code(image_file.crs, image_file.name)
        check_grid(image_file)
        result.properties.update(grid_fields(code, image_file.shape, image_file.transform))
        for owned in ("proj:code", "proj:shape", "proj:transform", "proj:epsg"):
            result.assets["image"].extra_fields.pop(owned, None)
        if not _has_fields(result, "image"):
            result.assets["image"].extra_fields.update(image_fields(image_bands(image_file), image_file))
    for mask in masks:
        if not _has_fields(result, mask.kind):
            mask_file = read_header(_href(result.assets[mask.kind]))
            find_rule(mask.kind, mask_file.count, name=mask_file.name)
            if image_file is not None:
                check_same_grid(image_file, mask_file)
            result.assets[mask.kind].extra_fields.update(mask_fields(mask_file))
        else:
            find_rule(mask.kind, len(result.assets[mask.kind].extra_fields["raster:bands"]), name=item.id)
    declared = set(result.stac_extensions)
    for extension in IMAGE_EXTENSIONS:
        family = extension.rsplit("/", 2)[0]
        if not any(each.startswith(family) for each in declared):
            result.stac_extensions.append(extension)
    return result


def _role(key: str, asset: pystac.Asset) -> int | str | None:
    """Rank of an image (0 is best), "udm2", "udm1" or "refused"; None for anything else."""
    file = classify(file_name(asset.href))
    if file is not None and file.kind in ("json", "xml"):
        return None
    key = key.lower()
    names = (key, str(asset.extra_fields.get("pl:asset_type", "")).lower())
    if file is not None and file.kind != "unknown":
        if file.kind == "image":
            # The plain four bands are less to read than eight.
            return _IMAGE_KEYS.index(key) if key in _IMAGE_KEYS else len(_IMAGE_KEYS) + file.eight_bands
        return file.kind
    for name in names:
        if name in _IMAGE_KEYS:
            return _IMAGE_KEYS.index(name)
        for role, keys in (("udm2", _UDM2_KEYS), ("udm1", _UDM1_KEYS), ("refused", _REFUSED_KEYS)):
            if name in keys:
                return role
    if any("TOA" in str(band.get("name", "")) for band in asset.extra_fields.get("raster:bands", ())):
        return "refused"
    if "reflectance" in (asset.roles or ()) and _named_bands(asset):
        return len(_IMAGE_KEYS) + 2
    return None


def _named_bands(asset: pystac.Asset) -> dict[str, int] | None:
    """Band indices by common name or name, where each of the four is named once."""
    for field, keys in (("eo:bands", ("common_name", "name")), ("bands", ("eo:common_name", "name"))):
        bands: list[dict[str, Any]] = asset.extra_fields.get(field) or []
        for key in keys:
            said = [str(band.get(key, "")).lower() for band in bands]
            if all(said.count(band) == 1 for band in IMAGE_BANDS):
                return {band: said.index(band) + 1 for band in IMAGE_BANDS}
    return None


def _band_indices(item_id: str, key: str, asset: pystac.Asset) -> dict[str, int]:
    named = _named_bands(asset)
    if named is not None:
        return named
    file = classify(file_name(asset.href))
    eight = (
        "8b" in key.lower()
        or "8b" in str(asset.extra_fields.get("pl:asset_type", ""))
        or (file and file.eight_bands)
    )
    count = len(asset.extra_fields.get("raster:bands", ())) or (8 if eight else 4)
    names = standard_bands(count)
    if names is None:
        raise UnsupportedProductError(
            f"asset {key!r} of item {item_id} has {count} bands without names; surface reflectance has 4 or 8"
        )
    return band_positions(names)


def _has_fields(item: pystac.Item, key: str) -> bool:
    fields = item.assets[key].extra_fields
    return bool(fields.get("raster:bands")) and (key != "image" or _named_bands(item.assets[key]) is not None)


def _has_grid(item: pystac.Item) -> bool:
    fields = {**item.properties, **item.assets["image"].extra_fields}
    return all(fields.get(field) for field in ("proj:code", "proj:shape", "proj:transform"))


def _crs(code: str, item_id: str) -> CRS:
    try:
        return CRS.from_string(code)
    except RasterioCRSError as error:
        raise CRSError(
            f"item {item_id} states the reference system {code!r}, which is none: {error}"
        ) from error


def _href(asset: pystac.Asset) -> str:
    return (asset.get_absolute_href() or asset.href).removeprefix("file://")
