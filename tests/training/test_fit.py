"""Fitting: networks learn, a killed training goes on to the bit, what goes wrong is named."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import darts_xr as dx
from darts_xr.cube import scale_band, select_bands
from darts_xr.errors import PatchError, TrainingError
from darts_xr.inference import Architecture, load_ensemble, save_checkpoint
from darts_xr.inference.network import bfloat16_slowdown
from darts_xr.training import (
    Augmentation,
    Crop,
    LabelledScene,
    Lessons,
    Patching,
    PatchStore,
    Recipe,
    Sampling,
    Start,
    first_weights,
    fit,
    scaled_as,
    standardised,
    training_statistics,
    write_patches,
)
from darts_xr.training.draws import plain_loader, planes_of
from darts_xr.training.fitting import check_lessons
from darts_xr.training.mining import HardGround
from darts_xr.training.module import SlumpLoss, SlumpModule, pixel_scores
from tests.training import killed
from tests.training.lessons import BANDS, labelled_scene, member_of, small_store


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> PatchStore:
    return small_store(tmp_path_factory.mktemp("patches") / "train.zarr")


@pytest.fixture(scope="module")
def unseen(tmp_path_factory: pytest.TempPathFactory) -> PatchStore:
    return small_store(tmp_path_factory.mktemp("patches") / "validation.zarr", (5,))


def test_a_network_learns_and_the_best_epoch_is_kept(tmp_path: Path, store: PatchStore, unseen: PatchStore):
    member = member_of()
    torch.manual_seed(0)
    network = member.architecture.build()
    recipe = Recipe(
        epochs=4, batch=4, patches_per_epoch=48, learning_rate=5e-3, optimiser="adamw", loss={"focal": 4, "dice": 1},
        clip=1.0, patience=3, monitor="f1", augmentation=Augmentation(holes=2),
    )  # fmt: skip
    record = fit(network, member, Lessons(store, store.rows, unseen, unseen.rows), recipe, tmp_path)
    scores = [epoch["val_f1"] for epoch in record["history"]]
    assert max(scores) > 0.8
    assert record["chosen_epoch"] == int(np.argmax(scores)) + 1
    assert set(record["history"][0]) >= {
        f"val_{k}" for k in ("iou", "f1", "precision", "recall", "auroc", "loss")
    }
    table = pd.read_csv(tmp_path / "metrics.csv")
    assert {"val_average_precision", "train_loss", "loader_wait"} <= set(table)
    assert any((tmp_path / "tensorboard").iterdir())
    assert len(list((tmp_path / "sheets").glob("*.png"))) == len(scores)
    assert not network.training


def test_two_processes_train_one_network_and_score_all_patches_together(
    tmp_path: Path, store: PatchStore, unseen: PatchStore
):
    member = member_of()
    torch.manual_seed(0)
    network = member.architecture.build()
    recipe = Recipe(
        epochs=2, batch=2, patches_per_epoch=48, learning_rate=5e-3, optimiser="adamw", loss={"focal": 4, "dice": 1},
        clip=1.0, monitor="f1", augmentation=Augmentation(holes=2),
    )  # fmt: skip
    lessons = Lessons(store, store.rows, unseen, unseen.rows)
    record = fit(network, member, lessons, recipe, tmp_path, devices=2)
    assert len(record["history"]) == 2
    kept = record["history"][record["chosen_epoch"] - 1]
    module, scores = SlumpModule(network, member, recipe, unseen, steps=1), pixel_scores()
    for batch in plain_loader(unseen, unseen.rows, recipe):
        with torch.no_grad():
            scores.update(module.predict_step(batch, 0), batch["labels"].long())
    for name, value in scores.compute().items():
        assert float(value) == pytest.approx(kept[f"val_{name}"], abs=1e-5)
    assert kept["val_f1"] > 0.5


def test_a_killed_training_ends_with_the_bits_of_an_undisturbed_one(tmp_path: Path):
    small_store(tmp_path / "train.zarr")
    small_store(tmp_path / "validation.zarr", (5,))
    whole = killed.run(tmp_path, "whole")
    call = [sys.executable, "-m", "tests.training.killed", str(tmp_path), "killed", "3"]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr

    def stop() -> None:
        raise killed.StoppedError

    # States were kept after every second step and every fifth, the end of an epoch: it goes on in one, at its end,
    # and in the last.
    for at in (5, 6, 10, 14):
        with pytest.raises(killed.StoppedError):
            killed.run(tmp_path, "killed", at, stop)
    resumed = killed.run(tmp_path, "killed")
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_a_training_that_is_ended_says_so(tmp_path: Path):
    small_store(tmp_path / "train.zarr")
    small_store(tmp_path / "validation.zarr", (5,))
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with pytest.raises(TrainingError, match=r"SIGTERM before it was done; .* the same call goes on"):
        killed.run(tmp_path, "ended", 5, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(KeyboardInterrupt, match="the same call goes on"):
        killed.run(tmp_path, "ended", 7, lambda: signal.raise_signal(signal.SIGINT))
    assert before == (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))


@pytest.mark.parametrize("times", [1.5, 0.5])
def test_a_cpu_that_is_slower_in_bfloat16_trains_in_float32_and_says_so(
    tmp_path: Path,
    store: PatchStore,
    times: float,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    monkeypatch.setattr("darts_xr.training.fitting.bfloat16_slowdown", lambda device: times)
    kinds: list[torch.dtype] = []
    member = member_of()
    network = member.architecture.build()
    network.segmentation_head.register_forward_hook(lambda *given: kinds.append(given[2].dtype))
    recipe = Recipe(
        epochs=1, batch=2, patches_per_epoch=2, precision="bf16-mixed", augmentation=Augmentation(p=0.0)
    )
    record = fit(network, member, Lessons(store, store.rows), recipe, tmp_path / "work")
    said = [r.getMessage() for r in caplog.records if "trains in float32" in r.getMessage()]
    if times > 1:
        assert record["precision"] == "32-true"
        assert set(kinds) == {torch.float32}
        assert len(said) == 1
    else:
        assert record["precision"] == "bf16-mixed"
        assert set(kinds) == {torch.bfloat16}
        assert not said
    # One that goes on does so as it began, whatever a machine would choose now.
    monkeypatch.setattr("darts_xr.training.fitting.bfloat16_slowdown", lambda device: 1 / times)
    again = fit(
        member.architecture.build(),
        member,
        Lessons(store, store.rows),
        replace(recipe, epochs=2),
        tmp_path / "work",
    )
    assert again["precision"] == record["precision"]
    assert ("goes on in bf16-mixed, as it began" in caplog.text) == (times < 1)
    assert ("trains in float32: it began so" in caplog.text) == (times > 1)


def test_what_bfloat16_costs_a_cpu_is_measured():
    assert 0 < bfloat16_slowdown(torch.device("cpu")) < 1000


def test_predictions_of_the_trainer_equal_those_of_the_engine(tmp_path: Path):
    labelled = labelled_scene(2, size=64)
    store = write_patches([labelled], tmp_path / "p.zarr", patching=Patching(64, 0.1, 0.1), bands=BANDS)
    member = member_of()
    torch.manual_seed(1)
    network = member.architecture.build()
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
    saved = save_checkpoint(
        tmp_path / "toy.safetensors", network, name="toy", architecture=member.architecture, bands=member.bands,
        tile=64, margin=0, training={}, licence="test",
    )  # fmt: skip
    module = SlumpModule(network.eval(), member, Recipe(), store, steps=1)
    with torch.no_grad():
        p = module.predict_step(next(iter(plain_loader(store, store.rows, Recipe()))), 0)[0].numpy()
    prob = dx.predict(labelled.scene, load_ensemble(saved.path, device="cpu")).values
    valid = labelled.scene["valid"].values
    np.testing.assert_allclose(p[valid], prob[valid], atol=1e-5)


def test_a_loss_that_is_no_number_stops_names_the_batch_and_keeps_the_last_state(
    tmp_path: Path, unseen: PatchStore
):
    labelled = labelled_scene(7)
    member = member_of(("red", "nir"))
    member = replace(member, bands=(member.bands[0], replace(member.bands[1], divisor=1e-42)))
    store = write_patches([labelled], tmp_path / "p.zarr", patching=Patching(64), bands=BANDS)
    network = member.architecture.build()
    lessons = Lessons(store, store.rows)
    recipe = Recipe(epochs=1, batch=2, patches_per_epoch=4, augmentation=Augmentation(p=0.0))
    with pytest.raises(
        TrainingError, match=r"toy: the loss is nan in epoch 1, step 0, on.*scene_7 \(row \d+, column"
    ):
        fit(network, member, lessons, recipe, tmp_path / "run")
    with pytest.raises(TrainingError, match=r"^toy: the loss is nan in epoch 1, .*\(process \d of 2\)$"):
        fit(network, member, lessons, replace(recipe, batch=1), tmp_path / "two", devices=2)
    sound = member_of(("red", "nir"))
    fit(sound.architecture.build(), sound, lessons, replace(recipe, keep_every=1), tmp_path / "sound")
    assert (tmp_path / "sound" / "state.ckpt").is_file()


def test_patches_that_cannot_teach_are_refused(store: PatchStore):
    member = member_of()
    deep = replace(member, architecture=Architecture("Unet", "resnet18", 5, (8, 8, 8, 8, 8), 3))
    odd = replace(store, side=60)
    with pytest.raises(PatchError, match=r"patches of 60 px, and toy takes multiples of 32 px"):
        check_lessons(deep, Lessons(odd, store.rows))
    with pytest.raises(TrainingError, match="lacks slope"):
        check_lessons(member_of(("red", "slope")), Lessons(store, store.rows))
    for crop in (30, 128):
        with pytest.raises(PatchError, match=rf"crop is {crop} px; toy takes multiples of 4 px"):
            check_lessons(member, Lessons(store, store.rows), crop=crop)
    empty = np.flatnonzero(store.table["n_positive"].to_numpy() == 0)
    with pytest.raises(TrainingError, match=r"None of the .* shows a slump: the class is empty"):
        check_lessons(member, Lessons(store, empty[:1]))
    with pytest.raises(TrainingError, match="no patch to train toy on"):
        check_lessons(member, Lessons(store, empty[:0]))
    with pytest.raises(TrainingError, match="no patch to validate toy on"):
        check_lessons(member, Lessons(store, store.rows, store))


def test_ignored_pixels_count_in_no_loss():
    labels = torch.randint(0, 2, (2, 16, 16), dtype=torch.uint8)
    labels[:, :4] = 255
    logits = torch.randn(2, 1, 16, 16, requires_grad=True)
    for name in ("focal", "dice", "jaccard", "lovasz", "tversky", "bce"):
        loss = SlumpLoss(Recipe(loss={name: 1.0}))  # type: ignore[dict-item]
        other = logits.detach().clone()
        other[:, :, :4] += 5
        assert torch.allclose(loss(logits, labels), loss(other, labels), atol=1e-6), name
        nothing = loss(logits, torch.full_like(labels, 255))
        assert float(nothing.detach()) == 0
        nothing.backward()


def test_bands_are_standardised_over_the_training_patches(store: PatchStore):
    bands = select_bands(["ndvi", "red"])
    batch = plain_loader(store, store.rows, Recipe(batch=1000)).__iter__().__next__()
    planes = planes_of(batch, store.layout)
    valid = planes["valid"].numpy()
    for before, band in zip(bands, standardised(bands, store, store.rows), strict=True):
        seen = scale_band(band, planes[band.name].numpy()[valid])
        assert abs(seen.mean()) < 0.05  # every fourth pixel is enough
        assert seen.std() == pytest.approx(1, abs=0.05)
        assert replace(band, offset=before.offset, divisor=before.divisor) == before
    # What tells scenes apart does not depend on the scale.
    taught = replace(member_of(("ndvi", "red")), bands=bands)
    own = replace(taught, bands=standardised(bands, store, store.rows))
    assert training_statistics(own, store, store.rows) == training_statistics(taught, store, store.rows)
    with pytest.raises(TrainingError, match="one value everywhere in nir"):
        standardised(select_bands(["nir"]), store, store.rows)


def test_a_network_starts_from_one_with_other_bands(tmp_path: Path, store: PatchStore):
    old = member_of(("red", "nir"), "old")
    network = old.architecture.build().eval()
    saved = save_checkpoint(
        tmp_path / "old.safetensors", network, name="old", architecture=old.architecture, bands=old.bands, tile=64,
        margin=8, training={}, licence="test",
    )  # fmt: skip
    member = member_of(BANDS, "new")
    wider = member.architecture.build()
    assert saved.sha256 in first_weights(wider, member, Start(checkpoint=saved.path))
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(wider.eval()(x), network(x[:, 1:]))
    other = replace(member, architecture=Architecture("Unet", "resnet18", 3, (8, 4, 4), 3))
    with pytest.raises(TrainingError, match="has other layers"):
        first_weights(other.architecture.build(), other, Start(checkpoint=saved.path))
    bands = standardised(member.bands[:2], store, store.rows) + member.bands[2:]
    otherwise = replace(member, bands=bands)
    with pytest.raises(TrainingError, match="scales red otherwise"):
        first_weights(wider, otherwise, Start(checkpoint=saved.path))
    assert scaled_as(bands, old.bands) == (bands[0], *old.bands)
    stranger = member_of(("slope",))
    with pytest.raises(TrainingError, match="shares no band"):
        first_weights(stranger.architecture.build(), stranger, Start(checkpoint=saved.path))


def test_an_encoder_starts_from_a_file_of_photographs(tmp_path: Path):
    # Laid out as torchvision publishes them: the encoder's own names, and a classifier that has no place here.
    weights = Architecture("Unet", "resnet18", 5, (), 3).build().encoder.state_dict()
    weights = {**weights, "fc.weight": torch.zeros(1000, 512)}
    torch.save(weights, tmp_path / "imagenet.pth")
    member = member_of()
    network = member.architecture.build()
    assert (
        first_weights(network, member, Start(encoder=str(tmp_path / "imagenet.pth")))
        == "encoder from imagenet.pth"
    )
    kernel = network.encoder.conv1.weight.detach()
    torch.testing.assert_close(
        kernel[:, 1], weights["conv1.weight"][:, 0]
    )  # the band red; three of three bands
    torch.testing.assert_close(
        network.encoder.layer1[0].conv1.weight.detach(), weights["layer1.0.conv1.weight"]
    )
    torch.save({"conv1.weight": torch.zeros(64, 5, 7, 7)}, tmp_path / "other.pth")
    with pytest.raises(TrainingError, match="holds no encoder resnet18 with three bands"):
        first_weights(network, member, Start(encoder=str(tmp_path / "other.pth")))
    with pytest.raises(TrainingError, match="not found"):
        first_weights(network, member, Start(encoder=str(tmp_path / "absent.pth")))
    assert first_weights(network, member, Start()) == "random"


def test_ground_that_fools_a_network_is_looked_for_once_and_drawn_from_then_on(tmp_path: Path):
    labelled = labelled_scene(0)
    bright = labelled_scene(9)  # as bright as slumps, and none by its labels
    fooling = LabelledScene(bright.scene, bright.outlines.iloc[:0])
    store = write_patches([labelled, fooling], tmp_path / "p.zarr", patching=Patching(64), bands=BANDS)
    recipe = Recipe(
        epochs=4, batch=4, patches_per_epoch=160, learning_rate=0.01, augmentation=Augmentation(p=0.0),
        sampling=Sampling(0.9, 0.0, 0.1), crop=Crop(32, hard=1.0), mine_after=0.5,
    )  # fmt: skip
    seen: list[tuple[int, np.ndarray]] = []
    plain = SlumpModule.training_step

    def step(self: SlumpModule, batch: Any, batch_idx: int) -> torch.Tensor:
        seen.append((self.current_epoch, batch["row"].numpy()))
        return plain(self, batch, batch_idx)

    SlumpModule.training_step = step  # type: ignore[method-assign]
    try:
        member = member_of()
        torch.manual_seed(0)
        record = fit(
            member.architecture.build(), member, Lessons(store, store.rows), recipe, tmp_path / "run"
        )
    finally:
        SlumpModule.training_step = plain  # type: ignore[method-assign]
    empty = store.table["n_positive"].to_numpy() == 0
    drawn = {e: np.concatenate([rows for at, rows in seen if at == e]) for e in range(4)}
    assert not empty[
        np.concatenate([drawn[0], drawn[1]])
    ].any()  # no share for empty ground, none known to be hard
    for epoch in (2, 3):
        assert np.isclose(empty[drawn[epoch]].mean(), 0.1, atol=0.02)
    hard = HardGround(tmp_path / "run" / "hard.npy")
    assert record["hard_patches"] == hard.patches(store.rows).sum() > 0
    assert set(drawn[2][empty[drawn[2]]]) <= set(np.flatnonzero(hard.patches(store.rows)))
    cells = hard.of(torch.arange(len(store)))
    assert cells is not None
    red = torch.from_numpy(store.arrays()["uint16"][:, 0].read().result().astype("f4"))
    bright_cells = torch.nn.functional.avg_pool2d(red[:, None], 8)[:, 0] > 1200
    assert bright_cells[cells].float().mean() > 0.9  # the bright squares, not the dark ground
    assert bright_cells[cells & torch.from_numpy(empty)[:, None, None]].float().mean() > 0.9
