"""Quick runs on small scenes, and what a test wants to know about their folders."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pystac

import darts_xr as dx
from darts_xr.sample import SampleWorld
from pipelines.detection import detect
from pipelines.records import Record, Run
from pipelines.settings import Rules, Settings

#: Let some of the specks through that an untrained network sees.
RULES = Rules(border=1, min_pixels=8)
SETTINGS = {field.name for field in fields(Settings)}


@dataclass(frozen=True)
class Small:
    """Small scenes and a quick network."""

    world: SampleWorld
    model: Path

    @property
    def items(self) -> list[pystac.Item]:
        """All scenes; the last one lies 40 km from the others."""
        return sorted(dx.load_items(self.world.catalog), key=lambda item: item.id.split("_")[2])

    def copy(self, folder: Path) -> Small:
        """The same scenes where a test may change them."""
        return Small(SampleWorld(Path(shutil.copytree(self.world.root, folder))), self.model)

    def detect(self, out: Path, source: Any = None, **options: Any) -> Run:
        """Run on the scenes given, by default on all."""
        how = {name: options.pop(name) for name in tuple(options) if name in SETTINGS}
        return detect(self.world.catalog if source is None else source, self.settings(out, **how), **options)

    def settings(self, out: Path, **changed: Any) -> Settings:
        """Settings of a run with the quick network."""
        asked = {"models": [self.model], "auxiliary": self.world.auxiliary, "rules": RULES} | changed
        return Settings(out=out, **asked)

    def command(self, out: Path, *, border: int = 1) -> list[str]:
        """Arguments of ``darts-xr`` for the same."""
        return [
            "detect", str(self.world.catalog), "--models", str(self.model), "--auxiliary", str(self.world.auxiliary),
            "--out", str(out), "--border", str(border), "--min-pixels", "8", "--device", "cpu",
        ]  # fmt: skip


def listed(page: Path) -> dict[str, Any]:
    """Scenes that a run's report lists, a column each."""
    text = re.search(r'id="data">(.*?)</script>', page.read_text(), re.S)
    assert text is not None
    return json.loads(text[1])["scenes"]


class Seen:
    """An ``on_scene`` that remembers what was done and what was left as it was."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.skipped: dict[str, str] = {}

    def __call__(self, record: Record, total: int) -> None:
        if "skipped" in record:
            self.skipped[record["id"]] = record["skipped"]
        else:
            self.done.append(record["id"])


def digests(folder: Path) -> dict[str, str]:
    """What every file below a folder holds; not the log, which says when."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "run.log"
    }


def times(folder: Path) -> dict[str, int]:
    """When every file below a folder was written."""
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}


def leftovers(folder: Path) -> list[Path]:
    """What is hidden in a run folder beside its lock: anything half-written would be."""
    return [path for path in folder.rglob(".*") if path.name != ".lock"]
