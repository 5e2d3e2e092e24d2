"""Which scenes lack which auxiliary layer, before anything is detected."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import pystac
import rasterio
import shapely
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.windows import Window

from darts_xr.cube.landcover import tiles_of_year
from darts_xr.cube.layers import TRENDS, Layer, items_near, layer_of, layer_of_bands
from darts_xr.cube.mosaic import RasterSource, open_source, without_no_data
from darts_xr.cube.plausible import ELEVATION, TREND, ready_made
from darts_xr.globe import bounds_of, box_polygons, transformer
from darts_xr.rasters import HTTP_OPTIONS, naming_read_errors

_POINTS = 64  # along each side of a scene
_READ = 512  # pixels along each side of a window of a layer, at most

#: Layers whose gaps are looked for.
GAP_LAYERS = ("elevation", "trends", "landcover")


def coverage_gaps(scenes: Iterable[pystac.Item], items: Iterable[pystac.Item]) -> pd.DataFrame:
    """Estimate how much of each scene the auxiliary layers cover.

    Parameters
    ----------
    scenes
        Scenes with a footprint.
    items
        Auxiliary items, as of :func:`darts_xr.auxiliary_items`.

    Returns
    -------
    pandas.DataFrame
        One row a scene, index ``scene``; float64 columns ``elevation``, ``trends``, ``landcover``, 0 to 1: the share of
        some 4,000 points of the scene's footprint for which the layer has data; NaN in ``landcover`` where the items
        have no land cover at all, which only the water filter needs, and in all of a scene without footprint. Clouds
        and masks are not known yet; a run measures its shares on all valid pixels. Reads the layers' files, coarsely:
        their overviews where they have some.

    Raises
    ------
    MissingFileError, DamagedFileError, CRSError, LayerError
        If a file of a layer cannot be used; the message names the item.

    Examples
    --------
    >>> gaps = coverage_gaps(dx.load_items("catalog.json"), dx.auxiliary_items("layers"))  # doctest: +SKIP
    >>> gaps[gaps.min(axis=1) < 0.99]  # doctest: +SKIP
    """
    layers = list(items)
    rows = {scene.id: _shares(scene, layers) for scene in scenes}
    table = pd.DataFrame.from_dict(rows, orient="index", columns=list(GAP_LAYERS), dtype=np.float64)
    return table.rename_axis("scene")


def _shares(scene: pystac.Item, items: Sequence[pystac.Item]) -> dict[str, float]:
    lon, lat = _points(scene)
    if not len(lon):
        return dict.fromkeys(GAP_LAYERS, math.nan)
    here = _around(lon, lat)
    near = items_near(items, here, scene.datetime)
    heights = layer_of(near, "dem", -9999.0, ELEVATION)
    heights = heights or layer_of(near, "slope", None, ready_made("slope", -math.inf, math.inf))
    shares = {
        "elevation": _share(heights, lon, lat),
        "trends": _share(layer_of_bands(near, TRENDS, TREND), lon, lat),
        "landcover": 0.0 if any("landcover" in item.assets for item in items) else math.nan,
    }
    tiles = [item for item in near if "landcover" in item.assets]
    if tiles and scene.datetime is not None:
        grounds = [_ground(item) for item in tiles_of_year(tiles, scene.datetime.year)]
        shares["landcover"] = float(shapely.contains_xy(shapely.union_all(grounds), lon, lat).mean())
    return shares


def _ground(item: pystac.Item) -> shapely.Geometry:
    if item.geometry is not None:
        return shapely.make_valid(shapely.geometry.shape(item.geometry))
    return shapely.union_all(
        box_polygons((-180, -90, 180, 90) if item.bbox is None else bounds_of(item.bbox))
    )


def _points(scene: pystac.Item) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Longitude and latitude of points spread evenly over a scene's footprint."""
    if scene.geometry is None and scene.bbox is None:
        return np.empty(0), np.empty(0)
    lon, lat = [], []
    parts = shapely.get_parts(_ground(scene))
    whole = sum(part.area for part in parts)
    for part in parts:
        side = max(2, round(_POINTS * math.sqrt(part.area / whole))) if whole else 2
        west, south, east, north = part.bounds
        steps = (np.arange(side) + 0.5) / side
        x, y = (
            axis.ravel()
            for axis in np.meshgrid(west + (east - west) * steps, south + (north - south) * steps)
        )
        inside = shapely.contains_xy(part, x, y)
        lon.append(x[inside])
        lat.append(y[inside])
    return (np.concatenate(lon), np.concatenate(lat)) if lon else (np.empty(0), np.empty(0))


def _around(lon: NDArray[np.float64], lat: NDArray[np.float64]) -> GeoBox:
    """Coarse grid around points, in the UTM zone of their middle."""
    middle = math.degrees(math.atan2(np.sin(np.radians(lon)).mean(), np.cos(np.radians(lon)).mean()))
    zone = int((middle + 180) // 6) % 60 + 1
    crs = f"EPSG:{32600 + zone if lat.mean() >= 0 else 32700 + zone}"
    x, y = transformer("EPSG:4326", crs).transform(lon, lat)
    step = max(np.ptp(x), np.ptp(y), 1.0) / _POINTS
    return GeoBox.from_bbox((x.min(), y.min(), x.max() + step, y.max() + step), crs, resolution=step)


def _share(layer: Layer | None, lon: NDArray[np.float64], lat: NDArray[np.float64]) -> float:
    known = np.zeros(len(lon), bool)
    for source in () if layer is None else layer.sources:
        if known.all():
            break
        with rasterio.Env(**HTTP_OPTIONS), open_source(source) as file:
            known |= _known(file, source, lon, lat)
    return float(known.mean())


def _known(
    file: rasterio.DatasetReader, source: RasterSource, lon: NDArray[np.float64], lat: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Whether a file has data at points, of all bands; looked up in a window that is read coarsely."""
    crs = source.crs if file.crs is None else file.crs.to_wkt()
    x, y = transformer("EPSG:4326", str(crs)).transform(lon, lat)
    if file.crs is not None and file.crs.is_geographic:
        x = (x - file.bounds.left) % 360 + file.bounds.left
    column, row = ~file.transform @ (x, y)
    inside = (column >= 0) & (column < file.width) & (row >= 0) & (row < file.height)
    known = np.zeros(len(lon), bool)
    if not inside.any():
        return known
    column, row = column[inside], row[inside]
    left, top = math.floor(column.min()), math.floor(row.min())
    width, height = math.floor(column.max()) + 1 - left, math.floor(row.max()) + 1 - top
    shape = min(height, _READ), min(width, _READ)
    with naming_read_errors(source.href):
        values = file.read(
            list(source.bands), window=Window(left, top, width, height), out_shape=(len(source.bands), *shape)
        )
    there: NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(without_no_data(values, file, source)))
    at = Affine.scale(shape[1] / width, shape[0] / height)
    across, down = (np.floor(axis).astype(int) for axis in at @ (column - left, row - top))
    known[inside] = there[down.clip(0, shape[0] - 1), across.clip(0, shape[1] - 1)]
    return known
