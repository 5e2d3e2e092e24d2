"""What a line of the record must look like before anything is made of it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

STATES = ("done", "failed", "pruned")
#: Counts of every finished scene.
COUNTS = (
    "n_detected", "n_removed_border", "n_removed_small", "n_removed_water", "n_removed_infrastructure", "n_objects",
)  # fmt: skip
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_SHA256 = re.compile(r"[0-9a-f]{64}")

_Test = Callable[[Any], bool]


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)


def _mapping_of(test: _Test) -> _Test:
    return lambda value: (
        isinstance(value, dict) and all(isinstance(k, str) and test(v) for k, v in value.items())
    )


def _is_facts(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("sha256"), str)
        and _SHA256.fullmatch(value["sha256"]) is not None
        and _is_count(value.get("size"))
        and _is_count(value.get("mtime_ns"))
    )


_ALWAYS: dict[str, tuple[_Test, str]] = {
    "id": (_is_text, "text"),
    "state": (lambda value: value in STATES, f"one of {', '.join(STATES)}"),
}
_ENDED: dict[str, tuple[_Test, str]] = {
    "inputs": (_mapping_of(_is_text), "a mapping of texts"),
    "tries": (_is_count, "a count"),
    "earlier_reasons": (_is_texts, "a list of texts"),
}
_BY_STATE: dict[str, dict[str, tuple[_Test, str]]] = {
    "done": _ENDED
    | {
        "date": (lambda value: isinstance(value, str) and _DATE.fullmatch(value) is not None, "YYYY-MM-DD"),
        "pixels": (_is_count, "a count"),
        "valid_pixels": (_is_count, "a count"),
        "counts": (
            lambda value: _mapping_of(_is_count)(value) and all(name in value for name in COUNTS),
            f"counts of {', '.join(COUNTS)}",
        ),
        "synthetic": (lambda value: isinstance(value, bool), "true or false"),
        "seconds": (_mapping_of(_is_number), "seconds by stage"),
        "warnings": (_is_texts, "a list of texts"),
        "outputs": (_mapping_of(_is_facts), "SHA-256, size and time of each file"),
    },
    "failed": _ENDED | {"reason": (_is_text, "text")},
    "pruned": {},
}


def check_record(document: Mapping[str, Any]) -> None:
    """Make sure that a line of the record is one.

    Raises
    ------
    ValueError
        With the entry that does not fit.
    """
    wanted = dict(_ALWAYS)
    if document.get("state") in STATES:
        wanted |= _BY_STATE[document["state"]]
    for name, (fits, what) in wanted.items():
        if name not in document:
            raise ValueError(f"it has no {name!r}")
        if not fits(document[name]):
            raise ValueError(f"{name!r} must be {what}, and is {str(document[name])[:60]!r}")
    if "left_out" in document and not _is_text(document["left_out"]):
        raise ValueError("'left_out' must be text")
