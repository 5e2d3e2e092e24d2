"""Where a scene holds valid pixels: counts, and an outline in longitude and latitude, in one pass."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import rasterio.features
import rasterio.transform
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.windows import Window
from scipy import ndimage
from shapely.geometry import MultiPoint, Polygon, box
from shapely.geometry.base import BaseGeometry

from darts_xr.globe import to_lonlat
from darts_xr.planet.bands import IMAGE_BANDS, check_reflectance
from darts_xr.planet.masks import BLACKFILL, UDM1_CLOUD, find_rule
from darts_xr.rasters import DRIVERS, RasterHeader, naming_read_errors, open_raster, read_image

_SAMPLE = 16  # every so many pixels one is looked at for its brightness
_STRIP = 512  # rows read at once: a whole number of the blocks of delivered files
_CELLS = 2048  # longest side of the coarse grid that the outline is drawn on
_VERTICES = 48  # an outline with more is simplified further
_PARTS = 32  # an outline with more parts becomes their hull
_WARNINGS = (
    threading.Lock()
)  # rasterio silences a warning while it traces shapes, which threads undo for each other


@dataclass(frozen=True)
class Survey:
    """Pixel counts of a scene, and which cells of a coarse grid hold a valid pixel."""

    total: int
    seen: int  # pixels with data
    valid: int
    cloudy: int  # pixels with data that the mask calls cloud
    cells: NDArray[np.bool_]
    step: int  # pixels along a cell

    @property
    def cloud_cover(self) -> float:
        """Per cent of the pixels with data."""
        return round(100 * self.cloudy / self.seen, 2) if self.seen else 0.0

    @property
    def valid_fraction(self) -> float:
        """Share of all pixels of the raster."""
        return round(self.valid / self.total, 6)


def survey(
    image: RasterHeader | None,
    bands: tuple[int, ...],
    mask: RasterHeader | None,
    rule: str | None,
    *,
    drivers: Sequence[str] = DRIVERS,
) -> Survey:
    """Read a scene's image and mask once, strip by strip, and count.

    A pixel holds data where one of the four bands is not 0 and the mask knows no blackfill; it is valid where
    it holds data and the mask rule allows it. Every block is decoded, so a file cut short is found here.

    Raises
    ------
    DamagedFileError, MaskError
    UnsupportedProductError
        The numbers cannot be surface reflectance.
    """
    header = image or mask
    assert header is not None  # the caller has at least one of them
    height, width = header.shape
    step = 1
    while max(height, width) > step * _CELLS:
        step *= 2
    cells = np.zeros((-(-height // step), -(-width // step)), dtype=bool)
    seen_count = valid_count = cloudy_count = 0
    samples: list[NDArray[Any]] = []
    with ExitStack() as stack:
        image_file = stack.enter_context(open_raster(image.href, drivers)) if image else None
        mask_file = stack.enter_context(open_raster(mask.href, drivers)) if mask else None
        for row in range(0, height, _STRIP):
            window = Window(0, row, width, min(_STRIP, height - row))
            seen = np.ones((int(window.height), width), dtype=bool)
            if image and image_file:
                with naming_read_errors(image.href):
                    pixels = read_image(image_file, bands, window)
                seen &= pixels.any(axis=0)
            valid = seen
            if mask and mask_file and rule:
                with naming_read_errors(mask.href):
                    strip = mask_file.read(window=window)
                seen &= (strip[-1] & BLACKFILL) == 0
                valid = seen & find_rule(rule, mask.count).valid(strip)
                cloud = (strip[5] == 1) if mask.count >= 8 else (strip[0] & UDM1_CLOUD) != 0
                cloudy_count += int(np.count_nonzero(cloud & seen))
            if image:
                every = (slice(None, None, _SAMPLE), slice(None, None, _SAMPLE))
                samples.append(pixels[:, *every][:, valid[every]])
            seen_count += int(np.count_nonzero(seen))
            valid_count += int(np.count_nonzero(valid))
            coarse = _any_in_cells(valid, step)
            cells[row // step : row // step + coarse.shape[0]] = coarse
    if image and samples:
        check_reflectance(dict(zip(IMAGE_BANDS, np.concatenate(samples, axis=1), strict=True)), image.name)
    return Survey(height * width, seen_count, valid_count, cloudy_count, cells, step)


def _any_in_cells(valid: NDArray[np.bool_], step: int) -> NDArray[np.bool_]:
    rows, columns = (-(-side // step) * step for side in valid.shape)
    padded = np.zeros((rows, columns), dtype=bool)
    padded[: valid.shape[0], : valid.shape[1]] = valid
    return np.asarray(padded.reshape(rows // step, step, columns // step, step).any(axis=(1, 3)))


def footprint(found: Survey, header: RasterHeader) -> BaseGeometry:
    """Outline of the valid pixels in longitude and latitude, split where it crosses 180°.

    It covers every valid pixel, fills holes and bays, and has few vertices. A scene without any valid pixel
    gives its frame, as an item without geometry could never be found again.

    Returns
    -------
    shapely.Polygon or shapely.MultiPolygon
        EPSG:4326, counter-clockwise.
    """
    height, width = header.shape
    frame = box(*rasterio.transform.array_bounds(height, width, header.transform))
    cell_grid = header.transform @ Affine.scale(found.step) if found.step > 1 else header.transform
    outline = _outline(found.cells, cell_grid).intersection(frame) if found.valid else frame
    assert header.crs is not None  # checked by utm_code
    return to_lonlat(outline, header.crs)


def _outline(cells: NDArray[np.bool_], grid: Affine) -> BaseGeometry:
    """Polygon of few vertices that covers all true cells."""
    filled = ndimage.binary_fill_holes(cells)
    parts = ndimage.label(filled, structure=np.ones((3, 3)))[1]
    if parts > _PARTS:
        # Pixels that clouds have scattered: their hull says as much as thousands of specks.
        corners = np.argwhere(filled)
        corners = np.concatenate([corners + offset for offset in ((0, 0), (0, 1), (1, 0), (1, 1))])
        x = grid.c + grid.a * corners[:, 1]
        y = grid.f + grid.e * corners[:, 0]
        return MultiPoint(np.column_stack([x, y])).convex_hull
    with _WARNINGS:
        shapes = list(rasterio.features.shapes(filled.astype("uint8"), mask=filled, transform=grid))
    exact = shapely.union_all([Polygon(shape["coordinates"][0]) for shape, _ in shapes])
    tolerance = grid.a * 2 / 3
    for _ in range(10):
        simple = _covering(exact, tolerance)
        if shapely.get_num_coordinates(simple) <= _VERTICES:
            return simple
        tolerance *= 1.5
    return shapely.convex_hull(exact)


def _covering(exact: BaseGeometry, tolerance: float) -> BaseGeometry:
    """Simplify, then grow by as much as the simplification cut off."""
    simple = shapely.simplify(exact, tolerance)
    margin = float(shapely.distance(shapely.points(shapely.get_coordinates(exact)), simple).max())
    while True:
        grown = shapely.buffer(simple, margin, join_style="mitre")
        if shapely.covers(grown, exact):
            return _solid(grown)
        margin = margin * 1.25 + 1e-3


def _solid(geometry: BaseGeometry) -> BaseGeometry:
    return shapely.union_all([Polygon(part.exterior) for part in shapely.get_parts(geometry)])
