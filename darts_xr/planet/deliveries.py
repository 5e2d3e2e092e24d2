"""STAC items from a folder of Planet deliveries."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pystac
import shapely.geometry

from darts_xr.errors import (
    CatalogError,
    DartsError,
    OnError,
    UnknownProductError,
    UnsupportedProductError,
    leave_out,
)
from darts_xr.globe import lonlat_bbox
from darts_xr.planet.bands import band_positions, check_image, image_bands, image_fields, mask_fields
from darts_xr.planet.footprints import footprint, survey
from darts_xr.planet.masks import find_rule
from darts_xr.planet.metadata import scene_metadata
from darts_xr.planet.names import classify, product_type, scene_datetime
from darts_xr.rasters import (
    RasterHeader,
    RasterLimits,
    check_grid,
    check_same_grid,
    read_header,
    small_block_cache,
    utm_code,
)
from darts_xr.stac import IMAGE_EXTENSIONS, VIEW_EXTENSION, grid_fields, set_collection

logger = logging.getLogger(__name__)

COLLECTION = "planetscope"
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z")


@dataclass
class _Delivery:
    """The files of one scene, by kind."""

    scene_id: str
    files: dict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))

    def best(self, kind: str, *, beside: Path | None = None) -> Path | None:
        """One file of a kind: in the image's folder and clipped like it, else of the plainest name."""

        def order(path: Path) -> tuple[bool, bool, int, str]:
            elsewhere = beside is not None and path.parent != beside.parent
            other_clip = beside is not None and ("_clip" in path.name) != ("_clip" in beside.name)
            return elsewhere, other_clip, len(path.name), str(path)

        return min(self.files.get(kind, ()), key=order, default=None)


def planet_items(
    folder: str | os.PathLike[str],
    *,
    require_image: bool = True,
    on_error: OnError = "raise",
    limits: RasterLimits | None = None,
) -> pystac.ItemCollection:
    """Describe the PlanetScope scenes of a delivery as STAC items.

    Any folder tree goes: nested orders, PSScene (4 bands, or 8 bands of SuperDove) and PSOrthoTile, surface
    reflectance as ``_SR``, ``_SR_8b``, ``_SR_harmonized`` with or without ``_clip``, with an ``udm2``, an
    ``udm1`` (``_DN_udm``) or both. Every image and mask is read once, in strips, for the outline of its valid
    pixels and the cloud cover, so that a file that cannot be decoded to its end is found here. Metadata JSON
    and XML are used where present. Bands are named by their descriptions where these name colours, in whatever
    order, else by Planet's order.

    Parameters
    ----------
    folder : path
        Root of the delivery.
    require_image : bool
        Leave scenes without an image out, with a warning that names them. False makes items of scenes that
        have a mask only.
    on_error : {"raise", "skip"} or callable
        What a scene that cannot be used does: raise its error, or be left out with a warning that says why; a function
        is given its id and the error instead of the warning.
    limits : RasterLimits, optional
        What pixel sizes, formats and dimensions may be.

    Returns
    -------
    pystac.ItemCollection
        One STAC 1.1 item a scene, sorted by id, with the extensions proj, eo, raster and, where the metadata
        state angles, view. Assets
        ``image``, ``udm2``, ``udm1``, ``metadata`` and ``metadata_xml``, as far as delivered. Own properties:
        ``darts:product`` (``PSScene`` or ``PSOrthoTile``), ``darts:mask_rule`` (the rule behind the outline)
        and ``darts:valid_fraction`` (of all pixels of the raster). Two calls give the same items.

    Raises
    ------
    CatalogError
        The folder does not exist or holds no usable scene.
    UnknownProductError
        It holds GeoTIFFs, but none with the name of a known product.
    UnsupportedProductError
        A scene came as top-of-atmosphere radiance or with unusable bands.
    CRSError, GridMismatchError, MaskError, DamagedFileError
        A file is unfit; the message names it.

    Examples
    --------
    >>> items = planet_items("order/")  # doctest: +SKIP
    >>> write_catalog(items, "catalog.json", title="Scenes", description="My order.")  # doctest: +SKIP
    """
    root = Path(folder)
    if not root.is_dir():
        raise CatalogError(f"{root} is not a folder; give the folder that the Planet order was unpacked to")
    deliveries = _find_deliveries(root)
    limits = limits or RasterLimits()
    problems: list[str] = []
    items: list[pystac.Item] = []

    def refuse(delivery: _Delivery, error: DartsError) -> None:
        problems.append(str(error))
        leave_out(delivery.scene_id, error, on_error)

    chosen: list[_Delivery] = []
    for delivery in deliveries:
        try:
            if _has_what_is_needed(delivery, require_image):
                chosen.append(delivery)
        except DartsError as error:
            refuse(delivery, error)
    # GDAL frees the interpreter lock while it decodes; each thread holds two strips of pixels.
    with small_block_cache(), ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        futures = [(delivery, pool.submit(_make_item, delivery, limits)) for delivery in chosen]
        try:
            for delivery, future in futures:
                try:
                    items.append(future.result())
                except DartsError as error:
                    refuse(delivery, error)
        except DartsError:
            pool.shutdown(cancel_futures=True)
            raise
    if not items:
        raise CatalogError(_nothing_usable(root, deliveries, require_image, problems))
    return pystac.ItemCollection(items, clone_items=False)


