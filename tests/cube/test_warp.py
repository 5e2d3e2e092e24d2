from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from rasterio.warp import Resampling, reproject

from darts_xr.cube.loops import compiled
from darts_xr.cube.mosaic import RasterSource
from darts_xr.cube.warp import boxes_meet, grid_bounds, warp_onto
from darts_xr.errors import CRSError, DamagedFileError, MissingFileError
from tests.cube.rasters import centres, scene_at, seen_from, source_grid, write
from tests.helpers import raise_if_dask_computes

PLACES = {
    "peel, zone 8": scene_at(-135.0, 67.5),
    "zone 8, east of its edge": scene_at(-131.99, 69.0, zone=8),
    "zone 9, west of its edge": scene_at(-132.01, 69.0, zone=9),
    "across 180, zone 1": scene_at(180.0, 68.0, zone=1),
    "across 180, zone 60": scene_at(180.0, 68.0, zone=60),
    "82 N": scene_at(-60.0, 82.0),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("crs", "step"), [("EPSG:3413", 2.0), ("EPSG:3413", 30.0), ("EPSG:32601", 10.0)])
@pytest.mark.parametrize("resampling", ["cubic", "bilinear", "nearest"])
def test_a_pattern_planted_in_the_source_lands_in_its_place(
    place: str, crs: str, step: float, resampling: str, tmp_path: Path
) -> None:
    scene = PLACES[place]
    if crs != "EPSG:3413":
        crs = (
            f"EPSG:{32600 + {'peel': 9, 'zone': 8, 'acro': 60, '82 N': 21}[place[:4]]}"  # a neighbouring zone
        )
    grid = source_grid(scene, crs, step)
    # Two coordinate ramps, in source pixels: what comes out says where it came from.
    ramps = np.stack([(v - v.mean()) / step for v in centres(grid)]).astype("float32")
    offsets = [v.mean() for v in centres(grid)]
    out = warp_onto(
        RasterSource(str(write(tmp_path / "a.tif", ramps, grid)), "a", (1, 2)),
        scene,
        resampling=resampling,
        chunks=50,
    ).values
    expected = np.stack([(v - o) / step for v, o in zip(seen_from(scene, crs), offsets, strict=True)])
    error = np.abs(out - expected).max()
    assert error < (0.501 if resampling == "nearest" else 0.002)


@pytest.mark.parametrize("west_end", [-180.0, 179.0])
def test_maps_in_degrees_join_across_the_antimeridian(west_end: float, tmp_path: Path) -> None:
    scene, step = PLACES["across 180, zone 1"], 0.0005
    lat0 = 68.05
    if west_end == -180:  # two files that meet at 180°, as a world map is cut
        lefts = [179.9, -180.0]
    else:  # one file that goes on beyond 180°
        lefts = [179.9]
    width = 200 if len(lefts) == 2 else 400
    sources = []
    for left in lefts:
        grid = GeoBox((200, width), Affine(step, 0, left, 0, -step, lat0), "EPSG:4326")
        lon, lat = centres(grid)
        ramps = np.stack([((lon % 360) - 180) / step, (lat - lat0) / step]).astype("float32")
        path = write(tmp_path / f"{left}.tif", ramps, grid)
        sources.append(RasterSource(str(path), f"map at {left}", (1, 2)))
    out = warp_onto(sources, scene, resampling="bilinear", chunks=64).values
    lon, lat = seen_from(scene, "EPSG:4326")
    np.testing.assert_allclose(out[0], ((lon % 360) - 180) / step, atol=0.01)
    np.testing.assert_allclose(out[1], (lat - lat0) / step, atol=0.01)


