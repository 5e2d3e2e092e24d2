"""From numbered pixels to polygons with statistics: one row an object, one read of every chunk."""

from __future__ import annotations

from typing import Any

import geopandas as gpd
import numpy as np
import xarray as xr
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph
from dask.task_spec import Task, TaskRef
from numpy.typing import NDArray

from darts_xr.errors import CRSError, GridMismatchError, ObjectError
from darts_xr.globe import cut_at_180
from darts_xr.graph.layers import Tasks, as_dask, blocks, compute_together, extend
from darts_xr.objects.label import COUNTS, Candidates, Found, LabelLayer, check_grid, from_stored
from darts_xr.objects.outline import outlines
from darts_xr.objects.runs import Numbers, Pixels, join_runs, number_runs

STATISTICS = ("pval_mean", "pval_std", "pval_min", "pval_max", "pval_p25", "pval_p50", "pval_p75")
_SEGMENT = (
    1000.0  # metres: a straight UTM line bends by 0.05 m over this length in longitude and latitude at 70°N
)

# --- array kernels -----------------------------------------------------------------------------------------


def read_pixels(
    labels: NDArray[np.integer], probability: NDArray[np.floating] | None, top: int, left: int
) -> Pixels:
    """Numbered pixels of one chunk; without values if there is no probability."""
    labels = np.ascontiguousarray(labels)
    runs, numbers = number_runs(labels, top, left)
    if probability is None:
        values = np.empty(0, np.float32)
    else:
        values = np.asarray(probability)[labels != 0].astype(np.float32)
    return Pixels(runs, numbers, values)


def number_pixels(candidates: Candidates, found: Found, removed: bool) -> Pixels:
    """Pick the candidates of one chunk that belong to an object, with its number; also those of removed ones."""
    pixels = candidates.pixels
    runs, numbers = found.runs, found.numbers
    if removed:
        runs, numbers = join_runs(
            np.concatenate([runs, found.removed_runs]), np.concatenate([numbers, found.removed_numbers])
        )
    if len(runs) == 0 or len(pixels.runs) == 0:
        return Pixels(pixels.runs[:0], pixels.numbers[:0], pixels.values[:0])
    # A chunk's run lies wholly inside one run of the scene, if its object was kept at all.
    stride = int(max(runs[:, 2].max(), pixels.runs[:, 2].max())) + 1
    starts = runs[:, 0].astype(np.int64) * stride + runs[:, 1]
    stops = runs[:, 0].astype(np.int64) * stride + runs[:, 2]
    here = pixels.runs[:, 0].astype(np.int64) * stride + pixels.runs[:, 1]
    at = np.maximum(np.searchsorted(starts, here, side="right") - 1, 0)
    kept = (starts[at] <= here) & (here < stops[at])
    length = pixels.runs[:, 2] - pixels.runs[:, 1]
    return Pixels(pixels.runs[kept], numbers[at[kept]], pixels.values[np.repeat(kept, length)])


def statistics(numbers: Numbers, values: NDArray[np.float32]) -> dict[str, NDArray[np.float64]]:
    """Statistics of each number's values, in ascending order of the numbers.

    Values are sorted within their number first, so that sums do not depend on the order of the chunks.
    """
    # Non-negative floats sort like their bits: number and value fit one integer, and its sort is quick.
    bits = (values + np.float32(0)).view(np.uint32).astype(np.uint64)
    key = np.sort((numbers.astype(np.uint64) << np.uint64(32)) | bits)
    ordered = (key & np.uint64(0xFFFFFFFF)).astype(np.uint32).view(np.float32).astype(np.float64)
    number = key >> np.uint64(32)
    begin = np.flatnonzero(np.append(True, number[1:] != number[:-1])) if len(number) else np.empty(0, int)
    count = np.diff(begin, append=len(number))
    if len(begin) == 0:
        return {name: np.empty(0) for name in STATISTICS}
    mean = np.add.reduceat(ordered, begin) / count
    variance = np.add.reduceat((ordered - np.repeat(mean, count)) ** 2, begin) / count
    out = {
        "pval_mean": mean,
        "pval_std": np.sqrt(variance),
        "pval_min": ordered[begin],
        "pval_max": ordered[begin + count - 1],
    }
    for percent in (25, 50, 75):
        at = percent / 100 * (count - 1)
        low = np.floor(at).astype(np.int64)
        below = ordered[begin + low]
        above = ordered[begin + np.minimum(low + 1, count - 1)]
        out[f"pval_p{percent}"] = below + (above - below) * (at - low)
    return out


