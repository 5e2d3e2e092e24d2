"""Pictures for a reviewer: the image, the probability and the outline of a detection, on several dates."""

from __future__ import annotations

import base64
import io
import logging
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import geopandas as gpd
import numpy as np
import odc.geo.xr  # noqa: F401  registers .odc
import pystac
import rasterio
import rasterio.windows
import shapely
import xarray as xr
from numpy.typing import NDArray
from PIL import Image
from rasterio.warp import transform_bounds
from shapely.geometry.base import BaseGeometry

import darts_xr as dx
from darts_xr.percent import NO_DATA
from darts_xr.products.quicklook import stretch_rgb
from darts_xr.products.styles import HEAT_COLOURS
from pipelines.aggregation import read_footprints
from pipelines.records import Run

log = logging.getLogger(__name__)

_SIDE = 320  # px of a picture
_LEAST = 300.0  # m that a picture shows at least
_MARGIN = 2.0  # times the detection
_GREY = 200  # where nothing was seen
_OPEN = 8  # scenes whose headers are kept

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Crop:
    """One date of a detection.

    Parameters
    ----------
    when : str
        Date.
    image, probability : str
        Pictures as data addresses; empty where there is none.
    """

    when: str
    image: str
    probability: str


class Crops:
    """Cuts pictures out of a run and the scenes it was made from.

    Parameters
    ----------
    run : Run
        The run.
    images : pystac.ItemCollection, optional
        The scenes; without them there is only the probability.
    """

    def __init__(self, run: Run, images: pystac.ItemCollection | None) -> None:
        self._run = run
        self._items = {item.id: item for item in images or []}
        self.without_image: set[str] = set()  # scenes that a picture was wanted of, and that are not at hand
        self._scenes: dict[str, xr.Dataset] = {}

    @cached_property
    def _footprints(self) -> gpd.GeoDataFrame:
        return read_footprints(self._run)

    @cached_property
    def _tree(self) -> shapely.STRtree:
        return shapely.STRtree(self._footprints.geometry.to_numpy())

    def around(self, row: Any) -> dict[str, Any]:
        """Pictures of a detection's own image, and of the dates before and after it, on the same ground.

        Parameters
        ----------
        row : named tuple
            A row of Level 1.

        Returns
        -------
        dict
            ``before``, ``now``, ``after`` (each a dict of ``when``, ``image``, ``probability``, or None),
            ``metres`` (side of the pictures), ``outline`` (an SVG path, 0 to 1000 on both axes).
        """
        with self._probability(row.image_id) as data:
            crs = str(data.crs)
        shape = gpd.GeoSeries([row.geometry], crs="EPSG:4326").to_crs(crs).iloc[0]
        box = _square(shape)
        before, after = self._neighbours(row)
        crops = {
            "before": self._crop(before, box, crs), "now": self._crop(row.image_id, box, crs),
            "after": self._crop(after, box, crs),
        }  # fmt: skip
        return {
            **{name: None if crop is None else vars(crop) for name, crop in crops.items()},
            "metres": round(box[2] - box[0]), "outline": _path(shape, box),
        }  # fmt: skip

    def _neighbours(self, row: Any) -> tuple[str | None, str | None]:
        """Images of the nearest earlier and later date that saw the middle of a detection."""
        places = self._tree.query(row.geometry.representative_point(), predicate="intersects")
        seen = self._footprints.iloc[places].sort_values(["date", "image_id"])
        earlier, later = seen[seen["date"] < row.date], seen[seen["date"] > row.date]
        return (
            str(earlier["image_id"].iloc[-1]) if len(earlier) else None,
            str(later["image_id"].iloc[0]) if len(later) else None,
        )

    def _crop(self, image_id: str | None, box: Box, crs: str) -> Crop | None:
        if image_id is None:
            return None
        day = next(scene["date"] for scene in self._run.done if scene["id"] == image_id)
        with self._probability(image_id) as data:
            here = box if str(data.crs) == crs else transform_bounds(crs, data.crs, *box)
            window = rasterio.windows.from_bounds(*here, transform=data.transform).round_offsets()
            window = window.round_lengths()
            percent = data.read(1, window=window, boundless=True, fill_value=NO_DATA)
        return Crop(day, self._image(image_id, here), _picture(_heat(percent), "PNG"))

    def _probability(self, image_id: str) -> Any:
        return _Raster(self._run.home.scene(image_id) / "probability.tif")

    def _image(self, image_id: str, box: Box) -> str:
        """Picture of the scene itself, stretched to what it shows."""
        if image_id not in self._items:
            self.without_image.add(image_id)
            return ""
        if image_id not in self._scenes:
            if len(self._scenes) >= _OPEN:
                self._scenes.pop(next(iter(self._scenes)))
            self._scenes[image_id] = dx.open_scene(self._items[image_id], bands=("red", "green", "blue"))
        scene = self._scenes[image_id]
        grid = scene["valid"].odc.geobox
        left, top = ~grid.affine @ (box[0], box[3])
        right, bottom = ~grid.affine @ (box[2], box[1])
        rows, columns = (round(top), round(bottom)), (round(left), round(right))
        inside = [
            slice(max(a, 0), max(min(b, n), 0)) for (a, b), n in zip((rows, columns), grid.shape, strict=True)
        ]
        part = scene[["red", "green", "blue", "valid"]].isel(y=inside[0], x=inside[1]).compute()
        canvas = np.full((rows[1] - rows[0], columns[1] - columns[0], 3), _GREY, np.uint8)
        if part["valid"].size:
            pixels = np.stack([part[name].values for name in ("red", "green", "blue")]).astype(np.float32)
            rgba = stretch_rgb(pixels, part["valid"].values)
            shown = np.where(rgba[..., 3:] > 0, rgba[..., :3] * 255, _GREY).round().astype(np.uint8)
            y, x = inside[0].start - rows[0], inside[1].start - columns[0]
            canvas[y : y + shown.shape[0], x : x + shown.shape[1]] = shown
        return _picture(canvas, "JPEG")


