"""The synthetic world: deterministic, calibrated to measured figures, and honest about what it is."""

from __future__ import annotations

import json
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

import darts_xr as dx
from darts_xr.sample import SampleWorld, read_truth, write_world
from darts_xr.sample.landscape import GROUNDS, MIN_OUTLINE_AREA, Landscape
from darts_xr.sample.noise import fractal_noise
from darts_xr.sample.render import Pass, ground, render_block

pytestmark = pytest.mark.xdist_group("landscapes")  # grown once

BOUNDS = (500_000.0, 8_000_000.0, 504_608.0, 8_004_608.0)  # the demo's 1536 px a side


@pytest.fixture(scope="module")
def landscapes() -> list[Landscape]:
    return [Landscape(seed, BOUNDS) for seed in range(12)]


def test_the_same_seed_writes_the_same_bytes(world: SampleWorld, tmp_path: Path):
    again = write_world(tmp_path, seed=11, scenes=2, size=512)
    # GDAL leaves .aux.xml files beside what other tests have read.
    files, others = (
        sorted(
            p.relative_to(w.root)
            for p in w.root.rglob("*")
            if p.is_file() and not p.name.endswith(".aux.xml")
        )
        for w in (world, again)
    )
    assert files == others
    for file in files:
        assert (world.root / file).read_bytes() == (again.root / file).read_bytes(), file


def test_another_seed_writes_another_world(world: SampleWorld, tmp_path: Path):
    other = write_world(tmp_path, seed=12, scenes=1, size=256)
    assert not read_truth(other).geometry.iloc[:1].equals(read_truth(world).geometry.iloc[:1])


def test_everything_says_that_it_is_synthetic(world: SampleWorld):
    for path in world.root.rglob("*.tif"):
        with rasterio.open(path) as file:
            assert "synthetic" in file.tags()["notice"], path
    for path in (world.truth, world.infrastructure):
        assert "synthetic" in pyogrio.read_info(path)["dataset_metadata"]["notice"]
    for source in (world.catalog, world.auxiliary):
        for item in dx.load_items(source):
            assert item.properties["darts:synthetic"] is True
            assert "synthetic" in item.properties["description"]
    assert all(item.properties["darts:synthetic"] for item in dx.planet_items(world.root / "scenes"))
    for path in world.root.rglob("*_metadata.json"):
        assert "synthetic" in json.loads(path.read_text())["properties"]["notice"]
    scene = dx.open_scene(dx.load_items(world.catalog)[0])
    assert scene["synthetic"].item() is True


def test_images_look_like_planet_deliveries(world: SampleWorld):
    item = dx.load_items(world.catalog)[0]
    with rasterio.open(item.assets["image"].href) as image, rasterio.open(item.assets["udm2"].href) as udm2:
        assert (image.count, image.dtypes[0], image.nodata, image.res) == (4, "uint16", 0, (3, 3))
        assert image.descriptions == ("blue", "green", "red", "nir")
        assert image.crs.to_epsg() == 32610
        assert image.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        pixels, mask = image.read(), udm2.read()
        assert (udm2.count, udm2.shape, udm2.transform) == (8, image.shape, image.transform)
    collar = (pixels == 0).all(axis=0)
    assert 0.28 < collar.mean() < 0.42  # a rotated swath in its frame
    assert (mask[7][collar] & 1).all()
    assert (mask[:6].sum(axis=0) == ~collar).all()  # every pixel seen is of one class
    assert set(np.unique(mask[:6])) <= {0, 1}
    assert mask[6].max() <= 100


def test_auxiliary_layers_have_their_own_grids(world: SampleWorld):
    grids = {}
    for item in dx.load_items(world.auxiliary):
        for key, asset in item.assets.items():
            with rasterio.open(asset.href) as file:
                grids.setdefault(key, set()).add(
                    (file.crs.to_epsg(), file.res[0], file.dtypes[0], file.count)
                )
    assert grids == {
        "dem": {(3413, 2.0, "float32", 1)},
        "trends": {(3413, 30.0, "uint8", 3)},
        "landcover": {(32610, 10.0, "uint8", 1)},
    }


def test_truth_has_a_row_for_each_slump_and_date(world: SampleWorld):
    truth = read_truth(world)
    dates = {f"{item.datetime:%Y-%m-%d}" for item in dx.load_items(world.catalog)}
    assert list(truth.columns) == ["date", "geometry"]
    assert set(truth["date"]) == dates
    assert truth.crs.to_epsg() == 4326
    assert truth.geometry.is_valid.all()
    assert truth.to_crs(32610).area.min() >= MIN_OUTLINE_AREA * 0.98


def test_slumps_grow_upslope_and_keep_their_lower_edge(landscapes: list[Landscape]):
    grown = 0
    for slump in landscapes[0].slumps:
        early, late = slump.at(2021.6), slump.at(2023.6)
        if early is None or late is None:
            continue
        grown += 1
        assert late.area > early.area
        uphill = np.array([np.cos(late.heading), np.sin(late.heading)])
        toe = [np.array([b.x, b.y]) @ uphill - b.length / 2 for b in (early, late)]
        assert toe[0] == pytest.approx(toe[1], abs=1e-6)
    assert grown > 5


def test_young_tundra_has_more_slumps_that_opened_after_the_first_summer():
    bounds = (0.0, 0.0, 4608.0, 4608.0)
    shares = {
        kind: np.mean(
            [s.at(2021.6) is None for seed in range(3) for s in Landscape(seed, bounds, GROUNDS[kind]).slumps]
        )
        for kind in ("tundra", "young_tundra")
    }
    assert shares["tundra"] < 0.1 < shares["young_tundra"] < 0.4


