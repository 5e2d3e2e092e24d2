"""Whatever a user gives: a message that says what to do, never a traceback, never an error without a name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from click.testing import CliRunner

import darts_xr as dx
from pipelines.cli import main
from tests.pipelines.small import Small


@pytest.fixture
def junk(tmp_path: Path) -> Path:
    """Files that are not what they should be."""
    (tmp_path / "text.gpkg").write_text("no vectors")
    (tmp_path / "noise.yml").write_bytes(bytes(range(256)))
    (tmp_path / "list.yml").write_text("- a\n- b\n")
    (tmp_path / "empty.yml").write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / "table.csv").write_text("name,value\na,1\n")
    (tmp_path / "data_api.json").write_text(
        json.dumps({"type": "FeatureCollection", "features": [
            {"type": "Feature", "id": "20160909_213104_0e19", "_links": {}, "_permissions": [], "assets": [],
             "geometry": {"type": "Point", "coordinates": [0, 0]}, "properties": {"item_type": "PSScene"}}]})
    )  # fmt: skip
    return tmp_path


@pytest.mark.parametrize(
    ("command", "word"),
    [
        ("detect CATALOG --auxiliary neutral --infrastructure JUNK/text.gpkg", "text.gpkg"),
        ("detect CATALOG --auxiliary neutral --infrastructure JUNK/folder", "folder"),
        ("detect CATALOG --auxiliary neutral --infrastructure JUNK/table.csv", "longitude"),
        ("detect CATALOG --auxiliary neutral --cluster banana", "banana"),
        ("detect CATALOG --auxiliary neutral --device banana", "device must be"),
        ("detect CATALOG --auxiliary neutral --threshold 7", "threshold"),
        ("detect CATALOG --auxiliary neutral --border -3", "border"),
        ("detect CATALOG --auxiliary neutral --max-water nan", "max_water"),
        ("detect CATALOG --auxiliary neutral --mask-rule udm7", "mask_rule"),
        ("detect CATALOG --auxiliary neutral --config JUNK/list.yml", "list.yml"),
        ("detect CATALOG --auxiliary neutral --config JUNK/noise.yml", "noise.yml"),
        ("detect JUNK/data_api.json --auxiliary neutral --dry-run", "order them"),
        ("validate JUNK/text.gpkg JUNK/text.gpkg", "text.gpkg"),
        ("validate JUNK/folder JUNK/folder", "folder"),
        ("validate JUNK/none.gpkg JUNK/none.gpkg", "not found"),
        ("aggregate JUNK --years 2021-", "2021-2023"),
        ("aggregate JUNK --years 2021-99999999", "years"),
        ("aggregate JUNK", "run.json"),
        ("train JUNK/empty.yml", "empty.yml|configuration|lacks"),
        ("train JUNK/list.yml", "list.yml|configuration|mapping"),
        ("train JUNK/noise.yml", "noise.yml"),
        ("sample JUNK/world --size 7", "size"),
        ("sample JUNK/world --scenes 0", "scenes"),
        ("bench --repeats 0", "repeats"),
        ("catalog JUNK/folder", "no scene"),
        ("verify JUNK", "run.json"),
        ("report JUNK", "run.json"),
    ],
)
def test_every_verb_answers_nonsense_with_a_message(small: Small, junk: Path, command: str, word: str):
    places = {"CATALOG": str(small.world.catalog), "JUNK": str(junk)}
    arguments = command.split()
    for name, place in places.items():
        arguments = [argument.replace(name, place) for argument in arguments]
    if arguments[0] == "detect":
        arguments += ["--out", str(junk / "run"), "--models", str(small.model)]
    answer = CliRunner().invoke(main, arguments)
    assert answer.exit_code in (1, 2), answer.output
    assert answer.exception is None or isinstance(answer.exception, SystemExit)
    assert any(part in answer.output for part in word.split("|")), answer.output
    for unwanted in ("Traceback", "unexpected error"):
        assert unwanted not in answer.output, answer.output


def test_what_nobody_foresaw_is_one_line_and_a_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr("darts_xr.planet.planet_items", lambda *_, **__: 1 / 0)
    answer = CliRunner().invoke(main, ["catalog", str(tmp_path)])
    assert answer.exit_code == 1
    assert "unexpected error: ZeroDivisionError" in answer.stderr
    assert "Traceback" not in answer.output
    (log,) = tmp_path.rglob("darts-xr.log")
    assert "ZeroDivisionError" in log.read_text()
    assert "Traceback" in log.read_text()


_SQUARE = gpd.GeoDataFrame(geometry=[shapely.box(0, 0, 1, 1)], crs=4326)


@pytest.mark.parametrize(
    "call",
    [
        lambda: dx.filter_water(_SQUARE, "neutral"),
        lambda: dx.match_objects(_SQUARE, "inventory.gpkg"),
        lambda: dx.match_objects(_SQUARE, _SQUARE, buffer=float("inf")),
        lambda: dx.coverage([_SQUARE]),
        lambda: dx.search([], intersects="region.gpkg"),
        lambda: dx.load_ensemble("demo", device="banana"),
        lambda: dx.relative_elevation(np.zeros((9, 9), "float32"), radius=-1, resolution=3.0),
        lambda: dx.start_cluster("banana"),
    ],
    ids=range(8),
)
def test_public_functions_raise_errors_of_darts_xr(call: Any):
    with pytest.raises(dx.DartsError):
        call()


@pytest.mark.parametrize("chunks", [0, -5, "many", (0, 0), 1.5])
def test_chunks_of_nonsense_are_refused(small: Small, chunks: Any):
    with pytest.raises(dx.DartsError, match="chunks must be"):
        dx.open_scene(small.items[0], chunks=chunks)


def test_an_image_in_a_geocentric_system_is_refused(small: Small, tmp_path: Path):
    own = small.copy(tmp_path / "world")
    item = own.items[0]
    with rasterio.open(item.assets["image"].href) as file:
        profile, pixels = file.profile, file.read()
    with rasterio.open(
        item.assets["image"].href, "w", **{**profile, "driver": "GTiff", "crs": "EPSG:4978"}
    ) as file:
        file.write(pixels)
    with pytest.raises(dx.DartsError, match="UTM"):
        dx.open_scene(item)


def test_a_table_of_places_is_read_as_infrastructure(small: Small, tmp_path: Path):
    (tmp_path / "towns.csv").write_text("name,lon,lat\na,-150.0,70.0\n")
    run = small.detect(tmp_path / "run", small.items[:1], infrastructure=tmp_path / "towns.csv")
    assert run.done
