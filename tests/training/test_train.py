"""One command: synthetic worlds or a catalogue with labels go in, checkpoints, cards and tables come out."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import geopandas as gpd
import pandas as pd
import pytest
import torch

import darts_xr as dx
from darts_xr.errors import LeakageError, MissingExtraError, SettingsError
from darts_xr.inference import read_checkpoint
from darts_xr.sample import SampleWorld, read_truth
from pipelines.studies import study
from pipelines.training import train

DESIGN = {"name": "Unet", "encoder": "resnet18", "depth": 2, "decoder_channels": [8, 4]}
RECIPE = {"epochs": 1, "batch": 2, "patches_per_epoch": 4}
PATCHES = {"side": 64, "min_valid": 0.3}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _worlds(first: int, last: int, **more: Any) -> dict[str, Any]:
    return {"seeds": [first, last], "size": 256, "scenes": 1, **more}


def _config(**more: Any) -> dict[str, Any]:
    return {
        "members": {"toy": {"design": DESIGN, "bands": ["red", "slope"]}},
        "train": {"sample": {"tundra": _worlds(50, 50)}},
        "patches": PATCHES, "recipe": RECIPE, "tile": 64, "margin": 8, "licence": "test",
    } | more  # fmt: skip


def test_a_configuration_becomes_checkpoints_that_tell_everything(tmp_path: Path):
    config = _config(
        validation={"sample": {"tundra": _worlds(51, 51)}}, dataset="toys", version="7", limits=["for tests"],
        members={
            "toy": {"design": DESIGN, "bands": ["red", "slope"]},
            "child": {"design": DESIGN, "bands": ["red"], "start": {"member": "toy"}, "recipe": {"seed": 3}},
        },
    )  # fmt: skip
    said: list[str] = []
    trained = train(config, out=tmp_path, say=said.append)
    toy, child = trained.checkpoints
    assert read_checkpoint(tmp_path / "toy.safetensors") == toy
    assert child.band_names == ("red",)
    assert toy.sha256 in child.training["start"]
    assert child.training["recipe"]["seed"] == 3
    assert toy.training["train"]["worlds"] == {"tundra": "seeds 50 to 50"}
    assert toy.training["synthetic"] is True
    assert set(toy.training["pixel_scores"]) == {"precision", "recall", "f1", "iou"}
    assert toy.temperature > 0
    assert set(toy.statistics) == {"red", "slope"}
    assert "toys, version 7" in toy.training["card"]
    card = (tmp_path / "MODEL_CARD.md").read_text()
    assert toy.sha256 in card
    assert "* for tests" in card
    assert pd.read_csv(tmp_path / "members.csv")["members"].sort_values().tolist() == [
        "child",
        "toy",
        "toy+child",
    ]
    assert pd.read_csv(tmp_path / "objects.csv")["region"].tolist() == ["tundra"]
    assert trained.objects["n_reference"] > 0
    ensemble = dx.load_ensemble(*(c.path for c in trained.checkpoints))
    assert ensemble.version(synthetic_scene=True).endswith(" (7)")
    assert not list((tmp_path / "work").glob("world_*"))
    # The same call again cuts and trains nothing anew.
    again: list[str] = []
    assert train(config, out=tmp_path, say=again.append).checkpoints == trained.checkpoints
    assert not any("epoch" in line for line in again)
    # Other scenes judge the epochs anew.
    judged_anew: list[str] = []
    train(
        config | {"validation": {"sample": {"tundra": _worlds(52, 52)}}}, out=tmp_path, say=judged_anew.append
    )
    assert any("epoch 1" in line for line in judged_anew)


def test_training_from_a_catalogue_with_labels(world: SampleWorld, tmp_path: Path):
    truth = read_truth(world)
    items = {f"{item.datetime:%Y-%m-%d}": item.id for item in dx.load_items(world.catalog)}
    frame = gpd.GeoDataFrame(
        {"image_id": truth["date"].map(items), "label": 1, "region": "here"}, geometry=truth.geometry
    )
    frame.to_file(tmp_path / "set_iteration003.gpkg")
    config = _config(
        train={
            "catalog": str(world.catalog), "auxiliary": "neutral",
            "labels": [{"path": str(tmp_path / "set_iteration003.gpkg")}],
            "allow_unmatched": ["set_iteration003.gpkg"],  # some slumps of the world lie beside the swath
        },
        split={"by": "block", "side_km": 0.5, "share": 0.3},
    )  # fmt: skip
    trained = train(config, out=tmp_path / "out")
    (toy,) = trained.checkpoints
    assert toy.training["version"].startswith("iteration003-")
    assert toy.training["regions"] == ["here"]
    assert trained.objects == {}  # blocks cut through scenes
    match = json.loads((tmp_path / "out" / "match.json").read_text())
    assert match["slumps"] + match["unmatched_outlines"] == len(truth)
    assert match["scenes"] == 2
    two_days = {"by": "scenes", "validation": [next(iter(items.values()))]}
    with pytest.raises(LeakageError, match="training patches show ground"):
        train(config | {"split": two_days}, out=tmp_path / "leak")


def test_ground_that_is_in_both_sources_is_refused(tmp_path: Path):
    with pytest.raises(LeakageError):
        train(_config(validation={"sample": {"tundra": _worlds(50, 50)}}), out=tmp_path)


def test_leaving_regions_out_shows_seen_and_unseen_ground(tmp_path: Path):
    kinds = {"tundra": {}, "desert": {"landscape": "polar_desert"}}
    config = _config(
        members={"toy": {"design": DESIGN, "bands": ["red", "nir"]}},
        train={
            "sample": {name: _worlds(50 + k, 50 + k, **kind) for k, (name, kind) in enumerate(kinds.items())}
        },
        validation={
            "sample": {name: _worlds(60 + k, 60 + k, **kind) for k, (name, kind) in enumerate(kinds.items())}
        },
    )
    table = study(config, "regions", out=tmp_path)
    assert table[["case", "ground"]].to_numpy().tolist() == [
        ["without desert", "unseen"], ["without desert", "seen"],
        ["without tundra", "unseen"], ["without tundra", "seen"],
    ]  # fmt: skip
    assert {"f1", "f1_low", "f1_high", "iou", "patches"} <= set(table)
    assert (tmp_path / "study_regions.csv").is_file()
    left = read_checkpoint(tmp_path / "without_desert" / "toy.safetensors")
    assert left.training["regions"] == ["tundra"]


def test_studies_vary_labels_and_bands(world: SampleWorld, tmp_path: Path):
    truth = read_truth(world)
    for number, date in enumerate(sorted(truth["date"].unique())[:2], start=1):
        chosen = truth[truth["date"] == date]
        gpd.GeoDataFrame({"image_date": chosen["date"]}, geometry=chosen.geometry).to_file(
            tmp_path / f"set_iteration{number:03d}.gpkg"
        )
    files = [{"path": str(path)} for path in sorted(tmp_path.glob("*.gpkg"))]
    config = _config(
        members={"toy": {"design": DESIGN, "bands": ["red", "slope", "tc_wetness"]}},
        train={
            "catalog": str(world.catalog),
            "auxiliary": str(world.auxiliary),
            "labels": files,
            "allow_unmatched": ["iteration001", "iteration002"],
        },
        split={"by": "block", "side_km": 0.5, "share": 0.3},
    )
    table = study(config, "iterations", out=tmp_path / "iterations")
    assert table["case"].tolist() == ["iteration001", "iteration002"]
    ablated = study(config, "bands", out=tmp_path / "bands")
    assert ablated["case"].tolist() == [
        "all bands",
        "without Landsat trends",
        "without terrain",
        "image alone",
    ]
    alone = read_checkpoint(tmp_path / "bands" / "image_alone" / "toy.safetensors")
    assert alone.band_names == ("red",)
    with pytest.raises(SettingsError, match="a study is one of"):
        study(config, "moons", out=tmp_path)  # type: ignore[arg-type]


def test_what_is_missing_of_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    import darts_xr.training

    for name in [n for n in sys.modules if n.startswith("darts_xr.training.") or n == "pytorch_lightning"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pytorch_lightning", None)
    monkeypatch.delitem(vars(darts_xr.training), "fit", raising=False)
    with pytest.raises(
        MissingExtraError, match=r"darts_xr\.training\.fit needs pytorch_lightning.*darts-xr\[train\]"
    ):
        _ = darts_xr.training.fit
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = darts_xr.training.nothing


def test_the_shipped_networks_say_what_they_are():
    for member in dx.load_ensemble("demo").members:
        assert Path(member.path).stat().st_size < 5e6
        assert "synthetic" in member.licence
        assert member.training["train"]["synthetic"] is True
        assert member.training["pixel_scores"]["f1"] > 0.8
    assert [len(m.bands) for m in dx.load_ensemble("demo").members] == [10, 7]
