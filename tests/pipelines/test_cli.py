"""The command: every verb explains itself, takes a config, speaks JSON, and ends non-zero on failure."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import click
import geopandas as gpd
import pystac
import pytest
import rasterio
from click.testing import CliRunner, Result

import darts_xr as dx
from darts_xr.sample import SampleWorld
from pipelines.cli import main
from pipelines.commands.common import parse_years
from pipelines.records import Run
from tests.helpers import real_data

VERBS = (
    "aggregate",
    "assess",
    "auxiliary",
    "bench",
    "catalog",
    "coverage",
    "cube",
    "demo",
    "detect",
    "doctor",
    "report",
    "rethreshold",
    "review",
    "sample",
    "sites",
    "study",
    "train",
    "validate",
    "verdicts",
    "verify",
)


def _call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "assess"])
def test_every_verb_explains_itself(verb: str):
    answer = _call(verb, "--help")
    assert answer.exit_code == 0
    assert "--config" in answer.output
    assert "--json" in answer.output


def test_the_list_of_verbs_is_that_of_the_design():
    assert main.list_commands(click.Context(main)) == list(VERBS)


def test_sample_detect_and_aggregate_from_the_command_line(tmp_path: Path):
    made = _call("sample", tmp_path / "world", "--seed", 31, "--scenes", 1, "--size", 300, "--json")
    assert made.exit_code == 0, made.output
    world = json.loads(made.stdout)
    found = _call(
        "detect", world["catalog"], "--auxiliary", world["auxiliary"], "--out", tmp_path / "run", "--json",
        "--max-water", 0.3, "--connectivity", "legacy", "--verify", "--prune", "--checksums",
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    rules = json.loads((tmp_path / "run" / "run.json").read_text())["rules"]
    assert (rules["max_water"], rules["connectivity"]) == (0.3, "legacy")
    assert json.loads(found.stdout)["counts"]["done"] == 1
    options = tmp_path / "aggregate.yml"
    options.write_text("name: cli\ndataset_version: v9\nintersect-years: 2021\nstrict: true\n")
    products = _call("aggregate", tmp_path / "run", "--config", options, "--json")
    assert products.exit_code == 0, products.output
    assert all(Path(path).exists() for path in json.loads(products.stdout)["files"])
    assert _call("coverage", tmp_path / "run").exit_code == 0
    assert _call("report", tmp_path / "run").exit_code == 0
    assert _call("verify", tmp_path / "run").exit_code == 0
    level2 = tmp_path / "run" / "products" / "cli_features_2021_level2.parquet"
    assert set(gpd.read_parquet(level2)["DARTS_dataset_version"]) <= {"v9"}
    scores = _call("validate", level2, world["truth"])
    assert scores.exit_code == 0, scores.output
    assert "2021" in scores.stdout


def test_a_config_gives_defaults_that_the_command_line_overrides(tmp_path: Path):
    config = tmp_path / "sample.yml"
    config.write_text("seed: 5\nscenes: 1\nsize: 256\n")
    made = json.loads(_call("sample", tmp_path / "world", "--config", config, "--seed", 6, "--json").stdout)
    assert (made["seed"], made["scenes"], made["size"]) == (6, 1, 256)
    config.write_text("sieze: 256\n")
    wrong = _call("sample", tmp_path / "world", "--config", config)
    assert wrong.exit_code == 2
    assert "sieze" in wrong.output


def test_failures_end_non_zero_and_say_why(world: SampleWorld, tmp_path: Path):
    missing = _call("detect", world.catalog, "--out", tmp_path / "run")
    assert missing.exit_code == 1
    for word in ("tc_wetness", "--auxiliary SOURCE", "--auxiliary neutral"):
        assert word in missing.stderr
    assert _call("detect", tmp_path / "nothing.json", "--auxiliary", "neutral").exit_code == 1
    assert (
        _call(
            "detect", world.catalog, "--auxiliary", "neutral", "--models", tmp_path / "no.safetensors"
        ).exit_code
        == 1
    )
    assert _call("aggregate", tmp_path).exit_code == 1
    assert _call("validate", tmp_path / "a.gpkg", tmp_path / "b.gpkg").exit_code == 1
    items = [item.clone() for item in dx.load_items(world.catalog)]
    items[1].assets["udm2"].href = str(tmp_path / "gone.tif")
    pystac.ItemCollection(items).save_object(str(tmp_path / "items.json"))
    failed = _call(
        "detect", tmp_path / "items.json", "--auxiliary", world.auxiliary, "--out", tmp_path / "run", "--json"
    )
    assert failed.exit_code == 1
    assert "gone.tif" in json.loads(failed.stdout)["failed"][0]["reason"]


def test_report_of_a_run(run: Run):
    answer = _call("report", run.folder, "--json")
    assert json.loads(answer.stdout)["counts"]["scenes"] == 2


@pytest.mark.parametrize(
    ("text", "years"), [("2021", [2021]), ("2021-2023", [2021, 2022, 2023]), ("2021,2023", [2021, 2023])]
)
def test_years(text: str, years: list[int]):
    assert parse_years(text) == years


@pytest.mark.realdata
def test_the_real_scene_of_deering(tmp_path: Path):
    folder = real_data("planetscope-deering-ak")
    catalogued = _call("catalog", folder, "--out", tmp_path / "catalog.json", "--json")
    assert catalogued.exit_code == 0, catalogued.output
    assert json.loads(catalogued.stdout)["items"] == ["20160909_213104_0e19"]
    refused = _call("detect", tmp_path / "catalog.json", "--out", tmp_path / "run")
    assert refused.exit_code == 1
    assert "--auxiliary neutral" in refused.stderr
    detected = _call(
        "detect", tmp_path / "catalog.json", "--auxiliary", "neutral", "--out", tmp_path / "run", "--json"
    )
    assert detected.exit_code == 0, detected.output
    covered = _call("coverage", tmp_path / "run", "--json")
    scene = dx.open_scene(dx.load_items(tmp_path / "catalog.json")[0])
    valid = scene["valid"].values
    assert valid.mean() == pytest.approx(0.265, abs=0.002)
    assert json.loads(covered.stdout)["km2"]["union"] == pytest.approx(valid.sum() * 9e-6, rel=0.01)
    with rasterio.open(tmp_path / "run/scenes/20160909_213104_0e19/probability.tif") as file:
        assert ((file.read(1) == 255) == ~valid).all()
        assert "neutral" in file.tags()["auxiliary"]
    with rasterio.open(tmp_path / "run/scenes/20160909_213104_0e19/binary.tif") as file:
        assert not (file.read(1) == 1)[~valid].any()


@pytest.mark.realdata
def test_real_masks_and_real_radiance(tmp_path: Path):
    refused = _call("catalog", real_data("planetscope-toa-tmask"), "--out", tmp_path / "toa.json")
    assert refused.exit_code == 1
    assert "20170915_020728_103d" in refused.stderr
    assert "radiance" in refused.stderr
    masks = real_data("planetscope-udm2-myanmar")
    assert _call("catalog", masks, "--out", tmp_path / "no.json").exit_code == 1
    taken = _call("catalog", masks, "--masks-only", "--out", tmp_path / "masks.parquet", "--json")
    assert json.loads(taken.stdout)["items"] == ["20151119_025740_0c74"]


def test_two_deliveries_in_nested_folders(world: SampleWorld, tmp_path: Path):
    for number, folder in enumerate(sorted((world.root / "scenes").iterdir())):
        shutil.copytree(folder, tmp_path / "orders" / f"order_{number}" / folder.name)
    answer = _call("catalog", tmp_path / "orders", "--out", tmp_path / "catalog.parquet", "--json")
    assert len(json.loads(answer.stdout)["items"]) == 2
    assert len(dx.search(tmp_path / "catalog.parquet")) == 2
