"""What a run will do: every scene with the layers near it, and whether it is new, unchanged or to be done again."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import geopandas as gpd
import numpy as np
import pystac

from darts_xr.addresses import redact
from darts_xr.catalog import scene_files
from darts_xr.catalog.items import UNREADABLE
from darts_xr.errors import DartsError, PipelineError, SceneError
from darts_xr.markup import html_table
from darts_xr.rasters import RasterLimits
from pipelines.digests import digest
from pipelines.flow import Limits
from pipelines.folder import RunFolder
from pipelines.item_index import NEAR, ItemIndex, boxes_around, local_files, packed_item
from pipelines.records import NOT_IN_SOURCE, Record
from pipelines.scenes import Job, SceneTask
from pipelines.sources import Sources

log = logging.getLogger(__name__)

_OPENERS = 8  # scenes whose headers a dry run reads at the same time
_LIMITS = "raster_limits"
_BYTES_A_PIXEL = 16  # image 4 × uint16 and mask 8 × uint8, where a file's size is not known


def _weight(item: pystac.Item) -> tuple[int, int]:
    """Pixels of a scene's frame, and bytes of its files; 0 and an estimate where the item does not say."""
    shape = item.properties.get("proj:shape") or next(
        (a.extra_fields["proj:shape"] for a in item.assets.values() if "proj:shape" in a.extra_fields), (0, 0)
    )
    pixels = int(shape[0]) * int(shape[1])
    files = [
        path for key, path in local_files(item).items() if "metadata" not in (item.assets[key].roles or ())
    ]
    size = sum(path.stat().st_size for path in files if path.exists())
    return pixels, size or pixels * _BYTES_A_PIXEL


@dataclass(frozen=True)
class Step:
    """A scene and what is to be done with it.

    Parameters
    ----------
    task : SceneTask
        The scene.
    todo : bool
        Whether it is to be done.
    reason : str
        Why, or why not.
    pixels : int
        Pixels of the frame; 0 where the item does not say.
    bytes : int
        Bytes of image and mask: files' sizes, else of the raw pixels.
    """

    task: SceneTask
    todo: bool
    reason: str
    pixels: int
    bytes: int


