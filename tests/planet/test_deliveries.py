from __future__ import annotations

import json
import logging
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import odc.stac
import pystac
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.windows import Window

from darts_xr.catalog import image_asset, mask_asset
from darts_xr.errors import (
    CatalogError,
    CRSError,
    DamagedFileError,
    DartsError,
    GridMismatchError,
    MaskError,
    SceneError,
    UnknownProductError,
    UnsupportedProductError,
)
from darts_xr.planet import planet_items
from tests.catalog.deliveries import (
    GRID,
    SCENE,
    image_pixels,
    udm1_pixels,
    udm2_pixels,
    validate,
    write_metadata,
    write_scene,
    write_tif,
)
from tests.catalog.memory import run_measured
from tests.helpers import real_data

TILE = "4975180_2361421_2021-08-01_2414"


def geobox(item: pystac.Item) -> GeoBox:
    properties = item.properties
    transform = Affine(*properties["proj:transform"])
    return GeoBox(tuple(properties["proj:shape"]), transform, properties["proj:code"])


@pytest.mark.parametrize(
    ("scene_id", "image", "mask", "bands"),
    [
        (SCENE, "_3B_AnalyticMS_SR.tif", "_3B_udm2.tif", (1, 2, 3, 4)),
        (SCENE, "_3B_AnalyticMS_SR_clip.tif", "_3B_udm2_clip.tif", (1, 2, 3, 4)),
        (SCENE, "_3B_AnalyticMS_SR_harmonized.tif", "_3B_udm2.tif", (1, 2, 3, 4)),
        (SCENE, "_3B_AnalyticMS_SR_harmonized_clip.tif", "_3B_udm2_clip.tif", (1, 2, 3, 4)),
        (SCENE, "_3B_AnalyticMS_SR_clip_file_format.tif", "_3B_udm2_clip_file_format.tif", (1, 2, 3, 4)),
        (SCENE, "_3B_AnalyticMS_SR_8b.tif", "_3B_udm2.tif", (2, 4, 6, 8)),
        (SCENE, "_3B_AnalyticMS_SR_8b_clip.tif", "_3B_udm2_clip.tif", (2, 4, 6, 8)),
        (SCENE, "_3B_AnalyticMS_SR_8b_harmonized.tif", "_3B_udm2.tif", (2, 4, 6, 8)),
        (SCENE, "_3B_AnalyticMS_SR_8b_harmonized_clip.tif", "_3B_udm2_clip.tif", (2, 4, 6, 8)),
        (SCENE, "_3B_AnalyticMS_SR.TIF", "_3B_udm2.TIF", (1, 2, 3, 4)),
        ("20230807_195407_62_248c", "_3B_AnalyticMS_SR_8b.tif", "_3B_udm2.tif", (2, 4, 6, 8)),
        ("20190727_160820_1_1020", "_3B_AnalyticMS_SR.tif", "_3B_udm2.tif", (1, 2, 3, 4)),
        (TILE, "_BGRN_SR.tif", "_udm2.tif", (1, 2, 3, 4)),
        (TILE, "_BGRN_SR_clip.tif", "_udm2_clip.tif", (1, 2, 3, 4)),
    ],
)
def test_every_name_of_a_delivery_is_read(
    tmp_path: Path, scene_id: str, image: str, mask: str, bands: tuple[int, ...]
) -> None:
    folder = tmp_path / "order" / "files" / scene_id
    write_tif(folder / (scene_id + image), image_pixels(8 if "_8b" in image else 4))
    write_tif(folder / (scene_id + mask), udm2_pixels())
    (item,) = planet_items(tmp_path)
    validate(item)
    assert item.id == scene_id
    assert item.properties["darts:product"] == ("PSOrthoTile" if scene_id == TILE else "PSScene")
    found = image_asset(item)
    assert (found.key, tuple(found.bands.values())) == ("image", bands)
    assert list(found.bands) == ["blue", "green", "red", "nir"]
    loaded = odc.stac.load([item], bands=["blue", "green", "red", "nir"], geobox=geobox(item), chunks={})
    assert [int(loaded[name].values.max()) for name in loaded] == [100 * band for band in bands]


