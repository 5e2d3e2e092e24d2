"""What a run says of its auxiliary layers: how much was measured, what was filled, what is unknown."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio
from affine import Affine
from click.testing import CliRunner, Result
from rasterio.warp import transform
from rasterio.windows import Window

import darts_xr as dx
from darts_xr.cube.gaps import coverage_gaps
from darts_xr.errors import CheckpointError, MissingBandsError
from darts_xr.globe import boxes_meet
from darts_xr.inference import Ensemble
from pipelines.cli import main
from pipelines.settings import Settings
from pipelines.sources import load_sources, require_auxiliary
from tests.catalog.deliveries import udm2_pixels, write_tif
from tests.helpers import real_data
from tests.pipelines.small import Small


def _call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def _void(path: Path, share: float) -> None:
    """Overwrite the western part of a DEM with no data."""
    with rasterio.open(path) as file:
        heights, place = file.read(), {"crs": file.crs, "transform": file.transform}
    heights[:, :, : round(share * heights.shape[2])] = -9999
    write_tif(path, heights, nodata=-9999, **place)


def _cut(item: pystac.Item, folder: Path, east: float) -> pystac.Item:
    """A land-cover tile that ends at a meridian, about."""
    with rasterio.open(item.assets["landcover"].href) as file:
        (x,), _ = transform("EPSG:4326", file.crs, [east], [sum(item.bbox[1::2]) / 2])
        columns = int((x - file.transform.c) / file.transform.a)
        window = Window(0, 0, columns, file.height)
        path = write_tif(
            folder / f"{item.id}.tif",
            file.read(window=window),
            nodata=0,
            crs=file.crs,
            transform=file.transform,
        )
    return dx.auxiliary_items(path, kind="landcover", year=item.datetime.year)[0]


def _layers(small: Small, key: str) -> list[pystac.Item]:
    return [item for item in dx.load_items(small.world.auxiliary) if key in item.assets]


def test_the_share_that_was_measured_is_in_record_item_and_files(small: Small, tmp_path: Path) -> None:
    own = small.copy(tmp_path / "world")
    scene = own.items[0]
    for dem in _layers(own, "dem"):
        _void(Path(dem.assets["dem"].href), 0.5)
    run = own.detect(tmp_path / "run", [scene], fill_gaps=True)
    (record,) = run.done
    share = record["auxiliary_coverage"]["elevation"]
    cube = dx.open_scene(scene, auxiliary=own.world.auxiliary, bands=["slope"])
    valid = cube["valid"].values
    assert share == pytest.approx(np.isfinite(cube["slope"].values)[valid].mean(), abs=1e-4)
    assert 0 < share < 0.99
    assert any("elevation covers" in line and "counts as level" in line for line in record["warnings"])
    assert record["auxiliary_coverage"].keys() == {"elevation", "landcover"}  # this network needs no trends
    home = tmp_path / "run" / "scenes" / scene.id
    with rasterio.open(home / "probability.tif") as file:
        assert json.loads(file.tags()["auxiliary_coverage"]) == record["auxiliary_coverage"]
    properties = json.loads((home / "item.json").read_text())["properties"]
    assert json.loads(properties["darts:auxiliary_coverage"]) == record["auxiliary_coverage"]


def test_a_layer_that_covers_nothing_fails_the_scene_unless_told_otherwise(
    small: Small, tmp_path: Path
) -> None:
    own = small.copy(tmp_path / "world")
    for dem in _layers(own, "dem"):
        _void(Path(dem.assets["dem"].href), 1.0)
    scenes = own.items[:1]
    (failed,) = own.detect(tmp_path / "plain", scenes).failed
    assert "elevation covers none of the valid pixels" in failed["reason"]
    assert "--neutral elevation" in failed["reason"]
    (filled,) = own.detect(tmp_path / "gaps", scenes, fill_gaps=True).done
    assert filled["auxiliary_coverage"]["elevation"] == 0
    neutral = own.detect(tmp_path / "neutral", scenes, neutral=("elevation",))
    assert neutral.done[0]["neutral"] == ["elevation"]
    assert neutral.record["neutral"] == ["elevation"]
    assert not neutral.done[0]["warnings"]
    with rasterio.open(tmp_path / "neutral" / "scenes" / scenes[0].id / "probability.tif") as file:
        assert file.tags()["neutral"] == "elevation"


def test_objects_outside_every_land_cover_tile_are_kept_and_counted(small: Small, tmp_path: Path) -> None:
    scene = small.items[0]
    (whole,) = small.detect(tmp_path / "whole", [scene]).done
    middle = (scene.bbox[0] + scene.bbox[2]) / 2
    tiles = [item for item in _layers(small, "landcover") if boxes_meet(item.bbox, scene.bbox)]
    away = [_cut(item, tmp_path, middle) for item in tiles]
    (half,) = small.detect(tmp_path / "half", [scene], landcover=away).done
    assert half["auxiliary_coverage"]["landcover"] == pytest.approx(0.5, abs=0.1)
    assert any("landcover covers" in line for line in half["warnings"])
    assert half["counts"]["n_removed_water"] <= whole["counts"]["n_removed_water"]
    assert half["counts"]["n_objects"] >= whole["counts"]["n_objects"] > 0
    for item in away:
        item.bbox = [10.0, 50.0, 11.0, 51.0]
    (failed,) = small.detect(tmp_path / "none", [scene], landcover=away).failed
    assert "--landcover none" in failed["reason"]
    (kept,) = small.detect(tmp_path / "kept", [scene], landcover=away, fill_gaps=True).done
    assert kept["auxiliary_coverage"]["landcover"] == 0
    assert kept["counts"]["n_unknown_landcover"] == kept["counts"]["n_objects"] > 0


def test_auxiliary_given_twice_adds_sources(small: Small, tmp_path: Path) -> None:
    dem, trends = tmp_path / "dem", tmp_path / "tcvis"
    for folder, key in ((dem, "dem"), (trends, "trends")):
        folder.mkdir()
        for item in _layers(small, key):
            shutil.copy(item.assets[key].href, folder)
    arguments = [*small.command(tmp_path / "run")]
    at = arguments.index("--auxiliary")
    arguments[at : at + 2] = ["--auxiliary", str(dem), "--auxiliary", str(trends)]
    answer = _call(*arguments, "--models", "demo/tcvis", "--only", small.items[0].id, "--json")
    assert answer.exit_code == 0, answer.output
    (record,) = json.loads((tmp_path / "run" / "run.json").read_text())["scenes"]
    assert record["auxiliary_coverage"] == {"elevation": 1.0, "trends": 1.0}


def test_demo_networks_are_had_one_by_one(small: Small) -> None:
    assert [m.name for m in dx.load_ensemble("demo").members] == [
        dx.load_ensemble(f"demo/{name}").name for name in ("tcvis", "notcvis")
    ]
    plain = dx.load_ensemble("demo/notcvis")
    assert isinstance(plain, Ensemble)
    assert not any(name.startswith("tc_") for name in plain.bands)
    with pytest.raises(CheckpointError):
        dx.load_ensemble("demo/other")


def test_neutral_layers_need_no_source(small: Small) -> None:
    both = Settings(out="run", neutral=("elevation", "trends"))
    require_auxiliary(dx.load_ensemble("demo"), both)
    with pytest.raises(MissingBandsError, match="tc_wetness"):
        require_auxiliary(dx.load_ensemble("demo"), Settings(out="run", neutral=("elevation",)))
    with pytest.raises(MissingBandsError, match="no such layer"):
        require_auxiliary(dx.load_ensemble("demo"), Settings(out="run", neutral=("landcover",)))
    scene = dx.open_scene(small.items[0], neutral=["elevation", "trends"], bands=["slope", "tc_wetness"])
    assert int(scene["measured"].max()) == 0
    assert scene.attrs["neutral"] == "elevation, trends"
    with pytest.raises(MissingBandsError, match="no item with an asset landcover"):
        load_sources(Settings(out="run", auxiliary="neutral", landcover=_layers(small, "dem")))


# --- the newcomer ---------------------------------------------------------------------------------------------


def _delivery(folder: Path) -> Path:
    """A synthetic scene on Svalbard as Planet would deliver it."""
    rng = np.random.default_rng(0)
    image = rng.integers(300, 3000, (4, 300, 280)).astype("uint16")
    place = {"crs": "EPSG:32633", "transform": Affine(3.0, 0.0, 515_001.0, 0.0, -3.0, 8_664_000.0)}
    name = "20210715_131104_0e19_3B"
    write_tif(folder / f"{name}_AnalyticMS_SR.tif", image, nodata=0, **place)
    write_tif(folder / f"{name}_udm2.tif", udm2_pixels((300, 280)), **place)
    return folder


@pytest.mark.realdata
def test_two_geotiffs_lead_to_a_detection_in_three_commands(tmp_path: Path) -> None:
    """A real DEM of Svalbard, made trends, a made scene: the commands of the README."""
    dem = shutil.copy(next(real_data("dem-svalbard-20m").glob("*.tif")), tmp_path)
    tcvis = write_tif(
        tmp_path / "tcvis.tif", np.full((3, 60, 60), 127, "uint8"),
        crs="EPSG:32633", transform=Affine(30.0, 0.0, 514_800.0, 0.0, -30.0, 8_664_300.0),
    )  # fmt: skip
    catalog, layers, run = tmp_path / "catalog.json", tmp_path / "auxiliary", tmp_path / "run"
    commands = [
        ("catalog", _delivery(tmp_path / "deliveries"), "--out", catalog),
        ("auxiliary", dem, tcvis, "--out", layers, "--for", catalog),
        ("detect", catalog, "--auxiliary", layers, "--out", run, "--device", "cpu"),
    ]
    for command in commands:
        answer = _call(*command)
        assert answer.exit_code == 0, answer.output
    (record,) = json.loads((run / "run.json").read_text())["scenes"]
    assert record["state"] == "done"
    assert record["auxiliary_coverage"] == {"elevation": 1.0, "trends": 1.0}
    assert (run / "scenes" / record["id"] / "level1.parquet").exists()


@pytest.mark.realdata
def test_gaps_are_shown_before_a_run_and_bad_files_are_named(tmp_path: Path) -> None:
    dem = next(real_data("dem-svalbard-20m").glob("*.tif"))
    (tmp_path / "broken_dem.tif").write_bytes(b"II*\0 and no more")
    catalog = tmp_path / "catalog.json"
    assert _call("catalog", _delivery(tmp_path / "deliveries"), "--out", catalog).exit_code == 0
    answer = _call(
        "auxiliary", dem, tmp_path / "broken_dem.tif", "--out", tmp_path / "a", "--for", catalog, "--json"
    )
    assert answer.exit_code == 1
    told = json.loads(answer.stdout)
    assert told["items"] == {"Longyearbyen_DEM_1995": "elevation"}
    assert "broken_dem.tif" in next(iter(told["left_out"].values()))
    assert told["coverage"] == {"20210715_131104_0e19": {"elevation": 1.0, "trends": 0.0}}
    shown = _call("auxiliary", dem, "--out", tmp_path / "a", "--for", catalog)
    assert "20210715_131104_0e19" in shown.output
    nowhere = pystac.Item("nowhere", None, None, datetime(2021, 7, 1, tzinfo=UTC), {})
    assert coverage_gaps([nowhere], dx.auxiliary_items(dem)).shape == (1, 3)
