"""Catalogues of more items than memory should hold."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pystac
import pytest

from darts_xr.catalog import iter_items, search, write_catalog, write_stac_geoparquet
from darts_xr.errors import CatalogError
from tests.catalog.deliveries import plain_item
from tests.catalog.memory import run_measured
from tests.catalog.servers import PagedApi, files, serve

MANY = 50_000


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """50,000 items of distinct ids and cloud covers, in one table."""
    folder = tmp_path_factory.mktemp("many")
    one = pq.read_table(write_stac_geoparquet([plain_item("a")], folder / "one.parquet"))
    rows = one.take(pa.array([0] * MANY))
    columns: dict[str, Any] = {
        "id": pa.array([f"scene{index:06d}" for index in range(MANY)]),
        "eo:cloud_cover": pa.array([index % 100 for index in range(MANY)], pa.float64()),
    }
    for name, column in columns.items():
        rows = rows.set_column(rows.column_names.index(name), rows.schema.field(name), column)
    pq.write_table(rows, folder / "many.parquet")
    return folder / "many.parquet"


class Living:
    """Passes items on and notes how many of them lived at once."""

    def __init__(self, items: Iterator[pystac.Item]) -> None:
        self.items, self.now, self.most = items, 0, 0

    def __iter__(self) -> Iterator[pystac.Item]:
        for item in self.items:
            weakref.finalize(item, self._gone).atexit = False
            self.now += 1
            if self.now > 1500:
                gc.collect()  # items are in circles, and when those are found depends on all else in the process
            self.most = max(self.most, self.now)
            yield item

    def _gone(self) -> None:
        self.now -= 1


def test_a_table_of_50000_items_is_never_held_whole(table: Path) -> None:
    code = (
        "import sys; from darts_xr.catalog import iter_items, search\n"
        "search(sys.argv[1], ids='scene000007'); before = peak()\n"
        "print(sum(1 for _ in iter_items(sys.argv[1])), peak() - before)\n"
    )
    count, growth = run_measured(code, table)
    assert int(count) == MANY
    assert float(growth) < 80  # MB; all items at once take more than 150


def test_the_first_item_of_a_table_comes_before_the_rest_is_read(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = 0
    batches = pq.ParquetFile.iter_batches

    def counting(self: pq.ParquetFile, *args: Any, **kwargs: Any) -> Iterator[pa.RecordBatch]:
        nonlocal read
        for rows in batches(self, *args, **kwargs):
            read += rows.num_rows
            yield rows

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counting)
    assert next(iter_items(table)).id == "scene000000"
    assert 0 < read < MANY / 20


def test_filters_hold_in_a_stream_as_in_a_search(table: Path) -> None:
    filters: dict[str, Any] = {"max_cloud_cover": 0, "ids": ["scene000100", "scene000101", "scene049900"]}
    assert [item.id for item in iter_items(table, **filters)] == ["scene000100", "scene049900"]
    assert [item.id for item in search(table, **filters)] == ["scene000100", "scene049900"]
    assert list(iter_items(table, max_cloud_cover=-1)) == []


def test_a_catalogue_is_written_from_a_stream(table: Path, tmp_path: Path) -> None:
    count = 5_000
    living = Living(islice(iter_items(table), count))
    path = write_catalog(iter(living), tmp_path, title="Many", description="Many items.")
    assert living.most < count / 2
    links = [link["href"] for link in json.loads(path.read_text())["links"] if link["rel"] == "item"]
    assert links == [f"./items/scene{index:06d}.json" for index in range(count)]
    assert sum(1 for _ in (tmp_path / "items").iterdir()) == count
    assert next(iter_items(path)).id == "scene000000"


def test_a_static_catalogue_is_read_link_by_link(tmp_path: Path) -> None:
    items = [plain_item(f"scene{index}") for index in range(9)]
    for index, item in enumerate(items):
        item.collection_id = f"group{index // 3}"
    write_catalog(items, tmp_path, title="t", description="d")
    asked: list[str] = []
    answer = files(tmp_path)

    def counting(method: str, path: str, body: bytes, headers: dict[str, str]) -> Any:
        asked.append(path)
        return answer(method, path, body, headers)

    with serve(counting) as root:
        stream = iter_items(f"{root}/catalog.json")
        assert next(stream).id == "scene0"
        assert asked == ["/catalog.json", "/collections/group0.json", "/items/scene0.json"]
        assert [item.id for item in stream] == [f"scene{index}" for index in range(1, 9)]


def test_an_api_is_asked_for_a_page_when_it_is_needed() -> None:
    api = PagedApi([plain_item(f"scene{index}").to_dict() for index in range(6)])
    with serve(api) as root:
        stream = iter_items(root)
        assert [next(stream).id, next(stream).id] == ["scene0", "scene1"]
        assert len(api.asked) == 1
        assert len(list(stream)) == 4
        assert len(api.asked) == 3


def test_pages_of_features_over_http_are_all_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(3):
        page = pystac.ItemCollection([plain_item(f"scene{number}")]).to_dict()
        page["links"] = [{"rel": "next", "href": f"./{number + 1}.json"}] if number < 2 else []
        (tmp_path / f"{number}.json").write_text(json.dumps(page))
    with serve(files(tmp_path)) as root:
        assert [item.id for item in iter_items(f"{root}/0.json")] == ["scene0", "scene1", "scene2"]
    assert [item.id for item in iter_items(tmp_path / "0.json")] == ["scene0"]
    assert "pages after it are not read" in caplog.text


def test_json_lines_are_read_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "items.ndjson"
    lines = [json.dumps(plain_item(f"scene{index:03d}").to_dict()) for index in range(600)]
    path.write_text("\n".join([*lines[:599], "", lines[599]]))
    assert [item.id for item in search(path)] == [f"scene{index:03d}" for index in range(600)]
    path.write_text("\n".join([*lines[:300], "{ not json"]))
    stream = iter_items(path)
    assert next(stream).id == "scene000"
    with pytest.raises(CatalogError, match=r"line 301 of .*items\.ndjson is not valid JSON"):
        list(stream)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CatalogError, match=r"items\.ndjson cannot be read"):
        list(iter_items(path))


def test_given_items_are_taken_a_few_at_a_time() -> None:
    taken = []

    def endless() -> Iterator[pystac.Item]:
        while True:
            taken.append(len(taken))
            yield plain_item(f"scene{len(taken)}")

    stream = iter_items(endless(), max_cloud_cover=10)
    assert [next(stream).id for _ in range(3)] == ["scene1", "scene2", "scene3"]
    assert len(taken) < 1000
    with pytest.raises(CatalogError, match="hold a dict"):
        list(iter_items([{"type": "Feature"}]))  # type: ignore[list-item]


def test_bad_filters_and_sources_are_refused_before_the_first_item(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="west, south"):
        iter_items([plain_item("a")], bbox=[1, 2])
    with pytest.raises(CatalogError, match="does not exist"):
        iter_items(tmp_path / "nowhere.json")


def test_the_collector_is_as_it_was_after_a_search(tmp_path: Path) -> None:
    path = write_stac_geoparquet([plain_item("a")], tmp_path / "a.parquet")
    (tmp_path / "bad.parquet").write_text("no table")
    for enabled in (True, False):
        (gc.enable if enabled else gc.disable)()
        try:
            search(path)
            with pytest.raises(CatalogError):
                search(tmp_path / "bad.parquet")
            assert gc.isenabled() == enabled
        finally:
            gc.enable()