class _Raster:
    """A raster wherever it lies, open for the duration of a block."""

    def __init__(self, path: Any) -> None:
        self._path = path

    def __enter__(self) -> Any:
        self._file = self._path.open("rb")
        self._data = rasterio.open(self._file)
        return self._data

    def __exit__(self, *_: object) -> None:
        self._data.close()
        self._file.close()


def _square(shape: BaseGeometry) -> Box:
    """Square around a shape, with room."""
    west, south, east, north = shape.bounds
    half = max(_LEAST, _MARGIN * max(east - west, north - south)) / 2
    x, y = (west + east) / 2, (south + north) / 2
    return x - half, y - half, x + half, y + half


def _path(shape: BaseGeometry, box: Box) -> str:
    """Outline as an SVG path, 0 to 1000."""
    west, _, east, north = box
    scale = 1000 / (east - west)
    rings = shapely.get_rings(shapely.get_parts(shape))
    parts = []
    for ring in rings:
        xy = shapely.get_coordinates(ring)
        points = " ".join(f"{(x - west) * scale:.0f},{(north - y) * scale:.0f}" for x, y in xy)
        parts.append(f"M{points}Z")
    return "".join(parts)


def _heat(percent: NDArray[np.uint8]) -> NDArray[np.uint8]:
    table = np.full((256, 3), _GREY, np.uint8)
    table[: len(HEAT_COLOURS)] = HEAT_COLOURS
    return table[percent]


def _picture(pixels: NDArray[np.uint8], kind: str) -> str:
    """Pixels as a data address."""
    image = Image.fromarray(pixels).resize((_SIDE, _SIDE), Image.Resampling.NEAREST)
    if kind == "PNG":
        image = image.quantize(64)
    buffer = io.BytesIO()
    image.save(buffer, format=kind, quality=82)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
