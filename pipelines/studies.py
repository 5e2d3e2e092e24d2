"""Questions that take several trainings: unseen regions, growing label sets, bands left out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from darts_xr.cube import BANDS
from darts_xr.errors import SettingsError
from darts_xr.training import Lessons, PatchStore, ground_apart, judge, leave_one_out, read_labels
from pipelines.training import Prepared, Trained, prepare, train_members
from pipelines.training_data import Say
from pipelines.training_settings import Training, read_training

Kind = Literal["regions", "iterations", "bands"]
KINDS: tuple[Kind, ...] = ("regions", "iterations", "bands")


def study(
    config: str | os.PathLike[str] | Mapping[str, Any] | Training,
    kind: Kind,
    *,
    out: str | os.PathLike[str],
    say: Say | None = None,
    devices: int = 1,
) -> pd.DataFrame:
    """Train again and again with one thing changed.

    Parameters
    ----------
    config : path, mapping or Training
        As for :func:`pipelines.train`.
    kind : {"regions", "iterations", "bands"}
        ``"regions"``: leave one region of the training data out after the other; where there is a ``validation`` with
        the same regions, scores on the region left out stand beside those on all others. ``"iterations"``: with the
        labels as they stood after each iteration (learning curve). ``"bands"``: without the Landsat trends, without
        terrain, and without either (ablation).
    out : path
        Folder; a training each in a folder of its own, and ``study_<kind>.csv``.
    say : callable, optional
        Called with a line of text at each step.
    devices : int, optional
        See :func:`pipelines.train`.

    Returns
    -------
    pandas.DataFrame
        One row a training and ground: ``case``, ``ground`` (``"unseen"``, ``"seen"`` or ``"validation"``), pixel scores
        of the mean of all members at threshold 0.5, and their 95 % interval for F1.

    Raises
    ------
    SettingsError
        The configuration has nothing to vary; and whatever :func:`pipelines.train` raises.

    Notes
    -----
    Nitze et al. 2021 (Remote Sens. 13:4294) cross-validate by region, five to learn and one to be scored on.

    Examples
    --------
    >>> study("config.yml", "regions", out="regions")  # doctest: +SKIP
    """
    if kind not in KINDS:
        raise SettingsError(f"a study is one of {', '.join(KINDS)}, got {kind!r}")
    settings = config if isinstance(config, Training) else read_training(config)
    say = say or (lambda line: None)
    folder = Path(out)
    cases = {"regions": _regions, "iterations": _iterations, "bands": _bands}[kind](settings, folder, say)
    rows = []
    for case, prepared, grounds in cases:
        say(f"{kind}: {case}")
        trained = train_members(prepared, folder / _file_name(case), say, devices=devices)
        rows += [
            {"case": case, "ground": name, **_scores(trained, *ground)} for name, ground in grounds.items()
        ]
    table = pd.DataFrame(rows)
    table.to_csv(folder / f"study_{kind}.csv", index=False)
    return table


Ground = tuple[PatchStore, "np.ndarray[Any, Any]"]
Case = tuple[str, Prepared, dict[str, Ground]]


def _file_name(case: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in case)


def _scores(trained: Trained, store: PatchStore, rows: np.ndarray[Any, Any]) -> dict[str, Any]:
    judgement = judge(trained.checkpoints, store, rows)
    names = tuple(member.name for member in trained.checkpoints)
    low, high = judgement.interval(names)["f1"]
    return {"patches": len(rows), **judgement.at(names, 0.5), "f1_low": low, "f1_high": high}


def _regions(settings: Training, folder: Path, say: Say) -> Iterator[Case]:
    # What is scored comes from the regions here; a split of the configuration would be another question.
    whole = prepare(replace(settings, split=None), folder, say)
    store, unseen = whole.lessons.store, whole.lessons.validation
    for region, parts in leave_one_out(store.table):
        if unseen is None:
            lessons = Lessons(store, parts.train, store, parts.validation)
            grounds = {"unseen": (store, parts.validation)}
        else:
            here = (unseen.table["region"] == region).to_numpy()
            if not here.any() or here.all():
                raise SettingsError(
                    f"study of regions: validation must show {region} and other regions; it has "
                    f"{', '.join(sorted(unseen.table['region'].unique()))}"
                )
            grounds = {"unseen": (unseen, np.flatnonzero(here)), "seen": (unseen, np.flatnonzero(~here))}
            # The best epoch is chosen on regions that are seen: the one left out must not help.
            lessons = Lessons(store, parts.train, *grounds["seen"])
        yield f"without {region}", replace(whole, lessons=lessons, scored=None), grounds


def _iterations(settings: Training, folder: Path, say: Say) -> Iterator[Case]:
    data = settings.train
    if not data.labels:
        raise SettingsError("study of iterations needs train with a catalog and labels of several iterations")
    # All are scored on the same patches, with the labels as they are known last.
    whole = prepare(settings, folder, say)
    grounds = _validation(whole)
    scored, rows = grounds["validation"]
    for iteration in read_labels(data.labels, footprints=data.footprints).iterations:
        changed = replace(settings, train=replace(data, iteration=iteration), split=None, validation=None)
        prepared = prepare(changed, folder, say)
        store = prepared.lessons.store
        lessons = Lessons(store, ground_apart(store.table, scored.table.iloc[rows]), scored, rows)
        yield iteration, replace(prepared, lessons=lessons), grounds


def _bands(settings: Training, folder: Path, say: Say) -> Iterator[Case]:
    prepared = prepare(settings, folder, say)
    for case, gone in {
        "all bands": (),
        "without Landsat trends": ("landsat-trends",),
        "without terrain": ("arcticdem",),
        "image alone": ("landsat-trends", "arcticdem"),
    }.items():
        members = {}
        for name, member in settings.members.items():
            kept = tuple(b for b in member.bands or BANDS if BANDS[b].source not in gone)
            members[name] = replace(member, bands=kept)
        # Patches hold all bands, so they are cut once.
        yield case, replace(prepared, settings=replace(settings, members=members)), _validation(prepared)


def _validation(prepared: Prepared) -> dict[str, Ground]:
    lessons = prepared.lessons
    if lessons.validation is None:
        raise SettingsError("a study needs validation or split, to score by")
    return {"validation": (lessons.validation, lessons.validation_rows)}
