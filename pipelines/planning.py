"""What a run will do: every scene with the layers near it, and whether it is new, unchanged or to be done again."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pystac
import shapely

from darts_xr.errors import PipelineError
from darts_xr.globe import bounds_of, box_polygons, grown
from pipelines.folder import RunFolder
from pipelines.records import Record
from pipelines.scenes import Job, SceneTask
from pipelines.sources import Sources

log = logging.getLogger(__name__)

_NEAR = 0.1  # degrees of latitude around a scene: what kernels and warps look at beyond it, and far more
_BYTES_A_PIXEL = 16  # image 4 × uint16 and mask 8 × uint8, where a file's size is not known


class ItemIndex:
    """STAC items by place.

    Parameters
    ----------
    items : iterable of pystac.Item
        Items; those without a box count as everywhere.
    """

    def __init__(self, items: Iterable[pystac.Item]) -> None:
        self._texts: list[str] = []
        self._stamps: list[str] = []
        boxes, owners, everywhere = [], [], []
        for number, item in enumerate(items):
            text, stamps = _packed(item)
            self._texts.append(text)
            self._stamps.append(stamps)
            if item.bbox is None:
                everywhere.append(number)
            for box in _boxes(item.bbox, 0.0):
                boxes.append(box)
                owners.append(number)
        self._tree, self._owners, self._everywhere = shapely.STRtree(boxes), np.array(owners, int), everywhere

    def near(self, bbox: Sequence[float] | None) -> list[int]:
        """Numbers of the items that meet a box or come close, in their own order."""
        if bbox is None:
            return list(range(len(self._texts)))
        found = [self._tree.query(box) for box in _boxes(bbox, _NEAR)]
        return sorted({*self._everywhere, *self._owners[np.concatenate(found)].tolist()} if found else [])

    def texts(self, numbers: Iterable[int]) -> list[str]:
        """Items as JSON."""
        return [self._texts[k] for k in numbers]

    def stamps(self, numbers: Iterable[int]) -> list[str]:
        """Sizes and times of the items' local files."""
        return [self._stamps[k] for k in numbers]


def _boxes(bbox: Sequence[float] | None, margin: float) -> list[Any]:
    """Boxes in degrees around an item, two where one crosses 180°; none where the item has no box."""
    if bbox is None:
        return []
    bounds = bounds_of(bbox)
    return box_polygons(grown(bounds, margin) if margin else bounds)


