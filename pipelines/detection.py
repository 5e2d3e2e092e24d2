"""Detection: every scene of a catalogue to probability, objects and Level 1, in one run folder."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from enum import Enum
from itertools import chain
from pathlib import Path
from typing import Any

import pystac

import darts_xr as dx
from darts_xr.addresses import redact
from darts_xr.catalog import iter_items
from darts_xr.catalog.checksums import add_checksums
from darts_xr.cube.layers import LAYERS
from darts_xr.errors import DartsError, OutputError, PipelineError
from pipelines.flow import ClusterPool, Limits, LocalPool, Pool, Work, run_flow
from pipelines.folder import RunFolder
from pipelines.planning import Plan, Planner, make_plan
from pipelines.progress import OnStage, watching
from pipelines.records import NOT_IN_SOURCE, Record, RecordLog, Run, summary
from pipelines.run_log import RunLog
from pipelines.scenes import Job, SceneTask
from pipelines.settings import Settings
from pipelines.sources import Sources, load_sources, require_auxiliary

log = logging.getLogger(__name__)

#: Called with the record of each scene as it ends, and with how many there are.
OnScene = Callable[[Record, int], None]


def detect(
    source: Any,
    settings: Settings,
    *,
    only: Sequence[str] | None = None,
    limits: Limits | None = None,
    prune: bool = False,
    client: Any = None,
    on_scene: OnScene | None = None,
    on_stage: OnStage | None = None,
) -> Run:
    """Detect active thaw slumps in every scene of a catalogue.

    Parameters
    ----------
    source : source
        Scenes: anything that :func:`darts_xr.search` takes.
    settings : Settings
        Networks, layers, rules, and the run folder.
    only : sequence of str, optional
        Only the scenes of these ids.
    limits : Limits, optional
        When a scene is tried again, and the number of failed scenes at which to give up.
    prune : bool, optional
        Remove scenes from the folder that are not in the source any more; by default they stay there, in no product.
    client : distributed.Client, optional
        Cluster that does the scenes; by default that of the client at hand, else this process.
    on_scene : callable, optional
        Called after each scene with its record and the number of scenes to be done.
    on_stage : callable, optional
        Called, from any thread, with a ``pipelines.progress.Event`` of a scene in hand and the number of scenes.

    Returns
    -------
    Run
        Folder and summary. Scenes that failed are in ``run.failed``, each with its reason; the others are finished.
        ``run.left_out`` names what the folder holds beyond that: scenes of other settings that were not done again yet,
        and scenes that are not in the source.
        ``run.record["state"]`` is "complete", or "interrupted" after Ctrl-C.

    Raises
    ------
    MissingBandsError
        When the networks need auxiliary bands and ``settings`` name no source of them.
    CatalogError, CheckpointError
        When scenes or checkpoints cannot be used at all.
    RunLockedError
        When another run is at work in the folder.
    OutputError
        When the folder cannot be written; nothing is half-written, and the same call goes on later.
    PipelineError
        When more scenes failed than ``limits`` allows, or the folder holds scenes of other networks or rules.

    Examples
    --------
    >>> settings = Settings(out="run", auxiliary="world/auxiliary/catalog.json")
    >>> run = detect("world/catalog.json", settings)  # doctest: +SKIP
    """
    started = time.perf_counter()
    if prune and only is not None:
        raise PipelineError(
            "to prune, a run must see its whole source: leave out the choice of scenes (--only)"
        )
    job, sources = _prepare(settings)
    limits = limits or Limits()
    refused: dict[str, str] = {}
    items = _scenes(source, only, settings, refused)
    folder = RunFolder(job.folder)
    start = f"darts_xr {dx.__version__}, {job.ensemble.name}, {redact(folder)}"
    with folder.locked(), RunLog(folder, start) as said:
        folder.sweep()
        records = RecordLog(folder).read()
        planner = Planner(items, job, sources, records, limits, refused)
        others = Others.LEAVE if only is not None else Others.PRUNE if prune else Others.LEAVE_OUT
        planner.check_others(pruned=prune)
        client = _client_at_hand() if client is None else client
        with watching(client, on_stage, planner.total) as watch:
            return run_scenes(
                planner, folder, records, _described(job, sources), pool=_pool(client, replace(job, watch=watch)),
                limits=limits, others=others, on_scene=on_scene, started=started, said=said,
            )  # fmt: skip


class Others(Enum):
    """What becomes of scenes of the folder that a run does not have."""

    LEAVE = "of the same source, and as good as its own"
    LEAVE_OUT = "not in the source: kept, and in no product"
    PRUNE = "not in the source: removed"


def _settle(
    planner: Planner,
    journal: RecordLog,
    records: dict[str, Record],
    described: dict[str, Any],
    others: Others,
) -> None:
    """Note how this run detects and which scenes of before are not its own, before anything is done.

    However this run ends then, no scene of other settings is taken for one of these.
    """
    if journal.settings() != described:
        journal.append({"run": described})
    if others is Others.PRUNE:
        gone = planner.others()
        for scene_id in gone:
            # The line first: a scene without files would be done again, one without a line would lie there for ever.
            journal.append({"id": scene_id, "state": "pruned"})
            journal.folder.remove_scene(scene_id)
            del records[scene_id]
        if gone:
            log.warning(
                "%d scene(s) that are not in the source were removed from %s", len(gone), journal.folder
            )
    for record in list(planner.standings(whole=others is not Others.LEAVE)):
        journal.append(record)
        records[record["id"]] = record
    absent = sorted(r["id"] for r in records.values() if r.get("left_out") == NOT_IN_SOURCE)
    if absent:
        log.warning(
            "%d scene(s) of this run are not in the source and will be in no product: %s%s. Give a source that has "
            "them, or remove them from the folder (--prune)",
            len(absent), ", ".join(absent[:3]), ", …" if len(absent) > 3 else "",
        )  # fmt: skip


def _prepare(settings: Settings) -> tuple[Job, Sources]:
    """Load what all scenes share."""
    ensemble = settings.ensemble()
    require_auxiliary(ensemble, settings)
    sources = load_sources(settings)
    works = ""
    if sources.infrastructure is not None:
        given = settings.infrastructure
        works = Path(given).name if isinstance(given, str | os.PathLike) else "polygons in memory"
    job = Job(
        ensemble, settings.rules, str(settings.out), settings.members, works, settings.raster_limits, settings.neutral,
        settings.fill_gaps,
    )  # fmt: skip
    return job, sources


def _described(job: Job, sources: Sources) -> dict[str, Any]:
    """Say in ``run.json`` how scenes are detected."""
    return {
        "darts_xr": dx.__version__,
        "rules": asdict(job.rules),
        "members": job.members,
        "ensemble": job.ensemble.name,
        "checkpoints": [
            {"name": m.name, "file": Path(m.path).name, "sha256": m.sha256} for m in job.ensemble.members
        ],
        "batch_norm": job.ensemble.batch_norm,
        "tile": job.ensemble.tile,
        "margin": job.ensemble.margin,
        "auxiliary": "neutral" if sources.auxiliary == "neutral" else "auxiliary items",
        "neutral": list(LAYERS if sources.auxiliary == "neutral" else job.neutral),
        "fill_gaps": job.fill_gaps,
        "layers_left_out": sources.left_out,
        "water_filter": sources.landcover is not None,
        "infrastructure_filter": job.infrastructure or None,
        "layers": sources.remembered,
        "verdicts": None if sources.verdicts is None else sources.verdicts.described(),
    }


def run_scenes(
    planner: Planner,
    folder: RunFolder,
    records: dict[str, Record],
    settings: dict[str, Any],
    *,
    pool: Pool,
    limits: Limits,
    others: Others = Others.LEAVE_OUT,
    on_scene: OnScene | None = None,
    started: float | None = None,
    said: RunLog | None = None,
) -> Run:
    """Do what is to be done of a plan, and keep the run folder's records; its lock must be held.

    Parameters
    ----------
    planner : Planner
        The scenes.
    folder : RunFolder
        The run folder.
    records : dict
        What became of each scene before; brought up to date.
    settings : dict
        What the summary says of the run.
    pool, limits, on_scene : Pool, Limits, callable
        Where and how scenes are done.
    others : Others
        What becomes of scenes of the folder that the planner does not have.
    started : float, optional
        ``time.perf_counter()`` at the start of the run.
    said : RunLog, optional
        Gets a line for each scene, and what was said on workers.

    Returns
    -------
    Run
        See :func:`detect`.
    """
    started = time.perf_counter() if started is None else started
    with RecordLog(folder) as journal:
        _settle(planner, journal, records, settings, others)
        journal.flush()
        run = Run(folder, {"state": "running", **settings, "pending": _pending(planner, records)})
        run.save()

        def note(record: Record) -> None:
            folder.check_lock()
            journal.append(record)
            records[record["id"]] = record
            if said is not None:
                said.say(_in_a_line(record), record["id"])
            if on_scene is not None:
                on_scene(record, planner.total)

        for name, reason in planner.refused.items():
            note(
                {
                    "id": name,
                    "state": "failed",
                    "reason": reason,
                    "inputs": {},
                    "tries": 0,
                    "earlier_reasons": [],
                }
            )

        def todo() -> Iterator[SceneTask]:
            for step in planner:
                if not step.todo:
                    log.info("%s: %s", step.task.id, step.reason)
                    if on_scene is not None:
                        on_scene({**records[step.task.id], "skipped": step.reason}, planner.total)
                    continue
                if step.reason != "new":
                    log.warning("%s is done %s", step.task.id, step.reason)
                yield step.task

        state = "stopped"
        try:
            ending = run_flow(todo(), pool, limits, note, said.take if said else lambda lines: None)
            state = ending.state
        finally:
            try:
                journal.close()
                run.record["pending"] = _pending(planner, records)
                _finish(run, state, records, time.perf_counter() - started)
                if said is not None:
                    counts = run.record["counts"]
                    said.say(
                        f"{state}: {counts['done']} scene(s) done, {counts['failed']} failed, "
                        f"{len(run.left_out)} left out, after {run.record['seconds']:.1f} s"
                    )
            except OutputError:
                if state != "stopped":  # else the error under way says it already
                    raise
    if state == "too many failures":
        raise PipelineError(
            f"{folder}: stopped after {ending.failures} failed scenes, more than the {limits.max_failures} allowed. "
            "darts-xr report tells the reasons; the same command goes on, with --retry-failed also with these scenes."
        )
    return run


def _in_a_line(record: Record) -> str:
    """Say what became of a scene, for the log."""
    if record["state"] != "done":
        return f"{record['state']}: {record.get('reason', '')}"
    seconds = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in record.get("seconds", {}).items())
    return f"done, {record['counts']['n_objects']} object(s); {seconds}"


def _pending(planner: Planner, records: dict[str, Record]) -> list[str]:
    """Scenes of the source without a result of these settings."""
    return [
        scene_id for scene_id in planner.ids if scene_id not in records or "left_out" in records[scene_id]
    ]


def _finish(run: Run, state: str, records: dict[str, Record], seconds: float) -> None:
    """Write summary and catalogue of what is there."""
    run.home.sweep()
    run.record.update(state=state, seconds=round(seconds, 2), **summary(records))
    run.home.write_text("catalog.json", catalog_text(run))
    run.save()


def catalog_text(run: Run) -> str:
    """STAC catalogue of a run's finished scenes, as it is written."""
    links = [
        {
            "rel": "item",
            "href": f"./{run.home.scene_place(scene['id'])}/item.json",
            "type": "application/geo+json",
        }
        for scene in run.done
    ]
    document = {
        "type": "Catalog",
        "id": "darts_xr-run",
        "stac_version": pystac.get_stac_version(),
        "title": "darts_xr run",
        "description": "Probability, objects and Level 1 of each scene"
        + (" (synthetic scenes)" if run.record["synthetic"] else ""),
        "links": [{"rel": "root", "href": "./catalog.json", "type": "application/json"}, *links],
    }
    return json.dumps(document, indent=1) + "\n"


