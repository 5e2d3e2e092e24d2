"""One picture of a result: the image, the probability, and the outlines that came of it."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import shapely
import xarray as xr
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from darts_xr.products.files import write_product
from darts_xr.products.styles import HEAT_COLOURS

# Drawn with Pillow: a figure of matplotlib takes 0.2 s, a tenth of a small scene's time in the networks.
_LEAST_SIDE = 450  # px; smaller pictures are enlarged by whole numbers
_EDGE, _GAP, _HEAD, _FOOT, _LEGEND = 14, 14, 58, 34, 74  # px around and between the two panels
_FINE = 2  # outlines are drawn so much larger and then averaged, which smooths them
_NO_DATA = 217  # grey
_YELLOW, _CYAN = (255, 235, 0), (0, 235, 255)


def stretch_rgb(image: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Bring reflectance (3, y, x) to a picture (y, x, 4): 2 to 98 % of the valid pixels, clear where masked."""
    picture = np.zeros((*image.shape[1:], 4), np.float32)
    if valid.any():
        low, high = np.percentile(image[:, valid], (2, 98), axis=1)[..., None, None]
        stretched = np.clip((image - low) / np.maximum(high - low, 1), 0, 1) ** 0.8
        picture[..., :3] = np.moveaxis(stretched, 0, -1)
    picture[..., 3] = valid
    return picture


def write_quicklook(
    image: xr.Dataset, probability: xr.DataArray, outlines: gpd.GeoDataFrame, path: str | Path, *, title: str
) -> Path:
    """Draw image and probability side by side with the outlines on both.

    Parameters
    ----------
    image : xarray.Dataset
        ``red``, ``green``, ``blue`` and ``valid``, in memory; a decimated scene is enough.
    probability : xarray.DataArray
        (y, x) 0 to 1, NaN where masked, in memory, on the pixels of ``image``.
    outlines : geopandas.GeoDataFrame
        Objects in any CRS.
    path : path
        The PNG file.
    title : str
        Heading; synthetic scenes must be called so in it.

    Returns
    -------
    pathlib.Path
        The file.
    """
    grid = image["valid"].odc.geobox
    enlarge = max(1, -(-_LEAST_SIDE // max(grid.shape)))
    height, width = (n * enlarge for n in grid.shape)
    pixels = np.stack([image[name].values for name in ("red", "green", "blue")]).astype(np.float32)
    lines = _lines(outlines.to_crs(str(grid.crs)), ~grid.transform, enlarge) if len(outlines) else []
    panels = (
        (
            "image (red, green, blue) and objects",
            _on_grey(stretch_rgb(pixels, image["valid"].values)),
            _YELLOW,
        ),
        ("ensemble probability and objects", _heat(probability.values), _CYAN),
    )
    size = 2 * width + _GAP + 2 * _EDGE + _LEGEND, _HEAD + height + _FOOT
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    draw.text((_EDGE, 10), _printable(title), fill="black", font=_font(17))
    for number, (heading, panel, colour) in enumerate(panels):
        left = _EDGE + number * (width + _GAP)
        whole = Image.fromarray(panel).resize((width, height), Image.Resampling.NEAREST)
        whole.paste(colour, mask=_stroke(lines, (width, height)))
        picture.paste(whole, (left, _HEAD))
        draw.rectangle((left - 1, _HEAD - 1, left + width, _HEAD + height), outline="black")
        draw.text((left, _HEAD - 20), heading, fill="black", font=_font(13))
    _scale_bar(draw, (_EDGE, _HEAD + height + 10), width, abs(grid.resolution.x) / enlarge)
    _legend(picture, draw, (_EDGE + 2 * width + _GAP + 14, _HEAD), height)
    write_product(Path(path), lambda part: picture.save(part, format="PNG", compress_level=1))
    return Path(path)


def _on_grey(rgba: NDArray[np.float32]) -> NDArray[np.uint8]:
    shown = np.where(rgba[..., 3:] > 0, rgba[..., :3] * 255, _NO_DATA)
    return np.asarray(shown.round().astype(np.uint8))


def _heat(probability: NDArray[Any]) -> NDArray[np.uint8]:
    known = np.isfinite(probability)
    percent = (np.where(known, probability, 0) * 100).round().astype(np.uint8)
    return np.where(known[..., None], HEAT_COLOURS[percent], np.uint8(_NO_DATA))


def _lines(outlines: gpd.GeoDataFrame, to_pixel: Any, enlarge: int) -> list[NDArray[np.float64]]:
    """Rings as (point, x y) in pixels of a panel."""
    lines = []
    for ring in shapely.get_rings(shapely.get_parts(outlines.geometry.to_numpy())):
        x, y = shapely.get_coordinates(ring).T
        lines.append(np.column_stack(to_pixel @ (x, y)) * enlarge)
    return lines


def _stroke(lines: list[NDArray[np.float64]], size: tuple[int, int]) -> Image.Image:
    """How much of each pixel the lines cover."""
    mask = Image.new("L", (size[0] * _FINE, size[1] * _FINE))
    draw = ImageDraw.Draw(mask)
    for line in lines:
        draw.line([(x, y) for x, y in line * _FINE], fill=255, width=_FINE, joint="curve")
    return mask.reduce(_FINE)


def _scale_bar(draw: ImageDraw.ImageDraw, place: tuple[int, int], width: int, pixel: float) -> None:
    """Draw a bar of a round length, about a quarter of a panel."""
    reach = width * pixel / 4
    power = 10 ** math.floor(math.log10(reach))
    length = max(step * power for step in (1, 2, 5) if step * power <= reach)
    (left, top), right = place, place[0] + length / pixel
    draw.rectangle((left, top, right, top + 4), fill="black")
    shown = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    draw.text((right + 8, top - 6), shown, fill="black", font=_font(13))


def _legend(picture: Image.Image, draw: ImageDraw.ImageDraw, place: tuple[int, int], height: int) -> None:
    """Draw the colours of the probability."""
    left, top = place
    bar = Image.fromarray(HEAT_COLOURS[::-1][:, None].repeat(12, axis=1)).resize((12, height))
    picture.paste(bar, place)
    draw.rectangle((left - 1, top - 1, left + 12, top + height), outline="black")
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = top + round((1 - share) * (height - 1))
        draw.line((left + 12, y, left + 16, y), fill="black")
        draw.text((left + 20, y - 7), f"{share:g}", fill="black", font=_font(12))


@lru_cache(maxsize=4)
def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def _printable(text: str) -> str:
    """Text as it may be drawn: an id that somebody else chose may hold anything."""
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text
    )
