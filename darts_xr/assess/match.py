"""Object-level scores of detections against an inventory."""

from __future__ import annotations

import html
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from darts_xr.errors import ProductError
from darts_xr.globe import EQUAL_AREA, require_crs


@dataclass(frozen=True)
class Scores:
    """Counts and scores of one comparison.

    ``tp`` and ``fp`` count detected objects, ``fn`` counts reference objects; so ``tp`` may differ from
    ``reference_found``: two detections can meet one reference object, and one detection two of them.

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


def _score(detected_hit: NDArray[np.bool_], reference_hit: NDArray[np.bool_]) -> Scores:
    tp, found = int(detected_hit.sum()), int(reference_hit.sum())
    n_detected, n_reference = len(detected_hit), len(reference_hit)
    precision = tp / n_detected if n_detected else float("nan")
    recall = found / n_reference if n_reference else float("nan")
    total = precision + recall
    f1 = 2 * precision * recall / total if total > 0 else (0.0 if total == 0 else float("nan"))
    return Scores(
        tp=tp,
        fp=n_detected - tp,
        fn=n_reference - found,
        precision=precision,
        recall=recall,
        f1=f1,
        n_detected=n_detected,
        n_reference=n_reference,
        reference_found=found,
    )


class _Pairs:
    """Which detected object meets which reference object; found once, scored for any subset."""

    def __init__(
        self,
        detected: gpd.GeoDataFrame,
        reference: gpd.GeoDataFrame,
        buffer: float,
        coverage: gpd.GeoDataFrame | gpd.GeoSeries | BaseGeometry | None,
    ) -> None:
        if not buffer >= 0:
            raise ProductError(f"buffer must be 0 m or more, got {buffer!r}")
        found = _projected(detected, "detected")
        wanted = _projected(reference, "reference")
        if buffer > 0:
            wanted = shapely.buffer(wanted, buffer)
        # Points and lines without a buffer are met where they are crossed, as polygons are.
        self.left, self.right = shapely.STRtree(wanted).query(found, predicate="intersects")
        self.counted_detected = np.ones(len(found), bool)
        self.counted_reference = np.ones(len(wanted), bool)
        if coverage is not None:
            seen = shapely.union_all(_projected(_as_series(coverage), "coverage"))
            shapely.prepare(seen)
            # An object that is cut by the coverage's rim is removed on purpose by the border rule: it can
            # neither be demanded nor, where it was detected after all, be held against the detection.
            self.counted_reference = shapely.covers(seen, _projected(reference, "reference"))
            only_ignored = np.ones(len(found), bool)
            only_ignored[self.left[self.counted_reference[self.right]]] = False
            meets = np.zeros(len(found), bool)
            meets[self.left] = True
            inside = shapely.intersects(seen, found)
            self.counted_detected = inside & ~(meets & only_ignored)

    def scores(self, keep: NDArray[np.bool_] | None = None) -> Scores:
        """Scores with the kept detected objects only."""
        counted = self.counted_detected if keep is None else self.counted_detected & keep
        pairs = counted[self.left] & self.counted_reference[self.right]
        detected_hit = np.zeros(len(counted), bool)
        detected_hit[self.left[pairs]] = True
        reference_hit = np.zeros(len(self.counted_reference), bool)
        reference_hit[self.right[pairs]] = True
        return _score(detected_hit[counted], reference_hit[self.counted_reference])


def _projected(frame: gpd.GeoDataFrame | gpd.GeoSeries, name: str) -> NDArray[np.object_]:
    require_crs(frame, name)
    shapes = np.array(frame.geometry.to_crs(EQUAL_AREA).to_numpy(), object)
    invalid = ~shapely.is_valid(shapes)
    shapes[invalid] = shapely.make_valid(shapes[invalid])
    return shapes


def _as_series(coverage: gpd.GeoDataFrame | gpd.GeoSeries | BaseGeometry) -> gpd.GeoDataFrame | gpd.GeoSeries:
    if isinstance(coverage, BaseGeometry):
        return gpd.GeoSeries([coverage], crs="EPSG:4326")
    return coverage


# --- labelled public functions -----------------------------------------------------------------------------


def match_objects(
    detected: gpd.GeoDataFrame,
    reference: gpd.GeoDataFrame,
    *,
    buffer: float = 0.0,
    coverage: gpd.GeoDataFrame | gpd.GeoSeries | BaseGeometry | None = None,
) -> Scores:
    """Compare detected objects with an inventory, object by object; any overlap counts.

    Precision is the share of detected objects that meet a reference object, recall the share of reference
    objects that are met, F1 their harmonic mean (Nitze et al. 2025, Sci. Data 12:1512, Technical Validation).

    Parameters
    ----------
    detected, reference : geopandas.GeoDataFrame
        Objects and inventory, each in any CRS; the inventory may hold points.
    buffer : float
        Metres by which the reference is grown (in the pole-centred equal-area projection); the paper takes
        200 m for inventories of points.
    coverage : geopandas.GeoDataFrame, geopandas.GeoSeries or shapely geometry, optional
        What was seen (a bare geometry is in EPSG:4326). Reference objects that are not wholly inside are
        ignored: they are not demanded, and detections that meet only such objects are not counted. The border
        rule removes what may go on beyond the valid pixels, so they could not be found. Detections outside of
        the coverage are not counted either.

    Returns
    -------
    Scores
        Counts and scores; a ratio without a denominator is NaN. Computed at once.

    Raises
    ------
    CRSError
        If a frame has no CRS.
    ProductError
        If ``buffer`` is negative.

    Examples
    --------
    >>> import geopandas as gpd, shapely
    >>> truth = gpd.GeoDataFrame(geometry=[shapely.box(0, 0, 9, 9), shapely.box(50, 0, 59, 9)], crs=32608)
    >>> found = gpd.GeoDataFrame(geometry=[shapely.box(5, 5, 20, 20), shapely.box(80, 0, 89, 9)], crs=32608)
    >>> scores = match_objects(found, truth)
    >>> scores.precision, scores.recall, scores.f1
    (0.5, 0.5, 0.5)
    """
    return _Pairs(detected, reference, buffer, coverage).scores()


def threshold_sweep(
    detected: gpd.GeoDataFrame,
    reference: gpd.GeoDataFrame,
    *,
    thresholds: Iterable[float] = (0.5, 0.55, 0.6, 0.65, 0.7),
    buffer: float = 0.0,
    coverage: gpd.GeoDataFrame | gpd.GeoSeries | BaseGeometry | None = None,
) -> pd.DataFrame:
    """Scores of the detected objects whose mean probability reaches each threshold.

    Parameters
    ----------
    detected : geopandas.GeoDataFrame
        Objects with a column ``pval_mean`` (or Level 2 with ``pval_mean_of_mean_level1``).
    reference : geopandas.GeoDataFrame
        Inventory, as in :func:`match_objects`.
    thresholds : iterable of float
        Smallest mean probability that is kept, each a row of the result.
    buffer, coverage
        As in :func:`match_objects`.

    Returns
    -------
    pandas.DataFrame
        One row per threshold: ``threshold`` and the fields of :class:`Scores`. Computed at once.

    Raises
    ------
    ProductError
        If ``detected`` has no mean probability.

    Examples
    --------
    >>> import geopandas as gpd, shapely
    >>> truth = gpd.GeoDataFrame(geometry=[shapely.box(0, 0, 9, 9)], crs=32608)
    >>> found = gpd.GeoDataFrame(
    ...     {"pval_mean": [0.8, 0.52]},
    ...     geometry=[shapely.box(5, 5, 20, 20), shapely.box(80, 0, 89, 9)], crs=32608)
    >>> threshold_sweep(found, truth, thresholds=(0.5, 0.6)).precision.tolist()
    [0.5, 1.0]
    """
    names = [name for name in ("pval_mean", "pval_mean_of_mean_level1") if name in detected]
    if not names:
        raise ProductError("detected has no column pval_mean; vectorize the labels with their probability")
    mean = detected[names[0]].to_numpy()
    pairs = _Pairs(detected, reference, buffer, coverage)
    rows = [{"threshold": float(t), **asdict(pairs.scores(mean >= t))} for t in thresholds]
    columns = ["threshold", *(field.name for field in fields(Scores))]
    return pd.DataFrame(rows, columns=columns)


def pool_scores(parts: Iterable[Scores]) -> Scores:
    """Scores of several comparisons together, such as one an image: counts are added, ratios follow from the sums.

    Examples
    --------
    >>> one = _score(np.array([True, False]), np.array([True]))
    >>> pool_scores([one, one]).precision
    0.5
    """
    parts = list(parts)
    hits, wrong = sum(p.tp for p in parts), sum(p.fp for p in parts)
    found, missed = sum(p.reference_found for p in parts), sum(p.fn for p in parts)
    return _score(
        np.arange(hits + wrong) < hits,
        np.arange(found + missed) < found,
    )