def _hills(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return 2000 + 30 * np.sin(x / 40) + 20 * np.cos(y / 25) + 5 * np.sin((x + y) / 9)


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> tuple[GeoBox, list[RasterSource], RasterSource]:
    """A scene, its DEM cut into four overlapping tiles, and the same DEM whole; both with one void."""
    folder = tmp_path_factory.mktemp("tiles")
    scene = scene_at(-124.0, 72.0, (150, 140))
    grid = source_grid(scene, "EPSG:3413", 2.0)
    z = _hills(*(v - v.mean() for v in centres(grid))).astype("float32")
    middle = (z.shape[0] // 2, z.shape[1] // 2)
    z[middle[0] - 9 : middle[0] + 6, middle[1] - 20 : middle[1] + 3] = -9999
    whole = RasterSource(str(write(folder / "whole.tif", z, grid, -9999)), "whole")
    parts = []
    for name, rows, cols in (
        ("nw", slice(0, middle[0] + 7), slice(0, middle[1] + 11)),
        ("ne", slice(0, middle[0] + 7), slice(middle[1], None)),
        ("sw", slice(middle[0], None), slice(0, middle[1] + 11)),
        ("se", slice(middle[0], None), slice(middle[1], None)),
    ):
        path = write(folder / f"{name}.tif", z[rows, cols], grid[rows, cols], -9999)
        parts.append(RasterSource(str(path), name))
    return scene, parts, whole


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chunks=st.tuples(st.integers(7, 160), st.integers(7, 160)), margin=st.integers(0, 9))
def test_no_seam_between_tiles_or_chunks(
    tiles: tuple[GeoBox, list[RasterSource], RasterSource], chunks: tuple[int, int], margin: int
) -> None:
    scene, parts, whole = tiles
    reference = warp_onto(whole, scene, chunks=-1).values
    out = warp_onto(parts, scene, chunks=chunks, margin_px=margin)
    assert out.odc.geobox == scene.pad(margin)
    inner = out.values[margin : margin + scene.shape[0], margin : margin + scene.shape[1]]
    np.testing.assert_allclose(inner, reference, atol=5e-4)  # two steps of float32 at 2,000 m


@pytest.mark.parametrize("resampling", ["cubic", "bilinear", "nearest"])
def test_without_numba_torch_gives_the_same(
    tiles: tuple[GeoBox, list[RasterSource], RasterSource],
    resampling: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    pytest.importorskip("numba", reason="numba is not installed: there is nothing to compare")
    scene, parts, _ = tiles
    looped = warp_onto(parts, scene, resampling=resampling, chunks=64).values
    compiled.cache_clear()
    monkeypatch.setitem(sys.modules, "darts_xr.cube.sampling", None)
    monkeypatch.delattr("darts_xr.cube.sampling", raising=False)
    try:
        with caplog.at_level(logging.INFO, logger="darts_xr.cube.loops"):
            plain = warp_onto(parts, scene, resampling=resampling, chunks=64).values
    finally:
        compiled.cache_clear()
    assert "sampling does without compiled loops" in caplog.text
    assert 0 < np.isnan(looped).sum() < looped.size / 10
    differs = ~np.isclose(
        plain, looped, rtol=0, atol=2.5e-4, equal_nan=True
    )  # two steps of float32 at 2,000 m
    # Half-way between two source pixels, torch's float32 positions may fall to the other side.
    assert differs.mean() <= (1e-3 if resampling == "nearest" else 0)


def test_numba_and_torch_load_with_the_first_pixels_only() -> None:
    code = "import sys, darts_xr.cube; print([m for m in ('numba', 'torch') if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"


def test_cubic_is_that_of_gdal(tiles: tuple[GeoBox, list[RasterSource], RasterSource]) -> None:
    scene, _, whole = tiles
    out = warp_onto(whole, scene).values
    with rasterio.open(whole.href) as file:
        z = file.read(1)
        theirs = np.empty(scene.shape, "float32")
        reproject(
            z,
            theirs,
            src_transform=file.transform,
            src_crs=file.crs,
            dst_transform=scene.affine,
            dst_crs=str(scene.crs),
            resampling=Resampling.cubic,
            XSCALE=1,
            YSCALE=1,
        )
    far = np.ones(scene.shape, bool)
    rows, cols = np.nonzero(np.isnan(out) | (theirs < 1900))
    far[rows.min() - 5 : rows.max() + 5, cols.min() - 5 : cols.max() + 5] = False
    assert far.mean() > 0.6
    np.testing.assert_allclose(out[far], theirs[far], atol=0.02)


@pytest.mark.parametrize("resampling", ["cubic", "bilinear", "nearest"])
def test_a_level_plane_stays_level(resampling: str, tmp_path: Path) -> None:
    pytest.importorskip("numba", reason="numba is not installed: torch rounds in another way")
    scene, height = scene_at(-124.0, 72.0), np.float32(1234.567)
    grid = source_grid(scene, "EPSG:3413", 2.0)
    source = RasterSource(str(write(tmp_path / "level.tif", np.full(grid.shape, height), grid)), "level")
    assert (warp_onto(source, scene, resampling=resampling).values == height).all()


def test_voids_neither_grow_nor_bleed(tiles: tuple[GeoBox, list[RasterSource], RasterSource]) -> None:
    scene, _, whole = tiles
    with rasterio.open(whole.href) as file:
        grid = GeoBox(file.shape, file.transform, "EPSG:3413")
        void = file.read(1) == -9999
    exact = np.stack(seen_from(scene, "EPSG:3413"))
    mean = [v.mean() for v in centres(grid)]
    column, row = (
        np.floor(v).astype(int) for v in ((exact[0] - grid.affine.c) / 2, (grid.affine.f - exact[1]) / 2)
    )
    for resampling in ("cubic", "bilinear", "nearest"):
        out = warp_onto(whole, scene, resampling=resampling, chunks=77).values
        differs = np.isnan(out) != void[row, column]
        assert differs.mean() < 1e-4  # pixels that lie on the line between two source pixels
        truth = _hills(exact[0] - mean[0], exact[1] - mean[1])
        assert np.nanmax(np.abs(out - truth)) < 4


def test_identity_gives_back_every_value(tmp_path: Path) -> None:
    scene = scene_at(-124.0, 72.0, (60, 70))
    classes = np.random.default_rng(0).integers(0, 255, (60, 70)).astype("uint8")
    source = RasterSource(str(write(tmp_path / "same.tif", classes, scene)), "same")
    for resampling in ("nearest", "bilinear", "cubic"):
        out = warp_onto(source, scene, resampling=resampling, dtype="uint8", chunks=23)
        assert out.dtype == np.uint8
        np.testing.assert_array_equal(out, classes)


def test_beyond_the_files_there_is_no_data(tmp_path: Path) -> None:
    scene = scene_at(-124.0, 72.0, (60, 70))
    source = RasterSource(
        str(write(tmp_path / "left.tif", np.full((60, 30), 7, "uint8"), scene[:, :30])), "left"
    )
    out = warp_onto(source, scene, resampling="nearest", dtype="uint8", nodata=99, chunks=25).values
    assert (out[:, :30] == 7).all()
    assert (out[:, 30:] == 99).all()
    assert np.isnan(warp_onto(source, scene, chunks=25).values[:, 30:]).all()


def test_files_in_two_zones_make_one_layer(tmp_path: Path) -> None:
    scene = scene_at(-132.0, 69.0, (60, 400), zone=8)
    sources = []
    for zone in (8, 9):
        grid = source_grid(scene, f"EPSG:{32600 + zone}", 10.0)
        lon, _ = seen_from(grid, "EPSG:4326")
        values = np.where((lon < -131.9995) if zone == 8 else (lon >= -132), zone, 0).astype("uint8")
        sources.append(RasterSource(str(write(tmp_path / f"{zone}.tif", values, grid, 0)), f"zone {zone}"))
    out = warp_onto(sources, scene, resampling="nearest", dtype="uint8", chunks=111).values
    lon, _ = seen_from(scene, "EPSG:4326")
    away = np.abs(lon + 132) > 0.001
    np.testing.assert_array_equal(out[away], np.where(lon < -132, 8, 9)[away])
    assert (out != 0).all()


def test_building_opens_nothing_and_computing_opens_only_what_meets(tmp_path: Path) -> None:
    scene = scene_at(-124.0, 72.0, (60, 70))
    present = write(tmp_path / "here.tif", np.ones((60, 70), "float32"), scene)
    near, far = grid_bounds(scene), (10.0, 70.0, 11.0, 71.0)
    sources = [RasterSource(str(present), "here", bbox=near), RasterSource("nowhere.tif", "far", bbox=far)]
    with raise_if_dask_computes():
        out = warp_onto(sources, scene, chunks=32)
        warp_onto(RasterSource("nowhere.tif", "gone"), scene)
    assert len(out.data.__dask_graph__()) < 3 * out.data.npartitions
    np.testing.assert_allclose(out, 1)
    assert warp_onto(sources, scene, chunks=32).data.name == out.data.name


def test_bad_files_are_named(tmp_path: Path) -> None:
    scene = scene_at(-124.0, 72.0, (60, 70))
    with pytest.raises(MissingFileError, match=r"tile 7: .*gone\.tif"):
        warp_onto(RasterSource(str(tmp_path / "gone.tif"), "tile 7"), scene).compute()
    (tmp_path / "text.tif").write_text("no raster")
    with pytest.raises(DamagedFileError, match="tile 8"):
        warp_onto(RasterSource(str(tmp_path / "text.tif"), "tile 8"), scene).compute()
    bare = write(tmp_path / "bare.tif", np.ones((60, 70), "float32"), None)
    with pytest.raises(CRSError, match=r"tile 9: .*no coordinate reference system"):
        warp_onto(RasterSource(str(bare), "tile 9"), scene).compute()
    with pytest.raises(DamagedFileError, match=r"tile 10: .* band 3 is needed"):
        warp_onto(RasterSource(str(bare), "tile 10", (3,), crs="EPSG:3413"), scene).compute()
    rng = np.random.default_rng(0)
    whole = write(
        tmp_path / "cut.tif", rng.normal(size=(600, 700)).astype("float32"), scene.zoom_to((600, 700))
    )
    whole.write_bytes(whole.read_bytes()[:600_000])
    with pytest.raises(DamagedFileError, match=r"tile 11: .*cut short"):
        warp_onto(RasterSource(str(whole), "tile 11"), scene).compute()


def test_sources_of_different_band_counts_are_refused() -> None:
    scene = scene_at(-124.0, 72.0)
    with pytest.raises(ValueError, match="same number of bands"):
        warp_onto([RasterSource("a", "a"), RasterSource("b", "b", (1, 2))], scene)


@pytest.mark.parametrize(
    ("a", "b", "meet"),
    [
        ((170, 60, -170, 70), (-179, 65, -178, 66), True),
        ((170, 60, -170, 70), (175, 65, 176, 66), True),
        ((170, 60, -170, 70), (0, 65, 10, 66), False),
        ((-180, -90, 180, 90), (0, 65, 10, 66), True),
        ((0, 0, 10, 10), (5, 11, 6, 12), False),
        ((-10, 0, 10, 10), (9, 5, 20, 6), True),
        ((180, 60, -178, 70), (-180, 60, -179, 70), True),
    ],
)
def test_boxes_meet(a: tuple[float, ...], b: tuple[float, ...], meet: bool) -> None:
    assert boxes_meet(a, b) is meet  # type: ignore[arg-type]
    assert boxes_meet(b, a) is meet  # type: ignore[arg-type]


def test_grid_bounds_know_the_antimeridian_and_the_pole() -> None:
    west, south, east, north = grid_bounds(PLACES["across 180, zone 1"])
    assert 179 < west < 180
    assert -180 < east < -179
    assert 67.9 < south < north < 68.1
    pole = GeoBox.from_bbox((-5000, -5000, 5000, 5000), "EPSG:3413", resolution=100)
    assert grid_bounds(pole)[::2] == (-180, 180)
    assert grid_bounds(pole)[3] == 90
