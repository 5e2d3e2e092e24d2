"""What became of each scene: one line of JSON a scene, only ever appended, and the summary of the run."""

from __future__ import annotations

import base64
import html
import io
import json
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from upath import UPath

from darts_xr.addresses import redact
from darts_xr.errors import PipelineError
from darts_xr.markup import html_table
from pipelines.digests import sealed, unsealed
from pipelines.folder import RunFolder, writing
from pipelines.schema import check_record

if TYPE_CHECKING:  # not for the command's help
    import geopandas as gpd
    import xarray as xr

log = logging.getLogger(__name__)

#: One line of the record: what became of a scene.
Record = dict[str, Any]

# What a run that was killed had not sent to an object store is done again; what it had not synced to a disk is lost
# only if the machine goes down with it. Both take far longer than a line.
_BATCH, _BATCH_SECONDS = 200, 60.0  # one object for so many lines, or for what there is after so long
_SYNC_SECONDS = 1.0
#: State of a run whose summary was lost.
REBUILT = "rebuilt from its records"
#: Why scenes are in no product.
NOT_IN_SOURCE = "not in the source"
PENDING = "not done yet"
_SHOWN = 5  # failures that a run names where it is looked at
_PICTURES = 3  # quick-looks that a notebook shows of it


class Damage(NamedTuple):
    """A line of the record that does not fit: where, why, and of which scene if that can be seen."""

    place: str
    what: str
    id: str | None


class RecordLog:
    """The record of a run: ``records/NNNN.jsonl``, a file for each time that the run was started.

    A line is what became of a scene, or how the scenes after it were detected. Each carries a checksum of itself; one
    that does not fit is named, and its scene is done again.

    Parameters
    ----------
    folder : RunFolder
        The run folder; its lock must be held to append.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self._place = folder.path / "records"
        self._file: int | None = None
        self._unsent: list[str] = []
        self._sent = time.monotonic()  # or synced

    def _parts(self) -> list[Path | UPath]:
        return sorted(self._place.glob("*.jsonl"), key=str) if self._place.exists() else []

    def _lines(self) -> Iterator[dict[str, Any] | Damage]:
        for part in self._parts():
            lines = part.read_bytes().split(b"\n")
            for number, line in enumerate(lines):
                if not line:
                    continue
                try:
                    document = unsealed(line)
                    if not isinstance(document.get("run"), dict):
                        check_record(document)
                except (ValueError, RecursionError) as error:
                    torn = number == len(lines) - 1
                    what = "the run was killed while it wrote the last line" if torn else str(error)
                    yield Damage(f"{part} line {number + 1}", what, _id_of(line))
                else:
                    yield document

    def read(self) -> dict[str, Record]:
        """Last record of each scene, by id; lines that do not fit are named in the log."""
        records: dict[str, Record] = {}
        for line in self._lines():
            if isinstance(line, Damage):
                log.warning("%s: %s; its scene is done again", line.place, line.what)
                records.pop(line.id or "", None)  # an earlier line is not what became of it last
            elif line.get("state") == "pruned":
                records.pop(line["id"], None)
            elif "id" in line:
                records[line["id"]] = line
        return records

    def damage(self) -> list[Damage]:
        """Lines that do not fit."""
        return [line for line in self._lines() if isinstance(line, Damage)]

    def settings(self) -> dict[str, Any] | None:
        """How the run was last told to detect, None where no line says it."""
        found = None
        for line in self._lines():
            if not isinstance(line, Damage) and "run" in line:
                found = line["run"]
        return found

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a line; on a disk it is there when this returns, however this process ends then.

        Raises
        ------
        OutputError
            When it cannot be written.
        """
        line = json.dumps(sealed(record), separators=(",", ":")) + "\n"
        if self.folder.local is None:
            self._unsent.append(line)
            if len(self._unsent) >= _BATCH or time.monotonic() - self._sent >= _BATCH_SECONDS:
                self.flush()
            return
        with writing(self.folder):
            if self._file is None:
                path = self.folder.local / "records" / self._next()
                path.parent.mkdir(exist_ok=True)
                self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            _write_whole(self._file, line.encode())
            if time.monotonic() - self._sent >= _SYNC_SECONDS:
                os.fsync(self._file)
                self._sent = time.monotonic()

    def _next(self) -> str:
        parts = self._parts()
        return f"{1 + (int(parts[-1].stem) if parts else 0):06d}.jsonl"

    def flush(self) -> None:
        """Send what an object store has not got yet."""
        if self._unsent:
            with writing(self.folder):
                (self._place / self._next()).write_text("".join(self._unsent), encoding="utf-8")
            self._unsent = []
            self._sent = time.monotonic()

    def close(self) -> None:
        """Send what is left and close the file."""
        self.flush()
        if self._file is not None:
            file, self._file = self._file, None
            with writing(self.folder):
                try:
                    os.fsync(file)
                finally:
                    os.close(file)

    def __enter__(self) -> RecordLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _id_of(line: bytes) -> str | None:
    """Id that a damaged line still shows."""
    found = re.match(rb'\{"id":"([^"\\\\]+)"', line)
    return found[1].decode(errors="replace") if found else None


