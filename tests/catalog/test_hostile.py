"""Catalogues that mean harm or do not know better: circles, secrets, local files, items that are none."""

from __future__ import annotations

import gzip
import json
import logging
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pystac
import pytest
from hypothesis import given
from hypothesis import strategies as st

from darts_xr.addresses import redact
from darts_xr.catalog import iter_items, load_items, normalize_item, readers, search
from darts_xr.errors import CatalogError, DartsError
from tests.catalog.deliveries import plain_item
from tests.catalog.servers import PagedApi, files, serve

SECRET = "s3cr3t"
LINK = {"rel": "next", "method": "POST"}


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "_BACK_OFF", 0.001)


def catalog(*links: tuple[str, str]) -> dict[str, Any]:
    return {
        "type": "Catalog",
        "id": "c",
        "stac_version": "1.1.0",
        "description": "d",
        "links": [{"rel": rel, "href": href} for rel, href in links],
    }


def write(folder: Path, **documents: Any) -> None:
    for name, document in documents.items():
        (folder / f"{name}.json").write_text(json.dumps(document))


class Api(PagedApi):
    """A STAC API whose pages are what ``page(number of requests so far, root)`` makes."""

    def __init__(self, page: Callable[[int, str], dict[str, Any]]) -> None:
        super().__init__([])
        self.page = page

    def __call__(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> Any:
        root = f"http://{headers['Host']}"
        if not path.startswith("/search"):
            return super().__call__(method, path, body, headers)
        self.asked.append({"path": path})
        return self._json(200, {"type": "FeatureCollection", **self.page(len(self.asked), root)})


def feature(item_id: str) -> dict[str, Any]:
    return plain_item(item_id).to_dict()


# --- what does not end -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("page", "requests"),
    [
        # A page that is its own next one, with the same link, and with another link each time.
        (lambda n, root: {"features": [feature("a")], "links": [LINK | {"href": f"{root}/search"}]}, 2),
        (
            lambda n, root: {
                "features": [feature("a")],
                "links": [LINK | {"href": f"{root}/search?page={n}"}],
            },
            2,
        ),
        # Two pages that link to each other.
        (
            lambda n, root: {
                "features": [feature("ab"[n % 2])],
                "links": [LINK | {"href": f"{root}/search?page={n % 2}"}],
            },
            3,
        ),
        # Empty pages, each with a link to itself.
        (lambda n, root: {"features": [], "links": [LINK | {"href": f"{root}/search"}]}, 2),
    ],
)
def test_pages_in_a_circle_are_named(page: Callable[[int, str], dict[str, Any]], requests: int) -> None:
    api = Api(page)
    with (
        serve(api) as root,
        pytest.raises(CatalogError, match=rf"search of {root} runs in a circle: page \d"),
    ):
        search(root)
    assert len(api.asked) == requests


def test_empty_pages_without_end_are_named() -> None:
    api = Api(lambda n, root: {"features": [], "links": [LINK | {"href": f"{root}/search?page={n}"}]})
    with serve(api) as root, pytest.raises(CatalogError, match="does not end: 11 pages in a row are empty"):
        search(root)


def test_an_empty_page_between_others_is_passed_over() -> None:
    def page(number: int, root: str) -> dict[str, Any]:
        links = [LINK | {"href": f"{root}/search?page={number}"}] if number < 3 else []
        return {"features": [] if number == 2 else [feature(f"scene{number}")], "links": links}

    with serve(Api(page)) as root:
        assert [item.id for item in search(root)] == ["scene1", "scene3"]


def test_catalogues_that_link_in_a_circle_end(tmp_path: Path) -> None:
    write(
        tmp_path,
        catalog=catalog(("child", "catalog.json"), ("child", "one.json")),
        one=catalog(("child", "two.json"), ("item", "a.json")),
        two=catalog(("child", "one.json"), ("child", "./sub/../catalog.json")),
        a=feature("a"),
    )
    assert [item.id for item in load_items(tmp_path)] == ["a"]
    with serve(files(tmp_path)) as root:
        assert [item.id for item in load_items(f"{root}/catalog.json")] == ["a"]


def test_catalogues_inside_each_other_without_end_are_named() -> None:
    def answer(method: str, path: str, body: bytes, headers: dict[str, str]) -> Any:
        return 200, json.dumps(catalog(("child", f"{path}x"))).encode(), {}

    with (
        serve(answer) as root,
        pytest.raises(CatalogError, match="inside each other to a depth of more than 64"),
    ):
        load_items(f"{root}/x")