class Planner:
    """Decides for each scene, from what the run folder holds, what is to be done.

    Parameters
    ----------
    items : iterable of pystac.Item
        Scenes.
    job : Job
        What to detect with, and the run folder.
    sources : Sources
        All layers beside the images.
    records : mapping of str to dict
        What became of each scene before.
    limits : Limits
        Whether failed scenes are done again although nothing changed, and whether finished files are read.
    refused : dict of str, optional
        Items that are no valid STAC, each with the reason; those that cannot be planned are added.
    """

    def __init__(
        self,
        items: Iterable[pystac.Item],
        job: Job,
        sources: Sources,
        records: Mapping[str, Record],
        limits: Limits,
        refused: dict[str, str] | None = None,
    ) -> None:
        self.refused = {} if refused is None else refused
        # A pystac item takes ten times the memory of its JSON, and a run may have tens of thousands.
        self._items = sorted(filter(None, map(self._planned, items)))
        if twice := [scene_id for scene_id, count in Counter(self.ids).items() if count > 1]:
            raise PipelineError(
                f"{len(twice)} scene(s) are in the source more than once ({', '.join(twice[:3])}"
                f"{', …' if len(twice) > 3 else ''}); their results would be written to one place. Give each item its "
                "own id, or leave all but one of them out."
            )
        self._folder, self._records = RunFolder(job.folder), records
        self._retry, self._verify = limits.retry_failed, limits.verify
        self.job = job
        self._neutral = not isinstance(sources.auxiliary, list)
        self._auxiliary = sources.auxiliary if self._neutral else ItemIndex(sources.auxiliary)
        self._landcover, self._infrastructure = ItemIndex(sources.landcover or ()), sources.infrastructure
        self._water = sources.landcover is not None
        self._rejected = {} if sources.verdicts is None else sources.verdicts.rejected
        self.settings = {
            "parameters": digest(
                asdict(job.rules), job.members, job.ensemble.batch_norm, job.ensemble.precision,
                job.ensemble.tile, job.ensemble.margin, job.neutral, job.fill_gaps, self._water,
                self._infrastructure is not None,
            ),
            "checkpoints": digest([member.sha256 for member in job.ensemble.members]),
            _LIMITS: json.dumps(asdict(job.raster_limits)),
        }  # fmt: skip

    def _planned(self, item: pystac.Item) -> tuple[str, str, str, int, int] | None:
        """Return what is kept of an item; None, with the reason among the refused, where it cannot be used."""
        try:
            if item.bbox is None:
                raise SceneError("it states no bbox, so nobody knows which layers lie near it")
            if item.datetime is None:
                raise SceneError("it states no acquisition time (datetime)")
            return item.id, *packed_item(item), *_weight(item)
        except (DartsError, *UNREADABLE) as error:
            said = str(error) if isinstance(error, DartsError) else repr(error)
            self.refused[item.id] = f"{type(error).__name__}: {redact(said)[:500]}; correct the item"
            return None

    def __len__(self) -> int:
        return len(self._items)

    @property
    def total(self) -> int:
        """Scenes of the source, with those that are refused."""
        return len(self._items) + len(self.refused)

    @property
    def ids(self) -> list[str]:
        """Ids of all scenes."""
        return [scene_id for scene_id, *_ in self._items]

    def check_others(self, *, pruned: bool = False) -> None:
        """Refuse a folder with scenes of other networks or rules that this run would leave as they are.

        Parameters
        ----------
        pruned : bool
            Whether the run removes scenes that are not its own.

        Raises
        ------
        PipelineError
            With their number and the ways out.
        """
        own = {*self.ids, *self.refused}
        foreign = [
            record["id"]
            for record in self._records.values()
            if record["id"] not in own and record["state"] == "done" and _changed(record, self.settings)
        ]
        if foreign and not pruned:
            raise PipelineError(
                f"{self._folder} holds {len(foreign)} scene(s) made with other parameters or checkpoints that are not "
                f"among the scenes of this run ({', '.join(foreign[:3])}{', …' if len(foreign) > 3 else ''}); its "
                "products would mix the two. Give this run another folder, run all scenes again, or remove these from "
                "the folder (--prune)."
            )

    def others(self) -> list[str]:
        """Ids of scenes of the folder that are not among those of this run."""
        return sorted(set(self._records) - set(self.ids) - set(self.refused))

    def standings(self, *, whole: bool) -> Iterator[Record]:
        """Give records of scenes that the run's results lose or get back, each with the reason in ``left_out``.

        Parameters
        ----------
        whole : bool
            Whether the scenes of this run are all of its source, so that others are no longer in it.
        """
        for scene_id, text, identity, *_ in self._items:
            if record := self._records.get(scene_id):
                changed = _changed(record, self._task(scene_id, text, identity).inputs)
                yield from _standing(record, f"outdated: its {changed} changed" if changed else None)
        for scene_id in self.others() if whole else ():
            yield from _standing(self._records[scene_id], NOT_IN_SOURCE)

    def __iter__(self) -> Iterator[Step]:
        """Give the steps one by one: the layers near a scene are looked up when its turn comes."""
        for scene_id, text, identity, pixels, size in self._items:
            task = self._task(scene_id, text, identity)
            todo, reason = self._decide(task)
            yield Step(task, todo, reason, pixels, size)

    def _task(self, scene_id: str, text: str, identity: str) -> SceneTask:
        bbox = json.loads(text).get("bbox")
        inputs = {"item": identity, **self.settings}
        auxiliary = self._auxiliary
        if isinstance(auxiliary, ItemIndex):
            near = auxiliary.near(bbox)
            inputs["auxiliary"] = digest(auxiliary.digests(near))
            auxiliary = auxiliary.texts(near)
        else:
            inputs["auxiliary"] = digest(auxiliary)
        cover = self._landcover.near(bbox)
        works = self._works_near(bbox)
        rejected = self._rejected.get(scene_id, [])
        inputs["filters"] = digest(
            self._landcover.digests(cover),
            None if works is None else sorted(works.geometry.to_wkb(hex=True)),
            *([rejected] if rejected else []),  # only these scenes are done again
        )  # fmt: skip
        tiles = self._landcover.texts(cover) if self._water else None
        return SceneTask(scene_id, text, auxiliary, tiles, works, rejected, inputs)

    def _works_near(self, bbox: Sequence[float] | None) -> gpd.GeoDataFrame | None:
        """Infrastructure near a scene, in its own CRS."""
        works = self._infrastructure
        if works is None or bbox is None or works.crs is None:
            return works
        boxes = gpd.GeoSeries(boxes_around(bbox, NEAR), crs="EPSG:4326")
        if not works.crs.equals("EPSG:4326"):
            # Densified, for a box in degrees is curved on the map.
            boxes = boxes.segmentize(0.05).to_crs(works.crs)
        hits = np.unique(works.sindex.query(boxes.array, predicate="intersects")[1])
        return works.iloc[hits][[works.geometry.name]].reset_index(drop=True)

    def _decide(self, task: SceneTask) -> tuple[bool, str]:
        record = self._records.get(task.id)
        if record is None:
            return True, "new"
        if changed := _changed(record, task.inputs):
            return True, f"again, since its {changed} changed"
        if record["state"] == "failed":
            if self._retry:
                return True, "again, since it failed"
            return False, f"failed before: {record['reason']}"
        outputs = record["outputs"]
        if not self.job.files <= outputs.keys():
            return True, "again, since its record lacks files"
        if damaged := self._folder.differing(task.id, outputs, content=self._verify):
            return True, f"again, since its files are gone or damaged: {', '.join(damaged)}"
        return False, "done before"


