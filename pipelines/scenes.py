"""One scene from its item to the files of its folder, on whatever process has it."""

from __future__ import annotations

import json
import logging
import math
import os
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import dask
import geopandas as gpd
import pystac
import shapely
import xarray as xr

import darts_xr as dx
from darts_xr.addresses import redact
from darts_xr.cube import landcover_for
from darts_xr.errors import DartsError, DeviceError, MissingBandsError, OutputError, RemoteReadError
from darts_xr.inference import Ensemble
from darts_xr.objects import member_objects
from darts_xr.products import (
    binary_objects,
    probability_percent,
    valid_polygon,
    write_quicklook,
    write_raster,
    write_vectors,
)
from darts_xr.stac import PROJECTION_EXTENSION, RASTER_EXTENSION, grid_fields
from pipelines.folder import RunFolder
from pipelines.records import Record
from pipelines.settings import Rules, provenance

log = logging.getLogger(__name__)

#: What a scene's seconds are told for.
STAGES = ("open", "read_and_predict", "objects", "write")
_QUICKLOOK_SIDE = 900  # px
_FAREWELL = 2.0  # seconds in which a record leaves its worker
_PICTURE = ("red", "green", "blue")


@dataclass(frozen=True)
class Sources:
    """Where the layers beside the images come from.

    Parameters
    ----------
    auxiliary : list of pystac.Item, "neutral" or None
        Elevation and trends.
    landcover : list of pystac.Item
        Land cover for the water filter; empty: no water filter.
    infrastructure : geopandas.GeoDataFrame, optional
        Polygons for the infrastructure filter; None: no such filter.
    """

    auxiliary: Any
    landcover: list[pystac.Item]
    infrastructure: gpd.GeoDataFrame | None


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
        Also write what each network found alone.
    """

    ensemble: Ensemble
    rules: Rules
    folder: str
    members: bool = False

    @property
    def files(self) -> frozenset[str]:
        """What a scene's folder holds."""
        always = ("probability.tif", "binary.tif", "level1.parquet", "quicklook.png", "item.json")
        return frozenset([*always, "members.parquet"] if self.members else always)

    def __call__(self, task: SceneTask) -> Record:
        """Do a scene; what goes wrong with it is its own affair and stands in its record."""
        _ending.wait_for_end()
        started = datetime.now(UTC).isoformat(timespec="seconds")
        with _noting_warnings() as warnings, _own_threads() as worker:
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
                if isinstance(error, RemoteReadError | TimeoutError | ConnectionError | DeviceError):
                    found["transient"] = True
                if isinstance(error, DeviceError):
                    _ending.begin()
        return {
            "id": task.id, **found, "started": started, "worker": worker, "warnings": warnings, "inputs": task.inputs
        }  # fmt: skip


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
    landcover : list of str
        The same for land cover.
    infrastructure : geopandas.GeoDataFrame, optional
        Polygons near the scene.
    inputs : dict of str
        Hashes of what goes into the scene, by kind.
    """

    id: str
    item: str
    auxiliary: Any
    landcover: list[str]
    infrastructure: gpd.GeoDataFrame | None
    inputs: dict[str, str] = field(default_factory=dict)

    def sources(self) -> Sources:
        """Layers beside the image."""
        layers = self.auxiliary
        return Sources(
            [_item(text) for text in layers] if isinstance(layers, list) else layers,
            [_item(text) for text in self.landcover],
            self.infrastructure,
        )


def _item(text: str) -> pystac.Item:
    return pystac.Item.from_dict(json.loads(text), preserve_dict=False)


# --- where a scene's chunks are computed -------------------------------------------------------------------

_shared: dict[str, Any] = {"users": 0}
_sharing = threading.Lock()


@contextmanager
def _own_threads() -> Iterator[str]:
    """On a worker of a cluster, compute chunks on its own threads, shared by its scenes; yields the worker's name.

    Elsewhere Dask's scheduler of the moment computes them.
    """
    worker = _this_worker()
    if worker is None:
        yield "this process"
        return
    # Dask's settings belong to the process, so the first scene makes them and the last undoes them.
    with _sharing:
        if _shared["users"] == 0:
            cores = worker.state.nthreads * int(os.environ.get("OMP_NUM_THREADS", "1"))
            _shared["pool"] = ThreadPoolExecutor(cores, thread_name_prefix="chunk")
            _shared["settings"] = dask.config.set(scheduler="threads", pool=_shared["pool"])
        _shared["users"] += 1
    try:
        yield str(worker.address)
    finally:
        with _sharing:
            _shared["users"] -= 1
            if _shared["users"] == 0:
                _shared.pop("settings").__exit__(None, None, None)
                _shared.pop("pool").shutdown(wait=False)


def _this_worker() -> Any:
    from distributed import get_worker

    try:
        return get_worker()
    except ValueError:
        return None


class _Ending:
    """The end of a worker whose GPU has failed: its nanny starts the process anew, and with it the GPU's state.

    Without it such a worker is the quickest of all, and fails every scene that it can get.
    """

    def __init__(self) -> None:
        self._begun = threading.Event()

    def begin(self) -> None:
        """End this worker's process once the scene's record has left it; nothing where no nanny starts it again."""
        worker = _this_worker()
        if worker is None or not worker.nanny or self._begun.is_set():
            return
        self._begun.set()
        log.error("the GPU of worker %s failed: its process is started anew", worker.address)
        timer = threading.Timer(_FAREWELL, os._exit, (1,))
        timer.daemon = True
        timer.start()

    def wait_for_end(self) -> None:
        """Start no scene in a process that is about to end: it goes to another worker then, without a try lost."""
        if self._begun.is_set():
            threading.Event().wait()


_ending = _Ending()


class _Notes(logging.Handler):
    """Keeps the warnings that this thread gives."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.thread, self.lines = threading.get_ident(), list[str]()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self.thread:
            self.lines.append(record.getMessage())