def _find_deliveries(root: Path) -> list[_Delivery]:
    deliveries: dict[str, _Delivery] = {}
    unknown: list[Path] = []
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        if path.suffix.lower() in _ARCHIVES:
            logger.warning("%s is left out: archives are not read; unpack it beside the others", path)
            continue
        file = classify(path.name)
        if file is not None and file.kind != "unknown":
            deliveries.setdefault(file.scene_id, _Delivery(file.scene_id)).files[file.kind].append(path)
        elif path.suffix.lower() in (".tif", ".tiff"):
            unknown.append(path)
    rasters = any(kind not in ("json", "xml") for each in deliveries.values() for kind in each.files)
    if unknown and not rasters:
        raise UnknownProductError(
            f"none of the {len(unknown)} GeoTIFF(s) in {root} has the name of a known Planet product, for "
            f"example {unknown[0].name}; expected are names such as <scene id>_3B_AnalyticMS_SR.tif, <scene "
            "id>_BGRN_SR.tif and <scene id>_3B_udm2.tif: keep the names of the delivery"
        )
    for path in unknown:
        logger.warning("%s is left out: its name is not that of a known Planet product", path)
    return sorted(deliveries.values(), key=lambda delivery: delivery.scene_id)


def _has_what_is_needed(delivery: _Delivery, require_image: bool) -> bool:
    images, refused = delivery.files.get("image", []), delivery.files.get("refused", [])
    if refused and not images:
        product = "a visual product" if "visual" in refused[0].name.lower() else "top-of-atmosphere radiance"
        raise UnsupportedProductError(
            f"{refused[0].name} is {product}, and the models are made for surface reflectance; order surface "
            f"reflectance (bundle analytic_sr_udm2) of scene {delivery.scene_id}"
        )
    for path in refused:
        logger.info("%s is not used: scene %s has a surface reflectance image", path, delivery.scene_id)
    if images:
        return True
    if require_image:
        logger.warning(
            "scene %s is left out: no surface reflectance image, only %s",
            delivery.scene_id,
            _inventory(delivery),
        )
        return False
    return bool(delivery.files.get("udm2") or delivery.files.get("udm1"))


def _inventory(delivery: _Delivery) -> str:
    return ", ".join(sorted(delivery.files)) or "nothing"


def _nothing_usable(root: Path, deliveries: list[_Delivery], require_image: bool, problems: list[str]) -> str:
    if problems:
        return f"no scene in {root} can be used, all {len(problems)} were left out; the first: {problems[0]}"
    wanted = "a surface reflectance image (*_SR*.tif)" if require_image else "an image or a mask"
    found = [f"{delivery.scene_id} ({_inventory(delivery)})" for delivery in deliveries]
    listing = f"the scenes {'; '.join(found[:5])}" if found else "no file of a Planet scene"
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    return f"no scene in {root} can be used, none has {wanted}; found: {listing}{more}"


