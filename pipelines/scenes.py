"""One scene from its item to the files of its folder, on whatever process has it."""

from __future__ import annotations

import json
import logging
import math
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import dask
import geopandas as gpd
import pystac
import torch
import xarray as xr

import darts_xr as dx
from darts_xr.addresses import redact
from darts_xr.catalog.checksums import check_files
from darts_xr.cube import auxiliary_coverage, landcover_coverage, landcover_for
from darts_xr.cube.layers import LAYERS
from darts_xr.cube.metadata import metadata_of, time_text
from darts_xr.cube.thinning import thin_blocks, thin_scene
from darts_xr.errors import DartsError, DeviceError, OutputError, RemoteReadError
from darts_xr.inference import Drift, Ensemble, scene_drift
from darts_xr.inference.ensemble import resolve_device
from darts_xr.objects import member_objects
from darts_xr.objects.label import candidates_of, with_candidates
from darts_xr.objects.members import dense_members, sparse_members
from darts_xr.percent import NO_DATA
from darts_xr.planet.bands import check_reflectance
from darts_xr.products import (
    binary_objects,
    filter_rejected,
    member_spread,
    probability_percent,
    removed_objects,
    valid_polygon,
    write_quicklook,
    write_raster,
    write_vectors,
)
from darts_xr.products.cog import packed, unpacked
from darts_xr.rasters import RasterLimits
from pipelines.digests import digest, file_facts
from pipelines.folder import RunFolder
from pipelines.progress import Meter, Watch
from pipelines.records import Record
from pipelines.result_item import result_item
from pipelines.run_log import noting
from pipelines.settings import Rules, provenance
from pipelines.sources import Sources, check_coverage
from pipelines.verdict_lists import Key
from pipelines.worker_threads import ending, own_threads, this_worker

log = logging.getLogger(__name__)

_QUICKLOOK_SIDE = 900  # px
# For the picture, ndvi, and whether the numbers can be reflectance.
_LOOKED_AT = ("red", "green", "blue", "nir")


@dataclass(frozen=True)
class Job:
    """What is the same for all scenes of a run; travels with each of them, so it is small.

    Parameters
    ----------
    ensemble : Ensemble
        The networks, by their files.
    rules : Rules
        How probability becomes objects.
    folder : str
        The run folder.
    members : bool
        Also write what each network found alone, and how far they disagreed.
    infrastructure : str
        Name of the layer of infrastructure, for the outputs' metadata.
    raster_limits : RasterLimits
        What images and masks may be.
    neutral : tuple of str
        Layers that are filled and not read.
    fill_gaps : bool
        Go on with scenes that a layer does not cover at all.
    watch : Watch, optional
        Who hears what the scenes are at.
    """

    ensemble: Ensemble
    rules: Rules
    folder: str
    members: bool = False
    infrastructure: str = ""
    raster_limits: RasterLimits = field(default_factory=RasterLimits)
    neutral: tuple[str, ...] = ()
    fill_gaps: bool = False
    watch: Watch | None = None

    @property
    def files(self) -> frozenset[str]:
        """What a scene's folder holds."""
        always = (
            "probability.tif", "binary.tif", "level1.parquet", "removed.parquet", "quicklook.png", "item.json",
        )  # fmt: skip
        return frozenset([*always, "members.parquet", "spread.parquet"] if self.members else always)

    def __call__(self, task: SceneTask) -> Record:
        """Do a scene; what goes wrong with it is its own affair and stands in its record."""
        ending.wait_for_end()
        started = datetime.now(UTC).isoformat(timespec="seconds")
        own_process = bool(getattr(this_worker(), "nanny", None))
        with noting(task.id, own_process=own_process) as said, own_threads() as worker:
            try:
                found = detect_scene(task, self)
            except OutputError:
                raise
            except (DartsError, OSError, ValueError, RuntimeError, MemoryError) as error:
                if not isinstance(error, DartsError):
                    where = "".join(traceback.format_exception(error))
                    log.error(
                        "%s failed for a reason that darts_xr does not know: %s", task.id, redact(where)
                    )
                found = {"state": "failed", "reason": redact(f"{type(error).__name__}: {error}")}
                found["bbox"] = json.loads(task.item).get("bbox")  # its place on the report's map
                if isinstance(error, RemoteReadError | TimeoutError | ConnectionError | DeviceError):
                    found["transient"] = True
                if lacks_memory(error):
                    found["memory"] = True
                if isinstance(error, DeviceError):
                    ending.begin()
        return {
            "id": task.id, **found, "started": started, "worker": worker, "warnings": said.warnings,
            "inputs": task.inputs, "log": said.lines,
        }  # fmt: skip


