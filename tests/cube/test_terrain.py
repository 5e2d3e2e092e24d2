from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import rasterio
import torch
import xarray as xr
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords
from scipy import ndimage

from darts_xr.cube.loops import compiled
from darts_xr.cube.terrain import relative_elevation, slope
from darts_xr.errors import CRSError
from tests.helpers import raise_if_dask_computes, real_data


def rough_terrain(shape: tuple[int, int], seed: int = 0) -> NDArray[np.float32]:
    """Heights around 2,000 m with a relief of some hundred metres and a few voids."""
    rng = np.random.default_rng(seed)
    walk = rng.normal(size=shape).cumsum(0).cumsum(1)
    z = 2000 + 150 * walk / np.abs(walk).max() + rng.normal(0, 0.1, shape)
    z[rng.random(shape) < 0.002] = np.nan
    z[shape[0] // 3 : shape[0] // 2, : shape[1] // 5] = np.nan
    return z.astype(np.float32)


def direct_relative_elevation(
    z: NDArray[np.float32], radius: float, dy: float, dx: float
) -> NDArray[np.float64]:
    """The definition, by direct convolution in float64."""
    ny, nx = int(radius // dy), int(radius // dx)
    y, x = np.mgrid[-ny : ny + 1, -nx : nx + 1]
    disk = ((y * dy) ** 2 + (x * dx) ** 2 <= radius**2).astype(float)
    valid = np.isfinite(z)
    total = ndimage.convolve(np.where(valid, z, 0).astype(float), disk, mode="constant")
    count = ndimage.convolve(valid.astype(float), disk, mode="constant")
    return np.where(valid, z - total / np.maximum(count, 1), np.nan)


def direct_slope(z: NDArray[np.generic], dy: float, dx: float) -> NDArray[np.float64]:
    """Horn's formula in float64, NaN on the rim."""
    z = z.astype(float)
    out = np.full(z.shape, np.nan)
    nw, n, ne, w, c, e, sw, s, se = (
        z[i : i + z.shape[0] - 2, j : j + z.shape[1] - 2] for i in range(3) for j in range(3)
    )
    gx = ((ne + 2 * e + se) - (nw + 2 * w + sw)) / (8 * dx)
    gy = ((sw + 2 * s + se) - (nw + 2 * n + ne)) / (8 * dy)
    out[1:-1, 1:-1] = np.degrees(np.arctan(np.hypot(gx, gy))) + 0 * c
    return out


# --- relative elevation --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("radius", "dy", "dx"), [(50, 3, 3), (100, 2, 2), (30, 2, 5), (1, 2, 2), (2, 2, 2), (60, 3, 3)]
)
def test_relative_elevation_is_exact_to_a_millimetre_at_2000_m(radius: float, dy: float, dx: float) -> None:
    z = rough_terrain((150, 130))
    out = relative_elevation(z, radius, resolution=(dy, dx))
    expected = direct_relative_elevation(z, radius, dy, dx)
    assert out.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(out), np.isnan(z))
    np.testing.assert_allclose(out, expected, atol=1e-3)


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(st.integers(3, 60), st.integers(3, 60)),
    chunks=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    # In centimetres: within 1e-9 of a pixel's centre the definition below decides by rounding.
    radius=st.integers(100, 12_000).map(lambda number: number / 100),
    seed=st.integers(0, 99),
)
def test_relative_elevation_does_not_depend_on_chunks(
    shape: tuple[int, int], chunks: tuple[int, int], radius: float, seed: int
) -> None:
    z = rough_terrain(shape, seed)
    whole = relative_elevation(z, radius, resolution=2.0)
    lazy = da.from_array(z, chunks=chunks)
    out = relative_elevation(lazy, radius, resolution=2.0)
    assert out.chunks == lazy.chunks
    np.testing.assert_allclose(out.compute(), whole, atol=1e-3)
    np.testing.assert_allclose(whole, direct_relative_elevation(z, radius, 2.0, 2.0), atol=1e-3)


