"""What ``darts-xr train`` reads: every entry of the configuration, known by name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from darts_xr.cube import BANDS
from darts_xr.errors import SettingsError
from darts_xr.sample.landscape import GROUNDS
from darts_xr.training import Design, LabelFile, Patching, Recipe, Split, Start, read_settings

_STRICT = {"extra": "forbid"}


@dataclass(frozen=True)
class SampleWorlds:
    """Synthetic worlds of one region.

    Parameters
    ----------
    seeds : tuple of int
        First and last.
    size, scenes : int
        Side of the images in pixels, and how many of each world.
    landscape : str
        Kind of land; see :func:`darts_xr.sample.write_world`.
    """

    seeds: tuple[int, int]
    size: int = 1024
    scenes: int = 2
    landscape: str = "tundra"

    __pydantic_config__ = _STRICT

    def __post_init__(self) -> None:
        if self.seeds[1] < self.seeds[0]:
            raise SettingsError(f"seeds are first and last, got {list(self.seeds)}")
        if self.landscape not in GROUNDS:
            raise SettingsError(f"landscape must be one of {', '.join(GROUNDS)}, got {self.landscape!r}")


@dataclass(frozen=True)
class Data:
    """Scenes with labels: synthetic worlds by region, or a catalogue with label files.

    Parameters
    ----------
    sample : dict, optional
        Synthetic worlds by the name of their region.
    catalog, auxiliary : str, optional
        Scenes, and where elevation and trends come from (or ``"neutral"``).
    labels : tuple of LabelFile
        Files of outlines.
    footprints, negatives : tuple of str
        Files of the images that were looked at, and ids of further images without slumps.
    iteration : str, optional
        Last iteration of the labels to use; by default all.
    days : int
        Days by which outlines may differ from a scene that they do not name.
    allow_unmatched : tuple of str
        Image ids, files or iterations whose outlines may meet no scene.
    """

    sample: dict[str, SampleWorlds] | None = None
    catalog: str | None = None
    auxiliary: str | None = None
    labels: tuple[LabelFile, ...] = ()
    footprints: tuple[str, ...] = ()
    negatives: tuple[str, ...] = ()
    iteration: str | None = None
    days: int = 0
    allow_unmatched: tuple[str, ...] = ()

    __pydantic_config__ = _STRICT

    def __post_init__(self) -> None:
        given = self.sample is not None, self.catalog is not None
        if given.count(True) != 1 or (self.catalog is not None and not self.labels):
            raise SettingsError("training data are either sample, or catalog with labels")


@dataclass(frozen=True)
class Member:
    """A network of the ensemble.

    Parameters
    ----------
    design : Design
        Its architecture.
    bands : tuple of str, optional
        Bands by name; by default all ten.
    scaling : {"published", "standardised"}
        What the network sees of a band: its published scale, or mean 0 and standard deviation 1 over the training
        patches. The checkpoint states which. One that starts from a checkpoint keeps the scales of that.
    start : Start
        First weights.
    recipe : dict
        What differs from the recipe of all.
    """

    design: Design = field(default_factory=Design)
    bands: tuple[str, ...] | None = None
    scaling: Literal["published", "standardised"] = "published"
    start: Start = field(default_factory=Start)
    recipe: dict[str, Any] = field(default_factory=dict, hash=False)

    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class Training:
    """The whole configuration.

    Parameters
    ----------
    members : dict
        Networks by name, trained in this order.
    train, validation : Data
        What to learn from and what to be scored on.
    patches : Patching
        How scenes are cut.
    recipe : Recipe
        How networks are trained.
    dataset, version : str
        Name and version of the label set, for the record and for ``DARTS_AI_model_version``; the version is by default
        the last iteration and a digest of the labels.
    split : Split, optional
        How the patches of ``train`` are divided where there is no ``validation``.
    licence : str
        Licence of the weights.
    limits : tuple of str
        Lines for the model card's limits.
    tile, margin : int
        Model tile of the checkpoints, pixels.
    """

    members: dict[str, Member] = field(hash=False)
    train: Data = field(hash=False)
    validation: Data | None = field(default=None, hash=False)
    patches: Patching = field(default_factory=Patching)
    recipe: dict[str, Any] = field(default_factory=dict, hash=False)
    split: Split | None = None
    dataset: str = "unnamed"
    version: str | None = None
    licence: str = "unknown"
    limits: tuple[str, ...] = ()
    tile: int = 512
    margin: int = 64

    __pydantic_config__ = _STRICT

    def __post_init__(self) -> None:
        if self.validation is not None and self.split is not None:
            raise SettingsError("give either validation or split: what is scored comes from one of them")

    @property
    def bands(self) -> tuple[str, ...]:
        """Bands that any member takes, in canonical order."""
        wanted = {name for member in self.members.values() for name in member.bands or BANDS}
        return tuple(name for name in BANDS if name in wanted)

    def recipe_of(self, name: str) -> Recipe:
        """Recipe of a member: what all have, and what it has of its own."""
        merged = {**self.recipe, **self.members[name].recipe}
        return read_settings(Recipe, merged, f"recipe of {name}")


def read_training(config: str | os.PathLike[str] | Mapping[str, Any]) -> Training:
    """Read a configuration and check every entry of it, nested ones too.

    Raises
    ------
    SettingsError
        An entry is unknown, missing or unusable; the message gives its path.
    """
    if isinstance(config, Mapping):
        values, where = dict(config), "the training configuration"
    else:
        where = str(config)
        try:
            values = yaml.safe_load(Path(config).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise SettingsError(f"{where} cannot be read as YAML: {error}") from error
        if not isinstance(values, dict):
            raise SettingsError(f"{where} holds no configuration, which is a mapping of names to values.")
    training = read_settings(Training, values, where)
    if not training.members:
        raise SettingsError(f"{where}: members names no network to train.")
    for name, member in training.members.items():
        training.recipe_of(name)
        if unknown := sorted(set(member.bands or ()) - set(BANDS)):
            raise SettingsError(
                f"{where}: members.{name}.bands: unknown are {', '.join(unknown)}; known: {', '.join(BANDS)}"
            )
        earlier = list(training.members)[: list(training.members).index(name)]
        if member.start.member is not None and member.start.member not in earlier:
            raise SettingsError(
                f"{where}: members.{name}.start.member is {member.start.member!r}, which is no member before it."
            )
    return training
