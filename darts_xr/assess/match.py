"""Which detected object meets which reference object, and the scores that follow."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Literal, TypeAlias

import geopandas as gpd
import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import maximum_bipartite_matching
from shapely.geometry.base import BaseGeometry

from darts_xr.assess.distance import pair_distance, stretch
from darts_xr.errors import AssessmentError
from darts_xr.globe import EQUAL_AREA, require_crs

Mask = NDArray[np.bool_]
Coverage: TypeAlias = gpd.GeoDataFrame | gpd.GeoSeries | BaseGeometry


@dataclass(frozen=True)
class MatchRule:
    """When a detected and a reference object are the same, and what the rim of the coverage does.

    Parameters
    ----------
    min_iou : float
        Least intersection over union of a pair, 0 to 1; 0 takes any contact, as the paper does.
    one_to_one : bool
        Whether each object is in one pair at most; as many pairs as possible are formed.
    cut : {"leave-out", "count"}
        What becomes of reference objects that the coverage's rim cuts. ``"leave-out"``: they are neither asked for
        nor held against a detection, since the border rule removes what may go on beyond the valid pixels.
        ``"count"``: all that intersect the coverage are asked for, as in the paper's Table 7.

    Raises
    ------
    AssessmentError
        If a value is out of range.

    Examples
    --------
    >>> MatchRule(min_iou=0.5, one_to_one=True).cut
    'leave-out'
    """

    min_iou: float = 0.0
    one_to_one: bool = False
    cut: Literal["leave-out", "count"] = "leave-out"

    def __post_init__(self) -> None:
        if not 0 <= self.min_iou <= 1:
            raise AssessmentError(f"min_iou must be 0 to 1, got {self.min_iou!r}")
        if self.cut not in ("leave-out", "count"):
            raise AssessmentError(f"cut must be 'leave-out' or 'count', got {self.cut!r}")


ANY_OVERLAP = MatchRule()


@dataclass(frozen=True)
class Scores:
    """Counts and scores of one comparison.

    ``tp`` and ``fp`` count detected objects, ``fn`` counts reference objects; so ``tp`` may differ from
    ``reference_found``: two detections can meet one reference object, and one detection two of them. A ratio
    without denominator is 0 where the other side holds objects (nothing was detected though something was there, or
    the reverse), as the paper prints it, and NaN where both sides are empty.

    Examples
    --------
    >>> Scores(1, 1, 0, 0.5, 1.0, 2 / 3, n_detected=2, n_reference=1, reference_found=1).fp
    1
    """

    tp: int
    fp: int
    fn: int
    precision: float
    recall: float
    f1: float
    n_detected: int
    n_reference: int
    reference_found: int

    def _repr_html_(self) -> str:
        cells = "".join(
            f"<tr><th>{html.escape(field.name)}</th><td>{_shown(getattr(self, field.name))}</td></tr>"
            for field in fields(self)
        )
        return f"<table><caption>Object scores</caption>{cells}</table>"


def _shown(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.3f}"


# --- array kernels -----------------------------------------------------------------------------------------


def score_counts(tp: int, n_detected: int, found: int, n_reference: int) -> Scores:
    """Scores from how many detected objects are true, and how many reference objects are found.

    Examples
    --------
    >>> score_counts(1, 2, 1, 4).recall
    0.25
    """
    empty = 0.0 if n_detected or n_reference else float("nan")
    precision = tp / n_detected if n_detected else empty
    recall = found / n_reference if n_reference else empty
    total = precision + recall
    return Scores(
        tp=tp,
        fp=n_detected - tp,
        fn=n_reference - found,
        precision=precision,
        recall=recall,
        f1=2 * precision * recall / total if total > 0 else empty,
        n_detected=n_detected,
        n_reference=n_reference,
        reference_found=found,
    )


@dataclass(frozen=True)
class Matching:
    """For each object whether it counts, and whether it met a counterpart that counts.

    Parameters
    ----------
    detected_counted, detected_hit, reference_counted, reference_hit : numpy.ndarray
        Booleans, one an object; who is hit is counted.
    """

    detected_counted: Mask
    detected_hit: Mask
    reference_counted: Mask
    reference_hit: Mask

    @property
    def scores(self) -> Scores:
        """Counts and ratios."""
        return score_counts(
            int(self.detected_hit.sum()),
            int(self.detected_counted.sum()),
            int(self.reference_hit.sum()),
            int(self.reference_counted.sum()),
        )


class Pairs:
    """Which detected object meets which reference object; found once, scored for any part of both.

    Parameters
    ----------
    detected, reference : geopandas.GeoDataFrame or geopandas.GeoSeries
        Objects in any CRS; invalid shapes are taken as their repaired selves, empty ones meet nothing.
    buffer : float
        Metres within which a detection counts as meeting, measured on the ground where the two are.
    rule : MatchRule
        What makes a pair.

    Raises
    ------
    CRSError
        If a frame has no CRS.
    AssessmentError
        If ``buffer`` is negative, or a buffer comes with a least IoU.

    Notes
    -----
    A buffer is a distance, not a grown shape: it has no corners, and costs no polygons.
    """

    def __init__(
        self,
        detected: gpd.GeoDataFrame | gpd.GeoSeries,
        reference: gpd.GeoDataFrame | gpd.GeoSeries,
        *,
        buffer: float = 0.0,
        rule: MatchRule = ANY_OVERLAP,
    ) -> None:
        if not 0 <= buffer < math.inf:
            raise AssessmentError(f"buffer must be 0 m or more, got {buffer!r}")
        if buffer > 0 and rule.min_iou > 0:
            raise AssessmentError(
                f"a buffer of {buffer:g} m and a least IoU of {rule.min_iou:g} exclude each other: a buffer is for "
                "points, which have no area; give one of the two"
            )
        self.rule = rule
        self.found = project(detected, "detected")
        self.wanted = project(reference, "reference")
        self.left, self.right = self._near(buffer)
        self.good = self._overlap_enough()

    def _near(self, buffer: float) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        tree = shapely.STRtree(self.wanted)
        if buffer == 0:
            # Points and lines are met where they are crossed, as polygons are.
            left, right = tree.query(self.found, predicate="intersects")
            return left, right
        reach = buffer * stretch(self.wanted)
        left, right = tree.query(self.found, predicate="dwithin", distance=reach)
        meet = shapely.intersects(self.found[left], self.wanted[right])
        apart = np.flatnonzero(~meet)
        meet[apart] = pair_distance(self.found, self.wanted, left[apart], right[apart]) <= buffer
        return left[meet], right[meet]

    def _overlap_enough(self) -> Mask:
        if self.rule.min_iou == 0:
            return np.ones(len(self.left), bool)
        one, other = self.found[self.left], self.wanted[self.right]
        shared = shapely.area(shapely.intersection(one, other))
        whole = shapely.area(one) + shapely.area(other) - shared
        iou = np.divide(shared, whole, out=np.zeros(len(whole)), where=whole > 0)
        return np.asarray(iou >= self.rule.min_iou)

    def match(
        self,
        detected: Mask | None = None,
        reference: Mask | None = None,
        seen: BaseGeometry | None = None,
    ) -> Matching:
        """Match a part of both sides.

        Parameters
        ----------
        detected, reference : numpy.ndarray, optional
            Which objects take part; by default all.
        seen : shapely geometry, optional
            The coverage in the equal-area projection, from :func:`project_union`.

        Returns
        -------
        Matching
            Of all objects; those that take no part do not count.
        """
        counted = np.ones(len(self.found), bool) if detected is None else detected.copy()
        asked = np.ones(len(self.wanted), bool) if reference is None else reference.copy()
        if seen is not None:
            part, whole = np.flatnonzero(counted), np.flatnonzero(asked)
            shapely.prepare(seen)
            counted[part] = shapely.intersects(seen, self.found[part])
            if self.rule.cut == "count":
                asked[whole] = shapely.intersects(seen, self.wanted[whole])
            else:
                complete = asked.copy()
                complete[whole] = shapely.covers(seen, self.wanted[whole])
                counted &= ~self._meets_only(asked & ~complete, complete)
                asked = complete
        pairs = np.flatnonzero(self.good & counted[self.left] & asked[self.right])
        left, right = self.left[pairs], self.right[pairs]
        if self.rule.one_to_one:
            left, right = _one_to_one(left, right, (len(counted), len(asked)))
        detected_hit, reference_hit = np.zeros(len(counted), bool), np.zeros(len(asked), bool)
        detected_hit[left], reference_hit[right] = True, True
        return Matching(counted, detected_hit, asked, reference_hit)

    def _meets_only(self, some: Mask, others: Mask) -> Mask:
        """Which detected objects meet one of some, and none of the others."""
        meets_some, meets_others = np.zeros((2, len(self.found)), bool)
        meets_some[self.left[some[self.right]]] = True
        meets_others[self.left[others[self.right]]] = True
        return meets_some & ~meets_others


def _one_to_one(
    left: NDArray[np.intp], right: NDArray[np.intp], shape: tuple[int, int]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    graph = coo_array((np.ones(len(left), np.int8), (left, right)), shape=shape).tocsr()
    partner = maximum_bipartite_matching(graph, perm_type="column")
    paired = np.flatnonzero(partner >= 0)
    return paired, partner[paired].astype(np.intp)


def project(frame: gpd.GeoDataFrame | gpd.GeoSeries, name: str) -> NDArray[np.object_]:
    """Shapes in the equal-area projection of all products, repaired where they are invalid.

    Raises
    ------
    CRSError
        If the frame has no CRS.
    """
    require_crs(frame, name)
    shapes = np.array(frame.geometry.to_crs(EQUAL_AREA).to_numpy(), object)
    invalid = ~shapely.is_valid(shapes)
    shapes[invalid] = shapely.make_valid(shapes[invalid])
    return shapes


def project_union(coverage: Coverage) -> BaseGeometry:
    """Union of a coverage in the equal-area projection; a bare geometry is in EPSG:4326.

    Lines of footprints are straight in longitude and latitude: short pieces keep them so.

    Raises
    ------
    CRSError
        If the frame has no CRS.
    """
    if isinstance(coverage, BaseGeometry):
        coverage = gpd.GeoSeries([coverage], crs="EPSG:4326")
    shapes = project_each(coverage)
    return shapes[0] if len(shapes) == 1 else shapely.union_all(shapes)


def project_each(coverage: gpd.GeoDataFrame | gpd.GeoSeries) -> NDArray[np.object_]:
    """Each shape of a coverage in the equal-area projection; see :func:`project_union`.

    Raises
    ------
    CRSError
        If the frame has no CRS.
    """
    require_crs(coverage, "coverage")
    lines = coverage.geometry
    return project(lines.segmentize(0.05) if lines.crs.is_geographic else lines, "coverage")


# --- labelled public functions -----------------------------------------------------------------------------


def match_objects(
    detected: gpd.GeoDataFrame,
    reference: gpd.GeoDataFrame,
    *,
    buffer: float = 0.0,
    coverage: Coverage | None = None,
    rule: MatchRule = ANY_OVERLAP,
) -> Scores:
    """Compare detected objects with an inventory, object by object; by default any overlap counts.

    Precision is the share of detected objects that meet a reference object, recall the share of reference
    objects that are met, F1 their harmonic mean (Nitze et al. 2025, Sci. Data 12:1512, Technical Validation).

    Parameters
    ----------
    detected, reference : geopandas.GeoDataFrame
        Objects and inventory, each in any CRS; the inventory may hold points.
    buffer : float
        Metres around the reference within which a detection still meets it, measured on the ground; the paper takes
        200 m for inventories of points.
    coverage : geopandas.GeoDataFrame, geopandas.GeoSeries or shapely geometry, optional
        What was seen (a bare geometry is in EPSG:4326). Detections outside are not counted; of the reference,
        ``rule.cut`` tells which part is.
    rule : MatchRule
        Least overlap, one-to-one pairs, the rim of the coverage.

    Returns
    -------
    Scores
        Counts and scores. Computed at once.

    Raises
    ------
    CRSError
        If a frame has no CRS.
    AssessmentError
        If ``buffer`` is negative or comes with a least IoU.

    Examples
    --------
    >>> import geopandas as gpd, shapely
    >>> truth = gpd.GeoDataFrame(geometry=[shapely.box(0, 0, 9, 9), shapely.box(50, 0, 59, 9)], crs=32608)
    >>> found = gpd.GeoDataFrame(geometry=[shapely.box(5, 5, 20, 20), shapely.box(80, 0, 89, 9)], crs=32608)
    >>> scores = match_objects(found, truth)
    >>> scores.precision, scores.recall, scores.f1
    (0.5, 0.5, 0.5)
    """
    seen = None if coverage is None else project_union(coverage)
    return Pairs(detected, reference, buffer=buffer, rule=rule).match(seen=seen).scores


def pool_scores(parts: Iterable[Scores]) -> Scores:
    """Scores of several comparisons together, such as one an image: counts are added, ratios follow from the sums.

    Examples
    --------
    >>> pool_scores([score_counts(1, 2, 1, 1)] * 2).precision
    0.5
    """
    parts = list(parts)
    return score_counts(
        sum(part.tp for part in parts),
        sum(part.n_detected for part in parts),
        sum(part.reference_found for part in parts),
        sum(part.n_reference for part in parts),
    )
