"""Write a sample world to disk: images, masks, auxiliary layers, truth and the catalogues that tie them together."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pystac
import rasterio
import rasterio.shutil
import shapely
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from rasterio.windows import Window
from threadpoolctl import threadpool_limits

from darts_xr.catalog import write_catalog
from darts_xr.errors import ParameterError
from darts_xr.planet import planet_items
from darts_xr.planet.masks import UDM2_BANDS
from darts_xr.products import write_vectors
from darts_xr.sample.landscape import GROUNDS, Landscape
from darts_xr.sample.layers import DEM_NODATA, elevation_block, landcover_block, trends_block
from darts_xr.sample.render import Pass, render_block
from darts_xr.stac import EO_EXTENSION, PROJECTION_EXTENSION, RASTER_EXTENSION, grid_fields, set_collection

log = logging.getLogger(__name__)

NOTICE = "synthetic: made by darts_xr.sample, no real observation"
POLAR = "EPSG:3413"
PIXEL = 3.0  # m
_BLOCK = 512
_YEARS = (2021, 2022, 2023)
_PER_SITE = 2 * len(_YEARS)
_SITE_SPACING = 40_000.0  # m


@dataclass(frozen=True)
class SampleWorld:
    """Where the parts of a sample world lie.

    Parameters
    ----------
    root : pathlib.Path
        The folder that holds everything below.
    """

    root: Path

    @property
    def catalog(self) -> Path:
        """STAC catalogue of the scenes."""
        return self.root / "catalog.json"

    @property
    def auxiliary(self) -> Path:
        """STAC catalogue of elevation, trends and land cover."""
        return self.root / "auxiliary" / "catalog.json"

    @property
    def truth(self) -> Path:
        """True outlines of the slumps: columns ``date`` (YYYY-MM-DD) and ``geometry`` (EPSG:4326)."""
        return self.root / "truth.gpkg"

    @property
    def infrastructure(self) -> Path:
        """Roads and pads, a part of them missing as in real maps."""
        return self.root / "infrastructure.gpkg"


def write_world(
    out: str | os.PathLike[str],
    *,
    seed: int = 0,
    scenes: int = 6,
    size: int = 1536,
    centre: tuple[float, float] = (-121.5, 72.3),
    landscape: str = "tundra",
    progress: Callable[[str], None] | None = None,
) -> SampleWorld:
    """Write a synthetic world; the same arguments write the same pixels.

    Parameters
    ----------
    out : path
        Folder to write; made when missing.
    seed : int
        Seed of landscape, weather and sensor noise.
    scenes : int
        Number of images: two a summer for 2021 to 2023, then the next site 40 km to the east.
    size : int
        Rows and columns of an image, pixels of 3 m; 256 to 10,000.
    centre : tuple of float
        Longitude and latitude of the first site, degrees; the UTM zone follows from it.
    landscape : {"tundra", "young_tundra", "polar_desert", "shrubland"}
        Kind of land; see ``darts_xr.sample.landscape.GROUNDS``.
    progress : callable, optional
        Called with a line of text before each file.

    Returns
    -------
    SampleWorld
        Paths of the catalogues and vector files. Everything written carries the word "synthetic".

    Notes
    -----
    Images: four bands uint16, reflectance × 10000, in a rotated swath, with eight-band ``udm2``. Auxiliary: DEM at 2 m
    and Landsat trends at 30 m in EPSG:3413, land cover at 10 m in UTM. Memory depends on neither size nor number.

    Examples
    --------
    >>> import tempfile
    >>> world = write_world(tempfile.mkdtemp(), seed=1, scenes=1, size=256)
    >>> world.catalog.name
    'catalog.json'
    """
    if not 256 <= size <= 10_000:
        raise ParameterError(f"size must be 256 to 10000 pixels, got {size}")
    if scenes < 1:
        raise ParameterError(f"scenes must be at least 1, got {scenes}")
    if landscape not in GROUNDS:
        raise ParameterError(f"landscape must be one of {', '.join(GROUNDS)}, got {landscape!r}")
    say = progress or log.info
    world = SampleWorld(Path(out))
    crs = _utm_crs(*centre)
    east, north = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(*centre)
    truth: list[gpd.GeoDataFrame] = []
    infrastructure: list[gpd.GeoDataFrame] = []
    auxiliary: list[pystac.Item] = []
    for site, numbers in enumerate(_batches(scenes)):
        x0 = round(east / PIXEL) * PIXEL + site * _SITE_SPACING
        y0 = round(north / PIXEL) * PIXEL
        half = (size // 2 + round(0.03 * size)) * PIXEL
        land = Landscape(seed, (x0 - half, y0 - half, x0 + half, y0 + half), GROUNDS[landscape])
        for number in numbers:
            scene_id, acquired, image = _plan_pass(seed, number, x0, y0, size)
            say(f"scene {number + 1} of {scenes}: {scene_id}")
            _write_scene(world.root / "scenes" / scene_id, scene_id, acquired, image, land, crs, size)
            outlines = gpd.GeoSeries(land.truth(image.year), crs=crs).to_crs("EPSG:4326")
            truth.append(
                gpd.GeoDataFrame({"date": f"{acquired:%Y-%m-%d}"}, geometry=outlines, index=outlines.index)
            )
        say(f"auxiliary layers of site {site + 1}")
        auxiliary += _write_auxiliary(world.root / "auxiliary", site, land, crs)
        infrastructure.append(_mapped_infrastructure(land, seed, crs))
    write_catalog(
        planet_items(world.root / "scenes"),
        world.catalog,
        title=f"Sample world {seed}",
        description=f"Scenes, {NOTICE}",
    )
    write_catalog(
        auxiliary, world.auxiliary, title=f"Sample world {seed}", description=f"Auxiliary, {NOTICE}"
    )
    for layers, path in ((truth, world.truth), (infrastructure, world.infrastructure)):
        frame = pd.concat(layers, ignore_index=True)
        write_vectors(frame, path.with_suffix(""), formats=("gpkg",), metadata={"notice": NOTICE})
    return world


def read_truth(world: SampleWorld) -> gpd.GeoDataFrame:
    """Read the true outlines of a world: columns ``date`` and ``geometry``."""
    return gpd.read_file(world.truth)


def _batches(scenes: int) -> Iterator[range]:
    for first in range(0, scenes, _PER_SITE):
        yield range(first, min(first + _PER_SITE, scenes))


def _utm_crs(lon: float, lat: float) -> str:
    zone = int((lon + 180) // 6) % 60 + 1
    return f"EPSG:{(32600 if lat >= 0 else 32700) + zone}"


def _plan_pass(seed: int, number: int, x0: float, y0: float, size: int) -> tuple[str, datetime, Pass]:
    """Day, frame and weather of one image."""
    rng = np.random.default_rng([seed, number, 91])
    year, late = _YEARS[number % _PER_SITE // 2], number % 2
    first_day = datetime(year, 8 if late else 7, 5, 19, 0, tzinfo=UTC)
    acquired = first_day + timedelta(days=int(rng.integers(0, 20)), seconds=int(rng.integers(0, 7200)))
    jitter = rng.integers(-round(0.02 * size), round(0.02 * size) + 1, 2) * PIXEL
    west, north = x0 - size // 2 * PIXEL + jitter[0], y0 + size // 2 * PIXEL + jitter[1]
    image = Pass(
        seed=int(rng.integers(2**31)),
        year=acquired.year + acquired.timetuple().tm_yday / 365.25,
        frame=(west, north - size * PIXEL, west + size * PIXEL, north),
        swath_angle=float(rng.choice([-1, 1]) * rng.uniform(0.22, 0.30)),
        cloud=float(rng.choice([0, 0.01, 0.03, 0.06])),
        haze=float(rng.choice([0, 0, 0.05])),
        snow=float(rng.choice([0, 0.002])),
    )
    satellite = f"24{rng.integers(16, 256):02x}"
    return f"{acquired:%Y%m%d_%H%M%S}_{number % 100:02d}_{satellite}", acquired, image


def _write_scene(
    folder: Path, scene_id: str, acquired: datetime, image: Pass, land: Landscape, crs: str, size: int
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    west, _, _, north = image.frame
    grid = GeoBox((size, size), rasterio.transform.from_origin(west, north, PIXEL, PIXEL), crs)
    xs, ys = west + (np.arange(size) + 0.5) * PIXEL, north - (np.arange(size) + 0.5) * PIXEL

    def draw(window: Window) -> tuple[NDArray[Any], NDArray[Any]]:
        rows, cols = window.toslices()
        return render_block(land, image, xs[cols], ys[rows], (rows.start // _BLOCK, cols.start // _BLOCK))

    stem = folder / f"{scene_id}_3B"
    bands = ("blue", "green", "red", "nir")
    with (
        _CogWriter(Path(f"{stem}_AnalyticMS_SR.tif"), grid, "uint16", bands, nodata=0) as sr,
        _CogWriter(Path(f"{stem}_udm2.tif"), grid, "uint8", UDM2_BANDS, nodata=None) as udm2,
    ):
        for window, (pixels, mask) in _in_threads(draw, _windows(size, size)):
            sr.write(pixels, window)
            udm2.write(mask, window)
    properties = {
        "acquired": acquired.isoformat().replace("+00:00", "Z"),
        "item_type": "PSScene",
        "instrument": "PSB.SD",
        "sun_azimuth": 166.0,
        "sun_elevation": 36.0,
        "view_angle": 2.0,
        "notice": NOTICE,
    }
    metadata = {"id": scene_id, "type": "Feature", "properties": properties}
    (folder / f"{scene_id}_metadata.json").write_text(json.dumps(metadata, indent=1))


def _write_auxiliary(folder: Path, site: int, land: Landscape, crs: str) -> list[pystac.Item]:
    folder.mkdir(parents=True, exist_ok=True)
    west, south, east, north = land.bounds
    margin = 150.0
    frame = GeoBox.from_bbox(
        (west - margin, south - margin, east + margin, north + margin), crs, resolution=10
    )
    items = []

    dem_grid = GeoBox.from_geopolygon(frame.extent.to_crs(POLAR, 100), resolution=2, crs=POLAR)
    dem = folder / f"dem_{site:03d}.tif"
    with _CogWriter(dem, dem_grid, "float32", ("dem",), nodata=DEM_NODATA) as file:
        for window, block in _in_threads(
            lambda w: elevation_block(land, dem_grid[w.toslices()], crs), _windows(*dem_grid.shape)
        ):
            file.write(block[None], window)
    items.append(_item(dem, "arcticdem-like", "dem", ("dem",), dem_grid, "float32", DEM_NODATA, 2016))

    trend_grid = GeoBox.from_geopolygon(frame.extent.to_crs(POLAR, 100), resolution=30, crs=POLAR)
    trends = folder / f"trends_{site:03d}.tif"
    names = ("tc_brightness", "tc_greenness", "tc_wetness")
    with _CogWriter(trends, trend_grid, "uint8", names, nodata=0) as file:
        file.write(
            trends_block(land, trend_grid, crs), Window(0, 0, trend_grid.shape[1], trend_grid.shape[0])
        )
    items.append(_item(trends, "landsat-trends", "trends", names, trend_grid, "uint8", 0, 2019))

    xs, ys = (frame.coords[name].values for name in ("x", "y"))
    for year in _YEARS:
        path = folder / f"landcover_{site:03d}_{year}.tif"
        with _CogWriter(path, frame, "uint8", ("landcover",), nodata=0) as file:
            whole = Window(0, 0, frame.shape[1], frame.shape[0])
            file.write(landcover_block(land, xs, ys, year)[None], whole)
        items.append(_item(path, "esri-landcover", "landcover", ("landcover",), frame, "uint8", 0, year))
    return items


def _mapped_infrastructure(land: Landscape, seed: int, crs: str) -> gpd.GeoDataFrame:
    """Roads in pieces and pads; a fifth of them is missing, as no map is complete."""
    rng = np.random.default_rng([seed, 101])
    shapes: list[tuple[str, shapely.Polygon]] = [("pad", pad.outline.polygon()) for pad in land.pads]
    for road in land.roads:
        shapes += [
            ("road", shapely.LineString(pair).buffer(road.width / 2 + 2)) for pair in pairwise(road.points)
        ]
    kept = [shape for shape in shapes if rng.random() < 0.8]
    frame = gpd.GeoDataFrame(
        {"kind": [kind for kind, _ in kept]}, geometry=[polygon for _, polygon in kept], crs=crs
    )
    return frame.to_crs("EPSG:4326")


def _item(
    path: Path,
    collection: str,
    key: str,
    bands: tuple[str, ...],
    grid: GeoBox,
    dtype: str,
    nodata: float,
    year: int,
) -> pystac.Item:
    """STAC item of an auxiliary raster."""
    footprint = grid.extent.to_crs("EPSG:4326", 1000).geom
    item = pystac.Item(
        id=path.stem,
        geometry=shapely.geometry.mapping(footprint),
        bbox=list(footprint.bounds),
        datetime=datetime(year, 7, 1, tzinfo=UTC),
        properties={
            "description": NOTICE,
            "darts:synthetic": True,
            **grid_fields(str(grid.crs), grid.shape, grid.transform),
        },
        stac_extensions=[PROJECTION_EXTENSION, RASTER_EXTENSION, EO_EXTENSION],
    )
    set_collection(item, collection)
    item.add_asset(
        key,
        pystac.Asset(
            href=str(path.resolve()),
            media_type=pystac.MediaType.COG,
            roles=["data"],
            extra_fields={
                "bands": [{"name": name, "data_type": dtype, "nodata": nodata} for name in bands],
                "eo:bands": [{"name": name} for name in bands],
                "raster:bands": [{"data_type": dtype, "nodata": nodata} for _ in bands],
            },
        ),
    )
    return item


def _windows(height: int, width: int) -> list[Window]:
    return [
        Window(col, row, min(_BLOCK, width - col), min(_BLOCK, height - row))
        for row in range(0, height, _BLOCK)
        for col in range(0, width, _BLOCK)
    ]


def _in_threads(draw: Callable[[Window], Any], windows: list[Window]) -> Iterator[tuple[Window, Any]]:
    """Draw windows in a few threads, in order, with few blocks in memory at a time."""
    workers = os.cpu_count() or 1
    # Threads of BLAS below threads of our own would fight for the cores.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(workers) as pool:
        for first in range(0, len(windows), workers):
            batch = windows[first : first + workers]
            yield from zip(batch, pool.map(draw, batch), strict=True)


class _CogWriter:
    """A cloud-optimised GeoTIFF written block by block by way of a plain tiled file."""

    def __init__(
        self, path: Path, grid: GeoBox, dtype: str, bands: tuple[str, ...], *, nodata: float | None
    ) -> None:
        self.path, self.plain = path, path.with_suffix(".plain.tif")
        self.dataset = rasterio.open(
            self.plain, "w", driver="GTiff", width=grid.shape[1], height=grid.shape[0], count=len(bands), dtype=dtype,
            crs=str(grid.crs), transform=grid.transform, nodata=nodata, tiled=True, blockxsize=512, blockysize=512,
            bigtiff="if_safer",
        )  # fmt: skip
        self.dataset.descriptions = bands
        self.dataset.update_tags(notice=NOTICE)
        self.predictor = 3 if dtype == "float32" else 2

    def write(self, block: NDArray[Any], window: Window) -> None:
        self.dataset.write(block, window=window)

    def __enter__(self) -> _CogWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.dataset.close()
        if kind is None:
            rasterio.shutil.copy(
                self.plain, self.path, driver="COG", compress="ZSTD", level=1, predictor=self.predictor, blocksize=512,
                overview_resampling="nearest", num_threads="ALL_CPUS", bigtiff="if_safer",
            )  # fmt: skip
        self.plain.unlink()