def test_properties_come_from_pixels_and_metadata(tmp_path: Path) -> None:
    write_scene(tmp_path)
    write_metadata(tmp_path)
    (item,) = planet_items(tmp_path)
    assert item.datetime == datetime(2021, 7, 15, 21, 31, 4, 252_000, tzinfo=UTC)
    assert item.properties["gsd"] == 3.9
    assert item.properties["platform"] == "0e19"
    assert item.properties["instruments"] == ["PS2"]
    assert item.properties["constellation"] == "planetscope"
    assert item.properties["view:sun_azimuth"] == 158.4
    assert item.properties["view:sun_elevation"] == 27.6
    assert item.properties["view:off_nadir"] == 3.5
    # 40 x 60 pixels, 8 columns without data, 10 rows of cloud.
    assert item.properties["eo:cloud_cover"] == 25.0
    assert item.properties["darts:valid_fraction"] == pytest.approx(30 * 52 / 2400)
    assert item.properties["darts:mask_rule"] == "udm2"
    assert item.properties["proj:code"] == "EPSG:32603"
    assert item.properties["proj:shape"] == [40, 60]
    assert item.properties["proj:transform"] == list(GRID)[:6]
    assert item.collection_id == "planetscope"
    assert item.assets["image"].roles == ["data", "reflectance"]
    assert item.assets["udm2"].roles == ["data-mask"]
    assert item.assets["metadata"].roles == ["metadata"]
    assert item.assets["image"].extra_fields["raster:bands"][0]["scale"] == 0.0001


def test_without_metadata_the_id_gives_the_time(tmp_path: Path) -> None:
    write_scene(tmp_path)
    (item,) = planet_items(tmp_path)
    validate(item)
    assert item.datetime == datetime(2021, 7, 15, 21, 31, 4, tzinfo=UTC)
    assert item.properties["gsd"] == 3.0


def test_damaged_metadata_is_named_and_not_needed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_scene(tmp_path)
    (tmp_path / f"{SCENE}_metadata.json").write_text("{")
    (tmp_path / f"{SCENE}_3B_AnalyticMS_metadata.xml").write_text("<open>")
    (item,) = planet_items(tmp_path)
    assert item.datetime == datetime(2021, 7, 15, 21, 31, 4, tzinfo=UTC)
    assert f"{SCENE}_metadata.json" in caplog.text
    assert "metadata.xml" in caplog.text


def test_the_xml_alone_gives_the_angles(tmp_path: Path) -> None:
    source = real_data("planetscope-deering-ak") / "20160909_213104_0e19_3B_AnalyticMS_metadata_clip.xml"
    write_scene(tmp_path, "20160909_213104_0e19")
    shutil.copy(source, tmp_path)
    (item,) = planet_items(tmp_path)
    validate(item)
    assert item.properties["view:sun_azimuth"] == pytest.approx(158.4305)
    assert item.properties["view:sun_elevation"] == pytest.approx(27.64354)
    assert item.properties["view:off_nadir"] == pytest.approx(3.481697)
    assert item.properties["instruments"] == ["PS2"]
    assert item.datetime == datetime(2016, 9, 9, 21, 31, 4, tzinfo=UTC)


def test_both_masks_become_assets_and_udm2_rules(tmp_path: Path) -> None:
    write_scene(tmp_path)
    write_tif(tmp_path / f"{SCENE}_3B_AnalyticMS_DN_udm.tif", udm1_pixels(), nodata=1)
    (item,) = planet_items(tmp_path)
    validate(item)
    assert {"image", "udm2", "udm1"} <= set(item.assets)
    assert item.properties["darts:mask_rule"] == "udm2"
    names = ["image.1", "udm2.1", "udm2.8", "udm1"]
    loaded = odc.stac.load([item], bands=names, geobox=geobox(item), chunks={})
    np.testing.assert_array_equal(loaded["udm2.8"][0], udm2_pixels()[7])
    np.testing.assert_array_equal(loaded["udm1"][0], udm1_pixels()[0])


def test_udm1_alone_rules(tmp_path: Path) -> None:
    write_tif(tmp_path / f"{SCENE}_3B_AnalyticMS_SR.tif", image_pixels())
    mask = udm1_pixels()
    mask[0, :10, 8:] = 0b10  # cloud
    write_tif(tmp_path / f"{SCENE}_3B_AnalyticMS_DN_udm.tif", mask, nodata=1)
    (item,) = planet_items(tmp_path)
    assert item.properties["darts:mask_rule"] == "udm1"
    assert item.properties["eo:cloud_cover"] == 25.0