def _write_whole(file: int, line: bytes) -> None:
    """Append a line; where the disk is full, nothing of it stays."""
    start = os.lseek(file, 0, os.SEEK_END)
    try:
        while line:
            line = line[os.write(file, line) :]
    except BaseException:
        os.ftruncate(file, start)
        raise


@dataclass(frozen=True, repr=False)
class Run:
    """A run folder and its summary.

    Parameters
    ----------
    home : RunFolder
        The run folder.
    record : dict
        The content of ``run.json``.
    """

    home: RunFolder
    record: dict[str, Any]

    def __repr__(self) -> str:
        failures = [f"  {scene['id']}: {scene['reason']}" for scene in self.failed[:_SHOWN]]
        if len(self.failed) > _SHOWN:
            failures.append(f"  and {len(self.failed) - _SHOWN} more, in .failed")
        objects = sum(scene["counts"]["n_objects"] for scene in self.done)
        head = (
            f"Run of {len(self.scenes)} scene(s) in {self.folder}, {self.record['state']}: {len(self.done)} done with "
            f"{objects} object(s), {len(self.failed)} failed"
        )
        if self.left_out:
            head += f", {len(self.left_out)} left out"
        return redact("\n".join([head, *failures]))

    def _repr_html_(self) -> str:
        rows = [
            ["folder", redact(str(self.folder))],
            ["state", self.record["state"]],
            [
                "scenes done / failed / left out",
                f"{len(self.done)} / {len(self.failed)} / {len(self.left_out)}",
            ],
            ["objects", sum(scene["counts"]["n_objects"] for scene in self.done)],
            ["ensemble", self.record["ensemble"]],
            ["rules", ", ".join(f"{name} {_word(value)}" for name, value in self.record["rules"].items())],
            *([scene["id"], redact(scene["reason"])] for scene in self.failed[:_SHOWN]),
        ]
        title = "Run" + (" of synthetic scenes" if self.record["synthetic"] else "")
        return html_table(title, rows) + "".join(self._thumbnail(scene) for scene in self.done[:_PICTURES])

    def _thumbnail(self, scene: Record) -> str:
        """Quick-look of a scene, small and in the page itself; empty where it has none."""
        if self.home.local is None or "quicklook.png" not in scene["outputs"]:
            return ""
        from PIL import Image

        small = io.BytesIO()
        try:
            with Image.open(str(self.home.scene(scene["id"]) / "quicklook.png")) as picture:
                picture.thumbnail((420, 420))
                picture.convert("RGB").save(small, format="JPEG", quality=80)
        except OSError as error:
            log.info("%s: %s", scene["id"], error)
            return ""
        data = base64.b64encode(small.getvalue()).decode()
        return f"<img alt='{html.escape(scene['id'], quote=True)}' src='data:image/jpeg;base64,{data}'>"

    @property
    def level1(self) -> gpd.GeoDataFrame:
        """Objects of all finished scenes whose files are as they were written; read at each call."""
        from pipelines.results import read_results

        return read_results(self).level1

    @property
    def footprints(self) -> gpd.GeoDataFrame:
        """Outlines of the valid pixels of the same scenes; read at each call."""
        from pipelines.results import read_results

        return read_results(self).footprints

    def cube(self, **options: Any) -> xr.Dataset:
        """Open the run's rasters over time, lazily: :func:`darts_xr.open_cube` with its options."""
        import darts_xr as dx

        return dx.open_cube(str(self.folder / "catalog.json"), **options)

    def map(self, **options: Any) -> Any:
        """Show objects and footprints on a map: :func:`darts_xr.explore` with its options."""
        import darts_xr as dx

        return dx.explore(self, **options)

    @property
    def folder(self) -> Path | UPath:
        """Path of the run folder."""
        return self.home.path

    @property
    def scenes(self) -> list[Record]:
        """Records of all scenes, by id."""
        return list(self.record["scenes"])

    @property
    def done(self) -> list[Record]:
        """Records of the finished scenes, by id."""
        return [scene for scene in self.scenes if scene["state"] == "done"]

    @property
    def failed(self) -> list[Record]:
        """Records of the scenes that could not be processed, each with its reason."""
        return [scene for scene in self.scenes if scene["state"] == "failed"]

    @property
    def left_out(self) -> dict[str, str]:
        """Scenes of the folder or the source that are not in this run's results, each with the reason."""
        found = {scene["id"]: scene["left_out"] for scene in self.record.get("left_out", [])}
        return dict.fromkeys(self.record.get("pending", []), PENDING) | found

    def save(self) -> None:
        """Write ``run.json``, whole or not at all."""
        self.home.write_text("run.json", json.dumps(sealed(self.record), indent=1) + "\n")


