from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import shapely
import urllib3

from darts_xr.catalog import load_items, readers, search, write_catalog, write_stac_geoparquet
from darts_xr.errors import CatalogError, EmptySearchError
from tests.catalog.deliveries import plain_item
from tests.catalog.servers import PagedApi, files, serve

DAYS = [datetime(2021, 7, 1, tzinfo=UTC) + timedelta(days=20 * index) for index in range(6)]


def six_items() -> list[pystac.Item]:
    """July to October 2021, west to east across 180°, 0 to 50 % cloud; given in reverse order."""
    lons = [178.0, 179.8, -179.0, -170.0, -163.0, -150.0]
    rows = list(zip("abcdef", lons, DAYS, range(0, 60, 10), strict=True))
    return [plain_item(i, lon=lon, moment=moment, cloud=cloud) for i, lon, moment, cloud in reversed(rows)]


@pytest.fixture(params=["list", "collection", "catalog", "folder", "item collection", "geoparquet"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    items = six_items()
    if request.param == "list":
        return items
    if request.param == "collection":
        return pystac.ItemCollection(items)
    if request.param == "item collection":
        (tmp_path / "items.json").write_text(json.dumps(pystac.ItemCollection(items).to_dict()))
        return tmp_path / "items.json"
    if request.param == "geoparquet":
        return write_stac_geoparquet(items, tmp_path / "items.parquet")
    path = write_catalog(items, tmp_path / "catalog.json", title="Six", description="six items")
    return str(path) if request.param == "catalog" else tmp_path


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({}, "abcdef"),
        ({"ids": "c"}, "c"),
        ({"ids": ["f", "a"]}, "af"),
        ({"max_cloud_cover": 20}, "abc"),
        ({"datetime": "2021-07"}, "ab"),
        ({"datetime": "2021"}, "abcdef"),
        ({"datetime": "2021-07-21"}, "b"),
        ({"datetime": date(2021, 7, 21)}, "b"),
        ({"datetime": "2021-07-21T00:00:00Z"}, "b"),
        ({"datetime": datetime(2021, 7, 21, tzinfo=UTC)}, "b"),
        ({"datetime": "2021-07-21T00:00:01Z/.."}, "cdef"),
        ({"datetime": "../2021-08"}, "abcd"),
        ({"datetime": "2021-07-02/2021-08-10"}, "bc"),
        ({"datetime": ("2021-07-02", None)}, "bcdef"),
        ({"datetime": (None, date(2021, 7, 21))}, "ab"),
        ({"bbox": [-171, 60, -140, 70]}, "def"),
        ({"bbox": [179, 60, -178, 70]}, "bc"),  # across 180°
        ({"bbox": (-164, 0, -162, 66.0)}, "e"),  # touches
        ({"intersects": shapely.box(-171, 60, -169, 70)}, "d"),
        ({"intersects": {"type": "Point", "coordinates": [-162.9, 66.1]}}, "e"),
        ({"bbox": [-171, 60, -140, 70], "max_cloud_cover": 40, "datetime": "2021-09"}, "e"),
    ],
)
def test_filters_agree_over_all_sources(source: Any, filters: dict[str, Any], found: str) -> None:
    assert "".join(item.id for item in search(source, **filters)) == found


def test_an_empty_search_says_what_each_filter_removes(source: Any) -> None:
    with pytest.raises(EmptySearchError) as error:
        search(source, max_cloud_cover=30, datetime="2021-10", bbox=[0, 0, 1, 1])
    assert "of 6 item(s), datetime 2021-10-01" in str(error.value)
    assert "removes 5, max_cloud_cover 30 removes 2, bbox removes 6" in str(error.value)


def test_load_items_sorts_and_keeps_all(source: Any) -> None:
    assert [item.id for item in load_items(source)] == list("abcdef")


def test_a_ring_that_wraps_around_180_is_cut_first() -> None:
    item = plain_item("wrapped")
    ring = [[179.8, 66], [-179.7, 66], [-179.7, 66.5], [179.8, 66.5], [179.8, 66]]
    item.geometry = {"type": "Polygon", "coordinates": [ring]}
    assert len(search([item], bbox=[-179.9, 66.1, -179.8, 66.2])) == 1
    with pytest.raises(EmptySearchError):
        search([item], bbox=[0, 66, 10, 67])


def test_items_that_do_not_state_clouds_are_left_out_aloud(caplog: pytest.LogCaptureFixture) -> None:
    items = [plain_item("a", cloud=None), plain_item("b", cloud=10)]
    assert [item.id for item in search(items, max_cloud_cover=100)] == ["b"]
    assert "1 item(s) do not state eo:cloud_cover" in caplog.text


def test_ids_that_are_missing_are_named(caplog: pytest.LogCaptureFixture) -> None:
    assert len(search([plain_item("a")], ids=["a", "nope"])) == 1
    assert "nope" in caplog.text


