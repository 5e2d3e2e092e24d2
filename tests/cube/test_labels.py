"""Scenes as xarray knows them: dates that concat keeps, CF names, files and back, and what rioxarray adds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cf_xarray  # noqa: F401  registers .cf
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
import xarray as xr

import darts_xr as dx
from darts_xr.cube import landcover_for
from darts_xr.cube.windows import window_pixels
from darts_xr.errors import WindowError
from darts_xr.sample import SampleWorld
from tests.inference.worlds import small_ensemble

PART = {"y": slice(128, 256), "x": slice(128, 256)}


@pytest.fixture(scope="module")
def scenes(world: SampleWorld) -> list[xr.Dataset]:
    items = dx.load_items(world.catalog)
    return [dx.open_scene(item, auxiliary=world.auxiliary, chunks=64).isel(PART) for item in items]


@pytest.fixture(scope="module")
def returned(world: SampleWorld, scenes: list[xr.Dataset], tmp_path_factory: Any) -> dict[str, xr.DataArray]:
    """What the library returns of one scene."""
    ensemble = small_ensemble(tmp_path_factory.mktemp("members"))
    votes = dx.predict_members(scenes[0], ensemble)
    cover = landcover_for(dx.load_items(world.auxiliary), scenes[0].odc.geobox, 2021, margin=0)
    return {
        **{str(name): array for name, array in scenes[0].data_vars.items()},
        **{str(name): array for name, array in votes.data_vars.items()},
        "objects": dx.label_objects(votes["probability"], border=2, min_pixels=2),
        "landcover": cover,
    }


def test_concat_of_scenes_has_their_dates_and_ids(world: SampleWorld, scenes: list[xr.Dataset]):
    cube = xr.concat(
        scenes, "time", coords="different", compat="equals", join="outer", combine_attrs="drop_conflicts"
    )
    items = dx.load_items(world.catalog)
    assert cube["item_id"].values.tolist() == [item.id for item in items]
    assert cube.indexes["time"].equals(
        pd.DatetimeIndex([item.datetime.replace(tzinfo=None) for item in items], name="time")
    )
    assert scenes[0]["time"].dtype == "datetime64[ns]"
    assert cube["synthetic"].values.all()
    assert "auxiliary" in cube.attrs


def test_the_attributes_name_only_layers_that_are_read(world: SampleWorld):
    item = dx.load_items(world.catalog)[0]
    terrain = dx.open_scene(item, auxiliary=world.auxiliary, bands=["slope"])
    assert terrain.attrs["auxiliary"] == terrain["slope"].attrs["items"] == "dem_000"
    both = dx.open_scene(item, auxiliary=world.auxiliary)
    assert both.attrs["auxiliary"] == "dem_000, trends_000"


def test_variables_have_cf_names_units_and_grid_mapping(returned: dict[str, xr.DataArray]):
    for name, array in returned.items():
        assert array.attrs["long_name"], name
        assert array.attrs.get("units") or array.attrs["flag_meanings"], name
        assert array.encoding["grid_mapping"] == "spatial_ref"
        assert array.cf.axes == {"X": ["x"], "Y": ["y"]} | ({"T": ["time"]} if "time" in array.coords else {})
        assert array.cf["projection_x_coordinate"].name == "x"
    scene = xr.Dataset({name: returned[name] for name in ("ndvi", "red", "slope")})
    assert scene.cf.standard_names["normalized_difference_vegetation_index"] == ["ndvi"]
    assert scene.cf["ground_slope_angle"].name == "slope"
    assert returned["red"].attrs["units"] == "1e-4"
    assert scene.cf["time"].name == "time"
    assert scene.cf.grid_mapping_names == {"transverse_mercator": ["spatial_ref"]}


@pytest.mark.parametrize("kind", ["netcdf", "zarr"])
def test_files_hold_scene_probability_and_labels(
    scenes: list[xr.Dataset], returned: dict[str, xr.DataArray], tmp_path: Path, kind: str
):
    labels = returned["objects"]
    for data in (scenes[0], returned["probability"], labels):
        path = tmp_path / f"{data.name if isinstance(data, xr.DataArray) else 'scene'}.{kind}"
        getattr(data, f"to_{kind}")(path)
        read = xr.open_dataset(path) if isinstance(data, xr.Dataset) else xr.open_dataarray(path)
        with read as again:
            xr.testing.assert_equal(again.load(), data.compute())
            assert {k: v for k, v in again.attrs.items() if k != "grid_mapping"} == data.attrs
            assert again.odc.geobox == data.odc.geobox
            assert again.rio.crs == data.rio.crs
            assert again["time"].dtype == "datetime64[ns]"


@pytest.mark.parametrize("kind", ["netcdf", "zarr"])
def test_a_saved_scene_predicts_the_same_bits(scenes: list[xr.Dataset], tmp_path: Path, kind: str):
    ensemble = small_ensemble(tmp_path)
    getattr(scenes[1], f"to_{kind}")(tmp_path / f"scene.{kind}")
    with xr.open_dataset(tmp_path / f"scene.{kind}") as again:
        prob = dx.predict(again, ensemble).compute()
        labels = dx.label_objects(prob, threshold=float(prob.median()), border=0, min_pixels=1)
        feats = dx.vectorize(labels, prob)
        rows = dx.level1(feats, again)
    xr.testing.assert_equal(prob, dx.predict(scenes[1], ensemble).compute())
    assert len(rows) == len(feats) > 0
    assert set(rows["image_source"]) == {"PlanetScope (synthetic)"}
    assert set(rows["image_id"]) == {scenes[1]["item_id"].item()}


def test_rioxarray_works_on_all_that_is_returned(returned: dict[str, xr.DataArray], tmp_path: Path):
    for name, array in returned.items():
        array = array.compute()
        grid = array.odc.geobox
        assert array.rio.crs.to_epsg() == grid.crs.epsg
        assert array.rio.transform() == grid.transform
        circle = shapely.Point(*np.mean(grid.boundingbox.points, axis=0)).buffer(abs(grid.resolution.x) * 6)
        inside = array.rio.clip([circle], from_disk=False)
        assert inside.dtype == array.dtype
        corner = inside.values.reshape(-1, *inside.shape[-2:])[0, 0, 0]
        assert not corner or np.isnan(corner), name
        plain = array.astype("uint8") if array.dtype == bool else array  # GDAL knows no booleans
        assert plain.rio.reproject("EPSG:3413").rio.crs.to_epsg() == 3413
        plain.rio.to_raster(tmp_path / f"{name}.tif", driver="COG")
        with rasterio.open(tmp_path / f"{name}.tif") as file:
            assert file.crs.to_epsg() == grid.crs.epsg
            np.testing.assert_array_equal(file.read().squeeze(), plain.values)


def test_a_whole_scene_is_clipped_and_reprojected(scenes: list[xr.Dataset]):
    scene = scenes[0].compute()
    west, south, east, north = scene.odc.geobox.boundingbox
    part = scene.rio.clip_box(west + 60, south + 60, east - 60, north - 60)
    assert part.sizes == {"y": 88, "x": 88}
    assert part.attrs == scene.attrs
    polar = scene.drop_vars("valid").rio.reproject("EPSG:3413")
    assert polar["item_id"] == scene["item_id"]


def test_a_window_in_degrees_is_the_pixels_that_the_box_touches(scenes: list[xr.Dataset]):
    grid = scenes[0].odc.geobox
    inner = grid[20:50, 60:70]
    box = inner.footprint("EPSG:4326", buffer=-1).boundingbox.bbox
    rows, cols = window_pixels(scenes[0]["valid"], box)
    # A box in degrees is turned against the grid: it holds the pixels and as little as it can beside them.
    assert (rows.start, rows.stop, cols.start, cols.stop) == pytest.approx((20, 50, 60, 70), abs=2)
    with pytest.raises(WindowError, match="holds no pixel"):
        window_pixels(scenes[0]["valid"], (10.0, 60.0, 11.0, 61.0))
    assert window_pixels(scenes[0]["valid"], (-180.0, 0.0, 180.0, 90.0)) == (slice(0, 128), slice(0, 128))
