"""Headers and grids of raster files: read, checked, compared."""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import MaskFlags
from rasterio.env import get_gdal_config, set_gdal_config
from rasterio.errors import NotGeoreferencedWarning, RasterioError

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
# What servers say of an object that is not there, or not for us. GDAL's own "does not exist" is no proof: it also says
# so when it remembers that a server could not be reached.
_ABSENT = ("404", "403", "NoSuchKey", "AccessDenied", "No such file")
_FOREIGN = ("not recognized as", "not a supported file format")
_BLOCK_CACHE = 64_000_000  # bytes: a row of blocks of a scene in each of two files
_LONGEST_ADDRESS = 8192
#: GDAL formats that are opened. Others can name files of this machine (VRT) or reach out to servers (WMS).
DRIVERS = ("GTiff",)


@dataclass(frozen=True)
class RasterLimits:
    """What a scene's rasters may be; anything else is refused by name before a pixel is read.

    Parameters
    ----------
    pixel_size : tuple of float
        Smallest and largest side of a pixel, metres. PlanetScope is delivered at 3 m, older scenes at 3.125 m.
    drivers : tuple of str
        GDAL formats that are opened. ``"GTiff"`` also reads cloud-optimised GeoTIFFs.
    max_side : int
        Rows or columns beyond which a file is taken to be damaged or hostile; scenes have some 10,000.
    """

    pixel_size: tuple[float, float] = (2.0, 5.0)
    drivers: tuple[str, ...] = DRIVERS
    max_side: int = 65_536

    def admit(self, others: RasterLimits) -> bool:
        """Whether all that other limits let pass may pass these, too."""
        return (
            self.pixel_size[0] <= others.pixel_size[0]
            and self.pixel_size[1] >= others.pixel_size[1]
            and set(self.drivers) >= set(others.drivers)
            and self.max_side >= others.max_side
        )


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
    scales: tuple[float, ...] = ()
    offsets: tuple[float, ...] = ()
    has_mask: bool = False  # a mask inside the file, or an alpha band

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
    if any(hint in str(error) for hint in _FOREIGN):
        return DamagedFileError(
            f"{name} is no GeoTIFF, or its first bytes are damaged; download it again, or convert it "
            "(gdal_translate -of COG)"
        )
    if _is_virtual(href):
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


@contextmanager
def quiet_threads() -> Iterator[None]:
    """Keep rasterio from warning of grids of its own in memory while several threads use it.

    rasterio hides these warnings while it makes such a grid, by changing the filters of the whole process and setting
    them back; of two threads that do so at once, one sets back too early, and the other's warning is shown.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


def _is_virtual(href: str) -> bool:
    """Whether GDAL reads an address through one of its file systems and not from this machine's."""
    return "://" in href or href.startswith("/vsi")


def layer_drivers(href: str) -> tuple[str, ...]:
    """GDAL formats of a layer's file; a VRT can name any file, so it must be on this machine and be called one."""
    return ("VRT",) if href.lower().endswith(".vrt") and "://" not in href else DRIVERS


def open_raster(href: str, drivers: Sequence[str] = DRIVERS) -> rasterio.DatasetReader:
    """Open a raster file: the one place where darts_xr does.

    Parameters
    ----------
    href : str
        Path or address.
    drivers : sequence of str
        GDAL formats that may be.

    Returns
    -------
    rasterio.DatasetReader

    Raises
    ------
    MissingFileError, DamagedFileError, RemoteReadError
        The file is not there, is no regular file, is of another format, or cannot be read.
    """
    if "\0" in href or len(href) > _LONGEST_ADDRESS:
        raise MissingFileError(
            f"{redact(href[:80])!r}… is no address of a file ({len(href)} characters); build the catalogue again"
        )
    if not _is_virtual(href):
        try:
            mode = os.stat(href).st_mode
        except OSError as error:
            raise MissingFileError(
                f"{redact(href)} does not exist; put it back or build the catalogue again"
            ) from error
        if not stat.S_ISREG(mode):
            raise DamagedFileError(
                f"{redact(href)} is no regular file (a folder, a pipe or a device); give the raster file itself"
            )
    options = HTTP_OPTIONS if _is_virtual(href) else {}
    with naming_read_errors(href), rasterio.Env(**options):
        for driver in drivers[:-1]:  # rasterio takes one at a time
            with suppress(RasterioError):
                return rasterio.open(href, driver=driver)
        return rasterio.open(href, driver=drivers[-1])


def read_header(href: str, drivers: Sequence[str] = DRIVERS) -> RasterHeader:
    """Open a raster, local or over HTTP, and read its header.

    Raises
    ------
    MissingFileError, DamagedFileError, RemoteReadError
        As for :func:`open_raster`.
    """
    with open_raster(href, drivers) as source, naming_read_errors(href):
        flags = source.mask_flag_enums[0]
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
            scales=source.scales,
            offsets=source.offsets,
            has_mask=MaskFlags.per_dataset in flags,
        )


def read_image(dataset: rasterio.DatasetReader, bands: Sequence[int], window: Any) -> NDArray[Any]:
    """Bands of one window, (band, y, x), 0 in all of them where the file says that it has no data.

    Each compressed block is decoded once for all bands. A file says so by 0 in every band (Planet's way), by another
    no-data value, or by a mask inside it.
    """
    pixels: NDArray[Any] = dataset.read(list(bands), window=window)
    if dataset.nodata:  # neither None nor 0
        pixels[:, (pixels == dataset.nodata).all(axis=0)] = 0
    if MaskFlags.per_dataset in dataset.mask_flag_enums[bands[0] - 1]:
        pixels[:, dataset.dataset_mask(window=window) == 0] = 0
    return pixels


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


def check_grid(header: RasterHeader, limits: RasterLimits = RasterLimits()) -> None:
    """Refuse pixel grids that are none, rotated, mirrored, not square, too coarse, too fine or too large.

    Raises
    ------
    SceneError
        The message names the file, what it has and what it should have.
    """
    grid = header.transform
    six = tuple(round(float(value), 6) for value in tuple(grid)[:6])
    if not np.isfinite(six).all() or not grid.a or not grid.e:
        raise SceneError(f"{header.name} has no pixel grid (transform {six}); download it again")
    if grid.b or grid.d or grid.a < 0 or grid.e > 0:
        raise SceneError(
            f"{header.name} is not a north-up raster (transform {six}); use the file as delivered"
        )
    if abs(grid.a + grid.e) > 1e-3 * grid.a:
        raise SceneError(
            f"{header.name} has pixels of {grid.a:g} × {-grid.e:g} m, which are not square; use the file as delivered"
        )
    least, most = limits.pixel_size
    if not least <= grid.a <= most:
        raise SceneError(
            f"{header.name} has pixels of {grid.a:g} m, and {least:g} to {most:g} m are expected of PlanetScope; if "
            "your networks are made for such pixels, allow them (--pixel-size, or RasterLimits(pixel_size=…))"
        )
    if max(header.shape) > limits.max_side:
        rows, columns = header.shape
        raise SceneError(
            f"{header.name} is {rows:,} × {columns:,} pixels, more than the {limits.max_side:,} a side that are "
            "read; it is damaged, or cut it into scenes (RasterLimits(max_side=…) allows more)"
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
