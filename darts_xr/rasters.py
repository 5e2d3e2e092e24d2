"""Headers and grids of raster files: read, checked, compared."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.env import get_gdal_config, set_gdal_config
from rasterio.errors import RasterioError

from darts_xr.addresses import cause, file_name, redact
from darts_xr.errors import (
    CRSError,
    DamagedFileError,
    GridMismatchError,
    MissingFileError,
    RemoteReadError,
    SceneError,
)

# How GDAL reads over HTTP: a failing server is asked again, and no folder is listed.
HTTP_OPTIONS = {
    "GDAL_HTTP_MAX_RETRY": 3,
    "GDAL_HTTP_RETRY_DELAY": 0.5,
    "GDAL_HTTP_TIMEOUT": 30,
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
}
_ABSENT = ("404", "403", "does not exist", "No such file", "NoSuchKey", "AccessDenied")
_BLOCK_CACHE = 64_000_000  # bytes: a row of blocks of a scene in each of two files


@dataclass(frozen=True)
class RasterHeader:
    """What a raster file says about itself; no pixel is read for it."""

    href: str
    crs: CRS | None
    shape: tuple[int, int]
    transform: Affine
    dtype: str
    count: int
    nodata: float | None
    descriptions: tuple[str | None, ...]
    cloud_optimized: bool

    @property
    def name(self) -> str:
        """File name without its folder, for messages."""
        return file_name(self.href)


@contextmanager
def naming_read_errors(href: str) -> Iterator[None]:
    """Turn what GDAL raises while a file is opened or read into an error that names the file."""
    try:
        yield
    except RasterioError as error:
        raise read_error(error, href) from cause(error)


def read_error(error: RasterioError, href: str, part: str = "") -> SceneError:
    """Tell what GDAL's failure to read a file, or ``part`` of it, means: missing, damaged, or a server's fault."""
    name = f"{redact(href)}{part}"
    if "://" in href or href.startswith("/vsi"):
        if any(hint in str(error) for hint in _ABSENT):
            return MissingFileError(
                f"{name} does not exist, or may not be read; correct the catalogue or log in"
            )
        return RemoteReadError(
            f"{name} cannot be read: its server failed {HTTP_OPTIONS['GDAL_HTTP_MAX_RETRY']} times, the connection "
            f"dropped, or the file is damaged there ({redact(error)}); try again later or download it"
        )
    if not Path(href).exists():
        return MissingFileError(f"{name} does not exist; put it back or build the catalogue again")
    return DamagedFileError(
        f"{name} cannot be read, it is cut short or damaged: {redact(error)}; download it again"
    )


@contextmanager
def small_block_cache() -> Iterator[None]:
    """Let GDAL keep few decoded pixels, for work that reads each pixel once; by default it is 5 % of all memory."""
    # The limit is one for the whole process, and leaving a rasterio.Env does not set it back.
    before = get_gdal_config("GDAL_CACHEMAX")
    if before > _BLOCK_CACHE:
        set_gdal_config("GDAL_CACHEMAX", _BLOCK_CACHE)
    try:
        yield
    finally:
        if before > _BLOCK_CACHE:
            set_gdal_config("GDAL_CACHEMAX", before)


def read_header(href: str) -> RasterHeader:
    """Open a raster, local or over HTTP, and read its header.

    Raises
    ------
    MissingFileError, DamagedFileError
    """
    options = HTTP_OPTIONS if "://" in href or href.startswith("/vsi") else {}
    with naming_read_errors(href), rasterio.Env(**options), rasterio.open(href) as source:
        return RasterHeader(
            href=href,
            crs=source.crs,
            shape=source.shape,
            transform=source.transform,
            dtype=source.dtypes[0],
            count=source.count,
            nodata=source.nodata,
            descriptions=source.descriptions,
            cloud_optimized=source.tags(ns="IMAGE_STRUCTURE").get("LAYOUT") == "COG",
        )


def utm_code(crs: CRS | None, name: str) -> str:
    """EPSG code of an image's CRS, which must be a WGS84 UTM zone.

    Raises
    ------
    CRSError
    """
    if crs is None or not crs:
        raise CRSError(
            f"{name} has no coordinate reference system; assign the UTM zone that it was delivered in "
            "(gdal_edit -a_srs EPSG:326xx) or download it again"
        )
    epsg = crs.to_epsg()
    if epsg is None or not (32601 <= epsg <= 32660 or 32701 <= epsg <= 32760):
        raise CRSError(
            f"{name} is in {f'EPSG:{epsg}' if epsg else crs.to_wkt()[:60]}, not in a WGS84 UTM zone "
            "(EPSG:326xx, 327xx), in which Planet delivers; use the file as delivered, without reprojection"
        )
    return f"EPSG:{epsg}"


def check_upright(header: RasterHeader) -> None:
    """Refuse rotated, sheared and bottom-up grids.

    Raises
    ------
    SceneError
    """
    grid = header.transform
    if grid.b or grid.d or grid.a <= 0 or grid.e >= 0:
        raise SceneError(
            f"{header.name} is not a north-up raster (transform {tuple(grid)[:6]}); use the file as delivered"
        )


def check_same_grid(image: RasterHeader, mask: RasterHeader) -> None:
    """Refuse a mask that does not share the image's pixel grid.

    Raises
    ------
    GridMismatchError
    """
    differences = []
    if image.shape != mask.shape:
        differences.append(f"sizes {image.shape} and {mask.shape}")
    if image.crs != mask.crs:
        differences.append(f"reference systems {image.crs} and {mask.crs}")
    if not image.transform.almost_equals(mask.transform, precision=abs(image.transform.a) * 1e-3):
        differences.append(f"transforms {tuple(image.transform)[:6]} and {tuple(mask.transform)[:6]}")
    if differences:
        raise GridMismatchError(
            f"the image {image.name} and its mask {mask.name} do not lie on the same pixels: "
            f"{'; '.join(differences)}. Use image and mask of the same order (both clipped or both whole)"
        )