def _changed(record: Record, inputs: Mapping[str, str]) -> str:
    """Kinds of input of which a scene was made from others; empty where all are the same."""
    before = record["inputs"]
    return " and ".join(
        sorted(
            kind.replace("_", " ")
            for kind, now in inputs.items()
            if before.get(kind) != now and not (kind == _LIMITS and _widened(before.get(kind), now))
        )
    )


def _widened(before: str | None, now: str) -> bool:
    """Whether limits only let more pass than before: what was done under the narrower ones may stay."""
    try:
        return RasterLimits(**json.loads(now)).admit(RasterLimits(**json.loads(before or "")))
    except (ValueError, TypeError, LookupError):  # a record of limits that are none
        return False


def _standing(record: Record, left_out: str | None) -> Iterator[Record]:
    if record.get("left_out") != left_out:
        bare = {key: value for key, value in record.items() if key != "left_out"}
        yield bare if left_out is None else {**bare, "left_out": left_out}


@dataclass(frozen=True, repr=False)
class Plan:
    """What a run would do, without doing it.

    Parameters
    ----------
    steps : list of dict
        ``id``, ``todo``, ``reason`` of each scene.
    scenes, pixels, bytes : int
        How many scenes would be done, their pixels, and what would be read of image and mask.
    seconds : float, optional
        Expected duration by the rate of the last ``darts-xr bench`` with these checkpoints; None if there is none.
    refused : dict of str
        Scenes that cannot be done, each with the reason: what an item or the headers of its files tell.
    """

    steps: list[dict[str, Any]]
    scenes: int
    pixels: int
    bytes: int
    seconds: float | None
    refused: dict[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        text = f"<Plan: {self.scenes} of {len(self.steps)} scene(s) to be done, {self.pixels / 1e6:.1f} million pixels"
        return text + (f", {len(self.refused)} cannot be done>" if self.refused else ">")

    def _repr_html_(self) -> str:
        expected = "unknown; darts-xr bench measures it" if self.seconds is None else f"{self.seconds:.0f} s"
        rows = [
            ["scenes to be done", f"{self.scenes} of {len(self.steps)}"],
            ["pixels", f"{self.pixels / 1e6:.1f} million"],
            ["bytes of image and mask", f"{self.bytes / 1e6:.1f} million"],
            ["expected", expected],
            *([name, reason] for name, reason in self.refused.items()),
        ]
        return html_table("Plan", rows)


def make_plan(planner: Planner, *, rate: float | None, workers: int = 1) -> Plan:
    """Add up what a planner would do, and open each scene's files; ``rate`` is in pixels a second and worker."""
    rows, scenes, pixels, size = [], 0, 0, 0
    refused = dict(planner.refused)
    with ThreadPoolExecutor(_OPENERS) as pool:
        for step, problem in pool.map(partial(_checked, planner.job), planner):
            if problem is not None:
                refused[step.task.id] = problem
                continue
            rows.append({"id": step.task.id, "todo": step.todo, "reason": step.reason})
            if step.todo:
                scenes, pixels, size = scenes + 1, pixels + step.pixels, size + step.bytes
    rows += [{"id": name, "todo": False, "reason": f"cannot be done: {why}"} for name, why in refused.items()]
    rows.sort(key=lambda row: str(row["id"]))
    return Plan(rows, scenes, pixels, size, pixels / rate / workers if rate else None, refused)


def _checked(job: Job, step: Step) -> tuple[Step, str | None]:
    """Open the files of a scene that is to be done; also returns why it cannot be."""
    if step.todo:
        try:
            item = pystac.Item.from_dict(json.loads(step.task.item))
            scene_files(item, mask_rule=job.rules.mask_rule, limits=job.raster_limits)
        except DartsError as error:
            return step, f"{type(error).__name__}: {redact(error)}"
    return step, None
