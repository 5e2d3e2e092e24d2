"""What is drawn of scenes, probabilities and cubes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import geopandas as gpd
import matplotlib
import numpy as np
import pytest
import shapely
import xarray as xr
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords

import darts_xr as dx
from darts_xr.errors import MissingBandsError, ParameterError
from darts_xr.looking import layer, overlay, rgb, sheet, site_series, timeline
from darts_xr.sample import SampleWorld

matplotlib.use("Agg")
GRID = GeoBox.from_bbox((500000, 7700000, 500300, 7700240), "EPSG:32608", shape=(80, 100))
SITE = gpd.GeoDataFrame(geometry=[shapely.box(500090, 7700090, 500150, 7700150)], crs="EPSG:32608")


@pytest.fixture(autouse=True)
def _closed():
    import matplotlib.pyplot as plt

    yield
    plt.close("all")


@pytest.fixture(scope="module")
def scene(world: SampleWorld) -> xr.Dataset:
    return dx.open_scene(dx.load_items(world.catalog)[0], auxiliary=world.auxiliary)


@pytest.fixture
def cube() -> xr.DataArray:
    """Three synthetic steps: the site as it is, twice as wide, and not seen."""
    values = np.full((3, *GRID.shape), 0.1, "float32")
    values[0, 30:50, 30:50] = 0.9
    values[1, 30:50, 30:54] = 0.9
    values[1, 30:50, 54:57] = 0.55
    values[2] = np.nan
    times = np.array(["2021-07-01", "2022-07-01", "2023-07-01"], "datetime64[ns]")
    coords = xr_coords(GRID) | {
        "time": times,
        "synthetic": ("time", [True] * 3),
        "item_id": ("time", list("abc")),
    }
    return xr.DataArray(values, dims=("time", "y", "x"), coords=coords, name="probability")


def test_pictures_are_in_metres_stretched_and_called_synthetic(scene: xr.Dataset):
    for axes in (scene.darts.rgb(), scene.darts.false_color()):
        (image,) = axes.images
        box = scene.odc.geobox.boundingbox
        assert image.get_extent() == pytest.approx([box.left, box.right, box.bottom, box.top])
        assert axes.get_aspect() == 1
        assert axes.get_xlabel() == "easting, m"
        assert "(synthetic)" in axes.get_title()
        shown = np.asarray(image.get_array())
        valid = scene["valid"].values
        assert (shown[..., 3] > 0).sum() == valid.sum()
        assert shown[valid][:, :3].std() > 0.1


def test_layers_have_their_unit_and_a_range_that_suits_them(scene: xr.Dataset):
    height = scene.darts.layer("relative_elevation")
    low, high = height.images[0].get_clim()
    assert low == -high
    assert height.figure.axes[-1].get_ylabel() == "relative elevation, m"
    assert scene["ndvi"].darts.layer().images[0].get_clim() == (-1, 1)
    trend = scene.darts.layer("tc_greenness")
    assert np.mean(trend.images[0].get_clim()) == 127
    assert "127: no change" in trend.figure.axes[-1].get_ylabel()
    legend = scene.darts.mask().get_legend()
    share = float(scene["valid"].mean())
    assert f"valid, {share:.1%}" in [text.get_text() for text in legend.get_texts()]


def test_land_cover_has_the_colours_of_its_makers_and_nothing_where_it_has_no_data():
    values = np.full(GRID.shape, 255, "uint8")
    values[:10], values[10:20] = 1, 11
    cover = xr.DataArray(values, coords=xr_coords(GRID), dims=("y", "x"), name="landcover")
    axes = layer(cover)
    shown = np.asarray(axes.images[0].get_array())
    assert shown[5, 0] == pytest.approx(matplotlib.colors.to_rgba("#419bdf"))
    assert shown[15, 0] == pytest.approx(matplotlib.colors.to_rgba("#e3e2c3"))
    assert shown[25, 0, 3] == 0
    names = [text.get_text().split(",")[0] for text in axes.get_legend().get_texts()]
    assert names == ["water", "rangeland"]


def test_outlines_come_in_any_crs_and_leave_the_extent(cube: xr.DataArray):
    step = cube.isel(time=0)
    axes = overlay(step, SITE.to_crs("EPSG:4326"))
    assert axes.get_xlim() == (GRID.boundingbox.left, GRID.boundingbox.right)
    assert len(axes.collections) == 1
    again = step.darts.overlay(SITE, ax=axes)
    assert len(again.images) == 1


def test_degrees_have_their_own_aspect():
    grid = GeoBox.from_bbox((-139, 69, -138.9, 69.05), "EPSG:4326", shape=(10, 20))
    axes = layer(xr.DataArray(np.zeros(grid.shape), coords=xr_coords(grid), dims=("latitude", "longitude")).rename(
        latitude="y", longitude="x"
    ))  # fmt: skip
    assert axes.get_aspect() == pytest.approx(1 / np.cos(np.radians(69.025)))


def test_a_picture_is_of_one_scene_with_its_bands(cube: xr.DataArray):
    with pytest.raises(ParameterError, match=r"isel\(time=0\)"):
        layer(cube)
    with pytest.raises(MissingBandsError, match="no red, green, blue"):
        rgb(cube.isel(time=0).to_dataset())


def test_a_site_has_its_area_at_three_thresholds_and_what_was_seen(cube: xr.DataArray):
    table = site_series(cube, SITE)
    cell = 9.0
    assert table["area_m2"].tolist() == [400 * cell, 540 * cell, 0]
    assert table["area_low_m2"].tolist() == [400 * cell, 480 * cell, 0]
    assert table["seen"].tolist() == [1, 1, 0]
    assert np.isnan(table["pval_max"].iloc[2])
    assert table["item_id"].tolist() == list("abc")
    with pytest.raises(ParameterError, match="outside"):
        site_series(cube, SITE.translate(5000).to_frame("geometry"))


def test_timeline_and_sheet_show_each_step(cube: xr.DataArray):
    axes = timeline(cube, SITE)
    assert axes.get_ylabel() == "area, ha"
    assert "(synthetic)" in axes.get_title()
    assert len(axes.lines[-1].get_xdata()) == 2  # the third step saw nothing
    figure = cube.darts.sheet(SITE.to_crs("EPSG:4326").geometry.iloc[0], columns=2)
    titles = [ax.get_title() for ax in figure.axes if ax.images]
    assert titles[:3] == ["2021-07-01", "2022-07-01", "2023-07-01"]
    assert "synthetic" in figure.get_suptitle()
    assert all(ax.axison for ax in figure.axes if ax.images)  # the grey of no data is seen
    assert [ax.get_ylabel() for ax in figure.axes if ax.get_label() == "<colorbar>"] == ["probability"]
    assert sheet(cube.to_dataset(), SITE) is not None


def test_a_map_holds_objects_and_footprints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("folium")
    monkeypatch.setattr("darts_xr.looking.maps.find_spec", lambda name: name == "folium" or None)
    objects = SITE.assign(id=[7], pval_mean=[0.8], area_ha=[0.36])
    shown = dx.explore(objects, footprints=SITE, tiles=None)
    page = shown.get_root().render()
    assert '"pval_mean": 0.8' in page
    assert "tile.openstreetmap" not in page
    with pytest.raises(ParameterError, match="nothing to show"):
        dx.explore(objects.iloc[:0])


def test_the_accessor_is_there_with_the_first_scene_and_brings_no_matplotlib():
    code = (
        "import sys, xarray as xr, darts_xr as dx\n"
        "dx.open_scene\n"
        "xr.Dataset().darts\n"
        "import darts_xr.looking\n"
        "assert 'matplotlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