def test_periods_of_items_overlap_the_asked_one() -> None:
    item = plain_item("yearly")
    item.datetime = None
    item.properties |= {"start_datetime": "2021-01-01T00:00:00Z", "end_datetime": "2021-12-31T23:59:59Z"}
    assert len(search([item], datetime="2021-08")) == 1
    with pytest.raises(EmptySearchError):
        search([item], datetime="2022")


@pytest.mark.parametrize(
    ("filters", "word"),
    [
        ({"bbox": [0, 10, 1, 0]}, "west, south, east, north"),
        ({"bbox": [0, 1]}, "west, south, east, north"),
        ({"datetime": "last summer"}, "not understood"),
        ({"datetime": "2021/2022/2023"}, "not understood"),
        ({"datetime": "2022/2021"}, "ends before it starts"),
        ({"intersects": 5}, "neither a GeoJSON"),
    ],
)
def test_malformed_filters_are_named(filters: dict[str, Any], word: str) -> None:
    with pytest.raises(CatalogError, match=word):
        search([plain_item("a")], **filters)


def test_relative_assets_become_absolute(tmp_path: Path) -> None:
    folder = tmp_path / "world"
    item = plain_item("a", href=str(folder / "scenes" / "a.tif"))
    path = write_catalog([item], folder / "catalog.json", title="t", description="d")
    written = json.loads((folder / "items" / "a.json").read_text())
    assert written["assets"]["image"]["href"] == "../scenes/a.tif"
    moved = folder.rename(tmp_path / "moved")
    (loaded,) = load_items(moved / path.name)
    assert loaded.assets["image"].href == str(moved / "scenes" / "a.tif")
    write_stac_geoparquet([loaded], moved / "items.parquet")
    (again,) = load_items(moved.rename(tmp_path / "again") / "items.parquet")
    assert again.assets["image"].href == str(tmp_path / "again" / "scenes" / "a.tif")


def test_a_broken_link_is_named_with_its_catalogue(tmp_path: Path) -> None:
    path = write_catalog(six_items(), tmp_path, title="t", description="d")
    (tmp_path / "items" / "c.json").unlink()
    with pytest.raises(CatalogError, match=r"items/c\.json, linked from .*catalog\.json"):
        load_items(path)
    (tmp_path / "items" / "c.json").write_text("{ not json")
    with pytest.raises(CatalogError, match=r"c\.json.*not valid JSON"):
        load_items(path)
    (tmp_path / "items" / "c.json").write_text('{"type": "Feature", "id": "c"}')
    with pytest.raises(CatalogError, match=r"item c in .*not valid STAC"):
        load_items(path)


def test_a_catalogue_that_links_to_itself_ends(tmp_path: Path) -> None:
    item = plain_item("a")
    (tmp_path / "a.json").write_text(json.dumps(item.to_dict()))
    links = [
        {"rel": "child", "href": "./catalog.json"},
        {"rel": "child", "href": "./sub/../catalog.json"},
        {"rel": "item", "href": "a.json"},
        {"rel": "item", "href": "./a.json"},
    ]
    catalog = {"type": "Catalog", "id": "c", "stac_version": "1.1.0", "description": "d", "links": links}
    (tmp_path / "catalog.json").write_text(json.dumps(catalog))
    assert [found.id for found in load_items(tmp_path)] == ["a"]


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("missing.json", None, "does not exist"),
        ("other.json", '{"type": "Topology"}', "not a STAC document"),
        ("list.json", "[1, 2]", "not a STAC document"),
        ("items.parquet", "no parquet", "not readable as stac-geoparquet"),
    ],
)
def test_sources_that_are_no_stac_are_named(
    tmp_path: Path, name: str, content: str | None, word: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(CatalogError, match=rf"{name}.*{word}"):
        load_items(tmp_path / name)


def test_a_delivery_folder_is_no_source(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="planet_items"):
        search(tmp_path)
    with pytest.raises(CatalogError, match=r"only files, http\(s\) addresses and object stores"):
        search("ftp://server/catalog.json")


def test_a_catalogue_without_items_is_an_empty_search(tmp_path: Path) -> None:
    path = write_catalog([], tmp_path, title="t", description="d")
    with pytest.raises(EmptySearchError, match=r"of 0 item\(s\)"):
        load_items(path)


def test_a_search_makes_items_only_of_the_rows_that_it_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(3)
    template = plain_item("template", href="https://server.example/image.tif")
    items = []
    for index in range(4_000):
        item = template.clone()
        item.id = f"scene{index:05d}"
        lon, lat = rng.uniform(-180, 179), rng.uniform(55, 80)
        ring = [[lon, lat], [lon + 0.5, lat], [lon + 0.5, lat + 0.2], [lon, lat + 0.2], [lon, lat]]
        item.geometry = {"type": "Polygon", "coordinates": [ring]}
        item.bbox = [lon, lat, lon + 0.5, lat + 0.2]
        item.datetime = datetime(2021, 7, 1, tzinfo=UTC) + timedelta(minutes=int(rng.integers(0, 10**6)))
        item.properties["eo:cloud_cover"] = float(rng.uniform(0, 100))
        items.append(item)
    path = write_stac_geoparquet(items, tmp_path / "many.parquet")
    alone = {"bbox": [-170, 56, 10, 79], "datetime": "2021-07/2022-06", "max_cloud_cover": 50}
    made: list[str] = []
    from_dict = pystac.Item.from_dict

    def counting(document: dict[str, Any], *args: Any, **kwargs: Any) -> pystac.Item:
        made.append(document["id"])
        return from_dict(document, *args, **kwargs)

    monkeypatch.setattr(pystac.Item, "from_dict", counting)
    for filters in ({name: value} for name, value in alone.items()):
        assert 1_600 < len(search(path, **filters)) < 2_400
    made.clear()
    found = search(path, **alone)
    assert sorted(made) == [item.id for item in found]
    assert [item.to_dict() for item in found] == [item.to_dict() for item in search(items, **alone)]
    assert 400 < len(found) < 600


def test_static_catalogues_are_read_over_http(tmp_path: Path) -> None:
    write_catalog([plain_item("a", href=str(tmp_path / "a.tif"))], tmp_path, title="t", description="d")
    with serve(files(tmp_path)) as root:
        (item,) = search(f"{root}/catalog.json")
        assert item.assets["image"].href == f"{root}/a.tif"
        with pytest.raises(CatalogError, match=r"missing\.json cannot be read"):
            search(f"{root}/missing.json")


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "_BACK_OFF", 0.01)


