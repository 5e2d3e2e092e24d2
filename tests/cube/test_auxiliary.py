from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pystac
import pytest
import rasterio.shutil
import torch
import xarray as xr
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from darts_xr.catalog import load_items, write_catalog
from darts_xr.cube.arcticdem import arcticdem_items
from darts_xr.cube.auxiliary import AUXILIARY_BANDS, TERRAIN, TRENDS, auxiliary_layers, neutral_layers
from darts_xr.cube.landcover import landcover_for
from darts_xr.cube.mosaic import RasterSource
from darts_xr.cube.terrain import relative_elevation, slope
from darts_xr.cube.warp import boxes_meet, grid_bounds, warp_onto
from darts_xr.device_array import DeviceArray
from darts_xr.errors import CRSError, LandCoverError, MissingBandsError, MissingFileError
from tests.catalog.deliveries import validate
from tests.cube.rasters import centres, item, scene_at, seen_from, source_grid, write
from tests.helpers import raise_if_dask_computes, real_data

TREND_BANDS = [{"name": name} for name in TRENDS]


def _heights(grid: GeoBox) -> NDArray[np.float32]:
    x, y = (v - v.mean() for v in centres(grid))
    return (1500 + 0.2 * x + 12 * np.sin(x / 60) * np.cos(y / 45)).astype("float32")


@pytest.fixture
def scene() -> GeoBox:
    return scene_at(-124.0, 72.0, (150, 130))