def plan(
    source: Any,
    settings: Settings,
    *,
    only: Sequence[str] | None = None,
    limits: Limits | None = None,
    prune: bool = False,
    workers: int = 1,
) -> Plan:
    """Say what :func:`detect` would do with the same arguments, without doing it.

    Returns
    -------
    Plan
        Scenes with reasons, pixels, bytes to read, expected seconds by the last ``darts-xr bench`` with these
        checkpoints on this machine.
    """
    from pipelines.throughput import last_rate

    job, sources = _prepare(settings)
    records = RecordLog(RunFolder(job.folder)).read()
    refused: dict[str, str] = {}
    items = _scenes(source, only, settings, refused)
    planner = Planner(items, job, sources, records, limits or Limits(), refused)
    planner.check_others(pruned=prune)
    return make_plan(planner, rate=last_rate(job.ensemble), workers=workers)


def _scenes(
    source: Any, only: Sequence[str] | None, settings: Settings, refused: dict[str, str]
) -> Iterator[pystac.Item]:
    """Items one by one, since a run may have more of them than memory holds; raises at once where there is none.

    Items that are no valid STAC go to ``refused``, with the reason.
    """

    def refuse(name: str, error: DartsError) -> None:
        refused[name] = f"{type(error).__name__}: {redact(error)}"

    items = iter_items(source, ids=only, on_error=refuse)
    if (first := next(items, None)) is None:
        if not refused:
            dx.search(source, ids=only)  # raises, and says why
        return items
    items = chain([first], items)
    return add_checksums(items) if settings.checksums else items


def _pool(client: Any, work: Work) -> Pool:
    return LocalPool(work) if client is None else ClusterPool(client, work)


def _client_at_hand() -> Any:
    from distributed import default_client

    try:
        return default_client()
    except ValueError:
        return None
