"""Other rules for a finished run: objects from the stored probability, without the networks."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import rasterio
import rioxarray
import shapely
import xarray as xr

import darts_xr as dx
from darts_xr.addresses import redact
from darts_xr.cube import landcover_coverage, landcover_for
from darts_xr.errors import DartsError, OutputError, ParameterError, PipelineError, naming_extra
from darts_xr.objects.label import from_stored
from darts_xr.percent import NO_DATA, undecided_percents
from darts_xr.products import binary_objects, removed_objects, write_raster, write_vectors
from darts_xr.rasters import quiet_threads
from pipelines.detection import catalog_text
from pipelines.digests import bytes_differ, digest, file_facts
from pipelines.filter_layers import Layers, resolve
from pipelines.folder import RunFolder
from pipelines.item_index import ItemIndex
from pipelines.records import Record, RecordLog, Run, open_run, summary
from pipelines.result_item import result_item
from pipelines.run_log import RunLog
from pipelines.scenes import clean_objects, object_counts, packed_items, reject_objects
from pipelines.settings import Rules, Settings
from pipelines.sources import Sources, check_coverage, load_sources
from pipelines.verdict_lists import VerdictList

log = logging.getLogger(__name__)

_FILES = frozenset(["probability.tif", "binary.tif", "level1.parquet", "removed.parquet", "item.json"])
_OWN = ("item_id", "datetime", "constellation")  # tags that an item states as fields of STAC
_SAME = (
    "darts_xr", "ensemble", "checkpoints", "batch_norm", "tile", "margin", "auxiliary", "neutral", "fill_gaps",
    "layers_left_out",
)  # fmt: skip
#: Thresholds of a curve where none are given.
THRESHOLDS = tuple(round(0.1 + 0.05 * step, 2) for step in range(17))


@dataclass(frozen=True)
class _Work:
    """What is the same for all scenes."""

    run: Run
    rules: Rules
    stored_at: float
    sources: Sources
    covers: ItemIndex | None
    infrastructure: str | None


@dataclass(frozen=True)
class _Scene:
    """A scene's stored results, in memory."""

    record: Record
    percent: xr.DataArray
    raster: bytes
    tags: dict[str, str]
    outline: Any
    facts: dict[str, Any]


# --- one scene ---------------------------------------------------------------------------------------------


def _read(work: _Work, record: Record) -> _Scene:
    contents = {}
    for name in ("probability.tif", "item.json"):
        try:
            contents[name] = (work.run.home.scene(record["id"]) / name).read_bytes()
        except OSError as error:
            raise PipelineError(f"its {name} cannot be read ({error}); darts-xr verify tells more") from error
        if bytes_differ(contents[name], record["outputs"][name]):
            raise PipelineError(f"its {name} is not what was written; darts-xr verify tells more")
    item = json.loads(contents["item.json"])
    with rasterio.MemoryFile(contents["probability.tif"]) as memory, memory.open() as file:
        stated = {key for key in file.tags() if f"darts:{key}" in item["properties"] or key in _OWN}
        tags = {key: value for key, value in file.tags().items() if key in stated}
        bands: Any = rioxarray.open_rasterio(file)
        percent = bands.squeeze("band", drop=True).load()
    percent.attrs = {"_FillValue": NO_DATA}
    outline = shapely.geometry.shape(item["geometry"]) if item["geometry"] else shapely.MultiPolygon()
    facts = {
        "item_id": record["id"],
        "time": tags["datetime"],
        "constellation": tags.get("constellation"),
        "synthetic": record["synthetic"],
    }
    return _Scene(record, percent, contents["probability.tif"], tags, outline, facts)


@dataclass(frozen=True)
class _Objects:
    """Objects of a scene under the rules asked for."""

    labels: xr.DataArray
    feats: gpd.GeoDataFrame
    filters: dict[str, str]
    undecided: int
    coverage: dict[str, float]
    unknown_rejected: list[str]