def test_a_scene_without_mask_is_named_and_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_tif(tmp_path / f"{SCENE}_3B_AnalyticMS_SR.tif", image_pixels())
    (item,) = planet_items(tmp_path)
    validate(item)
    assert mask_asset(item) is None
    assert "eo:cloud_cover" not in item.properties
    assert item.properties["darts:valid_fraction"] == pytest.approx(52 / 60, abs=1e-6)
    assert f"{SCENE} has no usable-data mask" in caplog.text


def test_a_pixel_of_zeros_is_invalid_whatever_the_mask_says(tmp_path: Path) -> None:
    write_tif(tmp_path / f"{SCENE}_3B_AnalyticMS_SR.tif", image_pixels(collar=20))
    write_tif(tmp_path / f"{SCENE}_3B_udm2.tif", udm2_pixels(collar=0, cloud_rows=0))
    (item,) = planet_items(tmp_path)
    assert item.properties["darts:valid_fraction"] == pytest.approx(40 / 60, abs=1e-6)


def test_a_wholly_cloudy_scene_stays_findable(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_tif(tmp_path / f"{SCENE}_3B_AnalyticMS_SR.tif", image_pixels())
    write_tif(tmp_path / f"{SCENE}_3B_udm2.tif", udm2_pixels(cloud_rows=40))
    (item,) = planet_items(tmp_path)
    validate(item)
    assert item.properties["darts:valid_fraction"] == 0
    assert item.properties["eo:cloud_cover"] == 100
    assert item.geometry is not None
    assert "no valid pixel" in caplog.text


def test_two_calls_give_the_same_items_sorted_by_id(tmp_path: Path) -> None:
    for scene_id in ("20210715_213104_0e19", "20200101_000000_1035", TILE):
        image = "_BGRN_SR.tif" if scene_id == TILE else "_3B_AnalyticMS_SR.tif"
        write_scene(tmp_path / "deep" / scene_id, scene_id, image=image)
    first, second = planet_items(tmp_path), planet_items(tmp_path)
    assert [item.id for item in first] == ["20200101_000000_1035", "20210715_213104_0e19", TILE]
    assert json.dumps(first.to_dict()) == json.dumps(second.to_dict())


def test_bands_are_named_by_descriptions_in_any_order(tmp_path: Path) -> None:
    names = ("red", "green", "blue", "nir")
    write_tif(tmp_path / f"{SCENE}_3B_AnalyticMS_SR.tif", image_pixels(), descriptions=names)
    write_tif(tmp_path / f"{SCENE}_3B_udm2.tif", udm2_pixels())
    (item,) = planet_items(tmp_path)
    assert image_asset(item).bands == {"blue": 3, "green": 2, "red": 1, "nir": 4}
    loaded = odc.stac.load([item], bands=["blue", "red"], geobox=geobox(item), chunks={})
    assert (int(loaded.blue.max()), int(loaded.red.max())) == (300, 100)


def test_the_descriptions_of_superdove_are_understood(tmp_path: Path) -> None:
    names = ("coastal_blue", "blue", "green_i", "green", "yellow", "red", "rededge", "nir")
    write_tif(tmp_path / f"{SCENE}_3B_AnalyticMS_SR_8b.tif", image_pixels(8), descriptions=names)
    write_tif(tmp_path / f"{SCENE}_3B_udm2.tif", udm2_pixels())
    (item,) = planet_items(tmp_path)
    validate(item)
    assert image_asset(item).bands == {"blue": 2, "green": 4, "red": 6, "nir": 8}


def test_descriptions_that_say_nothing_of_colour_leave_planets_order(tmp_path: Path) -> None:
    names = ("Band 1", "Band 2", "Band 3", "Band 4")
    write_tif(tmp_path / f"{SCENE}_3B_AnalyticMS_SR.tif", image_pixels(), descriptions=names)
    write_tif(tmp_path / f"{SCENE}_3B_udm2.tif", udm2_pixels())
    (item,) = planet_items(tmp_path)
    assert image_asset(item).bands == {"blue": 1, "green": 2, "red": 3, "nir": 4}


def test_ambiguous_descriptions_are_refused(tmp_path: Path) -> None:
    names = ("red", "green", "red", "nir")
    write_tif(tmp_path / f"{SCENE}_3B_AnalyticMS_SR.tif", image_pixels(), descriptions=names)
    with pytest.raises(UnsupportedProductError, match=rf"{SCENE}.*exactly once"):
        planet_items(tmp_path)


@pytest.mark.parametrize(
    ("scene_id", "name", "word"),
    [
        (SCENE, "_3B_AnalyticMS.tif", "radiance"),
        (SCENE, "_3B_AnalyticMS_clip.tif", "radiance"),
        (SCENE, "_3B_AnalyticMS_8b.tif", "radiance"),
        (SCENE, "_1B_AnalyticMS.tif", "radiance"),
        (SCENE, "_3B_Visual.tif", "visual"),
        (TILE, "_BGRN_Analytic.tif", "radiance"),
        (TILE, "_BGRN_DN.tif", "radiance"),
        (TILE, "_RGB_Visual.tif", "visual"),
    ],
)
def test_products_without_reflectance_are_refused_by_name(
    tmp_path: Path, scene_id: str, name: str, word: str
) -> None:
    write_tif(tmp_path / (scene_id + name), image_pixels())
    write_tif(tmp_path / f"{scene_id}_udm2.tif", udm2_pixels())
    with pytest.raises(UnsupportedProductError, match=rf"{scene_id}{name}.*{word}.*analytic_sr_udm2"):
        planet_items(tmp_path)


def test_radiance_beside_reflectance_is_ignored(tmp_path: Path) -> None:
    write_scene(tmp_path)
    write_tif(tmp_path / f"{SCENE}_3B_AnalyticMS.tif", image_pixels())
    (item,) = planet_items(tmp_path)
    assert item.assets["image"].href.endswith("_SR.tif")


def test_unknown_names_alone_are_an_error(tmp_path: Path) -> None:
    write_tif(tmp_path / "633841_1932520_2017-07-19_1004_subarea.tif", image_pixels())
    with pytest.raises(UnknownProductError, match=r"1004_subarea\.tif"):
        planet_items(tmp_path)


def test_unknown_names_beside_known_ones_are_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_scene(tmp_path)
    write_tif(tmp_path / "composite.tif", image_pixels())
    assert len(planet_items(tmp_path)) == 1
    assert "composite.tif is left out" in caplog.text


def test_a_scene_without_image_is_named_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_scene(tmp_path)
    write_tif(tmp_path / "20210101_000000_1035_3B_udm2.tif", udm2_pixels())
    assert [item.id for item in planet_items(tmp_path)] == [SCENE]
    assert "20210101_000000_1035 is left out" in caplog.text
    both = planet_items(tmp_path, require_image=False)
    assert [sorted(item.assets) for item in both] == [["udm2"], ["image", "udm2"]]


def test_nothing_usable_says_what_was_found(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="no file of a Planet scene"):
        planet_items(tmp_path)
    write_tif(tmp_path / f"{SCENE}_3B_udm2.tif", udm2_pixels())
    with pytest.raises(CatalogError, match=rf"{SCENE} \(udm2\)"):
        planet_items(tmp_path)
    with pytest.raises(CatalogError, match="not a folder"):
        planet_items(tmp_path / "missing")


def test_missing_crs_is_refused(tmp_path: Path) -> None:
    write_tif(tmp_path / f"{SCENE}_3B_AnalyticMS_SR.tif", image_pixels(), crs=None)
    with pytest.raises(CRSError, match=rf"{SCENE}.*no coordinate reference system"):
        planet_items(tmp_path)


@pytest.mark.parametrize("crs", ["EPSG:3413", "EPSG:4326", "EPSG:25833"])
def test_other_crs_than_utm_is_refused(tmp_path: Path, crs: str) -> None:
    write_tif(tmp_path / f"{SCENE}_3B_AnalyticMS_SR.tif", image_pixels(), crs=crs)
    with pytest.raises(CRSError, match=f"{crs}.*UTM"):
        planet_items(tmp_path)


def test_south_up_rasters_are_refused(tmp_path: Path) -> None:
    flipped = Affine(3, 0, 598998, 0, 3, 7333266)
    write_tif(tmp_path / f"{SCENE}_3B_AnalyticMS_SR.tif", image_pixels(), transform=flipped)
    with pytest.raises(SceneError, match="north-up"):
        planet_items(tmp_path)


@pytest.mark.parametrize("which", ["_3B_AnalyticMS_SR.tif", "_3B_udm2.tif"])
def test_truncated_files_are_found(tmp_path: Path, which: str) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(1, 5000, (4, 300, 300)).astype("uint16")
    mask = rng.integers(0, 2, (8, 300, 300)).astype("uint8")
    write_tif(tmp_path / f"{SCENE}_3B_AnalyticMS_SR.tif", noise, tiled=True, blockxsize=128, blockysize=128)
    write_tif(tmp_path / f"{SCENE}_3B_udm2.tif", mask, tiled=True, blockxsize=128, blockysize=128)
    path = tmp_path / (SCENE + which)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DamagedFileError, match=f"{SCENE}{which}.*cut short or damaged"):
        planet_items(tmp_path)