@pytest.mark.parametrize("numba", [True, False])
def test_arrays_larger_than_a_transform_show_no_seam(numba: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled.cache_clear()
    if not numba:
        monkeypatch.setitem(sys.modules, "darts_xr.cube.terrain_loops", None)
        monkeypatch.delattr("darts_xr.cube.terrain_loops", raising=False)
    z = rough_terrain((90, 2900))
    try:
        out = relative_elevation(z, 20.0, resolution=2.0)
        assert (compiled("terrain_loops") is None) is not numba
    finally:
        compiled.cache_clear()
    np.testing.assert_allclose(out, direct_relative_elevation(z, 20.0, 2.0, 2.0), atol=1e-3)


def test_loops_are_compiled_where_nothing_can_be_kept() -> None:
    # What numba finds in a container whose user may write neither to the package nor to a home.
    code = (
        "import numpy as np\n"
        "from darts_xr.cube.terrain import relative_elevation\n"
        "z = np.arange(12.0).reshape(3, 4)\n"
        "print(round(float(relative_elevation(z, 1.0, resolution=1.0)[1, 1]), 5))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False,
        env=os.environ | {"NUMBA_CACHE_LOCATOR_CLASSES": "UserProvidedCacheLocator", "NUMBA_CACHE_DIR": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(5 - np.mean([5, 1, 4, 6, 9]), abs=1e-5)
    assert done.stderr.count("set NUMBA_CACHE_DIR to a folder that can be written") == 1


def test_edges_take_the_mean_of_what_is_inside() -> None:
    z = np.arange(12.0).reshape(3, 4)
    out = relative_elevation(z, 1.0, resolution=1.0)
    assert out[0, 0] == pytest.approx(0 - np.mean([0, 1, 4]), abs=1e-5)
    assert out[1, 1] == pytest.approx(5 - np.mean([5, 1, 4, 6, 9]), abs=1e-5)


@pytest.mark.parametrize("dtype", [">f4", ">f8", "float16", "float64", "int16"])
def test_heights_may_be_of_any_type(dtype: str) -> None:
    z = np.round(rough_terrain((40, 50)) / 8)  # float16 holds whole numbers up to 2048
    z[np.isnan(z)] = 250
    for kernel in (
        lambda dem: relative_elevation(dem, 10.0, resolution=2.0),
        lambda dem: slope(dem, resolution=2.0),
    ):
        out = kernel(z.astype(dtype))
        assert out.dtype == np.float32
        np.testing.assert_allclose(out, kernel(z.astype("float32")), atol=1e-4)


def test_an_infinite_height_is_a_void_to_its_neighbours() -> None:
    z = rough_terrain((40, 50))
    void = z.copy()
    z[20, 10], void[20, 10] = np.inf, np.nan
    out, expected = (relative_elevation(dem, 10.0, resolution=2.0) for dem in (z, void))
    out[20, 10] = np.nan
    np.testing.assert_array_equal(out, expected)


def test_a_dem_without_any_height_stays_void() -> None:
    assert np.isnan(relative_elevation(np.full((20, 20), np.nan), 5.0, resolution=1.0)).all()


@pytest.mark.parametrize("radius", [0, -3.0, float("nan")])
def test_unusable_radius_is_refused(radius: float) -> None:
    with pytest.raises(ValueError, match="radius must be a positive number"):
        relative_elevation(np.zeros((3, 3)), radius, resolution=1.0)


# --- slope ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("east", "south"), [(0.0, 0.0), (0.3, -0.2), (-1.7, 0.05), (0.001, 0.0)])
def test_slope_is_exact_on_planes(east: float, south: float, dtype: str) -> None:
    dy, dx = 3.0, 2.0
    y, x = np.mgrid[:40, :50]
    # Steps of 2^-20 m keep float32 planes exact; at 2,000 m they could not be planes.
    base = 2000.0 if dtype == "float64" else 0.0
    east, south = (np.round(v * 6 * 2**14) / 2**14 / 6 if dtype == "float32" else v for v in (east, south))
    out = slope((base + east * x * dx + south * y * dy).astype(dtype), resolution=(dy, dx))
    expected = np.degrees(np.arctan(np.hypot(east, south)))
    assert out.dtype == np.float32
    np.testing.assert_allclose(out[1:-1, 1:-1], expected, atol=1e-4)
    assert np.isnan(out[[0, -1]]).all()
    assert np.isnan(out[:, [0, -1]]).all()


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    chunks=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    seed=st.integers(0, 99),
)
def test_slope_agrees_with_horn_in_float64_for_any_chunks(
    shape: tuple[int, int], chunks: tuple[int, int], seed: int
) -> None:
    z = rough_terrain(shape, seed)
    whole = slope(z, resolution=(2.0, 3.0))
    if min(shape) > 2:
        np.testing.assert_allclose(whole, direct_slope(z, 2.0, 3.0), atol=1e-3)
    lazy = da.from_array(z, chunks=chunks)
    out = slope(lazy, resolution=(2.0, 3.0))
    assert out.chunks == lazy.chunks
    np.testing.assert_array_equal(out.compute(), whole)


def test_a_void_takes_its_neighbours_with_it_and_no_more() -> None:
    z = np.zeros((7, 7), np.float32)
    z[3, 3] = np.nan
    out = slope(z, resolution=1.0)
    expected = np.zeros((7, 7), bool)
    expected[[0, -1]] = expected[:, [0, -1]] = expected[2:5, 2:5] = True
    np.testing.assert_array_equal(np.isnan(out), expected)


# --- kinds of arrays -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [slope, relative_elevation])
def test_integers_and_torch_tensors_agree_with_numpy(function) -> None:  # type: ignore[no-untyped-def]
    z = rough_terrain((80, 70))
    expected = function(z, resolution=2.0)
    tensor = function(torch.from_numpy(z), resolution=2.0)
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_allclose(tensor.numpy(), expected, atol=1e-4)
    whole_metres = np.nan_to_num(z).astype("int16")
    as_floats = function(whole_metres.astype(float), resolution=2.0)
    np.testing.assert_allclose(function(whole_metres, resolution=2.0), as_floats, atol=1e-4)
    lazy = function(da.from_array(whole_metres, chunks=31), resolution=2.0)
    np.testing.assert_allclose(lazy, as_floats, atol=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("function", [slope, relative_elevation])
def test_cuda_agrees_with_numpy(function) -> None:  # type: ignore[no-untyped-def]
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    z = rough_terrain((300, 270))
    out = function(torch.from_numpy(z).cuda(), resolution=2.0)
    assert out.is_cuda
    np.testing.assert_allclose(out.cpu().numpy(), function(z, resolution=2.0), atol=1e-3)


@pytest.mark.parametrize("function", [slope, relative_elevation])
def test_labelled_dems_bring_their_own_pixel_size_and_stay_lazy(function) -> None:  # type: ignore[no-untyped-def]
    grid = GeoBox((60, 70), Affine(2, 0, 5e5, 0, -3, 7e6), "EPSG:32608")
    z = rough_terrain((60, 70))
    dem = xr.DataArray(
        da.from_array(z, chunks=(25, 33)), xr_coords(grid), ("y", "x"), name="dem", attrs={"nodata": -9999}
    )
    dem.encoding["grid_mapping"] = "spatial_ref"
    with raise_if_dask_computes():
        out = function(dem)
    assert isinstance(out.data, da.Array)
    assert out.odc.geobox == grid
    assert out.name == function.__name__
    assert out.attrs["units"] == {"slope": "degree", "relative_elevation": "m"}[out.name]
    assert "nodata" not in out.attrs
    assert out.encoding["grid_mapping"] == "spatial_ref"
    np.testing.assert_allclose(out, function(z, resolution=(3.0, 2.0)), atol=1e-4)


def test_leading_axes_are_kept() -> None:
    z = np.stack([rough_terrain((30, 40), seed) for seed in range(2)])
    for function in (slope, relative_elevation):
        out = function(da.from_array(z, chunks=(1, 15, 20)), resolution=5.0).compute()
        np.testing.assert_allclose(out, np.stack([function(part, resolution=5.0) for part in z]), atol=1e-4)


def test_an_unknown_pixel_size_is_named() -> None:
    with pytest.raises(CRSError, match="pass resolution="):
        slope(np.zeros((5, 5)))
    grid = GeoBox((5, 5), Affine(0.1, 0, 20, 0, -0.1, 70), "EPSG:4326")
    with pytest.raises(CRSError, match="degrees"):
        slope(xr.DataArray(np.zeros((5, 5)), xr_coords(grid), grid.dimensions))
    with pytest.raises(CRSError, match="no pixel grid"):
        relative_elevation(xr.DataArray(np.zeros((5, 5)), dims=("y", "x")))


# --- real terrain --------------------------------------------------------------------------------------------

REAL_DEMS = ["dem-svalbard-20m/Longyearbyen_DEM_1995.tif", "dem-lidar-slovenia-1m/TM1_564_146.tif"]


def _read(path: Path) -> tuple[NDArray[np.float32], float]:
    with rasterio.open(path) as file:
        return file.read(1, masked=True).astype("float32").filled(np.nan), file.res[0]


@pytest.mark.realdata
@pytest.mark.parametrize("name", REAL_DEMS)
def test_real_relief(name: str) -> None:
    folder, _, file = name.partition("/")
    z, step = _read(real_data(folder) / file)
    out = slope(z, resolution=step)
    np.testing.assert_allclose(out, direct_slope(z, step, step), atol=2e-3)
    part = z[:300, :280]
    rel = relative_elevation(part, 6 * step, resolution=step)
    np.testing.assert_allclose(rel, direct_relative_elevation(part, 6 * step, step, step), atol=1e-3)


@pytest.mark.realdata
@pytest.mark.parametrize("name", REAL_DEMS)
def test_slope_agrees_with_gdaldem(name: str, tmp_path: Path) -> None:
    if shutil.which("gdaldem") is None:
        pytest.skip("gdaldem is not installed (Debian package gdal-bin)")
    folder, _, file = name.partition("/")
    path = real_data(folder) / file
    subprocess.run(["gdaldem", "slope", str(path), str(tmp_path / "slope.tif"), "-q"], check=True)
    theirs, _ = _read(tmp_path / "slope.tif")
    z, step = _read(path)
    inner = (slice(1, -1), slice(1, -1))
    np.testing.assert_allclose(slope(z, resolution=step)[inner], theirs[inner], atol=0.01)
