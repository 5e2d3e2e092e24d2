from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import odc.stac
import pystac
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox

from darts_xr.catalog import image_asset, load_items, mask_asset, normalize_item
from darts_xr.errors import (
    CRSError,
    DamagedFileError,
    GridMismatchError,
    MaskError,
    MissingFileError,
    UnknownProductError,
    UnsupportedProductError,
)
from darts_xr.planet import planet_items
from tests.catalog.deliveries import (
    SCENE,
    image_pixels,
    plain_item,
    udm2_pixels,
    validate,
    write_scene,
    write_tif,
)
from tests.catalog.servers import Answer, files, serve
from tests.helpers import real_data


def foreign_item(**assets: str | dict[str, Any]) -> pystac.Item:
    """An item of others, with the given assets."""
    item = plain_item(SCENE)
    item.assets.clear()
    for key, asset in assets.items():
        item.add_asset(key, pystac.Asset.from_dict({"href": asset} if isinstance(asset, str) else asset))
    return item


FOUR = {"blue": 1, "green": 2, "red": 3, "nir": 4}
EIGHT = {"blue": 2, "green": 4, "red": 6, "nir": 8}
RGBN = [{"name": name} for name in ("red", "green", "blue", "nir")]
OTHER = {"blue": 3, "green": 2, "red": 1, "nir": 4}


@pytest.mark.parametrize(
    ("assets", "key", "bands"),
    [
        ({"ortho_analytic_4b_sr": "a", "ortho_analytic_8b_sr": "b"}, "ortho_analytic_4b_sr", FOUR),
        ({"ortho_analytic_4b": "a", "ortho_analytic_4b_sr": "b"}, "ortho_analytic_4b_sr", FOUR),
        ({"ortho_analytic_8b_sr": "b", "ortho_analytic_8b": "c"}, "ortho_analytic_8b_sr", EIGHT),
        ({"analytic_sr": "a", "analytic": "b"}, "analytic_sr", FOUR),
        ({"sr": f"https://server/{SCENE}_3B_AnalyticMS_SR_8b.tif?token=x"}, "sr", EIGHT),
        ({"sr": f"https://server/{SCENE}_3B_AnalyticMS_SR.tif"}, "sr", FOUR),
        ({f"{SCENE}_tif": f"./{SCENE}_3B_AnalyticMS_SR_harmonized_clip.tif"}, f"{SCENE}_tif", FOUR),
        ({"anything": {"href": "a", "pl:asset_type": "ortho_analytic_8b_sr"}}, "anything", EIGHT),
        ({"data": {"href": "a", "roles": ["reflectance"], "eo:bands": RGBN}}, "data", OTHER),
        ({"image": {"href": "a", "bands": RGBN}}, "image", OTHER),
    ],
)
def test_images_are_found_by_key_file_name_and_bands(
    assets: dict[str, Any], key: str, bands: dict[str, int]
) -> None:
    found = image_asset(foreign_item(**assets))
    assert (found.key, found.bands) == (key, bands)


@pytest.mark.parametrize(
    "assets",
    [
        {"ortho_analytic_4b": "a", "ortho_udm2": "b"},
        {"analytic": "a"},
        {"sr": f"{SCENE}_3B_AnalyticMS_clip.tif"},
        {"image": f"{SCENE}_3B_AnalyticMS.tif"},
        {"data": {"href": "a", "raster:bands": [{"name": "Red TOA reflectance"}]}},
    ],
)
def test_radiance_is_refused_by_name(assets: dict[str, Any]) -> None:
    with pytest.raises(
        UnsupportedProductError, match=rf"{SCENE} offers {next(iter(assets))}.*analytic_sr_udm2"
    ):
        image_asset(foreign_item(**assets))


def test_items_of_other_sensors_are_unknown() -> None:
    with pytest.raises(UnknownProductError, match=r"B01, visual"):
        image_asset(foreign_item(B01="a", visual="b"))