def lacks_memory(error: BaseException) -> bool:
    """Whether memory ran out, of the machine or of a GPU, whoever noticed first."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, MemoryError | torch.OutOfMemoryError):
            return True
        link = link.__cause__
    return False


@dataclass(frozen=True)
class SceneTask:
    """A scene with all that is needed for it, and nothing that is not near it.

    Parameters
    ----------
    id : str
        Id of the scene.
    item : str
        STAC item as JSON.
    auxiliary : list of str, "neutral" or None
        STAC items near the scene, as JSON.
    landcover : list of str, optional
        The same for land cover; None: no water filter.
    infrastructure : geopandas.GeoDataFrame, optional
        Polygons near the scene.
    rejected : list of (str, int)
        Geohash and area of the detections in it that reviewers rejected.
    inputs : dict of str
        Hashes of what goes into the scene, by kind.
    """

    id: str
    item: str
    auxiliary: Any
    landcover: list[str] | None
    infrastructure: gpd.GeoDataFrame | None
    rejected: list[Key] = field(default_factory=list)
    inputs: dict[str, str] = field(default_factory=dict)

    def sources(self) -> Sources:
        """Layers beside the image."""
        layers = self.auxiliary
        return Sources(
            packed_items(layers) if isinstance(layers, list) else layers,
            None if self.landcover is None else packed_items(self.landcover),
            self.infrastructure,
        )


def packed_items(texts: Sequence[str]) -> list[pystac.Item]:
    """STAC items of their JSON."""
    return [_item(text) for text in texts]


def _item(text: str) -> pystac.Item:
    return pystac.Item.from_dict(json.loads(text), preserve_dict=False)


# --- the scene ---------------------------------------------------------------------------------------------


def scene_landcover(scene: xr.Dataset, sources: Sources) -> xr.DataArray | None:
    """Land cover around a scene, lazy; None without water filter."""
    if sources.landcover is None:
        return None
    year = int(scene_date(scene)[:4])
    return landcover_for(sources.landcover, scene["valid"].odc.geobox, year)


def clean_objects(
    labels: xr.DataArray, prob: xr.DataArray, cover: xr.DataArray | None, rules: Rules, sources: Sources
) -> tuple[gpd.GeoDataFrame, dict[str, str]]:
    """Vectorize labels and filter the polygons, removed ones kept with the reason; also the layers of the filters."""
    feats = dx.vectorize(labels, prob, keep_removed=True)
    filters: dict[str, str] = {}
    if cover is not None:
        feats = dx.filter_water(feats, cover, max_fraction=rules.max_water, keep_removed=True)
        filters["water"] = f"{cover.attrs['source']} {cover.attrs['year']}"
    elif sources.landcover is not None:
        feats.attrs["unknown_landcover"] = int((feats["removed_by"] == "").sum())
    if sources.infrastructure is not None:
        feats = dx.filter_infrastructure(feats, sources.infrastructure, keep_removed=True)
        filters["infrastructure"] = "infrastructure polygons"
    return feats, filters


def reject_objects(
    feats: gpd.GeoDataFrame, rejected: Sequence[Key], filters: dict[str, str]
) -> tuple[gpd.GeoDataFrame, list[str]]:
    """Remove what reviewers rejected in a scene, and note the filter; also what they rejected and is not there."""
    if not rejected:
        return feats, []
    feats = filter_rejected(feats, rejected, keep_removed=True)
    filters["reviewer"] = f"verdicts {digest(sorted(rejected))}"
    return feats, list(feats.attrs["unknown_rejected"])


def scene_date(scene: xr.Dataset | xr.DataArray) -> str:
    """Day of a scene, YYYY-MM-DD."""
    return time_text(metadata_of(scene)["time"])[:10]


def object_counts(feats: gpd.GeoDataFrame) -> dict[str, int]:
    """How many objects there were, how many each rule removed, and how many are left."""
    removed = feats.attrs["removed"]
    rules = ("border", "small", "water", "infrastructure", "reviewer")
    return {
        "n_detected": int(feats.attrs["n_detected"]),
        **{f"n_removed_{rule}": int(removed.get(rule, 0)) for rule in rules},
        "n_unknown_landcover": int(feats.attrs.get("unknown_landcover", 0)),
        "n_objects": int((feats["removed_by"] == "").sum()),
    }


def detect_scene(task: SceneTask, job: Job) -> Record:
    """Detect slumps in one scene and write its folder, whole or not at all.

    Parameters
    ----------
    task : SceneTask
        The scene and the layers near it.
    job : Job
        What to detect with, and where the results go.

    Returns
    -------
    dict
        What was found: counts by rule, pixels, seconds by stage.

    Raises
    ------
    OutputError
        When the scene's folder cannot be written.
    """
    meter = Meter(task.id, job.watch)
    ensemble, rules, sources = job.ensemble, job.rules, task.sources()
    item = _item(task.item)
    check_files(item)
    for layer in (
        *(sources.auxiliary if isinstance(sources.auxiliary, list) else ()),
        *(sources.landcover or ()),
    ):
        check_files(layer, trust_times=True)
    bands = [*ensemble.definitions, *_LOOKED_AT]  # of which the networks may need none
    looked_at = list(dict.fromkeys([*_LOOKED_AT, *ensemble.bands]))
    scene = dx.open_scene(
        item,
        auxiliary=sources.auxiliary,
        neutral=job.neutral,
        fill_gaps=job.fill_gaps,
        bands=bands,
        mask_rule=rules.mask_rule,
        device=str(resolve_device(ensemble.device)),
        limits=job.raster_limits,
    )
    cover = None if job.fill_gaps and not sources.landcover else scene_landcover(scene, sources)
    meter.lap("open")
    step = math.ceil(max(scene["valid"].shape) / _QUICKLOOK_SIDE)
    every = {"y": slice(None, None, step), "x": slice(None, None, step)}
    # One pass over the pixels: all that is made of them comes out of the same reads, and probability goes at once.
    members = dx.predict_members(scene, ensemble) if job.members else None
    prob = dx.predict(scene, ensemble) if members is None else members["probability"]
    labels = dx.label_objects(
        prob, threshold=rules.threshold, border=rules.border, min_pixels=rules.min_pixels,
        connectivity=rules.connectivity,
    )  # fmt: skip
    candidates, percent, members, picture, cover, measured = dask.persist(
        candidates_of(labels),
        packed(probability_percent(prob, threshold=rules.threshold)),
        None if members is None else sparse_members(members, threshold=rules.threshold),
        thin_blocks(scene[[*looked_at, "valid"]], step),
        cover,
        auxiliary_coverage(scene),
        callbacks=[meter.counting(prob)],
    )
    percent = unpacked(percent).persist()
    labels = with_candidates(labels, candidates)
    members = None if members is None else dense_members(members)
    valid = (percent != NO_DATA).rename("valid")
    picture = thin_scene(picture, scene[[*looked_at, "valid"]], step)
    check_reflectance({name: picture[name].values[picture["valid"].values] for name in _LOOKED_AT}, task.id)
    drift = _drift(task.id, picture, ensemble)
    coverage = {str(layer): float(share) for layer, share in measured.to_series().items()}
    if sources.landcover is not None:
        coverage["landcover"] = 0.0 if cover is None else landcover_coverage(cover, valid)
    meant = LAYERS if task.auxiliary == "neutral" else job.neutral
    coverage = check_coverage(task.id, coverage, tuple(meant), fill_gaps=job.fill_gaps)
    meter.lap("read_and_predict")
    feats, filters = clean_objects(labels, prob, cover, rules, sources)
    if "infrastructure" in filters:
        filters["infrastructure"] = job.infrastructure
    feats, unknown = reject_objects(feats, task.rejected, filters)
    counts = object_counts(feats)
    level1 = dx.level1(feats, prob, threshold=str(rules.threshold))
    removed = removed_objects(feats, prob)
    spread = None if members is None else member_spread(level1, feats, labels, members["spread"])
    alone = None if members is None else member_objects(members, threshold=rules.threshold)
    seen = valid_polygon(valid)
    meter.lap("objects")

    made_by = provenance(rules, ensemble, prob, filters)
    if coverage:
        made_by["auxiliary_coverage"] = json.dumps(coverage, sort_keys=True)
    home = RunFolder(job.folder)
    with home.scene_part(task.id, job.files) as part:
        write_raster(percent.compute(), part / "probability.tif", metadata=made_by)
        write_raster(binary_objects(labels, percent).compute(), part / "binary.tif", metadata=made_by)
        write_vectors(level1, part / "level1", formats=("parquet",), metadata=made_by)
        write_vectors(removed, part / "removed", formats=("parquet",), metadata=made_by)
        if alone is not None and spread is not None:
            write_vectors(alone, part / "members", formats=("parquet",), metadata=made_by)
            write_vectors(spread, part / "spread", formats=("parquet",), metadata=made_by)
        shown = percent.isel(every).compute()
        title = task.id + (" (synthetic)" if "synthetic" in made_by else "")
        heat = (shown / 100.0).where(shown != NO_DATA)
        write_quicklook(picture, heat, level1, part / "quicklook.png", title=title)
        result = result_item(task.id, seen, percent, counts, made_by)
        (part / "item.json").write_text(json.dumps(result) + "\n", encoding="utf-8")
        outputs = file_facts(part, job.files)
    meter.lap("write")
    return {
        "state": "done",
        "date": scene_date(prob),
        "pixels": int(valid.size),
        "valid_pixels": int(valid.sum()),
        "counts": counts,
        "auxiliary_coverage": coverage,
        "neutral": [layer for layer in LAYERS if layer in scene.attrs.get("neutral", "").split(", ")],
        "synthetic": "synthetic" in made_by,
        "filters": filters,
        **({"unknown_rejected": unknown} if unknown else {}),
        "auxiliary": made_by.get("auxiliary", "none"),
        **({} if drift is None else {"drift": drift.to_dict()}),
        **({"demo_networks": True} if ensemble.synthetic_only and "synthetic" not in made_by else {}),
        "seconds": meter.seconds,
        "outputs": outputs,
    }


def _drift(scene_id: str, picture: xr.Dataset, ensemble: Ensemble) -> Drift | None:
    """How far a scene lies from those of the training; None where no network states what it learnt from."""
    if not any(member.statistics for member in ensemble.members):
        return None
    drift = scene_drift(picture, ensemble)
    if drift.unusual:
        log.warning(
            "%s is unlike any scene that the networks were trained on, in %s",
            scene_id,
            ", ".join(drift.unusual),
        )
    return drift
