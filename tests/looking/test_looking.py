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
from scipy.ndimage import shift

import darts_xr as dx
from darts_xr.errors import MissingBandsError, ParameterError
from darts_xr.looking import layer, overlay, rgb, sheet, site_conditions, site_series, timeline
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
    names = [text.get_text() for text in scene.darts.mask().get_legend().get_texts()]
    assert names[0].startswith("clear, ")
    legend = scene.darts.layer("valid").get_legend()
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
    assert table["area_m2"].tolist()[:2] == [400 * cell, 540 * cell]
    assert table["area_low_m2"].tolist()[:2] == [400 * cell, 480 * cell]
    assert table.loc[:, "pval_mean":].iloc[2].isna().all()  # not covered is not an area of 0
    assert table["seen"].tolist() == [1, 1, 0]
    assert np.isnan(table["pval_max"].iloc[2])
    assert table["item_id"].tolist() == list("abc")
    with pytest.raises(ParameterError, match="outside"):
        site_series(cube, SITE.translate(5000).to_frame("geometry"))


@pytest.fixture(scope="module")
def images(world: SampleWorld) -> xr.Dataset:
    """A synthetic scene; the same moved by parts of a pixel, and with snow; with too little seen; and bare noise."""
    scene = dx.open_scene(sorted(dx.load_items(world.catalog), key=lambda item: item.id)[0])
    scene = scene[["nir", "red", "mask_class", "valid"]].isel(y=slice(150, 350), x=slice(150, 350)).compute()
    steps = [scene.copy(deep=True) for _ in range(5)]
    for name in ("nir", "red"):
        moved = shift(scene[name].values.astype("float64"), (0.4, -1.3), order=3, mode="nearest")
        steps[1][name].values[:] = moved.round().clip(1, 65535)
        moved = shift(scene[name].values.astype("float64"), (-2.3, 0.0), order=3, mode="nearest")
        steps[2][name].values[:] = moved.round().clip(1, 65535)
    steps[2]["red"].values[90:105, 90:105] = 7000  # brighter than ground, though the mask calls it clear
    steps[3]["valid"].values[:, 10:] = False
    steps[3]["mask_class"].values[95:105, 80:120] = 2
    steps[4]["nir"].values[:] = np.random.default_rng(0).integers(1, 3000, scene["nir"].shape)
    times = np.array([f"202{k}-07-01" for k in range(5)], "datetime64[ns]")
    cube = xr.concat([step.drop_vars(["time", "item_id"]) for step in steps], "time", coords="minimal")
    return cube.assign_coords(time=times, item_id=("time", list("abcde")))


def test_images_of_a_site_tell_their_offset_and_their_snow(images: xr.Dataset):
    box = images.odc.geobox.boundingbox
    x, y = (box.left + box.right) / 2, (box.bottom + box.top) / 2
    site = gpd.GeoDataFrame(
        geometry=[shapely.box(x - 30, y - 30, x + 30, y + 30)], crs=str(images.odc.geobox.crs)
    )
    table = site_conditions(images, site)
    assert table["offset_x_m"].tolist()[:3] == pytest.approx([0, -3.9, 0], abs=0.5)
    assert table["offset_y_m"].tolist()[:3] == pytest.approx([0, -1.2, 6.9], abs=0.5)
    assert (
        table.loc[:, ["offset_x_m", "offset_y_m"]].iloc[3:].isna().all(axis=None)
    )  # too little in common, no pattern
    assert table["doubt"].tolist() == ["", "offset", "offset, snow", "snow", ""]
    assert table["snow_share"].iloc[0] == 0
    clouded = images.copy(deep=True)
    clouded["mask_class"].values[1] = 6
    assert np.isnan(site_conditions(clouded, site)["snow_share"].iloc[1])  # nobody saw the ground
    with pytest.raises(ParameterError, match="no mask_class"):
        site_conditions(images.drop_vars("mask_class"), site)
    prob = xr.full_like(images["nir"], 0.9, "float32").rename("probability")
    series = site_series(prob, site, images=images.isel(time=[0, 2, 1]))
    assert series["doubt"].tolist()[:3] == ["", "offset", "offset, snow"]
    assert series["area_m2"].notna().all()  # flagged, not dropped
    labels = [line.get_label() for line in timeline(prob, site, images=images).lines]
    assert "offset or snow" in labels