def _objects(work: _Work, scene: _Scene) -> _Objects:
    rules, sources, covered = work.rules, work.sources, dict[str, float]()
    percent = scene.percent
    undecided = int(np.isin(percent.values, undecided_percents(rules.threshold, work.stored_at)).sum())
    prob = from_stored(percent)
    labels = dx.label_objects(
        prob, threshold=rules.threshold, border=rules.border, min_pixels=rules.min_pixels,
        connectivity=rules.connectivity,
    )  # fmt: skip
    cover = None
    if work.covers is not None:
        near = work.covers.near(None if scene.outline.is_empty else scene.outline.bounds)
        tiles = packed_items(work.covers.texts(near))
        sources = replace(sources, landcover=tiles)
        cover = landcover_for(tiles, percent.odc.geobox, int(scene.record["date"][:4]))
        share = 0.0 if cover is None else landcover_coverage(cover, percent != NO_DATA)
        fill = bool(work.run.record["fill_gaps"])
        covered = check_coverage(scene.record["id"], {"landcover": share}, (), fill_gaps=fill)
    feats, filters = clean_objects(labels, prob, cover, rules, sources)
    rejected = [] if sources.verdicts is None else sources.verdicts.rejected.get(scene.record["id"], [])
    feats, unknown = reject_objects(feats, rejected, filters)
    if work.infrastructure is not None:
        filters["infrastructure"] = work.infrastructure
    return _Objects(labels, feats, filters, undecided, covered, unknown)


def _write(work: _Work, scene: _Scene, home: RunFolder) -> Record:
    """Objects of one scene under the new rules, and its folder."""
    began = time.perf_counter()
    found, rules, before = _objects(work, scene), work.rules, scene.record
    binary = binary_objects(found.labels, scene.percent.where(scene.percent != NO_DATA)).compute()
    made_by = scene.tags | {
        "rules": json.dumps(rules.in_force(found.filters), sort_keys=True),
        "filters": json.dumps(found.filters, sort_keys=True),
        "probability": f"stored in per cent, never rounded across {work.stored_at:g}; statistics are of these numbers",
    }
    facts = scene.facts
    level1 = dx.level1(
        found.feats, facts, threshold=str(rules.threshold), model_version=scene.tags.get("model_version")
    )
    removed = removed_objects(found.feats, facts)
    counts = object_counts(found.feats) | {"n_undecided_pixels": found.undecided}
    halfway = time.perf_counter()
    with home.scene_part(before["id"], _FILES) as part:
        # As it was stored, with what was said of it then: the rules of that run, across whose threshold nothing was
        # rounded.
        (part / "probability.tif").write_bytes(scene.raster)
        write_raster(binary, part / "binary.tif", metadata=made_by)
        write_vectors(level1, part / "level1", formats=("parquet",), metadata=made_by)
        write_vectors(removed, part / "removed", formats=("parquet",), metadata=made_by)
        result = result_item(before["id"], scene.outline, scene.percent, counts, made_by)
        del result["assets"]["quicklook"]  # the image is not at hand
        (part / "item.json").write_text(json.dumps(result) + "\n", encoding="utf-8")
        outputs = file_facts(part, _FILES)
    ended = time.perf_counter()
    coverage = {k: v for k, v in before.get("auxiliary_coverage", {}).items() if k != "landcover"}
    kept = {key: value for key, value in before.items() if key != "unknown_rejected"}
    return {
        **kept,
        **({"unknown_rejected": found.unknown_rejected} if found.unknown_rejected else {}),
        "counts": counts,
        "filters": found.filters,
        "auxiliary_coverage": coverage | found.coverage,
        "outputs": outputs,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "worker": "this process",
        "seconds": {"objects": round(halfway - began, 3), "write": round(ended - halfway, 3)},
        # Another word than detection would write: it does these scenes again where it is given this folder.
        "inputs": before["inputs"] | {"parameters": digest("rethreshold", before["inputs"], asdict(rules))},
    }


# --- the run -----------------------------------------------------------------------------------------------