def test_a_corrupt_block_is_found(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(1, 5000, (4, 300, 300)).astype("uint16")
    layout = {"tiled": True, "blockxsize": 128, "blockysize": 128, "compress": "lzw"}
    path = write_tif(tmp_path / f"{SCENE}_3B_AnalyticMS_SR.tif", noise, **layout)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 500] = b"\xff" * 500
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match=f"{SCENE}_3B_AnalyticMS_SR.tif.*cut short or damaged"):
        planet_items(tmp_path)


def test_a_file_that_is_no_raster_is_damaged(tmp_path: Path) -> None:
    (tmp_path / f"{SCENE}_3B_AnalyticMS_SR.tif").write_bytes(b"not a tif")
    with pytest.raises(DamagedFileError, match=SCENE):
        planet_items(tmp_path)


@pytest.mark.parametrize(
    ("pixels", "grid", "word"),
    [
        (udm2_pixels((39, 60)), GRID, "sizes"),
        (udm2_pixels(), GRID @ Affine.translation(1, 0), "transforms"),
    ],
)
def test_masks_of_other_grids_are_refused(
    tmp_path: Path, pixels: np.ndarray, grid: Affine, word: str
) -> None:
    write_scene(tmp_path)
    write_tif(tmp_path / f"{SCENE}_3B_udm2.tif", pixels, transform=grid)
    with pytest.raises(
        GridMismatchError, match=rf"{SCENE}_3B_AnalyticMS_SR.tif.*{SCENE}_3B_udm2.tif.*{word}"
    ):
        planet_items(tmp_path)


