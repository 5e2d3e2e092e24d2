"""What became of each scene: one line of JSON a scene, only ever appended, and the summary of the run."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from upath import UPath

from darts_xr.addresses import redact
from darts_xr.errors import PipelineError
from pipelines.folder import RunFolder, writing

log = logging.getLogger(__name__)

#: One line of the record: what became of a scene.
Record = dict[str, Any]

# What a run that was killed had not sent to an object store is done again; what it had not synced to a disk is lost
# only if the machine goes down with it. Both take far longer than a line.
_BATCH, _BATCH_SECONDS = 200, 60.0  # one object for so many lines, or for what there is after so long
_SYNC_SECONDS = 1.0
_SHOWN = 5  # failures that a run names where it is looked at


class RecordLog:
    """The record of a run: ``records/NNNN.jsonl``, a file for each time that the run was started.

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

    def _lines(self) -> Iterator[Record]:
        for part in self._parts():
            lines = part.read_bytes().split(b"\n")
            for number, line in enumerate(lines):
                try:
                    if line:
                        yield _record(line)
                except (ValueError, AttributeError) as error:
                    if number < len(lines) - 1:
                        raise PipelineError(
                            f"{part} is damaged in line {number + 1}: {error}. Remove that line; its scene is then "
                            "done again."
                        ) from error
                    log.warning(
                        "%s: the run was killed while it wrote the last line; its scene is done again", part
                    )

    def read(self) -> dict[str, Record]:
        """Last record of each scene, by id."""
        return {record["id"]: record for record in self._lines()}

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a line; on a disk it is there when this returns, however this process ends then.

        Raises
        ------
        OutputError
            When it cannot be written.
        """
        line = json.dumps(record, separators=(",", ":")) + "\n"
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


def _record(line: bytes) -> Record:
    record: Record = json.loads(line)
    if not {"id", "state", "inputs"} <= record.keys():
        raise ValueError("no record of a scene")
    return record


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
        return redact("\n".join([head, *failures]))

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

    def save(self) -> None:
        """Write ``run.json``, whole or not at all."""
        self.home.write_text("run.json", json.dumps(self.record, indent=1) + "\n")


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
        When the folder holds no ``run.json`` that can be read.
    """
    home = RunFolder(folder)
    try:
        record = json.loads((home.path / "run.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise PipelineError(
            f"{folder} is no run folder: it has no run.json. Run darts-xr detect first."
        ) from error
    except json.JSONDecodeError as error:
        raise PipelineError(
            f"{home.path / 'run.json'} is damaged: {error}. Run darts-xr detect again."
        ) from error
    if record.get("state") == "running":  # it was killed, or is still at work
        record |= {"seconds": None, **summary(RecordLog(home).read())}
    return Run(home, record)


def summary(records: Mapping[str, Record]) -> dict[str, Any]:
    """Scenes by id, with the totals over them."""
    scenes = [records[scene_id] for scene_id in sorted(records)]
    done = [record for record in scenes if record["state"] == "done"]
    counts = {"scenes": len(scenes), "done": len(done), "failed": len(scenes) - len(done)}
    counts["pixels"] = sum(record["pixels"] for record in done)
    counts["valid_pixels"] = sum(record["valid_pixels"] for record in done)
    for record in done:
        for name, count in record["counts"].items():
            counts[name] = counts.get(name, 0) + count
    return {"counts": counts, "synthetic": any(record["synthetic"] for record in done), "scenes": scenes}
