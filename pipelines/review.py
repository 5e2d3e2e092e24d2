"""Review by people: a page that needs no network, and what becomes of their verdicts."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd

import darts_xr as dx
from darts_xr.assess import SamplePlan, Tiers, assign_tiers, calibrate_tiers, review_sample
from darts_xr.assess.confirmation import ERROR_CLASSES, VERDICTS, confirmation_table
from darts_xr.assess.sensitivity import mean_probability
from darts_xr.assess.verdicts import (
    FORMAT,
    consistency,
    hard_negatives,
    merge_verdicts,
    read_verdicts,
    reviewed_precision,
)
from darts_xr.atomic import write_atomic
from darts_xr.errors import PipelineError
from darts_xr.products import write_vectors
from darts_xr.products.level_two import overlap_groups
from pipelines.aggregation import read_level1
from pipelines.records import Run, open_run
from pipelines.review_crops import Crops

log = logging.getLogger(__name__)

_SYNTHETIC = "Synthetic scenes: no real observation. "
_RIGHT = ("true", "detachment slide")
_LEAST_FOR_TIERS = 30  # verdicts below which tiers would be hearsay


@dataclass(frozen=True)
class Verified:
    """What a review gave.

    Parameters
    ----------
    layer : geopandas.GeoDataFrame
        The reviewed detections with their verdicts.
    confirmation, precision, consistency : pandas.DataFrame
        Validation 1, precision by class of probability and size, agreement.
    negatives : geopandas.GeoDataFrame
        False detections, for training.
    tiers : Tiers or None
        Confidence tiers; None below 30 verdicts.
    files : list of path
        What was written.
    """

    layer: gpd.GeoDataFrame
    confirmation: pd.DataFrame
    precision: pd.DataFrame
    consistency: pd.DataFrame
    negatives: gpd.GeoDataFrame
    tiers: Tiers | None
    files: list[Path]


def make_review(
    run: str | os.PathLike[str] | Run,
    out: str | os.PathLike[str],
    *,
    images: Any = None,
    plan: SamplePlan | None = None,
    say: Callable[[str], None] | None = None,
) -> Path:
    """Write one page on which a person judges a sample of a run's detections, by keyboard, without a network.

    Parameters
    ----------
    run : path or Run
        A run of :func:`pipelines.detect`.
    out : path
        Folder for the page.
    images : source, optional
        The scenes that the run was made from, as for :func:`darts_xr.search`; without them only the probability and
        the outline are shown.
    plan : SamplePlan, optional
        How many detections, and how they are drawn; by default 200, from all classes of probability and size.
    say : callable, optional
        Called with a line of text before each detection.

    Returns
    -------
    pathlib.Path
        ``review.html``: it holds all pictures, and asks nothing of any other host.

    Raises
    ------
    PipelineError
        When the run has no detections.

    Examples
    --------
    >>> make_review("run", "review", images="world/catalog.json")  # doctest: +SKIP
    """
    run, plan, say = (
        run if isinstance(run, Run) else open_run(run),
        plan or SamplePlan(),
        say or (lambda line: None),
    )
    level1 = read_level1(run)
    if level1.empty:
        raise PipelineError(f"{run.folder} has no detections to review.")
    sample = review_sample(level1, plan)
    crops = Crops(run, None if images is None else dx.search(images))
    means = level1[mean_probability(level1)].to_numpy()
    rows = list(level1.itertuples())
    items = []
    for number, shown in enumerate(sample.to_dict("records")):
        say(f"detection {number + 1} of {len(sample)}")
        place = int(shown.pop("row"))
        keys = {str(name): _plain(value) for name, value in shown.items()}
        items.append({**crops.around(rows[place]), "mean": float(means[place]), "keys": keys})
    about = "" if images is not None else "Without the scenes (--images) only the probability is shown. "
    if images is not None and crops.without_image:
        lacking = sorted(crops.without_image)
        named = ", ".join(lacking[:3]) + (", …" if len(lacking) > 3 else "")
        about = f"{len(lacking)} scenes are not in the images given, so only their probability is shown: {named}. "
        log.warning("%s", about.strip())
    data = {
        "format": FORMAT, "run": run.folder.name, "review": _name_of(run, sample), "kinds": VERDICTS,
        "errors": ERROR_CLASSES, "images": images is not None, "items": items,
        "notice": (_SYNTHETIC if run.record["synthetic"] else "") + about,
    }  # fmt: skip
    # "<" as an escape: no text of anybody's can end the element that holds the data.
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    page = (
        files("pipelines").joinpath("review_page.html").read_text(encoding="utf-8").replace("__DATA__", text)
    )
    return write_atomic(Path(out) / "review.html", lambda part: part.write_text(page, encoding="utf-8"))


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def _name_of(run: Run, sample: pd.DataFrame) -> str:
    """Name that is another for another sample: the browser keeps verdicts under it."""
    digest = hashlib.sha256(sample.to_csv(index=False).encode()).hexdigest()[:12]
    return f"{run.folder.name} {digest}"


def merge_review(
    run: str | os.PathLike[str] | Run, verdicts: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]
) -> Verified:
    """Merge verdict files into a verified layer, and write what they say of the run.

    Parameters
    ----------
    run : path or Run
        The run that the page was made from.
    verdicts : sequence of path
        Files that the page exported, one a reviewer.
    out : path
        Folder: ``verified.parquet`` and ``.gpkg``, ``hard_negatives.gpkg``, ``confirmation.csv``, ``precision.csv``,
        ``consistency.csv``, and with 30 verdicts or more ``tiers.csv`` and ``tiers_level1.parquet``, a table beside
        Level 1, joined to it by ``id``.

    Returns
    -------
    Verified
        Frames and files.

    Raises
    ------
    AssessmentError
        When a file is no verdict file, or its detections are not in the run.

    Examples
    --------
    >>> merge_review("run", ["verdicts-ada.json"], "review")  # doctest: +SKIP
    """
    run, folder = run if isinstance(run, Run) else open_run(run), Path(out)
    review, level1 = read_verdicts(verdicts), read_level1(run)
    layer = merge_verdicts(level1, review)
    tables = {
        "confirmation": confirmation_table(layer),
        "precision": reviewed_precision(layer),
        "consistency": consistency(review),
    }
    negatives, tiers = hard_negatives(layer), _tiers(layer)
    metadata = {"run": run.folder.name, "reviewers": ", ".join(review.reviewers)}
    if run.record["synthetic"]:
        metadata["synthetic"] = _SYNTHETIC.strip()
    written = write_vectors(layer, folder / "verified", metadata=metadata)
    written += write_vectors(negatives, folder / "hard_negatives", formats=("gpkg",), metadata=metadata)
    if tiers is not None:
        tables["tiers"] = tiers.table
        side = assign_tiers(level1, tiers)
        written.append(
            write_atomic(folder / "tiers_level1.parquet", lambda part: side.to_parquet(part, index=False))
        )
    for name, table in tables.items():
        text = table.to_csv(index=False)
        written.append(write_atomic(folder / f"{name}.csv", lambda part, text=text: part.write_text(text)))  # type: ignore[misc]
    return Verified(
        layer, tables["confirmation"], tables["precision"], tables["consistency"], negatives, tiers, written
    )


def _tiers(layer: gpd.GeoDataFrame) -> Tiers | None:
    """Tiers of a reviewed sample, uncertain ones as wrong; detections of one place count as one."""
    if len(layer) < _LEAST_FOR_TIERS:
        return None
    return calibrate_tiers(
        layer[mean_probability(layer)], layer["verdict"].isin(_RIGHT), weight=layer["weight"],
        site=sites_of(layer),
    )  # fmt: skip


def sites_of(detected: gpd.GeoDataFrame) -> list[int]:
    """Give the number of the place that each detection is at: those that overlap, of whatever image, are at one."""
    shapes = np.array(detected.geometry.to_numpy(), object)
    return [int(group) for group in overlap_groups(shapes, np.zeros(len(shapes), np.int64))]
