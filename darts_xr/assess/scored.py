"""Whether two sets of objects fit together at all; what a reader of their scores must know."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import numpy as np
import shapely
from numpy.typing import NDArray

from darts_xr.assess.match import Matching, Pairs
from darts_xr.assess.periods import DatedReference

log = logging.getLogger(__name__)

_MOSTLY = 0.5  # share outside the coverage from which a table warns


class Scored:
    """Which objects were scored at all, over the parts of a table."""

    def __init__(self, pairs: Pairs) -> None:
        self._pairs = pairs
        self._asked, self._of_interest = np.zeros((2, len(pairs.wanted)), bool)
        self._counted, self._offered = np.zeros((2, len(pairs.found)), bool)

    def add(self, found: NDArray[np.bool_], wanted: NDArray[np.bool_], part: Matching) -> None:
        """Take a part of a table: which objects of both sides it is about, and how they matched."""
        self._offered |= found
        self._of_interest |= wanted
        self._counted |= part.detected_counted
        self._asked |= part.reference_counted

    def notes(self, dated: DatedReference | None, years: Iterable[int]) -> list[str]:
        """Tell what a reader of the table must know; each also goes to the log as a warning."""
        notes = [] if dated is None else _about_dates(dated, list(years))
        for side, scored, all_of_it in (
            ("reference objects", self._asked, self._of_interest),
            ("detections", self._counted, self._offered),
        ):
            inside, n = int(scored.sum()), int(all_of_it.sum())
            if n and not inside:
                notes.append(
                    f"none of the {n} {side} is inside the coverage: check that both are of the same region, and in "
                    "the right CRS"
                )
            elif inside < _MOSTLY * n:
                notes.append(
                    f"only {inside} of {n} {side} are inside the coverage; the others are not scored"
                )
        if self._apart():
            notes.append(
                "detections and reference lie apart: check that both are of the same region, and in the right CRS"
            )
        for note in notes:
            log.warning("%s", note)
        return notes

    def _apart(self) -> bool:
        """Whether not even the boxes around what is scored meet."""
        boxes = [
            shapely.box(*shapely.total_bounds(shapes[mask]))
            for shapes, mask in ((self._pairs.found, self._counted), (self._pairs.wanted, self._asked))
            if mask.any()
        ]
        return len(boxes) == 2 and not shapely.intersects(*boxes)


def _about_dates(dated: DatedReference, years: list[int]) -> list[str]:
    if not dated.time.declared:
        return [
            "the reference is undated: each of its objects is taken to have been there in every year. If it has dates, "
            "declare their columns (ReferenceTime; --reference-date, --reference-years)"
        ]
    notes = []
    if dated.n_undated:
        notes.append(f"{dated.n_undated} object(s) of the reference have no date and are left out")
    if not dated.any_of(years):
        notes.append(
            f"no object of the reference is of the years {', '.join(map(str, years))}. If it stands for them all the "
            "same, say so (--reference-always)"
        )
    return notes
