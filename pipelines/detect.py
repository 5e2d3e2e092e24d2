"""Detection: every scene of a catalogue to probability, objects and Level 1, in one run folder."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import pystac

import darts_xr as dx
from darts_xr.catalog import write_catalog
from darts_xr.errors import DartsError, PipelineError
from darts_xr.inference import Ensemble
from pipelines.scenes import Sources, detect_scene, require_auxiliary, result_item
from pipelines.settings import Rules

log = logging.getLogger(__name__)

#: Called with each scene's record as it ends, and with how many there are.
OnScene = Callable[[dict[str, Any], int], None]


@dataclass(frozen=True)
class Run:
    """A run folder and the record in it.

    Parameters
    ----------
    folder : pathlib.Path
        The run folder.
    record : dict
        The content of ``run.json``.
    """

    folder: Path
    record: dict[str, Any]

    @property
    def scenes(self) -> list[dict[str, Any]]:
        """Records of all scenes."""
        return list(self.record["scenes"])

    @property
    def failed(self) -> list[dict[str, Any]]:
        """Records of the scenes that could not be processed, each with its reason."""
        return [scene for scene in self.scenes if scene["state"] == "failed"]

    def save(self) -> None:
        """Write ``run.json``, whole or not at all."""
        part = self.folder / ".run.json.part"
        part.write_text(json.dumps(self.record, indent=1) + "\n")
        part.replace(self.folder / "run.json")


def open_run(folder: str | os.PathLike[str]) -> Run:
    """Read the record of a run folder.

    Raises
    ------
    PipelineError
        When the folder holds no ``run.json`` that can be read.
    """
    path = Path(folder) / "run.json"
    try:
        return Run(Path(folder), json.loads(path.read_text()))
    except FileNotFoundError as error:
        raise PipelineError(
            f"{folder} is no run folder: it has no run.json. Run darts-xr detect first."
        ) from error
    except json.JSONDecodeError as error:
        raise PipelineError(f"{path} is damaged: {error}. Run darts-xr detect again.") from error


def detect(
    source: Any,
    *,
    models: Sequence[str | os.PathLike[str]] | Ensemble = ("demo",),
    auxiliary: Any = None,
    out: str | os.PathLike[str],
    rules: Rules | None = None,
    landcover: Any = "auxiliary",
    infrastructure: str | os.PathLike[str] | gpd.GeoDataFrame | None = None,
    ids: Sequence[str] | None = None,
    members: bool = False,
    client: Any = None,
    on_scene: OnScene | None = None,
) -> Run:
    """Detect active thaw slumps in every scene of a catalogue.

    Parameters
    ----------
    source : source
        Scenes: anything that :func:`darts_xr.search` takes.
    models : sequence of path, or Ensemble
        Checkpoints; ``("demo",)`` for the shipped networks, which were trained on synthetic scenes.
    auxiliary : source or "neutral"
        Elevation and trends; see :func:`darts_xr.open_scene`.
    out : path
        The run folder; made when missing. Scenes that are there already are replaced.
    rules : Rules, optional
        Threshold, border, least size.
    landcover : source, "auxiliary" or None
        Land cover for the water filter. "auxiliary": of the auxiliary source where it has any. None: no water filter.
    infrastructure : path or geopandas.GeoDataFrame, optional
        Polygons for the infrastructure filter.
    ids : sequence of str, optional
        Only these scenes.
    members : bool, optional
        Also write what each network found alone, before cleaning, to each scene's ``members.parquet``.
    client : distributed.Client, optional
        Where to compute; by default Dask's scheduler of the moment.
    on_scene : callable, optional
        Called after each scene with its record and the number of scenes.

    Returns
    -------
    Run
        Folder and record. Scenes that failed are in ``run.failed``, each with its reason; the others are finished.

    Raises
    ------
    MissingBandsError
        When the networks need auxiliary bands and ``auxiliary`` is None.
    CatalogError, CheckpointError
        When scenes or checkpoints cannot be used at all.

    Examples
    --------
    >>> run = detect("world/catalog.json", auxiliary="world/auxiliary/catalog.json", out="run")  # doctest: +SKIP
    """
    started = time.perf_counter()
    rules = rules or Rules()
    ensemble = models if isinstance(models, Ensemble) else dx.load_ensemble(*models)
    require_auxiliary(ensemble, auxiliary)
    items = list(dx.search(source, ids=ids))
    sources = load_sources(auxiliary, landcover, infrastructure)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    records: list[dict[str, Any]] = []
    with client.as_current() if client is not None else nullcontext():
        for item in items:
            record = _guarded(item, ensemble, rules, sources, folder, members)
            records.append(record)
            if on_scene is not None:
                on_scene(record, len(items))
    done = [record for record in records if record["state"] == "done"]
    synthetic = any("synthetic" in record["made_by"] for record in done)
    write_catalog(
        [result_item(record, folder) for record in done],
        folder / "catalog.json",
        title="darts_xr run",
        description="Probability, objects and Level 1 of each scene"
        + (" (synthetic scenes)" if synthetic else ""),
        layout="scenes/{id}/item.json",
    )
    run = Run(
        folder,
        {
            "darts_xr": dx.__version__,
            "rules": asdict(rules),
            "ensemble": ensemble.name,
            "checkpoints": [
                {"name": m.name, "file": Path(m.path).name, "sha256": m.sha256} for m in ensemble.members
            ],
            "batch_norm": ensemble.batch_norm,
            "auxiliary": "neutral" if sources.auxiliary == "neutral" else "auxiliary items",
            "water_filter": bool(sources.landcover),
            "infrastructure_filter": sources.infrastructure is not None,
            "synthetic": synthetic,
            "counts": _totals(records),
            "seconds": round(time.perf_counter() - started, 2),
            "scenes": [
                {k: v for k, v in record.items() if k not in ("footprint", "grid")} for record in records
            ],
        },
    )
    run.save()
    return run


def load_sources(auxiliary: Any, landcover: Any, infrastructure: Any) -> Sources:
    """Load auxiliary items, land-cover items and infrastructure once, as :func:`detect` takes them."""
    neutral = isinstance(auxiliary, str) and auxiliary == "neutral"
    layers = auxiliary if neutral or auxiliary is None else list(dx.load_items(auxiliary))
    if isinstance(landcover, str) and landcover == "auxiliary":
        cover = [] if neutral or layers is None else [item for item in layers if "landcover" in item.assets]
        if not cover:
            log.warning("no land cover at hand: objects in water are not removed")
    else:
        cover = [] if landcover is None else list(dx.load_items(landcover))
    if infrastructure is not None and not isinstance(infrastructure, gpd.GeoDataFrame):
        if not Path(infrastructure).exists():
            raise PipelineError(
                f"Infrastructure file not found: {infrastructure}. Check the path, or leave the filter out."
            )
        infrastructure = gpd.read_file(infrastructure)
    return Sources(layers, cover, infrastructure)


def _guarded(
    item: pystac.Item, ensemble: Ensemble, rules: Rules, sources: Sources, folder: Path, members: bool
) -> dict[str, Any]:
    """Run one scene; what goes wrong with it is its own affair and stands in its record."""
    try:
        record = detect_scene(item, ensemble, rules, sources, folder, members=members)
    except (DartsError, OSError, ValueError, RuntimeError, MemoryError) as error:
        if not isinstance(error, DartsError):
            log.exception("%s failed for a reason that darts_xr does not know", item.id)
        return {"id": item.id, "state": "failed", "reason": f"{type(error).__name__}: {error}"}
    log.info("%s: %d objects", item.id, record["counts"]["n_objects"])
    return record


def _totals(records: list[dict[str, Any]]) -> dict[str, int]:
    done = [record for record in records if record["state"] == "done"]
    totals = {"scenes": len(records), "done": len(done), "failed": len(records) - len(done)}
    totals["pixels"] = sum(record["pixels"] for record in done)
    totals["valid_pixels"] = sum(record["valid_pixels"] for record in done)
    for record in done:
        for name, count in record["counts"].items():
            totals[name] = totals.get(name, 0) + count
    return totals