@contextmanager
def _noting_warnings() -> Iterator[list[str]]:
    """Collect what the library and the pipelines warn of while a scene is done."""
    notes = _Notes()
    loggers = [logging.getLogger(name) for name in ("darts_xr", "pipelines")]
    for logger in loggers:
        logger.addHandler(notes)
    try:
        yield notes.lines
    finally:
        for logger in loggers:
            logger.removeHandler(notes)


# --- the scene ---------------------------------------------------------------------------------------------


def clean_objects(
    labels: xr.DataArray, prob: xr.DataArray, scene: xr.Dataset, rules: Rules, sources: Sources
) -> tuple[gpd.GeoDataFrame, dict[str, int]]:
    """Vectorize labels and filter the polygons; also counts what each rule removed."""
    feats = dx.vectorize(labels, prob)
    n_detected = int(feats.attrs["n_detected"])
    if sources.landcover:
        year = int(str(scene.attrs["datetime"])[:4])
        cover = landcover_for(sources.landcover, scene["valid"].odc.geobox, year)
        feats = dx.filter_water(feats, cover, max_fraction=rules.max_water)
    if sources.infrastructure is not None:
        feats = dx.filter_infrastructure(feats, sources.infrastructure)
    removed = feats.attrs["removed"]
    rules_applied = ("border", "small", "water", "infrastructure")
    counts = {f"n_removed_{rule}": int(removed.get(rule, 0)) for rule in rules_applied}
    return feats, {"n_detected": n_detected, **counts, "n_objects": len(feats)}


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
    clock = _Clock()
    ensemble, rules, sources = job.ensemble, job.rules, task.sources()
    bands = [*ensemble.definitions, *_PICTURE]  # of which the networks may need none
    scene = dx.open_scene(
        _item(task.item), auxiliary=sources.auxiliary, bands=bands, mask_rule=rules.mask_rule
    )
    clock.lap(STAGES[0])
    step = math.ceil(max(scene["valid"].shape) / _QUICKLOOK_SIDE)
    every = {"y": slice(None, None, step), "x": slice(None, None, step)}
    # One pass over the pixels: probability, mask and picture come out of the same reads.
    prediction, valid, picture = dask.persist(
        dx.predict(scene, ensemble, members=job.members),
        scene["valid"],
        scene[[*_PICTURE, "valid"]].isel(every),
    )
    clock.lap(STAGES[1])
    prob = prediction["probability"] if job.members else prediction
    labels = dx.label_objects(
        prob, threshold=rules.threshold, border=rules.border, min_pixels=rules.min_pixels
    )
    percent, binary, picture = dask.compute(probability_percent(prob), binary_objects(labels, prob), picture)
    feats, counts = clean_objects(labels, prob, scene, rules, sources)
    level1 = dx.level1(feats, prob, threshold=str(rules.threshold))
    alone = member_objects(prediction, threshold=rules.threshold) if job.members else None
    seen = valid_polygon(valid)
    clock.lap(STAGES[2])

    made_by = provenance(rules, ensemble, prob.attrs)
    home = RunFolder(job.folder)
    with home.scene_part(task.id, job.files) as part:
        write_raster(percent, part / "probability.tif", metadata=made_by)
        write_raster(binary, part / "binary.tif", metadata=made_by)
        write_vectors(level1, part / "level1", formats=("parquet",), metadata=made_by)
        if alone is not None:
            write_vectors(alone, part / "members", formats=("parquet",), metadata=made_by)
        shown = percent.isel(every)
        title = task.id + (" (synthetic)" if "synthetic" in prob.attrs else "")
        heat = (shown / 100.0).where(shown != 255)
        write_quicklook(picture, heat, level1, part / "quicklook.png", title=title)
        item = result_item(task.id, seen, percent, counts, made_by)
        (part / "item.json").write_text(json.dumps(item) + "\n", encoding="utf-8")
    clock.lap(STAGES[3])
    return {
        "state": "done",
        "date": made_by["datetime"][:10],
        "pixels": int(valid.size),
        "valid_pixels": int(valid.sum()),
        "counts": counts,
        "synthetic": "synthetic" in made_by,
        "seconds": clock.seconds,
    }