# --- Dask wiring -------------------------------------------------------------------------------------------


def _pixel_tasks(
    labels: xr.DataArray, prob: xr.DataArray | None, removed: bool
) -> tuple[HighLevelGraph, str]:
    """Lay out the tasks that find the numbered pixels of every chunk: graph and name of the layer."""
    data = as_dask(labels)
    source = None if prob is None else as_dask(prob)
    layer = data.dask.layers.get(data.name)
    name = f"object-pixels-{tokenize(data.name, None if source is None else source.name, removed)}"
    tasks: Tasks = {}
    if source is not None and isinstance(layer, LabelLayer) and layer.probability == source.name:
        # The labels come straight from this probability: their candidates already hold all values. Chunks of
        # the probability can go as soon as they are read, and no dense label is ever painted.
        runs, found = layer.candidates, layer.found
        for block in blocks(data):
            key = (name, *block.at)
            tasks[key] = Task(key, number_pixels, TaskRef((runs, *block.at)), TaskRef(found), removed)
        return extend(data.dask, name, tasks, {runs, found}), name
    if removed:
        raise ObjectError(
            "removed objects are known only to labels of label_objects with the probability that they were made from; "
            "give that, or leave keep_removed out"
        )
    graph, needs = data.dask, {data.name}
    if source is not None:
        source = source.rechunk(data.chunks)  # type: ignore[no-untyped-call]
        graph, needs = HighLevelGraph.merge(graph, source.dask), {data.name, source.name}
    for block in blocks(data):
        key = (name, *block.at)
        numbers = TaskRef((data.name, *block.at))
        values = None if source is None else TaskRef((source.name, *block.at))
        tasks[key] = Task(key, read_pixels, numbers, values, block.top, block.left)
    return extend(graph, name, tasks, needs), name


# --- labelled public function ------------------------------------------------------------------------------


def vectorize(
    labels: xr.DataArray,
    prob: xr.DataArray | None = None,
    *,
    crs: Any = "EPSG:4326",
    keep_removed: bool = False,
) -> gpd.GeoDataFrame:
    """Polygons of numbered objects, with statistics of the probability over exactly their pixels.

    Computes, in one pass: every chunk of ``prob`` is read once, and if ``labels`` come from
    :func:`label_objects` on the same ``prob``, no dense labels are made. The result does not depend on the
    chunks, byte for byte. Statistics are those of Nitze et al. 2025 (Sci. Data 12:1512), Table 5.

    Parameters
    ----------
    labels : xarray.DataArray
        Object numbers, integer, 0 where there is no object, dims ``(y, x)``; lazy or not.
    prob : xarray.DataArray, optional
        Probability 0 to 1 on the same grid; lazy or not. Without it there are no ``pval_`` columns.
    crs : optional
        CRS of the geometry; ``None`` keeps the pixel edges in the scene's own CRS, exactly. In longitude and
        latitude, polygons across the antimeridian are split there.
    keep_removed : bool
        Also give the objects that :func:`label_objects` removed, after the others, with the reason ("border" or
        "small") in the column ``removed_by`` ("" for kept ones), which filters go on with and :func:`darts_xr.level1`
        takes into account.

    Returns
    -------
    geopandas.GeoDataFrame
        One row per object, sorted by number: ``object`` and ``n_pixels`` (int64), ``pval_mean``,
        ``pval_std`` (population), ``pval_min``, ``pval_max``, ``pval_p25``, ``pval_p50``, ``pval_p75``
        (float64, linear percentiles), ``geometry`` (valid Polygon or MultiPolygon with holes; pixels that
        meet at a corner are parts of one MultiPolygon). ``attrs`` are those of ``labels``, with
        ``n_detected`` and ``removed``, the number of objects removed by each rule so far.

    Raises
    ------
    CRSError
        If ``labels`` or ``prob`` have no CRS.
    GridMismatchError
        If ``labels`` and ``prob`` are on different pixel grids.
    ObjectError
        If ``labels`` are not integers from 0 on, ``prob`` is negative or NaN under an object, or removed objects are
        asked for of other labels than those of :func:`label_objects` on ``prob``.

    Examples
    --------
    >>> import numpy as np
    >>> from odc.geo.geobox import GeoBox
    >>> from odc.geo.xr import wrap_xr
    >>> p = np.zeros((64, 64), "float32")
    >>> p[20:30, 20:30] = 0.75
    >>> box = GeoBox.from_bbox((500000, 7700000, 500192, 7700192), "EPSG:32608", shape=p.shape)
    >>> prob = wrap_xr(p, box)
    >>> from darts_xr.objects import label_objects
    >>> feats = vectorize(label_objects(prob), prob, crs=None)
    >>> feats[["object", "n_pixels", "pval_mean"]].values.tolist(), feats.area.tolist()
    ([[1.0, 100.0, 0.75]], [900.0])
    """
    geobox = check_grid(labels, "labels")
    if not np.issubdtype(labels.dtype, np.integer):
        raise ObjectError(f"labels are {labels.dtype}, but object numbers are integers with 0 for none")
    prob = None if prob is None else from_stored(prob)
    if prob is not None and check_grid(prob, "prob") != geobox:
        raise GridMismatchError(
            f"labels {geobox!r} and prob {prob.odc.geobox!r} are not on one pixel grid; "
            "take the probability that the labels were made from"
        )
    counted = all(name in labels.coords for name in COUNTS)
    counts = [as_dask(labels.coords[name].variable) for name in COUNTS] if counted else []
    chunks, counts = compute_together(*_pixel_tasks(labels, prob, keep_removed), counts)

    numbers = np.concatenate([b.numbers for b in chunks])
    if (numbers < 0).any():
        raise ObjectError("labels hold negative numbers, but objects are numbered from 1, with 0 for none")
    all_runs = np.concatenate([b.runs for b in chunks])
    length = (all_runs[:, 2] - all_runs[:, 1]).astype(np.int64)
    found, shapes = outlines(*join_runs(all_runs, numbers), geobox.affine)
    columns: dict[str, NDArray[Any]] = {
        "object": found,
        "n_pixels": np.bincount(np.searchsorted(found, numbers), weights=length).astype(np.int64),
    }
    if prob is not None:
        values = np.concatenate([b.values for b in chunks])
        if not (values >= 0).all():
            raise ObjectError(
                "prob is NaN or negative under an object of labels; "
                "take the probability that the labels were made from"
            )
        columns |= statistics(np.repeat(numbers, length), values)
    feats = gpd.GeoDataFrame(columns, geometry=shapes, crs=geobox.crs.proj)
    feats.attrs = _plain(labels.attrs)
    feats.attrs["removed"] = {}
    if counted:
        detected, border, small = (int(count) for count in counts)
        feats.attrs |= {"n_detected": detected, "removed": {"border": border, "small": small}}
    if keep_removed:
        kept = int(found.max(initial=0)) - border - small
        feats["removed_by"] = np.select([found <= kept, found <= kept + border], ["", "border"], "small")
    return feats if crs is None else to_crs(feats, crs)