def test_outlines_match_the_measured_sizes_and_shapes(landscapes: list[Landscape]):
    outlines = np.array([s.outline.polygon() for land in landscapes for s in land.slumps])
    area = shapely.area(outlines)
    circularity = 4 * np.pi * area / shapely.length(outlines) ** 2
    boxes = shapely.minimum_rotated_rectangle(outlines)
    sides = [np.linalg.norm(np.diff(shapely.get_coordinates(b), axis=0), axis=1)[:2] for b in boxes]
    elongation = [max(s) / min(s) for s in sides]
    # Measured on 3,749 training labels: 2,302 / 6,271 / 17,347 m²; 0.45 / 0.61 / 0.75; 1.35 / 1.66 / 2.15.
    np.testing.assert_allclose(np.percentile(area, (25, 50, 75)), (2302, 6271, 17347), rtol=0.35)
    np.testing.assert_allclose(np.percentile(circularity, (25, 50, 75)), (0.45, 0.61, 0.75), atol=0.1)
    np.testing.assert_allclose(np.percentile(elongation, (25, 50, 75)), (1.35, 1.66, 2.15), rtol=0.15)
    assert shapely.is_valid(outlines).all()
    per_image = [
        len(land.slumps) * 0.65 for land in landscapes
    ]  # the swath shows about two thirds of the site
    assert 5 <= np.median(per_image) <= 26  # the quartiles of labels per labelled image


def test_ground_has_the_measured_reflectances(landscapes: list[Landscape]):
    x, y = BOUNDS[0] + 3 + 6 * np.arange(384), BOUNDS[3] - 3 - 6 * np.arange(384)
    samples, inside, around = [], [], []
    for land in landscapes[:6]:
        image = ground(land, x, y, 2022.6)
        ndvi = (image[3] - image[2]) / (image[3] + image[2])
        dry = (land.water(x, y) < 0.01) & (ndvi > 0.2)
        samples.append(image[:, dry][:, ::2])
        for slump in land.slumps:
            blob = slump.at(2022.6)
            if blob is None:
                continue
            depth = blob.depth(x[None], y[:, None])
            inner, outer = depth > 6, (depth < -15) & (depth > -60) & dry
            if inner.sum() > 8 and outer.sum() > 8:
                inside.append(np.append(np.median(image[:, inner], axis=1), np.median(ndvi[inner])))
                around.append(np.median(image[:, outer], axis=1))
    median = np.median(np.concatenate(samples, axis=1), axis=1)
    np.testing.assert_allclose(median, (423, 552, 721, 1994), rtol=0.12)  # real tundra, Seward Peninsula
    ratios = np.array([i[:4] for i in inside]) / np.array(around)
    assert 1.05 < np.median(ratios[:, 2]) < 1.5  # red, Planet chips: 1.34 (0.88 to 1.45)
    assert np.median(ratios[:, 0]) < np.median(ratios[:, 1]) < np.median(ratios[:, 2])
    assert 0.3 < np.median(ratios[:, 3]) < 0.75  # near infrared is darker, Peel: 0.45
    ndvi = [i[4] for i in inside]
    assert 0.05 < np.percentile(ndvi, 10) < np.median(ndvi) < 0.28  # Peel: 0.09, 0.17
    assert len(inside) > 20


def test_blocks_of_an_image_do_not_depend_on_what_else_is_drawn(landscapes: list[Landscape]):
    image = Pass(5, 2022.6, BOUNDS, 0.25, cloud=0.05, haze=0.05, snow=0.002)
    x, y = BOUNDS[0] + 1501.5 + 3 * np.arange(64), BOUNDS[3] - 1501.5 - 3 * np.arange(48)
    first, _ = render_block(landscapes[0], image, x, y, (0, 0))
    again, _ = render_block(Landscape(0, BOUNDS), image, x, y, (0, 0))
    np.testing.assert_array_equal(first, again)


@settings(max_examples=25, deadline=None)
@given(
    start=st.integers(0, 40),
    size=st.integers(2, 30),
    seed=st.integers(0, 2**31),
    wavelength=st.sampled_from([7, 45, 300]),
)
def test_noise_is_a_function_of_position(start: int, size: int, seed: int, wavelength: int):
    x, y = 500_000 + 3.0 * np.arange(80), 8_000_000 - 3.0 * np.arange(72)
    whole = fractal_noise(x, y, (wavelength, wavelength / 2), seed)
    part = fractal_noise(x[start : start + size], y[start : start + size], (wavelength, wavelength / 2), seed)
    np.testing.assert_allclose(part, whole[start : start + size, start : start + size], atol=1e-4)


def test_worlds_of_many_scenes_have_several_sites(tmp_path: Path):
    world = write_world(tmp_path, seed=1, scenes=7, size=256)
    items = list(dx.load_items(world.catalog))
    assert len(items) == 7
    centres = gpd.GeoSeries([shapely.geometry.shape(i.geometry).centroid for i in items], crs=4326).to_crs(
        32610
    )
    assert round((centres.x.max() - centres.x.min()) / 40_000) == 1
    assert sorted({item.datetime.year for item in items}) == [2021, 2022, 2023]


@pytest.mark.parametrize(("argument", "value"), [("size", 10), ("size", 20_000), ("scenes", 0)])
def test_impossible_worlds_are_refused(tmp_path: Path, argument: str, value: int):
    with pytest.raises(ValueError, match=argument):
        write_world(tmp_path, **{argument: value})