def test_masks_are_found_and_udm2_comes_first() -> None:
    both = foreign_item(ortho_udm2="a", udm="b")
    assert mask_asset(both) == ("ortho_udm2", both.assets["ortho_udm2"], "udm2")
    found = mask_asset(both, kind="udm1")
    assert found is not None
    assert (found.key, found.kind) == ("udm", "udm1")
    assert mask_asset(foreign_item(ortho_udm2="a"), kind="udm1") is None
    assert mask_asset(foreign_item(sr="a")) is None
    renamed = mask_asset(foreign_item(udm=f"https://server/{SCENE}_3B_udm2.tif"))
    assert renamed is not None
    assert renamed.kind == "udm2"


def test_a_foreign_item_is_filled_from_its_files(tmp_path: Path) -> None:
    write_scene(tmp_path, image="_3B_AnalyticMS_SR_8b.tif")
    item = foreign_item(
        sr=str(tmp_path / f"{SCENE}_3B_AnalyticMS_SR_8b.tif"),
        udm=str(tmp_path / f"{SCENE}_3B_udm2.tif"),
        metadata=f"{SCENE}_metadata.json",
    )
    before = json.dumps(item.to_dict())
    result = normalize_item(item)
    validate(result)
    assert json.dumps(item.to_dict()) == before
    assert set(result.assets) == {"image", "udm2", "metadata"}
    (own,) = planet_items(tmp_path)
    for key in ("proj:code", "proj:shape", "proj:transform"):
        assert result.properties[key] == own.properties[key]
    for key in ("image", "udm2"):
        assert result.assets[key].extra_fields == own.assets[key].extra_fields
    shape, grid = result.properties["proj:shape"], Affine(*result.properties["proj:transform"])
    geobox = GeoBox(tuple(shape), grid, result.properties["proj:code"])
    loaded = odc.stac.load([result], bands=["blue", "nir", "udm2.1"], geobox=geobox, chunks={})
    assert (int(loaded.blue.max()), int(loaded.nir.max())) == (200, 800)
    np.testing.assert_array_equal(loaded["udm2.1"][0], udm2_pixels()[0])


def test_a_complete_item_is_not_opened(tmp_path: Path) -> None:
    write_scene(tmp_path)
    (item,) = planet_items(tmp_path)
    for path in tmp_path.glob("*.tif"):
        path.unlink()
    assert normalize_item(item).to_dict() == item.to_dict()


def test_fields_of_projection_one_count_too(tmp_path: Path) -> None:
    write_scene(tmp_path)
    (item,) = planet_items(tmp_path)
    document = item.to_dict()
    document["stac_version"] = "1.0.0"
    document["properties"]["proj:epsg"] = int(document["properties"].pop("proj:code").removeprefix("EPSG:"))
    document["stac_extensions"] = [
        url.replace("projection/v1.2.0", "projection/v1.1.0") for url in document["stac_extensions"]
    ]
    for path in tmp_path.glob("*.tif"):
        path.unlink()
    assert normalize_item(pystac.Item.from_dict(document)).properties["proj:code"] == "EPSG:32603"


def test_files_that_are_unfit_are_named(tmp_path: Path) -> None:
    image, mask = tmp_path / "image.tif", tmp_path / "udm2.tif"
    item = foreign_item(image=str(image), udm2=str(mask))
    with pytest.raises(MissingFileError, match=r"image\.tif does not exist"):
        normalize_item(item)
    image.write_bytes(b"II*\0nothing more")
    with pytest.raises(DamagedFileError, match=r"image\.tif"):
        normalize_item(item)
    image.unlink()
    write_tif(image, image_pixels(), crs="EPSG:3413")
    with pytest.raises(CRSError, match=r"image\.tif.*EPSG:3413"):
        normalize_item(item)
    write_tif(image, image_pixels())
    write_tif(mask, udm2_pixels()[:5])
    with pytest.raises(MaskError, match=r"udm2\.tif has 5"):
        normalize_item(item)
    write_tif(mask, udm2_pixels((40, 59)))
    with pytest.raises(GridMismatchError, match=r"udm2\.tif"):
        normalize_item(item)