def _prepare(run: str | os.PathLike[str] | Run, rules: dict[str, Any], layers: Layers) -> _Work:
    """Open a run and its layers, and resolve the rules: those of the run where no other is given."""
    run = run if isinstance(run, Run) else open_run(run)
    before = run.record["rules"]
    if unknown := sorted(set(rules) - set(before)):
        raise ParameterError(f"{unknown[0]} is no rule of objects; rules are {', '.join(before)}")
    if rules.get("mask_rule", before["mask_rule"]) != before["mask_rule"]:
        raise ParameterError("the mask is in the stored probability; another mask rule needs darts-xr detect")
    if not run.done:
        raise PipelineError(f"{run.folder} has no finished scene. See darts-xr report for the reasons.")
    layers = resolve(run.record, layers, run.folder)
    sources = load_sources(
        Settings(
            out=str(run.folder),
            auxiliary=None,
            landcover=layers.landcover,
            infrastructure=layers.infrastructure,
            verdicts=layers.verdicts,
        )
    )
    if sources.verdicts is None and "reviewer" not in layers.dropped:
        sources = replace(sources, verdicts=VerdictList.of_record(run.record))
    works = None
    if sources.infrastructure is not None:
        path = layers.infrastructure
        works = Path(path).name if isinstance(path, str | os.PathLike) else "polygons in memory"
    covers = None if sources.landcover is None else ItemIndex(sources.landcover)
    stored_at = run.record.get("rethresholded", {}).get("stored_at", before["threshold"])
    return _Work(run, Rules(**{**before, **rules}), float(stored_at), sources, covers, works)


def rethreshold(
    run: str | os.PathLike[str] | Run,
    out: str | os.PathLike[str],
    *,
    layers: Layers | None = None,
    **rules: Any,
) -> Run:
    """Make the objects of a finished run again under other rules, from its stored probability.

    Parameters
    ----------
    run : path or Run
        A run of :func:`pipelines.detect`; it stays as it is.
    out : path or str
        A new run folder, local or any fsspec target.
    layers : Layers, optional
        Layers of the filters, and verdicts; by default those that the run was made with, where they still lie there.
    **rules
        Of :class:`Rules`: ``threshold``, ``border``, ``min_pixels``, ``max_water``, ``connectivity``; those of the run
        where they are not given.

    Returns
    -------
    Run
        Folder and summary as of :func:`pipelines.detect`, without quick-looks, since no image is read. The objects are
        those that ``detect`` finds under these rules but for pixels within half a per cent of the threshold, which the
        stored numbers cannot tell apart: ``counts["n_undecided_pixels"]``, zero at the threshold of the run. The
        statistics (``pval_``) are of the stored numbers, each within 0.005 of the full one, or 0.01 next to the run's
        threshold. Scenes that failed in the run stay failed; one whose files are damaged fails here.

    Raises
    ------
    PipelineError
        When the folder holds a run already, no scene of the run is finished, or a layer of a filter is not
        given and lies no longer where it lay.
    ParameterError
        When a rule has a value that makes no sense, or cannot be changed afterwards.

    Examples
    --------
    >>> run = rethreshold("run", "run-70", threshold=0.7, min_pixels=64)  # doctest: +SKIP
    """
    began = time.perf_counter()
    work = _prepare(run, rules, layers or Layers())
    home = RunFolder(out)
    with home.locked():
        if (home.path / "run.json").exists() or (home.path / "records").exists():
            raise PipelineError(f"{home} holds a run already; give these results a folder of their own")
        home.sweep()
        before = work.run.record
        described = {name: before[name] for name in _SAME} | {
            "rules": asdict(work.rules),
            "members": False,
            "water_filter": work.covers is not None,
            "infrastructure_filter": work.infrastructure,
            "layers": work.sources.remembered,
            "verdicts": None if work.sources.verdicts is None else work.sources.verdicts.described(),
            "rethresholded": {
                "run": work.run.folder.name, "rules": before["rules"], "stored_at": work.stored_at
            },
        }  # fmt: skip
        start = f"darts_xr {before['darts_xr']}, other rules for {redact(work.run.folder)}"
        with RunLog(home, start), RecordLog(home) as journal:
            journal.append({"run": described})
            for record in _records(work, home):
                journal.append(record)
        done = Run(home, {"state": "running", **described, "pending": before.get("pending", [])})
        done.record.update(
            state="complete", seconds=round(time.perf_counter() - began, 2), **summary(RecordLog(home).read())
        )
        home.write_text("catalog.json", catalog_text(done))
        done.save()
    return done


