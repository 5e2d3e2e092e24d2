"""Configurations: every entry is known by name, at every depth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from darts_xr.errors import SettingsError
from darts_xr.training import Augmentation, Patching, Recipe, read_settings
from pipelines.training_settings import read_training

ROOT = Path(__file__).resolve().parents[2]
LEAST: dict[str, Any] = {"members": {"toy": {}}, "train": {"sample": {"tundra": {"seeds": [1, 2]}}}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 3}, "epochs is unknown; known are members, train"),
        ({"recipe": {"epohcs": 3}}, "recipe of toy: epohcs is unknown; known are epochs"),
        ({"recipe": {"augmentation": {"blurr": 3}}}, r"augmentation\.blurr is unknown; known are p, flips"),
        ({"recipe": {"epochs": "many"}}, "epochs: .*valid integer"),
        ({"recipe": {"loss": {"focus": 1}}}, "loss.focus"),
        ({"recipe": {"crop": 192}}, "crop: "),
        ({"recipe": {"crop": {"side": 64, "hard": 0.8, "anywhere": 0.3}}}, "shares of 0 or more that sum to 1"),
        ({"recipe": {"crop": {"side": 64, "hard": 0.3}}}, "hard ground is looked for if mine_after says when"),
        ({"recipe": {"mine_after": 0.5}}, "hard ground is looked for if mine_after says when"),
        ({"recipe": {"mine_after": 1.0, "sampling": {"hard": 0.2}}}, "mine_after must be a share"),
        ({"recipe": {"mine_after": 0.5, "sampling": {"hard": 0.2}, "epochs": 1}}, "mine_after needs 2 epochs"),
        ({"members": {"toy": {"design": {"encodr": "x"}}}}, r"members\.toy\.design\.encodr is unknown; known are name"),
        ({"members": {"toy": {"start": {"file": "x"}}}}, r"members\.toy\.start\.file is unknown; known are encoder"),
        ({"members": {"toy": {"recipe": {"seeds": 1}}}}, "recipe of toy: seeds is unknown"),
        ({"members": {"toy": {"bands": ["red", "infrared"]}}}, r"members\.toy\.bands: unknown are infrared"),
        ({"members": {"toy": {"start": {"member": "other"}}}}, "no member before it"),
        ({"members": {}}, "names no network"),
        ({"members": None}, "members"),
        ({"train": {"sample": {"tundra": {"size": 5}}}}, r"train\.sample\.tundra\.seeds is missing"),
        ({"train": {"sample": {"tundra": {"seeds": [1, 2], "scene": 1}}}}, r"train\.sample\.tundra\.scene is unknown"),
        ({"train": {"sample": {"moon": {"seeds": [1, 2], "landscape": "moon"}}}}, "landscape must be one of tundra"),
        ({"train": {"catalog": "c.json"}}, "either sample, or catalog with labels"),
        ({"train": {"catalog": "c", "labels": [{"file": "x"}]}}, r"train\.labels\.0\.file is unknown; known are path"),
        ({"patches": {"side": 64, "overlap": 1.5}}, "overlap"),
        ({"split": {"by": "moon"}}, r"split\.by"),
        ({"split": {"by": "region"}}, "needs validation"),
        ({"split": {"by": "block"}, "validation": LEAST["train"]}, "either validation or split"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_configuration_is_named(change: dict[str, Any], message: str):
    with pytest.raises(SettingsError, match=message):
        read_training({**LEAST, **change})


def test_files_that_are_no_configuration_are_named(tmp_path: Path):
    (tmp_path / "list.yml").write_text("- a\n")
    with pytest.raises(SettingsError, match="holds no configuration"):
        read_training(tmp_path / "list.yml")
    with pytest.raises(SettingsError, match="cannot be read"):
        read_training(tmp_path / "absent.yml")


def test_what_a_member_says_of_its_own_wins():
    training = read_training({**LEAST, "recipe": {"epochs": 3}, "members": {"toy": {"recipe": {"seed": 7}}}})
    assert (training.recipe_of("toy").epochs, training.recipe_of("toy").seed) == (3, 7)
    assert len(training.bands) == 10


def test_the_defaults_are_the_papers_and_the_annotated_configuration_repeats_them():
    held = yaml.safe_load((ROOT / "pipelines" / "paper_training.yml").read_text())
    assert read_settings(Recipe, held["recipe"], "x") == Recipe()
    assert read_settings(Patching, held["patches"], "x") == Patching()
    assert set(held["recipe"]) == set(Recipe.__dataclass_fields__) - {
        "patches_per_epoch",
        "sampling",
        "clip",
        "patience",
    }
    assert set(held["recipe"]["augmentation"]) == set(Augmentation.__dataclass_fields__)
    training = read_training(ROOT / "pipelines" / "paper_training.yml")
    assert [len(training.members[name].bands or range(10)) for name in training.members] == [10, 7]
