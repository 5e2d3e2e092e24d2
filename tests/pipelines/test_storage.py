"""Runs in an object store, and scenes that lie there, on an emulated S3."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import geopandas as gpd
import pystac
import pytest
import rasterio
from upath import UPath

import darts_xr as dx
from darts_xr.errors import CatalogError, OutputError, RunLockedError
from pipelines import folder as folders
from pipelines import records
from pipelines.aggregation import aggregate, coverage
from pipelines.flow import Limits
from pipelines.records import Run, open_run
from pipelines.reports import report
from tests.pipelines.small import Seen, Small, digests

s3fs = pytest.importorskip("s3fs")
pytest.importorskip("moto.server")

pytestmark = pytest.mark.xdist_group("store")  # one server

# In a process of its own: rasterio holds Python's lock while it asks for some of a file's properties.
_SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(":".join(map(str, server.get_host_and_port())), flush=True)
sys.stdin.read()
"""
_KEYS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}


def _settings(address: str) -> dict[str, str]:
    """All that docs/storage.md says of a store with an address of its own."""
    return {
        **_KEYS,
        "AWS_ENDPOINT_URL": f"http://{address}",
        "AWS_S3_ENDPOINT": address,
        "AWS_HTTPS": "NO",
        "AWS_VIRTUAL_HOSTING": "FALSE",
    }


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    """An emulated S3 with one bucket, which this process and its children take for the real one."""
    server = subprocess.Popen(
        [sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert server.stdin is not None
    assert server.stdout is not None
    with server, pytest.MonkeyPatch.context() as patch:
        for name, value in _settings(server.stdout.readline().strip()).items():
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        UPath("s3://bucket").fs.mkdir("bucket")
        yield "s3://bucket"
        s3fs.S3FileSystem.clear_instance_cache()
        server.stdin.close()
        server.terminate()


@pytest.fixture
def out(store: str, request: pytest.FixtureRequest) -> str:
    return f"{store}/{request.node.name}"


@pytest.fixture(scope="module")
def pair(small: Small) -> list[pystac.Item]:
    return small.items[:2]


@pytest.fixture(scope="module")
def here(small: Small, pair: list[pystac.Item], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two scenes in a local folder."""
    return small.detect(tmp_path_factory.mktemp("here"), pair)


@pytest.fixture(scope="module")
def there(small: Small, pair: list[pystac.Item], store: str) -> Run:
    """The same two in the store."""
    return small.detect(f"{store}/there", pair)


def _fetched(run: Run, place: str, folder: Path) -> Path:
    """What an object store holds below a run's subfolder, on this machine's disk."""
    root = run.folder / place
    for path in root.rglob("*"):
        if path.is_file():
            target = folder / str(path).removeprefix(f"{root}/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return folder


def test_a_run_in_a_store_has_the_bytes_of_a_local_one(here: Run, there: Run, tmp_path: Path):
    ours, theirs = digests(_fetched(there, "scenes", tmp_path)), digests(here.folder / "scenes")
    assert ours == theirs
    assert sum(name.endswith((".tif", ".parquet")) for name in ours) == 8
    assert there.record["counts"] == here.record["counts"]
    names = {path.name for path in there.folder.iterdir()}
    assert names == {"run.json", "run.log", "catalog.json", "records", "scenes"}  # the lock is gone


def test_workers_of_a_cluster_write_to_the_store(small: Small, pair: list[pystac.Item], here: Run, out: str):
    with dx.start_cluster(n_workers=1, memory_limit="3GB", dashboard_address=None) as client:
        run = small.detect(out, pair, client=client)
    assert all(scene["worker"].startswith("tcp://") for scene in run.done)
    parquet = (run.folder / "scenes" / pair[0].id / "level1.parquet").read_bytes()
    assert parquet == (here.folder / "scenes" / pair[0].id / "level1.parquet").read_bytes()


def test_a_run_in_a_store_goes_on(small: Small, out: str):
    first, second, third = small.items[:3]
    small.detect(out, [first, second])
    seen = Seen()
    run = small.detect(out, [first, second, third], on_scene=seen)
    assert seen.done == [third.id]
    assert seen.skipped == {first.id: "done before", second.id: "done before"}
    assert run.record["counts"]["done"] == 3
    (run.folder / "scenes" / first.id / "binary.tif").unlink()
    seen = Seen()
    small.detect(out, [first, second, third], on_scene=seen)
    assert seen.done == [first.id]


def test_products_and_report_of_a_run_in_a_store(here: Run, there: Run, tmp_path: Path):
    made = aggregate(here, name="test"), aggregate(str(there.folder), name="test")
    names = sorted(path.name for path in made[0].files)
    assert sorted(path.name for path in made[1].files) == names
    local = _fetched(there, "products", tmp_path)
    assert sorted(digests(local)) == names
    for name in names:
        if not name.endswith(".gpkg"):
            assert (local / name).read_bytes() == (here.folder / "products" / name).read_bytes()
        else:
            assert gpd.read_file(local / name).equals(gpd.read_file(here.folder / "products" / name))
    cover = coverage(str(there.folder), name="test")
    assert cover.coverage["union"].equals(made[0].coverage["union"])
    page = report(str(there.folder))
    assert all(scene["id"] in page.read_text() for scene in there.scenes)
    page.unlink()


# --- records ----------------------------------------------------------------------------------------------


def test_records_are_sent_in_segments(small: Small, out: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(records, "_BATCH", 2)
    run = small.detect(out, small.items[:3])
    parts = {path.name: len(path.read_text().splitlines()) for path in (run.folder / "records").iterdir()}
    assert parts == {"000001.jsonl": 1, "000002.jsonl": 2, "000003.jsonl": 1}  # the settings, then scenes
    small.detect(out, small.items[:4])
    assert len(list((run.folder / "records").iterdir())) == 4


def test_records_are_sent_after_a_while_also_where_scenes_are_few(
    small: Small, out: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(records, "_BATCH_SECONDS", 0.0)
    run = small.detect(out, small.items[:2])
    assert len(list((run.folder / "records").iterdir())) == 3


_KILLED = """
import os, signal, sys
from pipelines import records
from pipelines.detection import detect
from pipelines.settings import Settings
from tests.pipelines.small import RULES
records._BATCH = 1
def die(record, total):
    os.kill(os.getpid(), signal.SIGKILL)
catalog, model, auxiliary, out = sys.argv[1:]
detect(catalog, Settings(models=[model], auxiliary=auxiliary, rules=RULES, out=out), on_scene=die)
"""


def test_a_killed_run_goes_on_when_its_lock_has_lapsed(
    small: Small, out: str, monkeypatch: pytest.MonkeyPatch
):
    arguments = [str(small.world.catalog), str(small.model), str(small.world.auxiliary), out]
    killed = subprocess.run([sys.executable, "-c", _KILLED, *arguments], timeout=300)
    assert killed.returncode < 0
    assert open_run(out).record["state"] == "running"
    recorded = [scene["id"] for scene in open_run(out).done]
    assert len(recorded) == 1
    with pytest.raises(RunLockedError, match="process"):
        small.detect(out)
    monkeypatch.setattr(folders, "STALE_AFTER", 0.5)
    time.sleep(0.5)
    seen = Seen()
    run = small.detect(out, on_scene=seen)
    assert sorted(seen.skipped) == recorded
    assert len(seen.done) == len(small.items) - 1
    assert run.record["state"] == "complete"


# --- the lock ---------------------------------------------------------------------------------------------


def test_two_runs_do_not_share_a_folder(small: Small, out: str):
    with folders.RunFolder(out).locked():
        with pytest.raises(RunLockedError, match="in use"):
            small.detect(out)
        with pytest.raises(RunLockedError), folders.RunFolder(out).locked():
            pass
    with folders.RunFolder(out).locked():
        pass


def test_a_lock_is_renewed_while_its_run_works_and_lapses_when_it_does_not(
    out: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(folders, "STALE_AFTER", 3.0)
    home = folders.RunFolder(out)
    with home.locked():
        first = json.loads((home.path / ".lock").read_text())
        deadline = time.monotonic() + 60
        while (found := json.loads((home.path / ".lock").read_text()))["time"] == first["time"]:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert found["holder"] == first["holder"]
    (home.path / ".lock").write_text(json.dumps({"holder": "a dead run", "time": time.time() - 4}))
    with home.locked():
        assert json.loads((home.path / ".lock").read_text())["holder"] != "a dead run"


def test_a_run_whose_lock_was_taken_stops(small: Small, out: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(folders, "STALE_AFTER", 0.3)
    lock = UPath(out) / ".lock"

    def steal(*_: object) -> None:
        lock.write_text(json.dumps({"holder": "another run", "time": time.time() + 1000}))
        time.sleep(1.0)  # long enough for the run to look

    with pytest.raises(RunLockedError, match="another run"):
        small.detect(out, on_scene=steal)
    assert json.loads(lock.read_text())["holder"] == "another run"


def test_a_store_that_cannot_be_reached_has_a_name(small: Small, store: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    try:
        with pytest.raises(OutputError, match="cannot be written"):
            small.detect(f"{store}/nowhere", small.items[:1])
    finally:
        s3fs.S3FileSystem.clear_instance_cache()


# --- scenes in the store ----------------------------------------------------------------------------------


def test_scenes_and_layers_are_read_from_the_store(
    small: Small, pair: list[pystac.Item], here: Run, store: str, tmp_path: Path
):
    def moved(item: pystac.Item) -> pystac.Item:
        item = item.clone()
        for key, asset in item.assets.items():
            if asset.href.endswith(".tif"):
                place = UPath(f"{store}/inputs/{item.id}-{key}.tif")
                place.write_bytes(Path(asset.href).read_bytes())
                asset.href = str(place)
        return item

    items = [moved(item) for item in pair]
    layers = [moved(item) for item in dx.load_items(small.world.auxiliary)]
    assert items[0].assets["image"].href.startswith("s3://")
    run = small.detect(tmp_path, items, auxiliary=layers, limits=Limits(tries=1))
    assert [scene.get("reason") for scene in run.failed] == []
    assert digests(tmp_path / "scenes") == digests(here.folder / "scenes")
    assert run.record["counts"] == here.record["counts"]


def test_the_catalogue_of_a_run_is_read_from_the_store(here: Run, there: Run):
    near, far = (dx.load_items(str(run.folder)) for run in (here, there))
    assert [item.id for item in far] == [item.id for item in near]
    assert far[0].assets["probability"].href.startswith(str(there.folder))
    with rasterio.open(far[0].assets["probability"].href) as file:
        assert file.tags()["item_id"] == far[0].id
    assert len(dx.search(f"{there.folder}/catalog.json", ids=far[0].id)) == 1


@pytest.mark.parametrize(
    ("name", "document", "reason"),
    [
        ("nothing/catalog.json", None, "cannot be read"),
        ("text/catalog.json", b"no json", "not valid JSON"),
        ("up/catalog.json", {"href": "../../../catalog.json"}, "a file of this computer"),
        ("root/catalog.json", {"href": "/etc/passwd"}, "a file of this computer"),
        ("other/catalog.json", {"href": "file:///etc/passwd"}, "a file of this computer"),
        ("bracket/catalog.json", {"href": "s3://[bad/catalog.json"}, "cannot be read|is no address"),
        ("table.parquet", b"", "download it first"),
    ],
)
def test_a_bad_catalogue_in_the_store_has_a_name(store: str, name: str, document: Any, reason: str):
    place = UPath(f"{store}/catalogues/{name}")
    if isinstance(document, dict):
        links = [{"rel": "child", **document}]
        catalog = {"type": "Catalog", "id": "a", "stac_version": "1.1.0", "description": "a", "links": links}
        document = json.dumps(catalog).encode()
    if document is not None:
        place.write_bytes(document)
    with pytest.raises(CatalogError, match=reason) as caught:
        dx.load_items(str(place))
    assert name in str(caught.value)