def canonical(document: Any) -> str:
    """JSON that is the same for equal content."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), default=str)


def _digest(*parts: Any) -> str:
    return hashlib.sha256(canonical(parts).encode()).hexdigest()[:16]


def _local_files(item: pystac.Item) -> dict[str, Path]:
    """Assets that are files of this machine, by key."""
    hrefs = {key: (asset.get_absolute_href() or asset.href) for key, asset in sorted(item.assets.items())}
    paths = {key: href.removeprefix("file://") for key, href in hrefs.items()}
    return {
        key: Path(path) for key, path in paths.items() if "://" not in path and not path.startswith("/vsi")
    }


def _packed(item: pystac.Item) -> tuple[str, str]:
    """Return an item as JSON without its links, and the sizes and times of its local files.

    A file that was replaced is another input.
    """
    document = item.to_dict(include_self_link=False, transform_hrefs=False) | {"links": []}
    for key, asset in item.assets.items():
        document["assets"][key]["href"] = asset.get_absolute_href() or asset.href
    stamps = []
    for key, path in _local_files(item).items():
        try:
            about = path.stat()
        except OSError:
            stamps.append(f"{key}: missing")
        else:
            stamps.append(f"{key}: {about.st_size} {about.st_mtime_ns}")
    return canonical(document), "; ".join(stamps)


def _weight(item: pystac.Item) -> tuple[int, int]:
    """Pixels of a scene's frame, and bytes of its files; 0 and an estimate where the item does not say."""
    shape = item.properties.get("proj:shape") or next(
        (a.extra_fields["proj:shape"] for a in item.assets.values() if "proj:shape" in a.extra_fields), (0, 0)
    )
    pixels = int(shape[0]) * int(shape[1])
    files = [
        path for key, path in _local_files(item).items() if "metadata" not in (item.assets[key].roles or ())
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
    retry_failed : bool
        Do failed scenes again although nothing changed.
    """

    def __init__(
        self,
        items: Iterable[pystac.Item],
        job: Job,
        sources: Sources,
        records: Mapping[str, Record],
        *,
        retry_failed: bool = False,
    ) -> None:
        # A pystac item takes ten times the memory of its JSON, and a run may have tens of thousands.
        self._items = sorted((item.id, *_packed(item), *_weight(item)) for item in items)
        if twice := [scene_id for scene_id, count in Counter(self.ids).items() if count > 1]:
            raise PipelineError(
                f"{len(twice)} scene(s) are in the source more than once ({', '.join(twice[:3])}"
                f"{', …' if len(twice) > 3 else ''}); their results would be written to one place. Give each item its "
                "own id, or leave all but one of them out."
            )
        self._folder, self._records, self._retry = RunFolder(job.folder), records, retry_failed
        self.job = job
        self._neutral = not isinstance(sources.auxiliary, list)
        self._auxiliary = sources.auxiliary if self._neutral else ItemIndex(sources.auxiliary)
        self._landcover, self._infrastructure = ItemIndex(sources.landcover), sources.infrastructure
        self.settings = {
            "parameters": _digest(
                asdict(job.rules), job.members, job.ensemble.batch_norm, job.ensemble.precision,
                bool(sources.landcover), self._infrastructure is not None,
            ),
            "checkpoints": _digest([member.sha256 for member in job.ensemble.members]),
        }  # fmt: skip

    def __len__(self) -> int:
        return len(self._items)

    @property
    def ids(self) -> list[str]:
        """Ids of all scenes."""
        return [scene_id for scene_id, *_ in self._items]

    def check_others(self) -> None:
        """Refuse a folder with scenes of other networks or rules that this run would leave as they are.

        Raises
        ------
        PipelineError
            With their number and the ways out.
        """
        own = set(self.ids)
        foreign = [
            record["id"]
            for record in self._records.values()
            if record["id"] not in own
            and record["state"] == "done"
            and any(record["inputs"].get(kind) != digest for kind, digest in self.settings.items())
        ]
        if foreign:
            raise PipelineError(
                f"{self._folder} holds {len(foreign)} scene(s) made with other parameters or checkpoints that are not "
                f"among the scenes of this run ({', '.join(foreign[:3])}{', …' if len(foreign) > 3 else ''}); its "
                "products would mix the two. Give this run another folder, or run all scenes again."
            )

    def __iter__(self) -> Iterator[Step]:
        """Give the steps one by one: the layers near a scene are looked up when its turn comes."""
        for scene_id, text, stamps, pixels, size in self._items:
            task = self._task(scene_id, text, stamps)
            todo, reason = self._decide(task)
            yield Step(task, todo, reason, pixels, size)

    def _task(self, scene_id: str, text: str, stamps: str) -> SceneTask:
        bbox = json.loads(text).get("bbox")
        inputs = {"item": _digest(text, stamps), **self.settings}
        auxiliary = self._auxiliary
        if isinstance(auxiliary, ItemIndex):
            near = auxiliary.near(bbox)
            inputs["auxiliary"] = _digest(auxiliary.texts(near), auxiliary.stamps(near))
            auxiliary = auxiliary.texts(near)
        else:
            inputs["auxiliary"] = _digest(auxiliary)
        cover = self._landcover.near(bbox)
        works = self._works_near(bbox)
        inputs["filters"] = _digest(
            self._landcover.texts(cover), self._landcover.stamps(cover),
            None if works is None else sorted(works.geometry.to_wkb(hex=True)),
        )  # fmt: skip
        return SceneTask(scene_id, text, auxiliary, self._landcover.texts(cover), works, inputs)

    def _works_near(self, bbox: Sequence[float] | None) -> gpd.GeoDataFrame | None:
        """Infrastructure near a scene, in its own CRS."""
        works = self._infrastructure
        if works is None or bbox is None or works.crs is None:
            return works
        boxes = gpd.GeoSeries(_boxes(bbox, _NEAR), crs="EPSG:4326")
        if not works.crs.equals("EPSG:4326"):
            # Densified, for a box in degrees is curved on the map.
            boxes = boxes.segmentize(0.05).to_crs(works.crs)
        hits = np.unique(works.sindex.query(boxes.array, predicate="intersects")[1])
        return works.iloc[hits][[works.geometry.name]].reset_index(drop=True)

    def _decide(self, task: SceneTask) -> tuple[bool, str]:
        record = self._records.get(task.id)
        if record is None:
            return True, "new"
        changed = sorted(kind for kind, digest in task.inputs.items() if record["inputs"].get(kind) != digest)
        if changed:
            return True, f"again, since its {' and '.join(changed)} changed"
        if record["state"] == "failed":
            if self._retry:
                return True, "again, since it failed"
            return False, f"failed before: {record['reason']}"
        if not self.job.files <= self._folder.files_of(task.id):
            return True, "again, since its files are gone"
        return False, "done before"


@dataclass(frozen=True)
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
    """

    steps: list[dict[str, Any]]
    scenes: int
    pixels: int
    bytes: int
    seconds: float | None


def make_plan(planner: Planner, *, rate: float | None, workers: int = 1) -> Plan:
    """Add up what a planner would do; ``rate`` is in pixels a second and worker."""
    rows, scenes, pixels, size = [], 0, 0, 0
    for step in planner:
        rows.append({"id": step.task.id, "todo": step.todo, "reason": step.reason})
        if step.todo:
            scenes, pixels, size = scenes + 1, pixels + step.pixels, size + step.bytes
    return Plan(rows, scenes, pixels, size, pixels / rate / workers if rate else None)