def _word(value: Any) -> str:
    return "none" if value is None else str(value)


def open_run(folder: str | os.PathLike[str]) -> Run:
    """Read the summary of a run folder.

    Parameters
    ----------
    folder : path or str
        A local folder or any fsspec target.

    Returns
    -------
    Run
        The run; of one that was killed, all scenes that had ended by then.

    Raises
    ------
    PipelineError
        When the folder holds no ``run.json`` that can be read, and no records to rebuild it from.
    """
    home = RunFolder(folder)
    journal = RecordLog(home)
    try:
        record = unsealed((home.path / "run.json").read_bytes())
    except (FileNotFoundError, ValueError, RecursionError) as error:
        missing = isinstance(error, FileNotFoundError)
        described = journal.settings()
        if described is None and missing:
            raise PipelineError(
                f"{folder} is no run folder: it has no run.json. Run darts-xr detect first."
            ) from error
        if described is None:
            raise PipelineError(
                f"{home.path / 'run.json'} is damaged ({error}), and no line of {home.path / 'records'} says how the "
                "scenes were detected. Run darts-xr detect again with the same settings; finished scenes stay."
            ) from error
        log.warning(
            "%s is %s; it is rebuilt from the records. darts-xr detect with the same settings writes it anew",
            home.path / "run.json", "missing" if missing else f"damaged ({error})",
        )  # fmt: skip
        record = {"state": REBUILT, **described}
    if record["state"] in ("running", REBUILT):  # it was killed, or is still at work
        record |= {"seconds": None, **summary(journal.read())}
        seen = {scene["id"] for scene in record["scenes"]}
        record["pending"] = [scene_id for scene_id in record.get("pending", []) if scene_id not in seen]
    return Run(home, record)


def summary(records: Mapping[str, Record]) -> dict[str, Any]:
    """Scenes by id, with the totals over them; those that are no longer of the run stand apart."""
    ordered = [records[scene_id] for scene_id in sorted(records)]
    scenes = [record for record in ordered if "left_out" not in record]
    done = [record for record in scenes if record["state"] == "done"]
    counts = {"scenes": len(scenes), "done": len(done), "failed": len(scenes) - len(done)}
    counts["pixels"] = sum(record["pixels"] for record in done)
    counts["valid_pixels"] = sum(record["valid_pixels"] for record in done)
    for record in done:
        for name, count in record["counts"].items():
            counts[name] = counts.get(name, 0) + count
    return {
        "counts": counts,
        "synthetic": any(record["synthetic"] for record in done),
        "scenes": scenes,
        "left_out": [record for record in ordered if "left_out" in record],
    }
