"""What reviewers rejected, as a filter of the next detection: read, merged, and split by image."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from darts_xr.assess.confirmation import VERDICTS
from darts_xr.assess.sampling import KEYS
from darts_xr.assess.verdicts import read_verdicts
from darts_xr.errors import PipelineError
from pipelines.digests import digest

#: Geohash and area of a detection, by which it is found again in its image.
Key = tuple[str, int]
#: What a list made by hand may say, and the verdict that it means.
_BY_HAND = {"accept": "true", "reject": "false"} | {verdict: verdict for verdict in VERDICTS}


@dataclass(frozen=True)
class VerdictList:
    """What reviewers said of a run's detections, as far as the next detection goes by it.

    Parameters
    ----------
    rejected : dict of list
        Detections that are none, by image: geohash and whole m² of each. What reviewers do not agree on is not in it.
    accepted : int
        Detections with any other verdict.
    files : tuple of str
        Names of the files.

    Examples
    --------
    >>> VerdictList({"a": [("c2b2m3", 900)]}, 3).described()["accepted"]
    3
    """

    rejected: dict[str, list[Key]]
    accepted: int = 0
    files: tuple[str, ...] = field(default=())

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that change with what is rejected."""
        return digest(sorted(self._rows()))

    def _rows(self) -> list[list[Any]]:
        return [[image, *key] for image, keys in sorted(self.rejected.items()) for key in keys]

    def described(self) -> dict[str, Any]:
        """Say in ``run.json`` what was rejected, so that the run knows it without the files."""
        return {
            "digest": self.digest,
            "files": list(self.files),
            "accepted": self.accepted,
            "rejected": self._rows(),
        }

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> VerdictList | None:
        """List that a run was made with, from its ``run.json``; None where there was none."""
        if (said := record.get("verdicts")) is None:
            return None
        return cls(_by_image(said["rejected"]), int(said["accepted"]), tuple(said["files"]))


def _by_image(rows: Sequence[Sequence[Any]]) -> dict[str, list[Key]]:
    found: dict[str, list[Key]] = {}
    for image, geohash, area in sorted((str(a), str(b), int(c)) for a, b, c in rows):
        found.setdefault(image, []).append((geohash, area))
    return found


def read_verdict_list(paths: Sequence[str | os.PathLike[str]]) -> VerdictList:
    """Read verdict files that the review page exported, or tables made by hand.

    Parameters
    ----------
    paths : sequence of path
        Files of the review page, one a reviewer; or CSV files with ``image_id``, ``id_geohash``, ``area_m2`` of Level 1
        and ``verdict``: ``accept`` or ``reject``, or one of the page's words.

    Returns
    -------
    VerdictList
        A detection is rejected where all who judged it say ``false``.

    Raises
    ------
    AssessmentError, PipelineError
        When a file is no such list.

    Examples
    --------
    >>> read_verdict_list(["verdicts-ada.json"]).accepted  # doctest: +SKIP
    """
    by_hand = [Path(path) for path in paths if str(path).lower().endswith(".csv")]
    pages = [path for path in paths if not str(path).lower().endswith(".csv")]
    parts = [_table(path) for path in by_hand]
    if pages:
        parts.append(read_verdicts(pages).first[[*KEYS, "verdict"]])
    said: Any = pd.concat(parts, ignore_index=True).groupby(list(KEYS))["verdict"]
    rejected = [key for key, verdicts in said if set(verdicts) == {"false"}]
    return VerdictList(_by_image(rejected), len(said) - len(rejected), tuple(Path(p).name for p in paths))


def _table(path: Path) -> pd.DataFrame:
    try:
        rows = pd.read_csv(path, dtype={"image_id": str, "id_geohash": str, "verdict": str})
    except (OSError, ValueError) as error:
        raise PipelineError(f"{path} cannot be read as a list of verdicts: {error}") from error
    if lacking := sorted({*KEYS, "verdict"} - set(rows)):
        raise PipelineError(f"{path} lacks the columns {', '.join(lacking)}; take them from Level 1")
    rows = rows[rows["verdict"].notna()]  # not judged yet
    if unknown := sorted(set(rows["verdict"].str.strip().str.lower()) - set(_BY_HAND)):
        raise PipelineError(
            f"{path}: a verdict is one of {', '.join(_BY_HAND)}; got {', '.join(unknown[:5])}"
        )
    return rows.assign(verdict=rows["verdict"].str.strip().str.lower().map(_BY_HAND))[[*KEYS, "verdict"]]