def test_a_complete_item_outside_utm_is_refused(tmp_path: Path) -> None:
    write_scene(tmp_path)
    (item,) = planet_items(tmp_path)
    item.properties["proj:code"] = "EPSG:3413"
    with pytest.raises(CRSError, match=f"{SCENE} is in EPSG:3413"):
        normalize_item(item)
    item.properties["proj:code"] = "UTM 3"
    with pytest.raises(CRSError, match=f"{SCENE} states.*'UTM 3'"):
        normalize_item(item)


def test_images_over_http_are_as_good_as_files(tmp_path: Path) -> None:
    write_scene(tmp_path)
    with serve(files(tmp_path)) as root:
        item = foreign_item(
            ortho_analytic_4b_sr=f"{root}/{SCENE}_3B_AnalyticMS_SR.tif",
            ortho_udm2=f"{root}/{SCENE}_3B_udm2.tif",
        )
        result = normalize_item(item)
        assert result.properties["proj:shape"] == [40, 60]
        shape, grid = result.properties["proj:shape"], Affine(*result.properties["proj:transform"])
        geobox = GeoBox(tuple(shape), grid, result.properties["proj:code"])
        loaded = odc.stac.load([result], bands=["red"], geobox=geobox, chunks={})
        assert int(loaded.red.max()) == 300
        missing = foreign_item(ortho_analytic_4b_sr=f"{root}/missing.tif")
        with pytest.raises(MissingFileError, match=r"missing\.tif"):
            normalize_item(missing)


def test_a_server_that_fails_at_first_is_asked_again(tmp_path: Path) -> None:
    write_scene(tmp_path)
    plain, refusals = files(tmp_path), [503, 503]

    def answer(method: str, path: str, body: bytes, headers: dict[str, str]) -> Answer:
        return (refusals.pop(), b"", {}) if refusals else plain(method, path, body, headers)

    with serve(answer) as root:
        item = foreign_item(sr=f"{root}/{SCENE}_3B_AnalyticMS_SR.tif")
        assert normalize_item(item).properties["proj:code"] == "EPSG:32603"
    assert not refusals


def test_a_connection_that_drops_half_way_is_named(tmp_path: Path) -> None:
    write_scene(tmp_path)
    plain = files(tmp_path)

    def answer(method: str, path: str, body: bytes, headers: dict[str, str]) -> Answer:
        status, content, extra = plain(method, path, body, headers)
        dropped = {"Content-Length": str(len(content)), "Connection": "close"}
        return status, content[:100], {**extra, **dropped}

    with serve(answer) as root:
        item = foreign_item(sr=f"{root}/{SCENE}_3B_AnalyticMS_SR.tif")
        with pytest.raises(DamagedFileError, match=f"{SCENE}_3B_AnalyticMS_SR.tif"):
            normalize_item(item)


@pytest.mark.realdata
def test_real_documents_of_planet() -> None:
    folder = real_data("planet-stac-items")
    documents = sorted((folder / "open-stac").glob("20*.json"))
    assert len(documents) == 4
    for document in documents:
        (item,) = load_items(document)
        image, mask = image_asset(item), mask_asset(item)
        assert (image.key, image.bands) == ("sr", EIGHT)
        assert mask is not None
        assert (mask.key, mask.kind) == ("udm", "udm2")
    for name in ("psscene", "pystac-raster-planet-example"):
        (item,) = load_items(folder / "stac-extension" / f"{name}.json")
        with pytest.raises(UnsupportedProductError, match="top-of-atmosphere"):
            image_asset(item)
    (item,) = load_items(folder / "stac-extension" / "psscene.json")
    mask = mask_asset(item)
    assert mask is not None
    assert mask.kind == "udm2"
    for document in sorted((folder / "sentinel2-stac").glob("*.json")):
        (item,) = load_items(document)
        with pytest.raises(UnknownProductError):
            image_asset(item)