def test_an_udm2_of_seven_bands_is_refused(tmp_path: Path) -> None:
    write_scene(tmp_path)
    write_tif(tmp_path / f"{SCENE}_3B_udm2.tif", udm2_pixels()[:7])
    with pytest.raises(MaskError, match=rf"{SCENE}_3B_udm2.tif has 7"):
        planet_items(tmp_path)


@pytest.mark.parametrize(
    ("pixels", "word"), [(image_pixels(3), r"3 band\(s\)"), (image_pixels().astype("float32"), "float32")]
)
def test_images_of_other_layouts_are_refused(tmp_path: Path, pixels: np.ndarray, word: str) -> None:
    write_tif(tmp_path / f"{SCENE}_3B_AnalyticMS_SR.tif", pixels)
    with pytest.raises(UnsupportedProductError, match=word):
        planet_items(tmp_path)


def test_bad_scenes_can_be_skipped_by_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_scene(tmp_path)
    write_tif(tmp_path / "20210101_000000_1035_3B_AnalyticMS_SR.tif", image_pixels(), crs=None)
    write_tif(tmp_path / "20210102_000000_1035_3B_AnalyticMS.tif", image_pixels())
    assert [item.id for item in planet_items(tmp_path, on_error="skip")] == [SCENE]
    assert "20210101_000000_1035 is left out" in caplog.text
    assert "20210102_000000_1035 is left out" in caplog.text
    with pytest.raises(DartsError):
        planet_items(tmp_path)
    for path in tmp_path.glob(f"{SCENE}*"):
        path.unlink()
    with pytest.raises(CatalogError, match="all 2 were left out"):
        planet_items(tmp_path, on_error="skip")


def test_two_images_of_a_scene_on_one_grid_leave_the_plain_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    write_scene(tmp_path)
    write_tif(tmp_path / f"{SCENE}_3B_AnalyticMS_SR_harmonized.tif", image_pixels())
    (item,) = planet_items(tmp_path)
    assert item.assets["image"].href.endswith("_3B_AnalyticMS_SR.tif")
    assert "SR_harmonized.tif is left out" in caplog.text


