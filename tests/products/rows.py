"""Small Level 1 tables for the tests of products."""

from __future__ import annotations

from collections.abc import Sequence

import geopandas as gpd
import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from darts_xr.products import level1, merge_level1
from darts_xr.products.level_one import STATISTICS


def feats(shapes: Sequence[BaseGeometry], mean: float = 0.6, crs: str = "EPSG:4326") -> gpd.GeoDataFrame:
    columns = {name: np.full(len(shapes), mean) for name in STATISTICS}
    columns["pval_max"] = np.full(len(shapes), mean + 0.2)
    return gpd.GeoDataFrame(columns, geometry=list(shapes), crs=crs)


def image(
    day: str, shapes: Sequence[BaseGeometry], mean: float = 0.6, tail: str = "1034"
) -> gpd.GeoDataFrame:
    """Level 1 of one image of the day (YYYY-MM-DD)."""
    scene = {"item_id": f"{day.replace('-', '')}_201500_{tail}", "time": f"{day}T20:15:00Z"}
    return level1(feats(shapes, mean), scene, model_version="demo", threshold="0.5")


def box(west: float, south: float = 0, side: float = 1.0) -> BaseGeometry:
    """A square in thousandths of a degree from 139°W, 69°N."""
    west, south, side = -139 + west / 1000, 69 + south / 1000, side / 1000
    return shapely.box(west, south, west + side, south + side)


def random_level1(seed: int, n: int, days: Sequence[str]) -> gpd.GeoDataFrame:
    """Random overlapping circles over some images."""
    rng = np.random.default_rng(seed)
    frames = []
    for i, day in enumerate(days):
        centres = rng.uniform([-139.02, 69], [-138.98, 69.02], (n, 2))
        shapes = shapely.buffer(shapely.points(centres), rng.uniform(2e-4, 3e-3, n), quad_segs=4)
        frames.append(image(day, list(shapes), float(rng.uniform(0.5, 0.9)), tail=f"{i:04x}"))
    return merge_level1(frames)
