from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pystac
import pytest

from darts_xr.catalog import load_items, search, write_catalog, write_stac_geoparquet
from darts_xr.errors import CatalogError
from darts_xr.planet import planet_items
from tests.catalog.deliveries import SCENE, plain_item, validate, write_metadata, write_scene
from tests.helpers import real_data

NAMES = {"title": "Test", "description": "A test."}


def content(items: pystac.ItemCollection) -> list[dict[str, Any]]:
    """Items as plain JSON, without links."""
    documents = json.loads(json.dumps([item.to_dict(transform_hrefs=False) for item in items]))
    for document in documents:
        del document["links"]
    return documents


def delivery(folder: Path) -> pystac.ItemCollection:
    write_scene(folder)
    write_metadata(folder)
    write_scene(folder, "20230807_195407_62_248c", image="_3B_AnalyticMS_SR_8b.tif")
    return planet_items(folder)


def test_both_formats_give_back_what_went_in(tmp_path: Path) -> None:
    items = delivery(tmp_path / "order")
    catalog = write_catalog(items, tmp_path / "catalog.json", **NAMES)
    table = write_stac_geoparquet(items, tmp_path / "items.parquet")
    for source in (catalog, table, tmp_path):
        loaded = load_items(source)
        for item in loaded:
            validate(item)
        assert content(loaded) == content(items)


def test_every_document_of_a_catalogue_is_valid(tmp_path: Path) -> None:
    write_catalog([*delivery(tmp_path / "order"), plain_item("alone")], tmp_path, **NAMES)
    documents = [
        json.loads(path.read_text()) for path in [*tmp_path.glob("*.json"), *tmp_path.glob("*/*.json")]
    ]
    kinds = [document["type"] for document in documents if "stac_version" in document]
    assert sorted(kinds) == ["Catalog", "Collection", "Feature", "Feature", "Feature"]
    for document in documents:
        if "stac_version" in document:
            validate(document)


def test_pystac_reads_the_catalogue(tmp_path: Path) -> None:
    write_catalog([*delivery(tmp_path / "order"), plain_item("alone")], tmp_path, **NAMES)
    catalog = pystac.Catalog.from_file(str(tmp_path / "catalog.json"))
    found = sorted(item.id for item in catalog.get_items(recursive=True))
    assert found == ["20210715_213104_0e19", "20230807_195407_62_248c", "alone"]
    (collection,) = catalog.get_collections()
    assert collection.id == "planetscope"
    assert collection.extent.temporal.intervals[0][0].year == 2021


def test_assets_below_the_catalogue_are_relative_and_others_absolute(tmp_path: Path) -> None:
    items = delivery(tmp_path / "order")
    write_catalog(items, tmp_path / "catalog.json", **NAMES)
    inside = json.loads((tmp_path / "items" / f"{SCENE}.json").read_text())
    assert inside["assets"]["image"]["href"] == f"../order/{SCENE}_3B_AnalyticMS_SR.tif"
    write_catalog(items, tmp_path / "elsewhere", **NAMES)
    outside = json.loads((tmp_path / "elsewhere" / "items" / f"{SCENE}.json").read_text())
    assert outside["assets"]["image"]["href"] == str(tmp_path / "order" / f"{SCENE}_3B_AnalyticMS_SR.tif")


def test_items_given_are_not_changed(tmp_path: Path) -> None:
    items = delivery(tmp_path / "order")
    before = json.dumps(items.to_dict())
    write_catalog(items, tmp_path / "catalog.json", **NAMES)
    write_stac_geoparquet(items, tmp_path / "items.parquet")
    assert json.dumps(items.to_dict()) == before


def test_the_same_items_give_the_same_bytes_in_any_order_and_process(tmp_path: Path) -> None:
    items = list(delivery(tmp_path / "order"))
    for name, ordered in (("first", items), ("second", items[::-1])):
        write_catalog(ordered, tmp_path / name, **NAMES)
        write_stac_geoparquet(ordered, tmp_path / name / "items.parquet")
    code = (
        "import sys; from darts_xr.catalog import *; from darts_xr.planet import planet_items\n"
        "items = planet_items(sys.argv[1]); target = sys.argv[2]\n"
        "write_catalog(items, target, title='Test', description='A test.')\n"
        "write_stac_geoparquet(items, target + '/items.parquet')\n"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "order"), str(tmp_path / "third")], check=True, timeout=60
    )
    written = {
        name: {
            str(path.relative_to(tmp_path / name)): path.read_bytes()
            for path in sorted((tmp_path / name).rglob("*"))
            if path.is_file()
        }
        for name in ("first", "second", "third")
    }
    assert written["first"] == written["second"] == written["third"]
    assert len(written["first"]) == 5


def test_nothing_but_the_catalogue_is_left_behind(tmp_path: Path) -> None:
    write_catalog([plain_item("a")], tmp_path, **NAMES)
    write_catalog([plain_item("a")], tmp_path, **NAMES)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.json", "catalog.json", "items"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_catalog([plain_item("a")], tmp_path, **NAMES)
    before = path.read_bytes()
    monkeypatch.setattr(
        Path, "write_text", lambda *args, **kwargs: (_ for _ in ()).throw(OSError("disk full"))
    )
    with pytest.raises(OSError, match="disk full"):
        write_catalog([plain_item("b")], tmp_path, **NAMES)
    assert path.read_bytes() == before
    assert not list(tmp_path.glob(".*"))