def _make_item(delivery: _Delivery, limits: RasterLimits) -> pystac.Item:
    image_path = _pick_image(delivery, limits.drivers)
    paths = {
        kind: path
        for kind in ("udm2", "udm1", "json", "xml")
        if (path := delivery.best(kind, beside=image_path)) is not None
    }
    image = read_header(str(image_path), limits.drivers) if image_path else None
    masks: list[tuple[str, RasterHeader]] = [
        (kind, read_header(str(paths[kind]), limits.drivers)) for kind in ("udm2", "udm1") if kind in paths
    ]
    header = image or masks[0][1]
    code = utm_code(header.crs, header.name)
    names = image_bands(image) if image else ()
    check_grid(header, limits)
    if image:
        check_image(image, band_positions(names))
    for kind, mask in masks:
        find_rule(kind, mask.count, name=mask.name)
        check_same_grid(header, mask)

    # The first mask is the one that default_rule names: udm2, else udm1.
    rule, rule_mask = masks[0] if masks else (None, None)
    bands = tuple(band_positions(names).values()) if image else ()
    found = survey(image, bands, rule_mask, rule, drivers=limits.drivers)
    if not masks:
        logger.warning("scene %s has no usable-data mask; order analytic_sr_udm2", delivery.scene_id)
    if not found.valid:
        logger.warning("scene %s has no valid pixel", delivery.scene_id)

    properties = {"gsd": header.transform.a, **scene_metadata(paths.get("json"), paths.get("xml"))}
    moment = properties.pop("datetime", scene_datetime(delivery.scene_id))
    properties |= {
        "constellation": "planetscope",
        "darts:product": product_type(delivery.scene_id),
        "darts:valid_fraction": found.valid_fraction,
        **({"eo:cloud_cover": found.cloud_cover, "darts:mask_rule": rule} if rule else {}),
        **grid_fields(code, header.shape, header.transform),
    }
    outline = footprint(found, header)
    item = pystac.Item(
        id=delivery.scene_id,
        geometry=shapely.geometry.mapping(outline),
        bbox=lonlat_bbox(outline),
        # stac-geoparquet keeps milliseconds.
        datetime=moment.replace(microsecond=moment.microsecond // 1000 * 1000),
        properties=dict(sorted(properties.items())),
        stac_extensions=[
            *IMAGE_EXTENSIONS,
            *([VIEW_EXTENSION] if any("view:" in name for name in properties) else []),
        ],
    )
    set_collection(item, COLLECTION)
    if image:
        fields = image_fields(names, image)
        item.add_asset("image", _raster_asset(image, "Surface reflectance", ["data", "reflectance"], fields))
    for kind, mask in masks:
        item.add_asset(
            kind, _raster_asset(mask, f"Usable data mask ({kind})", ["data-mask"], mask_fields(mask))
        )
    for kind, key in (("json", "metadata"), ("xml", "metadata_xml")):
        if kind in paths:
            href = os.path.abspath(paths[kind])
            item.add_asset(key, pystac.Asset(href, media_type=f"application/{kind}", roles=["metadata"]))
    return item


def _pick_image(delivery: _Delivery, drivers: Sequence[str]) -> Path | None:
    """One image a scene; a second one on another grid is refused rather than dropped."""
    chosen = delivery.best("image")
    for other in delivery.files.get("image", []):
        if chosen is None or other == chosen:
            continue
        first, second = read_header(str(chosen), drivers), read_header(str(other), drivers)
        if (first.shape, first.transform, first.crs) != (second.shape, second.transform, second.crs):
            raise CatalogError(
                f"scene {delivery.scene_id} was delivered twice with different extents: {chosen} and "
                f"{other}; keep one, or build one catalogue per order"
            )
        logger.warning("scene %s: %s is used, %s is left out", delivery.scene_id, chosen, other)
    return chosen


def _raster_asset(
    header: RasterHeader, title: str, roles: list[str], fields: dict[str, object]
) -> pystac.Asset:
    return pystac.Asset(
        os.path.abspath(header.href),
        title=title,
        media_type=pystac.MediaType.COG if header.cloud_optimized else pystac.MediaType.GEOTIFF,
        roles=roles,
        extra_fields=fields,
    )