def test_one_scene_clipped_twice_is_refused(tmp_path: Path) -> None:
    write_scene(tmp_path / "north")
    write_tif(tmp_path / "south" / f"{SCENE}_3B_AnalyticMS_SR_clip.tif", image_pixels(shape=(20, 20)))
    with pytest.raises(CatalogError, match=f"{SCENE} was delivered twice"):
        planet_items(tmp_path)


def test_a_large_scene_takes_little_memory(tmp_path: Path) -> None:
    shape = (8000, 8000)
    profile = {"compress": "deflate", "tiled": True}
    for name, count, value in (("AnalyticMS_SR", 4, "uint16"), ("udm2", 8, "uint8")):
        with rasterio.open(
            tmp_path / f"{SCENE}_3B_{name}.tif",
            "w",
            driver="GTiff",
            count=count,
            height=shape[0],
            width=shape[1],
            dtype=value,
            crs="EPSG:32603",
            transform=GRID,
            **profile,
        ) as target:
            for row in range(0, shape[0], 1600):
                strip = np.zeros((count, 1600, shape[1]), value)
                strip[0] = 1 if count == 8 else np.arange(shape[1]) % 500 + 200
                target.write(strip, window=Window(0, row, shape[1], 1600))
    code = (
        "import sys; from darts_xr.planet import planet_items\n"
        "from rasterio.env import get_gdal_config\n"
        "cache = get_gdal_config('GDAL_CACHEMAX'); (item,) = planet_items(sys.argv[1])\n"
        "print(item.properties['darts:valid_fraction'], get_gdal_config('GDAL_CACHEMAX') == cache, peak())\n"
    )
    valid, unchanged, peak = run_measured(code, tmp_path)
    assert (valid, unchanged) == ("1.0", "True")
    assert float(peak) < 500  # MB; the two files decoded are 1000


@pytest.mark.realdata
def test_real_delivery_of_deering(caplog: pytest.LogCaptureFixture) -> None:
    (item,) = planet_items(real_data("planetscope-deering-ak"))
    validate(item)
    assert item.id == "20160909_213104_0e19"
    for other in ("20160909_213103_0e19", "20160909_213333_0e0e", "20160909_213424_0e26"):
        assert f"{other} is left out" in caplog.text
    assert item.properties["darts:mask_rule"] == "udm1"
    assert item.properties["eo:cloud_cover"] == 0
    # The pixels with data: 504,520 of 1697 x 1122.
    assert item.properties["darts:valid_fraction"] == pytest.approx(504_520 / (1697 * 1122), abs=1e-6)
    loaded = odc.stac.load([item], bands=["blue", "nir", "image.3", "udm1"], geobox=geobox(item), chunks={})
    with rasterio.open(item.assets["image"].href) as source:
        blue, red, nir = source.read((1, 3, 4))
    np.testing.assert_array_equal(loaded["blue"][0], blue)
    np.testing.assert_array_equal(loaded["image.3"][0], red)
    np.testing.assert_array_equal(loaded["nir"][0], nir)


@pytest.mark.realdata
def test_real_udm2_of_myanmar() -> None:
    folder = real_data("planetscope-udm2-myanmar")
    with pytest.raises(CatalogError, match=r"20151119_025740_0c74 \(json, udm2, xml\)"):
        planet_items(folder)
    (item,) = planet_items(folder, require_image=False)
    validate(item)
    assert sorted(item.assets) == ["metadata", "metadata_xml", "udm2"]
    assert item.properties["view:sun_elevation"] == 39.4
    assert item.properties["darts:valid_fraction"] == pytest.approx(2_084_145 / 2_133_456, abs=1e-6)
    loaded = odc.stac.load([item], bands=["udm2.8", "udm2_haze_light"], geobox=geobox(item), chunks={})
    assert int((loaded["udm2.8"] == 1).sum()) == 37_381
    assert int((loaded["udm2_haze_light"] == 1).sum()) == 11_930


@pytest.mark.realdata
def test_real_radiance_is_refused_by_name(tmp_path: Path) -> None:
    folder = real_data("planetscope-toa-tmask")
    with pytest.raises(UnsupportedProductError, match=r"20170915_020728_103d_3B_AnalyticMS\.tif"):
        planet_items(folder)
    shutil.copy(folder / "633841_1932520_2017-07-19_1004_subarea.tif", tmp_path)
    with pytest.raises(UnknownProductError, match="1004_subarea"):
        planet_items(tmp_path)