def test_a_mask_is_drawn_by_its_classes_and_no_data_is_none_of_them(images: xr.Dataset):
    kinds = images["mask_class"].isel(time=3).copy()
    kinds.values[:100] = 0
    names = [text.get_text() for text in layer(kinds).get_legend().get_texts()]
    assert [name.split(",")[0] for name in names if name.startswith(("snow", "no data"))] == ["snow"]
    assert sum(float(name.split(", ")[1].rstrip("%")) for name in names) == pytest.approx(100, abs=0.3)


def test_timeline_and_sheet_show_each_step(cube: xr.DataArray):
    axes = timeline(cube, SITE)
    assert axes.get_ylabel() == "area, ha"
    assert "(synthetic)" in axes.get_title()
    seen, foot = axes.lines[-2:]
    assert len(seen.get_xdata()) == 2
    assert (foot.get_label(), len(foot.get_xdata())) == ("not covered", 1)  # the third step saw nothing
    panels = cube.darts.sheet(SITE.to_crs("EPSG:4326").geometry.iloc[0], columns=2)
    assert panels.shape == (2, 2)
    figure = panels[0, 0].figure
    titles = [ax.get_title() for ax in figure.axes if ax.images]
    assert titles[:3] == ["2021-07-01", "2022-07-01", "2023-07-01"]
    assert "synthetic" in figure.get_suptitle()
    assert all(ax.axison for ax in figure.axes if ax.images)  # the grey of no data is seen
    assert [ax.get_ylabel() for ax in figure.axes if ax.get_label() == "<colorbar>"] == ["probability"]
    assert sheet(cube.to_dataset(), SITE) is not None


def test_a_cube_tells_which_scenes_it_is_made_of(world: SampleWorld, cube: xr.DataArray):
    items = sorted(dx.load_items(world.catalog), key=lambda item: item.datetime)
    items[0].properties["eo:cloud_cover"] = 12.0
    table = dx.open_cube(items, bands=["red"]).darts.scenes()
    assert table["item_id"].tolist() == [item.id for item in items]
    assert table["date"].tolist() == [f"{item.datetime:%Y-%m-%d}" for item in items]
    assert table["cloud_cover"].iloc[0] == 12
    assert table["synthetic"].all()
    assert set(table["mask_rule"]) == {"udm2"}
    assert cube.darts.scenes()["item_id"].tolist() == list("abc")
    with pytest.raises(ParameterError, match="no cube"):
        cube.isel(time=0).darts.scenes()


def test_synthetic_land_cover_is_called_so(world: SampleWorld, scene: xr.Dataset):
    cover = dx.landcover_for(dx.load_items(world.auxiliary), scene["valid"].odc.geobox, 2021)
    assert "(synthetic)" in layer(cover).get_title()


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
    years = gpd.GeoDataFrame(
        {
            "site": [1, 1],
            "year": [2021, 2022],
            "state": ["not covered", "detected"],
            "growth_m2_per_year": [np.nan, 900.0],
        },
        geometry=[shapely.Polygon(), SITE.geometry[0]],
        crs=SITE.crs,
    )
    history = dx.explore(years, tiles=None).get_root().render()
    assert '"growth_m2_per_year": 900.0' in history
    assert "not covered" not in history


def test_the_accessor_is_there_with_the_first_scene_and_brings_no_matplotlib():
    code = (
        "import sys, xarray as xr, darts_xr as dx\n"
        "dx.open_scene\n"
        "xr.Dataset().darts\n"
        "import darts_xr.looking\n"
        "assert 'matplotlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