# --- where a catalogue of the web may not lead -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("href", "word"),
    [
        ("file:///etc/passwd", "a file of this computer"),
        ("vrt:///etc/passwd", "a file of this computer"),
        ("http://localhost.example/search", "not the same server"),
        ("ftp://127.0.0.1/search", "not the same server"),
        ("http://[", "no address"),
        ("", "without address"),
    ],
)
def test_next_pages_stay_on_their_server(href: str, word: str) -> None:
    api = Api(lambda n, root: {"features": [feature("a")], "links": [{"rel": "next", "href": href}]})
    with serve(api) as root, pytest.raises(CatalogError, match=word):
        search(root)
    assert len(api.asked) == 1


@pytest.mark.parametrize("rel", ["child", "item", "items"])
def test_links_of_the_web_do_not_reach_files(tmp_path: Path, rel: str) -> None:
    write(tmp_path, secret=feature("secret"))
    write(tmp_path, catalog=catalog((rel, (tmp_path / "secret.json").as_uri())))
    assert [item.id for item in load_items(tmp_path)] == ["secret"]  # from disk it is fine
    with (
        serve(files(tmp_path)) as root,
        pytest.raises(CatalogError, match=r"secret\.json, a file of this computer"),
    ):
        load_items(f"{root}/catalog.json")


@pytest.mark.parametrize("href", ["file:///etc/passwd", "NETCDF:/etc/passwd", "vrt:///etc/passwd"])
def test_assets_of_the_web_are_no_local_files(tmp_path: Path, href: str) -> None:
    item = plain_item("a", href=href).to_dict()
    write(tmp_path, a=item)
    with (
        serve(files(tmp_path)) as root,
        pytest.raises(CatalogError, match=r"item a .*a file of this computer"),
    ):
        load_items(f"{root}/a.json")


def test_assets_of_the_web_may_lie_elsewhere_in_it(tmp_path: Path) -> None:
    item = plain_item("a", href="s3://bucket/a.tif")
    item.add_asset("more", pystac.Asset("https://server.example/a.tif"))
    item.add_asset("path", pystac.Asset("/etc/passwd"))
    write(tmp_path, a=item.to_dict())
    with serve(files(tmp_path)) as root:
        (found,) = load_items(f"{root}/a.json")
        hrefs = [asset.href for asset in found.assets.values()]
        assert hrefs == ["s3://bucket/a.tif", "https://server.example/a.tif", f"{root}/etc/passwd"]


# --- items -------------------------------------------------------------------------------------------------------


def test_an_item_that_comes_twice_is_given_once_aloud(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    collection = {"type": "FeatureCollection", "features": [feature("a"), feature("b"), feature("a")]}
    write(tmp_path, items=collection)
    assert [item.id for item in load_items(tmp_path / "items.json")] == ["a", "b"]
    assert "1 item(s) come more than once and are given once: a" in caplog.text


def test_other_items_of_the_same_id_are_kept() -> None:
    first, second = plain_item("a"), plain_item("a")
    first.collection_id, second.collection_id = "c", "d"
    assert len(load_items([first, second])) == 2
    assert len(load_items([plain_item("a"), plain_item("a", href="./other.tif")])) == 2


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"id": ""}, "its id is empty"),
        ({"id": 5}, "its id is '5'"),
        ({"id": ["a"]}, "its id"),
        ({"type": "Catalog"}, "no Feature"),
        ({"geometry": "POINT (0 0)"}, "its geometry is 'POINT"),
        ({"bbox": "everywhere"}, "its bbox"),
        ({"properties": None}, "its properties"),
        ({"properties": {"datetime": "last summer"}}, "not valid STAC"),
        ({"properties": {"datetime": None}}, "not valid STAC"),
        ({"assets": ["image.tif"]}, "its assets"),
        ({"assets": {"image": {"title": "no address"}}}, "not valid STAC"),
        ({"assets": {"image": {"href": ""}}}, "without address"),
        ({"assets": {"image": {"href": 7}}}, "not valid STAC"),
        ({"links": 7}, "not valid STAC"),
        ({"stac_version": None}, "not valid STAC"),
        ({"collection": {"id": "c"}}, "its collection"),
    ],
)
def test_an_item_that_is_none_is_named(tmp_path: Path, change: dict[str, Any], word: str) -> None:
    write(
        tmp_path, items={"type": "FeatureCollection", "features": [feature("good"), feature("bad") | change]}
    )
    with pytest.raises(CatalogError, match=rf"item .* in .*items\.json.*{word}"):
        load_items(tmp_path / "items.json")