def to_crs(feats: gpd.GeoDataFrame, crs: Any) -> gpd.GeoDataFrame:
    """Reproject polygons so that long lines keep their course and none crosses the antimeridian.

    Parameters
    ----------
    feats : geopandas.GeoDataFrame
        Polygons with a CRS.
    crs
        Target CRS. In longitude and latitude, polygons across 180° are split there.

    Returns
    -------
    geopandas.GeoDataFrame
        The same rows and attributes; lines of over 1 km have got vertices in between. Computed at once.

    Raises
    ------
    CRSError
        If ``feats`` have no CRS.

    Examples
    --------
    >>> import geopandas as gpd, shapely
    >>> feats = gpd.GeoDataFrame(geometry=[shapely.box(371000, 7490000, 372000, 7491000)], crs=32601)
    >>> to_crs(feats, "EPSG:4326").total_bounds.round(1).tolist()
    [-180.0, 67.5, 180.0, 67.5]
    """
    if feats.crs is None:
        raise CRSError(
            "feats have no coordinate reference system; set the right one with .set_crs(...) first"
        )
    attrs = feats.attrs
    geometry = feats.geometry
    if geometry.crs.is_projected:
        geometry = geometry.segmentize(_SEGMENT)
    geometry = geometry.to_crs(crs)
    if geometry.crs.is_geographic:
        geometry = gpd.GeoSeries(cut_at_180(geometry.to_numpy()), index=feats.index, crs=geometry.crs)
    out = feats.set_geometry(geometry)
    out.attrs = attrs
    return out


def _plain(attrs: dict[Any, Any]) -> dict[str, Any]:
    """Attributes of the scene, without NumPy scalars (JSON cannot hold them) and without those of an array."""
    return {
        str(key): value.item() if isinstance(value, np.generic) else value
        for key, value in attrs.items()
        if key not in ("long_name", "units", "nodata")
    }