class _Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage], self._last = round(now - self._last, 3), now


def result_item(
    scene_id: str, seen: Any, raster: xr.DataArray, counts: dict[str, int], made_by: dict[str, str]
) -> dict[str, Any]:
    """STAC item of a scene's results, its files named beside it."""
    band = {"data_type": "uint8", "nodata": 255}
    assets: dict[str, Any] = {
        key: {
            "href": f"./{key}.tif",
            "type": pystac.MediaType.COG,
            "roles": ["data"],
            "bands": [{"name": key, "unit": unit, **band}],
            "raster:bands": [{"unit": unit, **band}],
        }
        for key, unit in (("probability", "percent"), ("binary", "1"))
    }
    assets["level1"] = {
        "href": "./level1.parquet",
        "type": "application/vnd.apache.parquet",
        "roles": ["data"],
    }
    assets["quicklook"] = {"href": "./quicklook.png", "type": pystac.MediaType.PNG, "roles": ["overview"]}
    made = {f"darts:{key}": value for key, value in made_by.items() if key not in ("item_id", "datetime")}
    seen = shapely.transform(seen, lambda degrees: degrees.round(7))  # 1 cm
    grid = raster.odc.geobox
    outline = {} if seen.is_empty else {"bbox": list(seen.bounds)}
    return {
        "type": "Feature",
        "stac_version": pystac.get_stac_version(),
        "stac_extensions": [
            PROJECTION_EXTENSION,
            RASTER_EXTENSION,
        ],
        "id": scene_id,
        "geometry": None if seen.is_empty else shapely.geometry.mapping(seen),
        **outline,
        "properties": {
            "datetime": made_by["datetime"],
            # A UTM zone; str() of the CRS would give WKT.
            **grid_fields(f"EPSG:{grid.crs.epsg}", raster.shape, grid.transform),
            **made,
            **{f"darts:{key}": value for key, value in counts.items()},
        },
        "assets": assets,
        "links": [
            {"rel": rel, "href": "../../catalog.json", "type": "application/json"}
            for rel in ("root", "parent")
        ],
    }


def require_auxiliary(ensemble: Ensemble, auxiliary: Any) -> None:
    """Refuse a run whose networks need auxiliary bands that nobody gave."""
    needed = [name for name in ensemble.bands if dx.cube.BANDS[name].source != "planet"]
    if needed and auxiliary is None:
        raise MissingBandsError(
            f"The ensemble {ensemble.name} needs {', '.join(needed)}, and no auxiliary layers were given. Give a STAC "
            "source of elevation and Landsat trends (--auxiliary SOURCE), or --auxiliary neutral to fill level terrain "
            "and no trend, which is written into the output's metadata."
        )
