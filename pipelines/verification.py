"""A run folder looked at to the last byte: what is not as it was written, and what to do about it."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from upath import UPath

from pipelines.aggregation import is_of
from pipelines.detection import catalog_text
from pipelines.manifest import manifests
from pipelines.records import REBUILT, RecordLog, Run, open_run
from pipelines.results import read_results

log = logging.getLogger(__name__)

_OURS = (".parquet", ".gpkg", ".csv", ".json")
DETECT = "darts-xr detect, with the settings of the run and --verify"
AGGREGATE = "darts-xr aggregate, with the name and years of these products"


@dataclass(frozen=True)
class Finding:
    """Something that is not as it was written.

    Parameters
    ----------
    what : str
        The scene, file or set of products.
    reason : str
        What is wrong with it.
    redo : str
        What makes it good again.
    """

    what: str
    reason: str
    redo: str


@dataclass(frozen=True)
class Verification:
    """What was looked at, and what was found.

    Parameters
    ----------
    run : Run
        The run.
    scenes, products : int
        Finished scenes and files of products that were read.
    findings : list of Finding
        Empty where all is as it was written.
    """

    run: Run
    scenes: int
    products: int
    findings: list[Finding]


def verify(run: str | os.PathLike[str] | Run) -> Verification:
    """Read every file of a run and compare it with what was noted when it was written.

    Parameters
    ----------
    run : path or Run
        A run of :func:`pipelines.detect`. Nothing is written.

    Returns
    -------
    Verification
        Findings on the summary, the records, every file of every finished scene, the catalogue, and every product with
        its manifest: damaged, gone, or made of other scenes than the run has now.

    Raises
    ------
    PipelineError
        When the folder is no run.

    Examples
    --------
    >>> verify("run").findings  # doctest: +SKIP
    []
    """
    run = run if isinstance(run, Run) else open_run(run)
    found: list[Finding] = []
    if run.record["state"] == REBUILT:
        found.append(Finding("run.json", "it is gone or damaged", DETECT))
    for damage in RecordLog(run.home).damage():
        what = f"scene {damage.id}" if damage.id else "a scene of it"
        found.append(Finding(damage.place, f"{damage.what}; {what} is done again", DETECT))
    for scene in run.done:
        if damaged := run.home.differing(scene["id"], scene["outputs"], content=True):
            files = f"gone or not what was written: {', '.join(damaged)}"
            found.append(Finding(f"scene {scene['id']}", files, DETECT))
    for scene_id, reason in sorted(run.left_out.items()):
        found.append(Finding(f"scene {scene_id}", reason, _advice(run, scene_id)))
    if run.record["state"] not in (REBUILT, "running") and not _is_text(
        run, "catalog.json", catalog_text(run)
    ):
        found.append(Finding("catalog.json", "it is gone or not what was written", DETECT))
    products, of_products = _products(run)
    return Verification(run, len(run.done), products, found + of_products)


def _advice(run: Run, scene_id: str) -> str:
    return (
        DETECT
        if scene_id in run.record.get("pending", [])
        else f"{DETECT}; or --prune, where it is in no source"
    )


def _is_text(run: Run, name: str, text: str) -> bool:
    try:
        return (run.home.path / name).read_bytes() == text.encode()
    except OSError as error:
        log.info("%s: %s", name, error)
        return False


def _products(run: Run) -> tuple[int, list[Finding]]:
    """Count the files of products that were read, and tell what is wrong with them."""
    place = run.home.path / "products"
    if not place.exists():
        return 0, []
    found, listed, results = [], set[str](), read_results(run)
    sets = manifests(run.home)
    sound = {manifest.path.name for manifest in sets}
    there: list[Path | UPath] = sorted(place.iterdir(), key=str)
    for path in there:
        if "_manifest_" in path.name:
            listed.add(path.name)
            if path.name not in sound:
                found.append(Finding(path.name, "the manifest is damaged", AGGREGATE))
    for manifest in sets:
        listed |= manifest.files.keys()
        for name in manifest.files:
            if manifest.sound(name) is None:
                found.append(Finding(name, "gone, or not what its manifest says", AGGREGATE))
        if not is_of(manifest, run, results):
            found.append(
                Finding(
                    manifest.path.name, "made of other scenes or settings than the run has now", AGGREGATE
                )
            )
    for path in there:
        if path.suffix in _OURS and path.name not in listed:  # others are sidecars of whoever looked at them
            found.append(Finding(path.name, "no manifest lists it", "aggregate again, or remove it"))
    return len(listed), found