@pytest.mark.parametrize("document", [None, 5, "item", [1], {}, {"type": "Feature"}])
def test_a_feature_that_is_no_item_is_named(tmp_path: Path, document: Any) -> None:
    write(tmp_path, items={"type": "FeatureCollection", "features": [document]})
    with pytest.raises(CatalogError, match=r"items\.json is not valid STAC"):
        load_items(tmp_path / "items.json")


@pytest.mark.parametrize("features", [None, 5, {"a": 1}])
def test_features_that_are_no_list_are_named(tmp_path: Path, features: Any) -> None:
    write(tmp_path, items={"type": "FeatureCollection", "features": features})
    with pytest.raises(CatalogError, match="no list of features"):
        load_items(tmp_path / "items.json")


def test_json_nested_without_end_is_named(tmp_path: Path) -> None:
    (tmp_path / "deep.json").write_text("[" * 200_000)
    with pytest.raises(CatalogError, match=r"deep\.json is not valid JSON"):
        load_items(tmp_path / "deep.json")


@pytest.mark.parametrize(
    ("change", "filters"),
    [
        ({"geometry": {"type": "Polygon"}}, {"bbox": [-180, 0, 180, 90]}),
        ({"geometry": {"type": "Polygon", "coordinates": [[0]]}}, {"bbox": [-180, 0, 180, 90]}),
        ({"geometry": {"type": "Blob", "coordinates": []}}, {"bbox": [-180, 0, 180, 90]}),
        (
            {"properties": {"datetime": "2021-07-01T00:00:00Z", "eo:cloud_cover": "much"}},
            {"max_cloud_cover": 5},
        ),
    ],
)
def test_an_item_that_cannot_be_filtered_is_named(
    tmp_path: Path, change: dict[str, Any], filters: dict[str, Any]
) -> None:
    write(
        tmp_path, items={"type": "FeatureCollection", "features": [feature("good"), feature("bad") | change]}
    )
    with pytest.raises(CatalogError, match=r"item bad cannot be filtered.*correct it or leave the item out"):
        search(tmp_path / "items.json", **filters)


# --- secrets in addresses ----------------------------------------------------------------------------------------

PARAMETERS = ["token", "X-Amz-Signature", "sig", "api_key", "Signature", "anything"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://user:s3cr3t@host/a.tif", "https://…@host/a.tif"),
        ("https://s3cr3t@host/a.tif", "https://…@host/a.tif"),
        ("https://u:s3cr3t@x@host/a.tif?page=2", "https://…@host/a.tif?page=2"),
        ("https://host/a.tif?s3cr3t", "https://host/a.tif?…"),
        ("https://host/#access_token=s3cr3t", "https://host/#access_token=…"),
        ("https://host/a?limit=3;token=s3cr3t&bbox=1,2", "https://host/a?limit=3;token=…&bbox=1,2"),
        ("Max retries exceeded with url: /a?token=s3cr3t (Caused by it)", None),
        ("'/vsicurl/https://u:s3cr3t@h/a.tif?sig=s3cr3t' is no file", None),
        ("is it the mosaic's? yes: /data/year=2021/a.tif", "is it the mosaic's? yes: /data/year=2021/a.tif"),
    ],
)
def test_redact_hides_secrets_and_nothing_else(text: str, shown: str | None) -> None:
    assert SECRET not in redact(text)
    assert redact(redact(text)) == redact(text)
    if shown is not None:
        assert redact(text) == shown


@given(st.sampled_from(PARAMETERS), st.text("abc0123456789+/=%.-_~'()!*;:@,", min_size=1))
def test_redact_hides_values_of_any_form(name: str, value: str) -> None:
    shown = redact(f"https://host/a.tif?page=1&{name}={SECRET}{value}&limit=5 failed")
    assert shown == f"https://host/a.tif?page=1&{name}=…&limit=5 failed"


def leaks(error: BaseException, caplog: pytest.LogCaptureFixture) -> bool:
    """Whether the secret shows in the whole traceback, source lines apart, or in a log line of ours."""
    shown = [line for line in traceback.format_exception(error) if not line.startswith("  File")]
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("darts_xr")]
    return any(SECRET in text for text in [*shown, *ours])


def hidden(address: str) -> list[str]:
    return [
        address.replace("://", f"://user:{SECRET}@"),
        *(f"{address}?{name}={SECRET}" for name in PARAMETERS),
    ]