def test_hostile_ids_stay_in_their_folder(tmp_path: Path) -> None:
    ids = [
        "../../escape",
        "/absolute",
        "a/b",
        "a\nb",
        "a\0b",
        "x" * 300,
        "a b",
        "a-b",
        "scene",
        "Scene",
        "\ud800",
    ]
    write_catalog([plain_item(item_id) for item_id in ids], tmp_path / "out", **NAMES)
    assert sorted(item.id for item in load_items(tmp_path / "out")) == sorted(ids)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len({path.name.casefold() for path in files}) == len(files) == len(ids) + 1
    assert {path.parent for path in files} == {tmp_path / "out", tmp_path / "out" / "items"}


def test_an_empty_id_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="empty id"):
        write_catalog([plain_item("")], tmp_path, **NAMES)
    assert not list(tmp_path.rglob("*.json"))


def test_boxes_with_heights_are_joined(tmp_path: Path) -> None:
    items = [plain_item("a", lon=10), plain_item("b", lon=20)]
    for item in items:
        item.collection_id = "c"
    items[1].bbox = [20.0, 60.0, -5.0, 21.0, 61.0, 900.0]
    write_catalog(items, tmp_path, **NAMES)
    extent = json.loads((tmp_path / "collections" / "c.json").read_text())["extent"]
    assert extent["spatial"]["bbox"] == [[10.0, 60.0, 21.0, 66.5]]


def test_two_items_of_one_id_are_refused(tmp_path: Path) -> None:
    twice = [plain_item("a"), plain_item("a", lon=0)]
    with pytest.raises(CatalogError, match="two items have the id a"):
        write_catalog(twice, tmp_path, **NAMES)
    with pytest.raises(CatalogError, match="two items have the id a"):
        write_stac_geoparquet(twice, tmp_path / "items.parquet")


def test_a_table_needs_items_and_its_extension(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="no item"):
        write_stac_geoparquet([], tmp_path / "items.parquet")
    with pytest.raises(CatalogError, match=r"\.parquet"):
        write_stac_geoparquet([plain_item("a")], tmp_path / "items.json")
    nowhere = plain_item("nowhere")
    nowhere.geometry = nowhere.bbox = None
    with pytest.raises(CatalogError, match="nowhere have no geometry"):
        write_stac_geoparquet([nowhere], tmp_path / "items.parquet")


def test_a_table_of_unlike_items_keeps_their_fields_apart(tmp_path: Path) -> None:
    first, second = plain_item("a", cloud=None), plain_item("b", cloud=12.5)
    second.properties["view:sun_azimuth"] = 158.4
    second.add_asset("udm2", pystac.Asset("./udm2.tif"))
    table = write_stac_geoparquet([first, second], tmp_path / "items.parquet")
    a, b = load_items(table)
    assert set(a.assets) == {"image"}
    assert set(b.assets) == {"image", "udm2"}
    assert "eo:cloud_cover" not in a.properties
    assert "view:sun_azimuth" not in a.properties
    assert b.properties["view:sun_azimuth"] == 158.4


@pytest.mark.realdata
def test_real_deliveries_round_trip(tmp_path: Path) -> None:
    items = [
        *planet_items(real_data("planetscope-deering-ak")),
        *planet_items(real_data("planetscope-udm2-myanmar"), require_image=False),
    ]
    catalog = write_catalog(items, tmp_path / "catalog.json", **NAMES)
    table = write_stac_geoparquet(items, tmp_path / "items.parquet")
    expected = content(search(items))
    for source in (catalog, table):
        loaded = load_items(source)
        assert content(loaded) == expected
        for item in loaded:
            validate(item)
    for path in (catalog, *tmp_path.glob("*/*.json")):
        validate(json.loads(path.read_text()))


def test_two_catalogues_in_one_folder_leave_each_other_alone(tmp_path: Path) -> None:
    items = delivery(tmp_path / "order")
    first, second = items[0], items[1].clone()
    twin = first.clone()
    twin.properties["gsd"] = 3.125
    write_catalog([first], tmp_path / "one.json", **NAMES)
    write_catalog([twin, second], tmp_path / "two.json", **NAMES)
    write_catalog([second], tmp_path / "catalog.json", **NAMES)
    for name, wanted in (("one", [first]), ("two", [twin, second]), ("catalog", [second])):
        path = tmp_path / f"{name}.json"
        assert content(load_items(path)) == content(pystac.ItemCollection(wanted)), name
        catalog = pystac.Catalog.from_file(str(path))
        (collection,) = catalog.get_collections()
        assert len(list(collection.get_items())) == len(wanted)
        for item in collection.get_items():
            root = item.get_root_link()
            assert root is not None
            assert Path(str(root.get_absolute_href())).name == f"{name}.json"
