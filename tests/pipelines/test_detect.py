"""The whole flow on the synthetic world: lazy, the same on any chunks and scheduler, and found what is there."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import dask
import geopandas as gpd
import numpy as np
import odc.stac
import pyogrio
import pystac
import pytest
import rasterio
import shapely
import stackstac
import xarray as xr
from geopandas.testing import assert_geodataframe_equal

import darts_xr as dx
from darts_xr.objects import member_objects
from darts_xr.products import LEVEL1_COLUMNS, LEVEL2_COLUMNS
from darts_xr.sample import SampleWorld, read_truth
from pipelines.aggregation import Products, aggregate, read_footprints
from pipelines.demonstration import demo
from pipelines.detection import detect
from pipelines.records import Run, open_run
from pipelines.reports import report
from pipelines.settings import Settings
from pipelines.validation import score_run, validate
from tests.helpers import raise_if_dask_computes


def _digests(folder: Path, pattern: str) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob(pattern))
    }


def test_forty_scenes_build_up_to_labels_without_computing(world: SampleWorld):
    first = dx.load_items(world.catalog)[0]
    items = []
    for number in range(40):
        item = first.clone()
        item.id = f"20210720_205954_{number:02d}_24e6"
        items.append(item)
    auxiliary = dx.load_items(world.auxiliary)
    ensemble = dx.load_ensemble("demo")
    with raise_if_dask_computes(0):
        for item in dx.search(items):
            scene = dx.open_scene(item, auxiliary=auxiliary)
            prob = dx.predict(scene, ensemble)
            labels = dx.label_objects(prob)
            assert dask.is_dask_collection(scene["valid"].data)
            assert dask.is_dask_collection(labels.data)


def test_a_scene_has_the_bands_of_the_design_on_the_images_own_grid(world: SampleWorld):
    item = dx.load_items(world.catalog)[0]
    scene = dx.open_scene(item, auxiliary=world.auxiliary)
    dtypes = {name: str(scene[name].dtype) for name in scene.data_vars}
    assert dtypes == dtypes | {
        "ndvi": "float32", "blue": "uint16", "green": "uint16", "red": "uint16", "nir": "uint16",
        "relative_elevation": "float32", "slope": "float32",
        "tc_brightness": "uint8", "tc_greenness": "uint8", "tc_wetness": "uint8", "valid": "bool",
    }  # fmt: skip
    with rasterio.open(item.assets["image"].href) as file:
        assert scene.odc.geobox.transform == file.transform
        np.testing.assert_array_equal(scene["nir"].values, file.read(4))
    assert all(scene[name].attrs["long_name"] for name in scene.data_vars)
    assert not scene["valid"].values[scene["nir"].values == 0].any()


def test_every_pixel_is_read_once_for_both_members(world: SampleWorld, monkeypatch: pytest.MonkeyPatch):
    read: list[tuple] = []
    original = rasterio.DatasetReader.read

    class Counting:
        def __init__(self, dataset):
            self.dataset = dataset

        def __getattr__(self, name):
            return getattr(self.dataset, name)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.dataset.close()

        def read(self, *args, **kwargs):
            read.append((self.dataset.name, kwargs.get("window")))
            return original(self.dataset, *args, **kwargs)

    item = dx.load_items(world.catalog)[0]
    scene = dx.open_scene(item, auxiliary=world.auxiliary, chunks=256)
    prob = dx.predict(scene, dx.load_ensemble("demo"))
    opened = rasterio.open
    monkeypatch.setattr(rasterio, "open", lambda *args, **kwargs: Counting(opened(*args, **kwargs)))
    prob.compute()
    images = [entry for entry in read if "AnalyticMS_SR" in entry[0]]
    assert len(images) == len(set(map(str, images))) == 4  # a read for each chunk, none twice


def test_polygons_do_not_depend_on_the_chunks(world: SampleWorld):
    ensemble, item = dx.load_ensemble("demo"), dx.load_items(world.catalog)[0]
    results = []
    for chunks in (512, (300, 170)):
        scene = dx.open_scene(item, auxiliary=world.auxiliary, chunks=chunks)
        prob = dx.predict(scene, ensemble)
        labels = dx.label_objects(prob)
        results.append((prob.compute(), dx.vectorize(labels, prob)))
    (p, a), (q, b) = results
    np.testing.assert_allclose(p.values, q.values, atol=1e-5)
    assert len(a) > 0
    assert (a.geometry.to_wkb() == b.geometry.to_wkb()).all()


def test_the_distributed_scheduler_gives_the_same_bytes(world: SampleWorld, run: Run, tmp_path: Path):
    with dx.start_cluster(n_workers=1, memory_limit="3GB", dashboard_address=None) as client:
        other = detect(
            world.catalog,
            Settings(out=tmp_path, auxiliary=world.auxiliary, infrastructure=world.infrastructure),
            client=client,
        )
    assert other.record["counts"] == run.record["counts"]
    assert _digests(tmp_path / "scenes", "*.parquet") == _digests(run.folder / "scenes", "*.parquet")
    assert _digests(tmp_path / "scenes", "*.tif") == _digests(run.folder / "scenes", "*.tif")


def test_layers_that_stay_on_the_networks_device_give_the_same_objects(
    world: SampleWorld, run: Run, tmp_path: Path
):
    ensemble = dx.load_ensemble(
        "demo", device="cpu:0"
    )  # by its number: torch derives the layers there, as on a GPU
    settings = Settings(
        out=tmp_path, models=ensemble, auxiliary=world.auxiliary, infrastructure=world.infrastructure
    )
    other = detect(world.catalog, settings)
    assert other.record["counts"] == run.record["counts"]
    for name in ("id", "area_m2"):
        assert other.level1[name].tolist() == run.level1[name].tolist()


def test_a_run_folder_holds_what_the_design_lists(run: Run, products: Products):
    ids = [scene["id"] for scene in run.scenes]
    assert {p.name for p in (run.folder / "scenes").iterdir()} == set(ids)
    for scene_id in ids:
        names = {p.name for p in (run.folder / "scenes" / scene_id).iterdir()}
        assert names == {
            "probability.tif", "binary.tif", "level1.parquet", "removed.parquet", "quicklook.png", "item.json",
        }  # fmt: skip
    # GDAL leaves .aux.xml files beside what other tests have read.
    there = {p.name for p in (run.folder / "products").iterdir() if not p.name.endswith(".aux.xml")}
    assert there == {
        f"test_synthetic_{kind}_2021_{level}.{suffix}"
        for kind, level in (
            ("features", "level1"), ("features", "level2"), ("coverage", "level1"), ("coverage", "level2"),
            ("coverage", "union"), ("coverage", "intersect"),
        )
        for suffix in ("parquet", "gpkg")
    } | {"test_synthetic_table1_2021.csv", "test_synthetic_manifest_2021.json"}  # fmt: skip
    assert not list(run.folder.rglob("*.part"))
    written = json.loads((run.folder / "run.json").read_text())
    assert len(written.pop("check")) == 16
    assert open_run(run.folder).record == written


def test_every_object_is_accounted_for(run: Run, products: Products):
    counts = run.record["counts"]
    removed = sum(counts[f"n_removed_{rule}"] for rule in ("border", "small", "water", "infrastructure"))
    assert counts["n_detected"] == counts["n_objects"] + removed
    assert counts["n_objects"] == len(products.level1)
    assert counts["scenes"] == counts["done"] == 2


def test_levels_have_the_columns_of_the_paper(products: Products):
    assert list(products.level1.columns) == list(LEVEL1_COLUMNS)
    assert list(products.level2.columns) == list(LEVEL2_COLUMNS)
    assert products.level1.crs.to_epsg() == products.level2.crs.to_epsg() == 4326
    assert (products.level1["image_source"] == "PlanetScope (synthetic)").all()
    assert products.level1["pval_min"].min() >= 0.5
    members = ",".join(products.level2["id_geohash_level1"]).split(",")
    assert set(members) == set(products.level1["id_geohash"])


def test_rasters_and_vectors_name_what_made_them(run: Run, products: Products):
    scene = run.folder / "scenes" / run.scenes[0]["id"]
    digest = run.record["checkpoints"][0]["sha256"]
    with rasterio.open(scene / "probability.tif") as file:
        tags, percent = file.tags(), file.read(1)
        assert file.nodata == 255
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    with rasterio.open(scene / "binary.tif") as file:
        binary = file.read(1)
    assert set(np.unique(percent)) <= {*range(101), 255}
    assert set(np.unique(binary)) <= {0, 1, 255}
    np.testing.assert_array_equal(percent == 255, binary == 255)
    assert (percent[binary == 1] >= 50).all()
    gpkg = next(path for path in products.files if path.name.endswith("level1.gpkg"))
    for made_by in (
        tags,
        pyogrio.read_info(gpkg)["dataset_metadata"],
        gpd.read_parquet(scene / "level1.parquet").attrs,
    ):
        assert digest in made_by["checkpoints"]
        assert made_by["darts_xr"] == dx.__version__
        assert "threshold" in made_by["rules"]
        assert "synthetic" in made_by["synthetic"]


def test_coverage_is_the_area_of_the_valid_pixels(run: Run, products: Products):
    cover = products.coverage["level1"].set_index("image_id")
    for scene in run.scenes:
        assert cover.loc[scene["id"], "area_m2"] == pytest.approx(scene["valid_pixels"] * 9, rel=0.01)
    footprints = read_footprints(run)
    assert list(footprints.columns) == ["image_id", "date", "year", "geometry"]


def test_the_output_catalogue_opens_as_a_cube_over_time(run: Run):
    catalogue = pystac.Catalog.from_file(str(run.folder / "catalog.json"))
    assert len(list(catalogue.get_items(recursive=True))) == 2
    with raise_if_dask_computes(0):
        cube = dx.open_cube(run.folder / "catalog.json", bands=["probability", "binary"])
    assert cube["probability"].dims == ("time", "y", "x")
    assert cube.sizes["time"] == 2
    values = cube["probability"].values
    assert values.dtype == np.float32
    assert np.nanmin(values) >= 0
    assert np.nanmax(values) <= 1
    with rasterio.open(run.folder / "scenes" / run.scenes[0]["id"] / "probability.tif") as file:
        seen = (file.read(1) != 255).sum()
    assert np.isfinite(values[0]).sum() == seen
    box = (
        shapely.geometry.shape(next(catalogue.get_items(recursive=True)).geometry)
        .centroid.buffer(0.005)
        .bounds
    )
    part = dx.open_cube(run.folder / "catalog.json", bbox=box, resolution=12)
    assert part.odc.geobox.resolution.x == 12
    assert part.sizes["x"] < cube.sizes["x"] / 4


def test_steps_of_a_cube_remember_their_scenes(world: SampleWorld, run: Run):
    cube = dx.open_cube(run.folder / "catalog.json")
    made = [json.loads((run.folder / "scenes" / s["id"] / "item.json").read_text()) for s in run.scenes]
    by_id = {item["id"]: item["properties"] for item in made}
    assert set(cube["item_id"].values.tolist()) == set(by_id)
    assert cube["synthetic"].dims == ("time",)
    assert cube["synthetic"].values.all()
    for step in range(cube.sizes["time"]):
        part = cube.isel(time=step)
        stated = by_id[part["item_id"].item()]
        assert part["time"].values == np.datetime64(stated["datetime"].removesuffix("Z"), "ns")
        for name in ("checkpoints", "rules", "auxiliary", "mask_rule", "ensemble"):
            assert part[name].item() == stated[f"darts:{name}"]
        labels = dx.label_objects(part["probability"])
        rows = dx.level1(dx.vectorize(labels, part["probability"]), part)
        assert set(rows["image_source"]) <= {"PlanetScope (synthetic)"}
        assert set(rows["image_id"]) <= {part["item_id"].item()}
        assert set(rows["DARTS_AI_model_version"]) <= {"tcvis+notcvis"}
    assert len(rows) > 0


def test_images_open_as_a_cube_on_the_grid_of_their_results(world: SampleWorld, run: Run):
    results = dx.open_cube(run.folder / "catalog.json")
    with raise_if_dask_computes(0):
        images = dx.open_cube(world.catalog, bands=["red", "nir", "valid"], like=results)
        assert dx.open_cube(world.catalog, bands=["red"]).odc.geobox == images.odc.geobox
    assert {name: str(images[name].dtype) for name in images.data_vars} == {
        "red": "uint16", "nir": "uint16", "valid": "bool",
    }  # fmt: skip
    both = xr.merge([results, images], compat="equals")
    seen = both["probability"].notnull()
    assert bool((seen == both["valid"]).all())
    item = dx.load_items(world.catalog)[0]
    scene = dx.open_scene(item, bands=["red"])
    step = images.isel(time=images["item_id"].values.tolist().index(item.id)).sel(x=scene["x"], y=scene["y"])
    np.testing.assert_array_equal(step["red"].values, scene["red"].values)
    mean = both["red"].where(both["valid"]).mean("time")  # plain xarray from here on
    assert mean.odc.geobox == results.odc.geobox


def test_a_cube_is_written_and_read_again(run: Run, tmp_path: Path):
    cube = dx.open_cube(run.folder / "catalog.json", resolution=12)
    for write, name in ((cube.to_netcdf, "cube.nc"), (cube.to_zarr, "cube.zarr")):
        write(tmp_path / name)
        with xr.open_dataset(tmp_path / name) as again:
            xr.testing.assert_equal(again.load(), cube.compute())
            assert again.odc.geobox == cube.odc.geobox


def test_odc_stac_and_stackstac_read_the_items_of_a_run(run: Run):
    items = dx.load_items(run.folder / "catalog.json")
    cube = odc.stac.load(items, bands=["probability"], groupby="id")
    stack = stackstac.stack(
        items, assets=["probability"], dtype=np.dtype("uint8"), fill_value=np.uint8(255), rescale=False
    )
    assert stack.rio.crs.to_epsg() == cube.odc.geobox.crs.epsg
    assert stack.sizes["time"] == cube.sizes["time"] == len(items)
    for step in range(len(items)):
        a, b = stack.isel(band=0, time=step).values, cube["probability"].isel(time=step).values
        assert (a[a <= 100] >= 50).sum() == (b[b <= 100] >= 50).sum() > 0


def test_a_second_run_gives_the_same_products(
    world: SampleWorld, run: Run, products: Products, tmp_path: Path
):
    again = detect(
        world.catalog,
        Settings(out=tmp_path, auxiliary=world.auxiliary, infrastructure=world.infrastructure),
    )
    aggregate(again, name="test_synthetic")
    assert _digests(tmp_path / "products", "*") == _digests(run.folder / "products", "*")


def test_new_scenes_are_added_without_dissolving_the_rest_again(
    world: SampleWorld, run: Run, products: Products, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    first, second = dx.load_items(world.catalog)
    settings = Settings(out=tmp_path, auxiliary=world.auxiliary, infrastructure=world.infrastructure)
    aggregate(detect([first], settings), name="test_synthetic")
    whole = detect([first, second], settings)
    monkeypatch.setattr(dx, "level2", lambda *_: pytest.fail("everything was dissolved again"))
    aggregate(whole, name="test_synthetic")
    assert _digests(tmp_path / "products", "*") == _digests(run.folder / "products", "*")


def _in_year(item: pystac.Item, year: int, number: int = 0) -> pystac.Item:
    """The same pixels as an image of another year, or another one of that year."""
    moved = item.clone()
    moved.datetime = moved.datetime.replace(year=year)
    moved.properties["datetime"] = moved.datetime.isoformat()
    moved.id = f"{year}{item.id[4:9]}_{number:06d}{item.id[15:]}"
    return moved


def test_new_scenes_leave_the_products_of_other_years_alone(world: SampleWorld, tmp_path: Path):
    first, second = dx.load_items(world.catalog)
    scenes = [first, _in_year(second, 2022), _in_year(first, 2022, 1)]
    settings = Settings(out=tmp_path, auxiliary=world.auxiliary)
    products = aggregate(detect(scenes[:2], settings), name="test_synthetic", by_year=True)
    assert {path.stem.split("_")[3] for path in products.files} == {"2021", "2022"}
    assert dx.level2(products.level1).equals(products.level2)
    before = {path: path.stat().st_mtime_ns for path in products.files}
    again = aggregate(detect(scenes, settings), name="test_synthetic", by_year=True)
    changed = {path.stem.split("_")[3] for path in again.files if path.stat().st_mtime_ns != before[path]}
    assert again.files == products.files
    assert changed == {"2022"}
    assert len(again.level1) > len(products.level1)
    assert dx.level2(again.level1).equals(again.level2)


def test_members_alone_are_written_on_request(world: SampleWorld, tmp_path: Path):
    item = dx.load_items(world.catalog)[0]
    settings = Settings(out=tmp_path, auxiliary=world.auxiliary, members=True)
    run = detect(world.catalog, settings, only=[item.id])
    folder = tmp_path / "scenes" / item.id
    alone, spread = (gpd.read_parquet(folder / name) for name in ("members.parquet", "spread.parquet"))
    assert set(alone["member"]) == {"tcvis", "notcvis"}
    assert len(alone) >= run.scenes[0]["counts"]["n_objects"]
    # A run keeps of its members what objects are made of; here they are whole.
    whole = dx.predict_members(
        dx.open_scene(item, auxiliary=world.auxiliary), dx.load_ensemble("demo")
    ).compute()
    whole_objects = member_objects(whole, threshold=settings.rules.threshold)
    order = ["member", "object"]
    files, memory = (frame.sort_values(order, ignore_index=True) for frame in (alone, whole_objects))
    assert_geodataframe_equal(files, memory)
    rules = settings.rules
    labels = dx.label_objects(
        whole["probability"], threshold=rules.threshold, border=rules.border, min_pixels=rules.min_pixels
    )
    found = dx.vectorize(labels, whole["spread"])
    assert {*zip(spread["spread_mean"], spread["spread_max"], strict=True)} <= {
        *zip(found["pval_mean"], found["pval_max"], strict=True)
    }
    assert len(spread) == run.scenes[0]["counts"]["n_objects"] > 0


def test_years_select_what_is_aggregated(run: Run):
    with pytest.raises(dx.DartsError, match="in these years"):
        aggregate(run, years=[1999])


def test_reports_tell_of_every_scene(run: Run):
    page = report(run).read_text()
    for scene in run.scenes:
        assert scene["id"] in page
    assert "Synthetic" in page


def test_validation_finds_a_product_equal_to_itself(products: Products, world: SampleWorld, run: Run):
    table = validate(products.level2, products.level2).tables["Level 2, per year"].set_index("scope")
    assert table.loc["2021", "f1"] == 1
    assert {"all", "mean", "sd"} <= set(table.index)
    scores = score_run(run, products, read_truth(world))
    assert open_run(run.folder).record["scores"] == scores


def test_the_demo_finds_the_slumps_of_a_world_it_never_saw(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    result = demo(tmp_path, seed=21, scenes=2, size=1024)
    assert result.scores["level1"]["f1"] >= 0.8
    assert result.scores["level2"]["f1"] >= 0.8
    assert result.scores["ndvi"]["f1"] <= result.scores["level1"]["f1"] - 0.25
    said = [line.getMessage() for line in caplog.records if line.name == "darts_xr.assess.scored"]
    assert len(said) == len(set(said))


def test_neutral_layers_stand_in_and_say_so(world: SampleWorld, tmp_path: Path):
    run = detect(
        world.catalog, Settings(out=tmp_path, auxiliary="neutral"), only=[dx.load_items(world.catalog)[0].id]
    )
    assert run.record["auxiliary"] == "neutral"
    with rasterio.open(tmp_path / "scenes" / run.scenes[0]["id"] / "probability.tif") as file:
        assert "neutral" in file.tags()["auxiliary"]
    scene = dx.open_scene(dx.load_items(world.catalog)[0], auxiliary="neutral")
    assert isinstance(scene, xr.Dataset)
    assert float(scene["slope"].max()) == 0