def raised(work: Callable[[], Any]) -> DartsError:
    with pytest.raises(DartsError) as caught:
        work()
    return caught.value


def test_no_message_shows_the_secret_of_a_source(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    write(
        tmp_path,
        empty={"type": "FeatureCollection", "features": []},
        other={"type": "Topology"},
        broken=catalog(("item", f"missing.json?token={SECRET}")),
        bad={"type": "FeatureCollection", "features": [{"id": "bad"}]},
        none={"type": "FeatureCollection"},
        local=catalog(("item", f"file:///a?token={SECRET}")),
    )
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "garbage.json").write_text("{")
    names = ["empty", "other", "broken", "bad", "none", "local", "list", "garbage", "missing"]
    with serve(files(tmp_path)) as root:
        sources_ = [each for name in names for each in hidden(f"{root}/{name}.json")]
        sources_ += hidden(f"{root}/items.parquet") + hidden(f"{root}/items.ndjson")
        for source in sources_:
            assert not leaks(raised(lambda source=source: load_items(source)), caplog), source  # type: ignore[misc]
    for source in [*hidden(f"{root}/gone.json"), *hidden("s3://bucket/catalog.json")]:
        assert not leaks(raised(lambda source=source: load_items(source)), caplog), source  # type: ignore[misc]


@pytest.mark.parametrize(
    "page",
    [
        lambda n, root: {"features": [], "links": []},
        lambda n, root: {
            "features": [feature("a")],
            "links": [LINK | {"href": f"{root}/search?token={SECRET}"}],
        },
        lambda n, root: {"features": [feature("a")], "links": [LINK | {"href": f"http://h/?token={SECRET}"}]},
        lambda n, root: {"features": [feature("a")], "links": [LINK | {"href": f"{root}:1/?sig={SECRET}"}]},
        lambda n, root: {"features": [{"id": "bad"}], "links": []},
    ],
)
def test_no_message_of_a_search_shows_a_secret(
    page: Callable[[int, str], dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with serve(Api(page)) as root:
        for source in [root, f"{root}/?token={SECRET}", root.replace("://", f"://user:{SECRET}@")]:
            assert not leaks(raised(lambda source=source: search(source, ids=["a"])), caplog)  # type: ignore[misc]


@pytest.fixture
def assets(tmp_path: Path) -> Iterator[list[str]]:
    """Addresses with secrets of an image that is missing, damaged, or out of reach."""
    (tmp_path / "damaged.tif").write_bytes(b"II*\0 no raster")
    with serve(files(tmp_path)) as root:
        yield (
            hidden(f"{root}/missing.tif") + hidden(f"{root}/damaged.tif") + hidden("http://127.0.0.1:9/a.tif")
        )


def test_no_message_shows_the_secret_of_an_asset(
    assets: list[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "0")
    for href in assets:
        item = plain_item("a", href=href)
        (found,) = iter_items([item])
        error = raised(lambda found=found: normalize_item(found))  # type: ignore[misc]
        assert not leaks(error, caplog), href
        assert ".tif" in str(error)


# --- answers without end -----------------------------------------------------------------------------------------


def test_an_answer_that_unpacks_to_gigabytes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "_LARGEST", 1 << 20)
    bomb = gzip.compress(b" " * (64 << 20))

    def answer(method: str, path: str, body: bytes, headers: dict[str, str]) -> Any:
        return 200, bomb, {"Content-Encoding": "gzip"}

    with serve(answer) as root, pytest.raises(CatalogError, match="larger than 1 MiB"):
        load_items(f"{root}/catalog.json")


def test_a_server_that_drips_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "_LONGEST", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            connection, _ = server.accept()
            with connection, suppress(OSError):
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
                for _ in range(100):  # ten seconds at most
                    connection.sendall(b" ")
                    time.sleep(0.1)

        threading.Thread(target=drip, daemon=True).start()
        began = time.monotonic()
        with pytest.raises(CatalogError, match=r"takes longer than"):
            load_items(f"http://127.0.0.1:{server.getsockname()[1]}/catalog.json")
        assert time.monotonic() - began < 8


def test_a_search_of_ever_new_pages_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "_MOST_PAGES", 5)

    def page(number: int, root: str) -> dict[str, Any]:
        return {
            "features": [feature(f"s{number}")],
            "links": [LINK | {"href": f"{root}/search?page={number}"}],
        }

    with serve(Api(page)) as root, pytest.raises(CatalogError, match="more than 5 pages"):
        search(root)