def _records(work: _Work, home: RunFolder) -> Iterator[Record]:
    """Give the new record of each scene, those that failed before as they are."""

    def redo(record: Record) -> Record:
        try:
            return _write(work, _read(work, record), home)
        except OutputError:
            raise
        except (DartsError, OSError, ValueError) as error:
            log.warning("%s: %s", record["id"], error)
            kept = {key: record[key] for key in ("id", "inputs", "tries", "earlier_reasons")}
            return {**kept, "state": "failed", "reason": redact(f"{type(error).__name__}: {error}")}

    yield from work.run.failed
    with quiet_threads(), ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(redo, work.run.done)


def threshold_curve(
    run: str | os.PathLike[str] | Run,
    thresholds: Sequence[float] = THRESHOLDS,
    *,
    layers: Layers | None = None,
    **rules: Any,
) -> pd.DataFrame:
    """Count and area of a run's objects against the threshold, from its stored probability.

    Parameters
    ----------
    run : path or Run
        A run of :func:`pipelines.detect`.
    thresholds : sequence of float, optional
        Thresholds, above 0 and at most 1.
    layers, **rules
        As for :func:`rethreshold`.

    Returns
    -------
    pandas.DataFrame
        One row a threshold (index ``threshold``), over all images: ``n_detected``, what each rule removed,
        ``n_objects``, ``area_m2`` (of the kept objects, in each image's own projection, an object that two images show
        counted twice) and ``n_undecided_pixels``.

    Raises
    ------
    PipelineError, ParameterError
        As for :func:`rethreshold`; also when a scene's stored files are damaged.

    Examples
    --------
    >>> threshold_curve("run", [0.5, 0.6, 0.7])["n_objects"]  # doctest: +SKIP
    """
    if not thresholds:
        raise ParameterError("a curve needs at least one threshold")
    at = [_prepare(run, {**rules, "threshold": thresholds[0]}, layers or Layers())]
    at += [replace(at[0], rules=replace(at[0].rules, threshold=value)) for value in thresholds[1:]]

    def of_scene(record: Record) -> list[dict[str, float]]:
        try:
            scene = _read(at[0], record)
        except PipelineError as error:
            raise PipelineError(f"{record['id']}: {error}") from error
        rows = []
        for work in at:
            found = _objects(work, scene)
            kept = found.feats[found.feats["removed_by"] == ""]
            area = kept.geometry.to_crs(scene.percent.rio.crs).area.sum()
            rows.append(
                object_counts(found.feats) | {"area_m2": float(area), "n_undecided_pixels": found.undecided}
            )
        return rows

    with quiet_threads(), ThreadPoolExecutor(os.cpu_count()) as pool:
        scenes = list(pool.map(of_scene, at[0].run.done))
    rows = [pd.DataFrame([scene[k] for scene in scenes]).sum() for k in range(len(at))]
    table = pd.DataFrame(rows, index=pd.Index([work.rules.threshold for work in at], name="threshold"))
    table = table.astype({name: "int64" for name in table if name != "area_m2"})
    table.attrs["synthetic"] = bool(at[0].run.record["synthetic"])
    return table


def plot_curve(curve: pd.DataFrame, *, threshold: float | None = None) -> Any:
    """Draw a curve of :func:`threshold_curve`: objects and their area against the threshold.

    Parameters
    ----------
    curve : pandas.DataFrame
        The curve.
    threshold : float, optional
        A threshold to mark, such as that of the run.

    Returns
    -------
    matplotlib.figure.Figure
        Two panels over one axis of thresholds.
    """
    with naming_extra("viz", "a picture"):
        from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 5), layout="constrained")
    panels = figure.subplots(2, sharex=True)
    for panel, values, label in (
        (panels[0], curve["n_objects"], "objects"),
        (panels[1], curve["area_m2"] / 1e4, "area, ha"),
    ):
        panel.plot(curve.index, values, marker="o", color="#0072B2")
        panel.set_ylabel(label)
        panel.set_ylim(0, 1.08 * max(values.max(), 1e-3))  # points at the top whole
        panel.grid(alpha=0.3)
        if threshold is not None:
            panel.axvline(
                threshold, color="#D55E00", linestyle="--", label=f"threshold of the run, {threshold:g}"
            )
    if threshold is not None:
        panels[0].legend(frameon=False)
    panels[1].set_xlabel("threshold of the probability")
    if curve.attrs.get("synthetic"):
        figure.suptitle("synthetic scenes, no real observation", fontsize=10)
    return figure
