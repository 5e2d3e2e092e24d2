"""The manifest of a set of products: which files belong together, what each holds, and what they were made of."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from upath import UPath

from pipelines.digests import bytes_differ, digest, sealed, unsealed
from pipelines.folder import RunFolder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Manifest:
    """One set of products.

    Parameters
    ----------
    path : path
        The manifest's file, beside the products.
    made_by : dict
        What the products were made of and with.
    files : dict
        SHA-256 and size of each file, by name.
    """

    path: Path | UPath
    made_by: dict[str, Any]
    files: dict[str, dict[str, Any]] = field(default_factory=dict)

    def sound(self, name: str) -> bytes | None:
        """Content of a file of the set; None where it is gone or is not what the manifest says."""
        if name not in self.files:
            return None
        try:
            content = (self.path.parent / name).read_bytes()
        except OSError as error:
            log.info("%s: %s", name, error)
            return None
        return None if bytes_differ(content, self.files[name]) else content

    def text(self) -> str:
        """Return the manifest as it is written."""
        document = {"set": digest(self.made_by), "made_by": self.made_by, "files": self.files}
        return json.dumps(sealed(document), indent=1, sort_keys=True) + "\n"


def manifest_name(name: str, years: Iterable[int]) -> str:
    """File name of the manifest of a set of products."""
    span = sorted(years)
    when = str(span[0]) if len(span) == 1 else f"{span[0]}-{span[-1]}"
    return f"{name}_manifest_{when}.json"


def read_manifest(path: Path | UPath) -> Manifest | None:
    """Read a manifest; None where there is none, or none that can be relied on, which the log says."""
    try:
        document = unsealed(path.read_bytes())
        files = document["files"]
        for facts in files.values():
            facts["sha256"], facts["size"]
        return Manifest(path, dict(document["made_by"]), files)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        log.warning("%s is damaged (%s); the products that it lists are made anew", path, error)
        return None


def manifests(home: RunFolder, name: str = "*") -> list[Manifest]:
    """Give the manifests of a run's products that can be relied on."""
    places: list[Path | UPath] = sorted((home.path / "products").glob(f"{name}_manifest_*.json"), key=str)
    return [found for place in places if (found := read_manifest(place)) is not None]


def facts_of(content: bytes) -> Mapping[str, Any]:
    """SHA-256 and size of bytes."""
    return {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
