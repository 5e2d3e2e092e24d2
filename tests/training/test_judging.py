"""Judging: counts, thresholds, calibration, cards and exports of small networks on synthetic patches."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from scipy.special import expit
from torchmetrics.functional.classification import (
    binary_calibration_error,
    binary_f1_score,
    binary_jaccard_index,
)

import darts_xr as dx
from darts_xr.errors import CheckpointError, TrainingError
from darts_xr.inference import Checkpoint, load_ensemble, read_checkpoint, save_checkpoint
from darts_xr.inference.drift import scene_drift
from darts_xr.training import (
    Judgement,
    PatchStore,
    Recipe,
    ensemble_card,
    export_member,
    judge,
    member_card,
    plot_reliability,
    score_objects,
    training_statistics,
)
from darts_xr.training.draws import plain_loader, planes_of
from darts_xr.training.judging import _count
from darts_xr.training.module import scaled_input
from tests.training.lessons import labelled_scene, member_of, small_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> PatchStore:
    return small_store(tmp_path_factory.mktemp("patches") / "p.zarr", (0, 1))


def _saved(folder: Path, name: str = "toy", seed: int = 0, *, gain: float = 1.0, **more) -> Checkpoint:
    """A network that tells bright ground from dark, more or less sure of it."""
    member = member_of(("red", "nir"), name)
    torch.manual_seed(seed)
    network = member.architecture.build()
    with torch.no_grad():
        network.segmentation_head[0].weight *= gain
    return save_checkpoint(
        folder / f"{name}.safetensors", network, name=name, architecture=member.architecture, bands=member.bands,
        tile=64, margin=16, training={"version": "iteration007-abcd", "synthetic": True}, licence="MIT", **more,
    )  # fmt: skip


def test_counts_give_the_scores_that_torchmetrics_gives(tmp_path: Path, store: PatchStore):
    members = [_saved(tmp_path, "a", 1), _saved(tmp_path, "b", 2), _saved(tmp_path, "c", 3)]
    judgement = judge(members, store, store.rows)
    assert sorted(map(len, judgement.counts)) == [1, 1, 1, 2, 2, 2, 3]
    p, labels = [], []
    networks = [m.load_network() for m in members]
    with torch.no_grad():
        for batch in plain_loader(store, store.rows, Recipe()):
            planes = planes_of(batch, store.layout)
            votes = [
                n(scaled_input(planes, m))[:, 0].sigmoid() for n, m in zip(networks, members, strict=True)
            ]
            p.append(torch.stack(votes).mean(0))
            labels.append(batch["labels"])
    everyone, truth = torch.cat(p), torch.cat(labels).long()
    for threshold in (0.3, 0.5):
        scores = judgement.at(("a", "b", "c"), threshold)
        assert scores["f1"] == pytest.approx(
            float(binary_f1_score(everyone, truth, threshold, ignore_index=255)), abs=2e-3
        )
        assert scores["iou"] == pytest.approx(
            float(binary_jaccard_index(everyone, truth, threshold, ignore_index=255)), abs=2e-3
        )
    error = float(binary_calibration_error(everyone, truth, n_bins=15, norm="l1", ignore_index=255))
    assert judgement.calibration_error(("a", "b", "c")) == pytest.approx(error, abs=2e-3)
    best = judgement.best(("a",))
    assert best["f1"] >= judgement.at(("a",), 0.5)["f1"]
    assert judgement.at(("a",), best["threshold"])["f1"] == pytest.approx(best["f1"], abs=2e-3)
    low, high = judgement.interval(("a",))["f1"]
    assert low <= judgement.at(("a",), 0.5)["f1"] <= high
    assert list(judgement.table().columns)[:2] == ["threshold", "precision"]


def test_the_temperature_of_overconfident_logits_is_found_and_calibrates():
    rng = np.random.default_rng(0)
    honest = rng.normal(0, 2, (8, 64, 64))
    labels = torch.from_numpy((rng.random(honest.shape) < expit(honest)).astype("uint8"))
    counts = _count(torch.from_numpy(3 * honest).float(), labels)
    judgement = Judgement({("toy",): counts})
    temperature = judgement.temperature("toy")
    assert temperature == pytest.approx(3, rel=0.05)
    assert judgement.calibration_error(("toy",)) > 0.05
    assert judgement.calibration_error(("toy",), temperature=temperature) < 0.02
    rows = judgement.reliability(("toy",), temperature=temperature)
    np.testing.assert_allclose(rows["probability"], rows["slump_share"], atol=0.06)
    alone = _count(torch.zeros(1, 4, 4), torch.ones(1, 4, 4, dtype=torch.uint8))
    with pytest.raises(TrainingError, match="all of one class"):
        Judgement({("toy",): alone}).temperature("toy")
    with pytest.raises(TrainingError, match="no validation patch"):
        judge([], None, np.empty(0, int))  # type: ignore[arg-type]


def test_the_engine_offers_the_calibrated_probability(tmp_path: Path):
    plain, hot = _saved(tmp_path, "plain"), _saved(tmp_path, "hot", temperature=2.0)
    scene = labelled_scene(0).scene
    p = dx.predict(scene, load_ensemble(hot.path, device="cpu"))
    calibrated = dx.predict(scene, load_ensemble(hot.path, device="cpu"), calibrated=True)
    logits = np.log(p.values / (1 - p.values))
    np.testing.assert_allclose(calibrated.values, expit(logits / 2), atol=1e-5)
    assert calibrated.attrs["calibration"] == "hot temperature 2.000"
    assert p.attrs["calibration"] == "none"
    assert "iteration007-abcd" in p.attrs["model_version"]
    with pytest.raises(CheckpointError, match="plain of plain: the checkpoint states no temperature"):
        dx.predict(scene, load_ensemble(plain.path, device="cpu"), calibrated=True)


def test_scenes_unlike_the_training_are_flagged(tmp_path: Path, store: PatchStore):
    bare = member_of(("red", "nir"))
    member = _saved(tmp_path, "toy", statistics=training_statistics(bare, store, store.rows))
    ensemble = load_ensemble(member.path)
    usual = scene_drift(labelled_scene(2).scene, ensemble)
    assert usual.unusual == ()
    strange = labelled_scene(2).scene
    strange["red"] = strange["red"] + np.uint16(900)
    told = scene_drift(strange, ensemble)
    assert told.unusual == ("red",)
    assert told.to_dict()["distances"]["red"] == pytest.approx(0.3, abs=0.02)  # 900 on a scale of 3000
    dark = labelled_scene(2).scene
    assert scene_drift(dark.assign(valid=dark["valid"] & False), ensemble).distances == {}
    with pytest.raises(CheckpointError, match="carries the statistics"):
        scene_drift(strange, load_ensemble(_saved(tmp_path, "other").path))


def test_drift_of_an_item_is_told_from_its_overviews(world, tmp_path: Path, store: PatchStore):
    bare = member_of(("red", "nir"))
    ensemble = load_ensemble(
        _saved(tmp_path, "toy", statistics=training_statistics(bare, store, store.rows)).path
    )
    item = dx.load_items(world.catalog)[0]
    from_item, from_cube = scene_drift(item, ensemble), scene_drift(dx.open_scene(item), ensemble)
    assert set(from_item.distances) == {"red", "nir"}
    for name, distance in from_item.distances.items():
        assert distance == pytest.approx(from_cube.distances[name], abs=0.03)


def test_objects_are_scored_by_the_matcher_of_the_products(tmp_path: Path):
    member = member_of(("red", "nir"))
    network = member.architecture.build()
    with torch.no_grad():
        network.segmentation_head[0].weight.zero_()
        network.segmentation_head[0].bias.fill_(-5.0)  # finds nothing
    saved = save_checkpoint(
        tmp_path / "toy.safetensors", network, name="toy", architecture=member.architecture, bands=member.bands,
        tile=64, margin=16, training={}, licence="MIT",
    )  # fmt: skip
    scores, table = score_objects(load_ensemble(saved.path), [labelled_scene(1, region="here")])
    assert scores.tp == 0
    assert scores.fn == scores.n_reference > 0
    assert table["region"].tolist() == ["here"]


def test_cards_say_what_was_learnt_and_how_good_it_was(tmp_path: Path, store: PatchStore):
    members = [_saved(tmp_path, "a", 1, temperature=1.5), _saved(tmp_path, "b", 2)]
    judgement = judge(members, store, store.rows)
    text = member_card(members[0], judgement)
    for words in ("iteration007-abcd", "red, nir", "1.500", "95 % interval", "calibration error", "MIT"):
        assert words in text
    assert "| Scales of the bands | as published |" in text
    red, nir = members[0].bands
    own = replace(members[0], bands=(red, replace(nir, offset=-2000.0, divisor=812.5)))
    assert "| Scales of the bands | (nir -2000) / 812.5 |" in member_card(own, None)
    whole = ensemble_card(members, judgement, match={"slumps": 12}, limits=["only here"])
    for words in (members[0].sha256, "synthetic", "a+b", "| slumps | 12 |", "* only here"):
        assert words in whole
    plot_reliability(judgement, {"a": 1.5, "b": 1.0}, tmp_path / "reliability.png")
    assert (tmp_path / "reliability.png").stat().st_size > 5000
    for synthetic in (True, False):
        drawing = tmp_path / "reliability.svg"
        plot_reliability(replace(judgement, synthetic=synthetic), {"a": 1.5}, drawing)
        assert ("a (synthetic)" in drawing.read_text()) is synthetic
    assert judgement.synthetic
    assert "<table" in judgement._repr_html_()


@pytest.mark.parametrize("ending", ["pt2", "onnx"])
def test_exported_programs_give_the_same_numbers(tmp_path: Path, ending: str):
    member = _saved(tmp_path, "toy", temperature=2.0)
    path = tmp_path / f"toy.{ending}"
    assert export_member(member, path, side=64, calibrated=True) < 1e-5
    if ending == "onnx":
        model = onnx.load(path)
        facts = {entry.key: entry.value for entry in model.metadata_props}
        assert facts["sha256"] == member.sha256
        assert [band["name"] for band in json.loads(facts["bands"])] == ["red", "nir"]
    else:
        program = torch.export.load(path).module()
        assert program(torch.rand(3, 2, 64, 64)).shape == (3, 1, 64, 64)


def test_exports_that_cannot_be_made_are_named(tmp_path: Path):
    member = _saved(tmp_path, "toy")
    with pytest.raises(CheckpointError, match=r"give \.pt2"):
        export_member(member, tmp_path / "toy.h5")
    with pytest.raises(CheckpointError, match="multiple of 4 px"):
        export_member(member, tmp_path / "toy.pt2", side=63)
    with pytest.raises(CheckpointError, match="states no temperature"):
        export_member(member, tmp_path / "toy.pt2", side=64, calibrated=True)
    assert read_checkpoint(member.path).temperature is None
    assert not (tmp_path / "toy.pt2").exists()