def test_an_api_is_paged_through(quick_retries: None) -> None:
    api = PagedApi([item.to_dict() for item in six_items()], failures={1: 2})
    with serve(api) as root:
        found = search(root, bbox=[-171, 60, -140, 70], datetime="2021-09", max_cloud_cover=40)
    # The API ignores every filter; what it returns is filtered here again.
    assert [item.id for item in found] == ["e"]
    assert api.asked[0]["bbox"] == [-171, 60, -140, 70]
    assert api.asked[0]["datetime"].startswith("2021-09-01T00:00:00Z/2021-09-30T23:59:59")
    # Three pages, of which the second is had at the third try.
    assert len(api.asked) == 5


def test_a_page_that_keeps_failing_is_named(quick_retries: None) -> None:
    with (
        serve(PagedApi([item.to_dict() for item in six_items()], failures={1: 100})) as root,
        pytest.raises(CatalogError, match=rf"page 2 of the search of {root}.*come back later"),
    ):
        search(root)


def test_pages_that_run_in_a_circle_end(quick_retries: None) -> None:
    with (
        serve(PagedApi([item.to_dict() for item in six_items()], circle=True)) as root,
        pytest.raises(CatalogError, match="runs in a circle"),
    ):
        search(root)


def test_an_api_without_match_says_what_was_asked(quick_retries: None) -> None:
    with serve(PagedApi([])) as root, pytest.raises(EmptySearchError, match=r"bbox.*0\.0, 0\.0, 1\.0, 1\.0"):
        search(root, bbox=[0, 0, 1, 1])


def test_an_unreachable_server_is_named(quick_retries: None) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        root = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(CatalogError, match=f"{root} cannot be read"):
        search(root)


@pytest.fixture(scope="module")
def rustac_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real STAC API on the loopback address, with 30 items."""
    folder = tmp_path_factory.mktemp("api")
    items = []
    for index in range(30):
        item = plain_item(
            f"scene{index:02d}", lon=-163 + index, moment=DAYS[0] + timedelta(days=index), cloud=float(index)
        )
        item.collection_id = "planetscope"
        items.append(item)
    (folder / "items.json").write_text(json.dumps(pystac.ItemCollection(items).to_dict()))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    program = Path(sys.executable).with_name("rustac")
    if not program.exists():
        pytest.skip("the rustac program is not installed beside Python")
    command = [str(program), "serve", "--create-collections", "--addr", address, str(folder / "items.json")]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            urllib3.PoolManager(retries=urllib3.Retry(connect=10, backoff_factor=0.1)).request(
                "GET", f"http://{address}"
            )
            yield f"http://{address}"
        finally:
            server.terminate()
            server.wait(timeout=10)


def test_a_real_api_is_searched_by_every_filter(rustac_api: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "_PAGE", 4)
    assert len(load_items(rustac_api)) == 30
    assert [item.id for item in search(rustac_api, ids=["scene03", "scene21"])] == ["scene03", "scene21"]
    assert len(search(rustac_api, datetime="2021-07-01/2021-07-10")) == 10
    assert len(search(rustac_api, max_cloud_cover=4)) == 5
    assert [item.id for item in search(rustac_api, bbox=[-158, 60, -152.6, 70])] == [
        f"scene{index:02d}" for index in range(5, 11)
    ]
    area = shapely.box(-158, 60, -157.9, 70)
    assert [item.id for item in search(rustac_api, intersects=area)] == ["scene05"]
    with pytest.raises(EmptySearchError):
        search(rustac_api, datetime="2020")