@pytest.fixture
def world(scene: GeoBox, tmp_path: Path) -> list[pystac.Item]:
    """Auxiliary items of a scene: a DEM in two tiles with a void, and trends; and a DEM elsewhere without file."""
    grid = source_grid(scene, "EPSG:3413", 2.0, margin=60)
    z = _heights(grid)
    middle = (z.shape[0] // 2, z.shape[1] // 2)
    z[middle[0] - 12 : middle[0] - 4, middle[1] + 20 : middle[1] + 35] = -9999
    left, right = slice(0, middle[1] + 9), slice(middle[1], None)
    coarse = source_grid(scene, "EPSG:3413", 30.0, margin=4)
    x, y = centres(coarse)
    trends = np.stack([127 + 50 * np.sin(x / 200), 127 + 50 * np.cos(y / 200), 0 * x + 90]).astype("uint8")
    return [
        item("away", "dem", "nowhere.tif", scene_at(20.0, 70.0)),
        item("dem-left", "dem", write(tmp_path / "l.tif", z[:, left], grid[:, left], -9999), grid[:, left]),
        item(
            "dem-right", "dem", write(tmp_path / "r.tif", z[:, right], grid[:, right], -9999), grid[:, right]
        ),
        item("trends", "tcvis", write(tmp_path / "t.tif", trends, coarse), coarse, TREND_BANDS),
    ]


def test_layers_are_lazy_typed_and_on_the_scene_grid(world: list[pystac.Item], scene: GeoBox) -> None:
    with raise_if_dask_computes():
        layers = auxiliary_layers(world, scene, chunks=(64, 50))
    assert list(layers) == [*AUXILIARY_BANDS, "measured"]
    for name, layer in layers.items():
        assert layer.dtype == (np.float32 if name in TERRAIN else np.uint8)
        assert layer.odc.geobox == scene
        assert layer.chunksizes == {"y": (64, 64, 22), "x": (50, 50, 30)}
        assert layer.name == name
        if name == "measured":
            continue
        assert layer.attrs["units"] == {"relative_elevation": "m", "slope": "degree"}.get(name, "1")
    assert layers["relative_elevation"].attrs["radius"] == 50
    xr.Dataset(layers)


def test_terrain_is_that_of_one_warp_of_the_dem(world: list[pystac.Item], scene: GeoBox) -> None:
    tiles = [RasterSource(i.assets["dem"].href, i.id, nodata=-9999) for i in world[1:3]]
    dem = warp_onto(tiles, scene, margin_px=20).compute()
    layers = auxiliary_layers(world, scene, needed=TERRAIN, chunks=70, radius=40)
    inner = (slice(20, -20), slice(20, -20))
    np.testing.assert_allclose(layers["relative_elevation"], relative_elevation(dem, 40)[inner], atol=1e-3)
    np.testing.assert_allclose(layers["slope"], slope(dem)[inner], atol=5e-3)
    assert 0 < np.isnan(layers["slope"]).mean() < 0.05
    # Neither scene edge nor chunk border is a void: the halo is read from the DEM.
    assert np.isfinite(layers["slope"].values[[0, -1, 70]]).all()


@pytest.mark.parametrize("grid", ["scene", "dem"])
def test_terrain_does_not_depend_on_chunks(world: list[pystac.Item], scene: GeoBox, grid: Any) -> None:
    whole = auxiliary_layers(world, scene, needed=TERRAIN, chunks=-1, terrain_grid=grid)
    for chunks in (37, (150, 41)):
        parts = auxiliary_layers(world, scene, needed=TERRAIN, chunks=chunks, terrain_grid=grid)
        np.testing.assert_allclose(parts["relative_elevation"], whole["relative_elevation"], atol=1e-3)
        np.testing.assert_allclose(parts["slope"], whole["slope"], atol=5e-3)


def test_both_terrain_grids_agree_on_smooth_ground(world: list[pystac.Item], scene: GeoBox) -> None:
    on_scene, on_dem = (
        auxiliary_layers(world, scene, needed=TERRAIN, terrain_grid=grid) for grid in ("scene", "dem")
    )
    for name, tolerance in (("relative_elevation", 0.1), ("slope", 0.3)):
        difference = np.abs(on_scene[name] - on_dem[name])
        assert float(difference.quantile(0.99)) < tolerance
        assert on_dem[name].attrs["terrain_grid"] == "dem"


def test_bands_can_be_asked_for_one_by_one(world: list[pystac.Item], scene: GeoBox) -> None:
    together = auxiliary_layers(world, scene)
    for name in AUXILIARY_BANDS:
        alone = auxiliary_layers(world, scene, needed=[name])
        assert list(alone) == [name, "measured"]
        np.testing.assert_allclose(alone[name], together[name], atol=5e-3)


def test_trends_come_in_the_order_of_their_names(world: list[pystac.Item], scene: GeoBox) -> None:
    x, y = seen_from(scene, "EPSG:3413")
    layers = auxiliary_layers(world, scene, needed=TRENDS)
    np.testing.assert_allclose(layers["tc_brightness"], 127 + 50 * np.sin(x / 200), atol=2.5)
    np.testing.assert_allclose(layers["tc_greenness"], 127 + 50 * np.cos(y / 200), atol=2.5)
    assert (layers["tc_wetness"] == 90).all()
    nearest = auxiliary_layers(world, scene, needed=["tc_brightness"], trends_resampling="nearest")
    assert len(np.unique(nearest["tc_brightness"])) <= len(np.unique(layers["tc_brightness"]))
    swapped = world[3].clone()
    swapped.assets["tcvis"].extra_fields["bands"] = TREND_BANDS[::-1]
    other = auxiliary_layers([swapped], scene, needed=TRENDS)
    np.testing.assert_array_equal(other["tc_wetness"], layers["tc_brightness"])


def test_trends_without_data_are_neutral(world: list[pystac.Item], tmp_path: Path) -> None:
    beside = scene_at(-124.0, 72.006, (400, 130))  # reaches beyond the file
    layers = auxiliary_layers(world[3:], beside, needed=["tc_wetness"])
    assert set(np.unique(layers["tc_wetness"])) == {90, 127}


def test_overlapping_items_nearest_in_time_win(scene: GeoBox, tmp_path: Path) -> None:
    items = []
    for year in (2012, 2020):
        path = write(tmp_path / f"{year}.tif", np.full((3, 150, 130), year - 2000, "uint8"), scene)
        items.append(item(f"t{year}", "tcvis", path, scene, TREND_BANDS, datetime(year, 1, 1, tzinfo=UTC)))
    for year, value in ((2011, 12), (2019, 20)):
        layers = auxiliary_layers(items, scene, needed=["tc_wetness"], datetime=datetime(year, 7, 1))
        assert (layers["tc_wetness"] == value).all()


def test_ready_made_layers_are_decoded_also_from_vrt_mosaics(scene: GeoBox, tmp_path: Path) -> None:
    grid = source_grid(scene, "EPSG:3413", 2.0)
    x, y = (v - v.mean() for v in centres(grid))
    metres, degrees = 5 * np.sin(x / 70), (10 + 5 * np.cos(y / 80)).astype("float32")
    encoded = np.rint((metres + 50) * 300).astype("int16")
    encoded[:20] = 0  # no data
    tif = write(tmp_path / "relative.tif", encoded, grid, 0)
    vrt = tmp_path / "elevation.vrt"
    rasterio.shutil.copy(tif, vrt, driver="VRT")
    items = [
        item("ready", "relative_elevation", vrt, scene),
        item("ready-slope", "slope", write(tmp_path / "slope.tif", degrees, grid), scene),
    ]
    layers = auxiliary_layers(items, scene, needed=TERRAIN, chunks=64)
    sx, sy = seen_from(scene, "EPSG:3413")
    mean_x, mean_y = (v.mean() for v in centres(grid))
    np.testing.assert_allclose(layers["relative_elevation"], 5 * np.sin((sx - mean_x) / 70), atol=0.01)
    np.testing.assert_allclose(layers["slope"], 10 + 5 * np.cos((sy - mean_y) / 80), atol=0.01)
    assert layers["slope"].attrs["terrain_grid"] == "ready-made"


def test_missing_bands_are_named_with_the_ways_out(world: list[pystac.Item], scene: GeoBox) -> None:
    with pytest.raises(MissingBandsError, match=r'tc_brightness.*auxiliary="neutral"') as caught:
        auxiliary_layers(world[:3], scene)
    said = str(caught.value)
    assert "for ['tc_brightness', 'tc_greenness', 'tc_wetness']; those near it offer dem-left: dem" in said
    assert "bands named tc_brightness, tc_greenness, tc_wetness" in said
    assert "--neutral trends" in said
    with pytest.raises(MissingBandsError, match=r"relative_elevation.*slope"):
        auxiliary_layers(world[:1], scene, needed=TERRAIN)
    with pytest.raises(MissingBandsError, match="tcvis"):
        auxiliary_layers(world, scene, needed=["tcvis"])


def test_bad_tiles_are_named(scene: GeoBox, tmp_path: Path) -> None:
    gone = auxiliary_layers([item("tile-17", "dem", tmp_path / "gone.tif", scene)], scene, needed=["slope"])
    with pytest.raises(MissingFileError, match="tile-17"):
        gone["slope"].compute()
    path = write(tmp_path / "bare.tif", np.zeros((9, 9), "float32"), None)
    bare = auxiliary_layers([item("tile-18", "dem", path, scene)], scene, needed=["slope"])
    with pytest.raises(CRSError, match="tile-18"):
        bare["slope"].compute()
    degrees = GeoBox.from_bbox((-124, 71, -123, 72), "EPSG:4326", resolution=0.1)
    with pytest.raises(CRSError, match="projected CRS"):
        auxiliary_layers([], degrees)


def test_neutral_layers_are_level_and_say_so(scene: GeoBox) -> None:
    with raise_if_dask_computes():
        layers = neutral_layers(scene, chunks=64)
    values = {name: np.unique(layer).tolist() for name, layer in layers.items()}
    assert values == dict(zip(AUXILIARY_BANDS, [[0], [0], [127], [127], [127]], strict=True))
    assert all(layer.attrs["source"] == "neutral" for layer in layers.values())
    assert layers["slope"].odc.geobox == scene


# --- land cover ----------------------------------------------------------------------------------------------


def _landcover(
    scene: GeoBox, tmp_path: Path, year: int, crs: str, value: int = 1, **fields: Any
) -> pystac.Item:
    grid = source_grid(scene, crs, 10.0, margin=80)
    classes = np.full(grid.shape, value, "uint8")
    classes[:, : grid.shape[1] // 2] = 2
    path = write(tmp_path / f"{year}-{crs[5:]}-{value}.tif", classes, grid, 0)
    made = item(f"lc-{year}-{crs[5:]}", "landcover", path, grid, when=datetime(year, 1, 1, tzinfo=UTC))
    made.assets["landcover"].extra_fields.update(fields)
    return made


def test_land_cover_of_the_year_or_the_nearest(scene: GeoBox, tmp_path: Path) -> None:
    items = [_landcover(scene, tmp_path, year, "EPSG:32610", year - 2010) for year in (2017, 2019)]
    for year, taken in ((2017, 2017), (2019, 2019), (2012, 2017), (2023, 2019), (2018, 2017)):
        cover = landcover_for(items, scene, year)
        assert (cover.attrs["year"], cover.attrs["requested_year"]) == (taken, year)
        assert set(np.unique(cover)) == {2, taken - 2010}
    box = scene.extent.boundingbox
    assert cover.odc.geobox.crs == "EPSG:32610"
    assert cover.odc.geobox.resolution.x == 10
    outer = cover.odc.geobox.extent.boundingbox
    assert box.left - outer.left >= 490
    assert outer.top - box.top >= 490
    assert cover.sizes["x"] < 150


def test_land_cover_keeps_its_own_pixels_and_joins_zones(tmp_path: Path) -> None:
    scene = scene_at(-132.0, 69.0, (100, 100), zone=8)
    items = [_landcover(scene, tmp_path, 2020, f"EPSG:{32600 + zone}") for zone in (9, 8)]
    cover = landcover_for(items, scene, 2020, margin=100)
    assert cover.odc.geobox.crs == "EPSG:32608"
    with rasterio.open(items[1].assets["landcover"].href) as file:
        offset = ~file.transform @ (cover.odc.geobox.affine.c, cover.odc.geobox.affine.f)
    assert offset[0] == pytest.approx(round(offset[0]), abs=1e-6)
    assert set(np.unique(cover)) == {1, 2}


def test_land_cover_of_another_scheme_is_refused(scene: GeoBox, tmp_path: Path) -> None:
    worldcover = _landcover(scene, tmp_path, 2020, "EPSG:32610", 80)
    with pytest.raises(LandCoverError, match=r"lc-2020-32610: classes \[80\]"):
        landcover_for([worldcover], scene, 2020).compute()
    declared = [{"value": value} for value in (10, 20, 30)]
    stated = _landcover(scene, tmp_path, 2021, "EPSG:32610", **{"classification:classes": declared})
    with pytest.raises(LandCoverError, match=r"classes \[20, 30\]"):
        landcover_for([stated], scene, 2021)
    with pytest.raises(MissingBandsError, match="no land-cover item"):
        landcover_for([], scene, 2020)


# --- the ArcticDEM index ---------------------------------------------------------------------------------------

INDEX = "ArcticDEM_Mosaic_Index_{}.parquet"


@pytest.mark.realdata
@pytest.mark.parametrize("version", ["v3_2m", "v3_10m", "v4_1_2m", "v4_1_10m"])
@pytest.mark.parametrize(("lon", "lat"), [(-124.0, 72.0), (180.0, 67.0), (-60.0, 82.0)])
def test_tiles_of_the_index_cover_the_scene(version: str, lon: float, lat: float) -> None:
    scene = scene_at(lon, lat, (8000, 8000))
    items = arcticdem_items(real_data("arcticdem-mosaic-index") / INDEX.format(version), scene)
    assert items
    if lat == 67.0 and version.endswith("_2m"):
        assert len(items) > 1  # the antimeridian is a tile seam
    for tile in items:
        assert boxes_meet(tuple(tile.bbox or ()), grid_bounds(scene))  # type: ignore[arg-type]
        assert tile.assets["dem"].href.startswith("https://")
        assert tile.assets["dem"].href.endswith("_dem.tif")
        assert tile.properties["proj:code"] == "EPSG:3413"
    layers = auxiliary_layers(items, scene, needed=TERRAIN)
    assert layers["slope"].shape == (8000, 8000)


@pytest.mark.realdata
def test_tiles_of_a_mirror_work_end_to_end_across_the_antimeridian(tmp_path: Path) -> None:
    scene = scene_at(180.0, 66.81, (400, 2600))
    index = real_data("arcticdem-mosaic-index") / INDEX.format("v4_1_10m")
    items = arcticdem_items(index, scene, root=tmp_path)
    assert len(items) > 1
    grid = source_grid(scene, "EPSG:3413", 10.0, margin=30)
    x, y = centres(grid)
    z = (0.1 * (x - x.mean()) + 0.05 * (y - y.mean())).astype("float32")
    for number, tile in enumerate(items):  # each tile holds its share of the plane
        path = Path(tile.assets["dem"].href)
        path.parent.mkdir(exist_ok=True)
        share = np.arange(z.shape[1]) * len(items) // z.shape[1] == number
        write(path, np.where(share, z, -9999).astype("float32"), grid, -9999)
    layers = auxiliary_layers(items, scene, needed=TERRAIN, chunks=600)
    expected = np.degrees(np.arctan(np.hypot(0.1, 0.05)))
    # Grid metres of EPSG:3413 are not those of UTM at 67° N: a plane of one is nearly a plane of the other.
    np.testing.assert_allclose(layers["slope"], expected, rtol=0.02)
    assert np.isfinite(layers["relative_elevation"]).all()


def test_items_of_the_index_are_valid_and_survive_a_catalogue(scene: GeoBox, tmp_path: Path) -> None:
    index = gpd.GeoDataFrame(
        {
            "dem_id": ["31_15_1_1_10m_v4.1"],
            "supertile": ["31_15"],
            "release_ver": ["4.1"],
            "gsd": [10.0],
            "creationdate": ["2022-09-01"],
            "s3url": ["https://stac.example/browser/#/external/server.example/31_15/31_15_1_1_10m_v4.1.json"],
        },
        geometry=[scene.footprint("EPSG:3413", buffer=1000).geom.envelope],
        crs="EPSG:3413",
    )
    (tile,) = arcticdem_items(index, scene)
    validate(tile)
    assert tile.assets["dem"].href == "https://server.example/31_15/31_15_1_1_10m_v4.1_dem.tif"
    (loaded,) = load_items(write_catalog([tile], tmp_path, title="DEM", description="Tiles."))
    validate(loaded)
    assert loaded.get_single_link("collection").href == str(tmp_path / "collections" / "arcticdem.json")


def test_an_index_in_another_reference_system_is_refused(scene: GeoBox) -> None:
    with pytest.raises(CRSError, match="EPSG:3413"):
        arcticdem_items(gpd.GeoDataFrame(geometry=[], crs="EPSG:4326"), scene)


@pytest.mark.parametrize("grid", ["scene", "dem"])
@pytest.mark.parametrize("resampling", ["bilinear", "nearest"])
def test_layers_on_a_device_are_those_of_the_compiled_loops(
    grid: Any, resampling: Any, world: list[pystac.Item], scene: GeoBox
) -> None:
    pytest.importorskip("numba", reason="numba is not installed: torch would be compared with itself")
    near, far = (
        auxiliary_layers(
            world, scene, terrain_grid=grid, trends_resampling=resampling, chunks=64, device=device
        )
        for device in ("cpu", "cpu:0")  # a device by its number: torch and its tensors, as on a GPU
    )
    assert list(near) == list(far)
    for name in near:
        (key, *_) = far[name].data.to_delayed().ravel()
        assert isinstance(key.compute(), DeviceArray) == (name in AUXILIARY_BANDS)
        if name in TERRAIN:
            assert np.isnan(near[name].values).any()
            # One step of float32 in heights of 1500 m, 0.12 mm, tilts a slope by 0.002 degrees.
            step = {"relative_elevation": 2e-4, "slope": 2e-3}[name]
            np.testing.assert_allclose(far[name].values, near[name].values, atol=step)
        else:
            np.testing.assert_array_equal(far[name].values, near[name].values)


def test_ready_made_layers_lie_on_the_device_too(scene: GeoBox, tmp_path: Path) -> None:
    grid = source_grid(scene, "EPSG:3413", 10.0)
    steep = np.abs(_heights(grid) % 60).astype("float32")
    layer = item("steep", "slope", write(tmp_path / "s.tif", steep, grid), grid, [{"data_type": "float32"}])
    near, far = (
        auxiliary_layers([layer], scene, needed=["slope"], device=device)["slope"]
        for device in ("cpu", "cpu:0")
    )
    assert isinstance(far.data.to_delayed()[0, 0].compute(), DeviceArray)
    np.testing.assert_allclose(far.values, near.values, atol=1e-4)


@pytest.mark.gpu
def test_layers_on_a_gpu_are_those_of_the_processor(world: list[pystac.Item], scene: GeoBox) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    near, far = (auxiliary_layers(world, scene, chunks=64, device=device) for device in ("cpu", "cuda"))
    for name in near:
        np.testing.assert_allclose(far[name].values, near[name].values, atol=1e-3)
