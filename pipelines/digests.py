"""Digests of a run's documents, which show damage, and of its files, which tell them from others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from darts_xr.digests import file_digest

_CHECK = "check"


def canonical(document: Any) -> str:
    """JSON that is the same for equal content."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), default=str)


def digest(*parts: Any) -> str:
    """Sixteen hexadecimal digits that change with any part."""
    return hashlib.sha256(canonical(parts).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def sealed(document: Mapping[str, Any]) -> dict[str, Any]:
    """Document with a digest of the rest of it as its last entry."""
    bare = {key: value for key, value in document.items() if key != _CHECK}
    # As it will be read: JSON has no tuples and no keys but texts.
    return {**bare, _CHECK: digest(json.loads(json.dumps(bare)))}


def unsealed(text: str | bytes) -> dict[str, Any]:
    """Read a sealed document.

    Raises
    ------
    ValueError
        When it is no JSON object, or not what was written.
    """
    document = json.loads(text)
    if not isinstance(document, dict):
        raise ValueError(f"it holds {type(document).__name__}, not an object")
    check = document.pop(_CHECK, None)
    if check != digest(document):
        raise ValueError("its content does not match its own checksum")
    return document


def file_facts(folder: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """SHA-256, size and time of the files of a folder, by name."""
    facts = {}
    for name in sorted(names):
        about = (folder / name).stat()
        facts[name] = {
            "sha256": file_digest(folder / name),
            "size": about.st_size,
            "mtime_ns": about.st_mtime_ns,
        }
    return facts


def bytes_differ(content: bytes, facts: Mapping[str, Any]) -> bool:
    """Whether bytes are others than those of which the facts were noted."""
    return len(content) != facts["size"] or hashlib.sha256(content).hexdigest() != facts["sha256"]
