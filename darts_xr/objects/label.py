"""From a probability to numbered objects: threshold, connected objects, border and size rules."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import dask.array as da
import numpy as np
import odc.geo.xr  # noqa: F401  (registers .odc)
import xarray as xr
from dask.base import tokenize
from dask.highlevelgraph import MaterializedLayer
from dask.task_spec import List, Task, TaskRef
from numpy.typing import NDArray

from darts_xr.cube.metadata import linked
from darts_xr.errors import CRSError, ObjectError
from darts_xr.graph.layers import Tasks, as_dask, blocks, extend, lazy_array
from darts_xr.objects.runs import (
    Numbers,
    Pixels,
    Runs,
    components,
    join_runs,
    near_points,
    number_runs,
    run_pairs,
)
from darts_xr.percent import NO_DATA, to_probability

Connectivity = Literal[4, 8, "legacy"]

COUNTS = ("n_detected", "n_removed_border", "n_removed_small")


class Candidates(NamedTuple):
    """What one chunk gives to the scene: pixels at or above the threshold and the rim of its invalid ones."""

    pixels: Pixels
    rim: NDArray[np.int32]


class Found(NamedTuple):
    """Objects of a whole scene: runs and number of the kept ones, and how many each rule removed.

    The removed ones have the numbers after those of the kept: first those at the border, then the small ones.
    """

    runs: Runs
    numbers: Numbers
    n_detected: int
    n_removed_border: int
    n_removed_small: int
    removed_runs: Runs
    removed_numbers: Numbers


# --- array kernels -----------------------------------------------------------------------------------------


def find_candidates(
    probability: NDArray[np.floating], top: int, left: int, threshold: float, rim: bool
) -> Candidates:
    """Candidates of one chunk whose first pixel is at ``top, left`` of the scene."""
    probability = np.ascontiguousarray(probability)
    mask = probability >= threshold
    runs, numbers = number_runs(mask.view(np.uint8), top, left)
    values = probability[mask].astype(np.float32)
    if values.max(initial=0.0) > 1.001:
        raise ObjectError(
            f"prob holds {values.max():g}, but probabilities are 0 to 1; divide a 0 to 100 raster by 100, or give the "
            "stored uint8 raster as it is"
        )
    points = np.empty((0, 2), np.int32)
    if rim:
        points = (_invalid_rim(probability) + np.array([top, left])).astype(np.int32)
    return Candidates(Pixels(runs, numbers, values), points)


def _invalid_rim(probability: NDArray[np.floating]) -> NDArray[np.int64]:
    """Rows and columns of invalid pixels that may be the invalid pixel nearest to a valid one."""
    invalid = np.isnan(probability)
    if not invalid.any():
        return np.empty((0, 2), np.int64)
    # Beyond the chunk's edge lies another chunk: there every invalid pixel counts as rim.
    rim = invalid.copy()
    rim[1:-1, 1:-1] &= ~(invalid[:-2, 1:-1] & invalid[2:, 1:-1] & invalid[1:-1, :-2] & invalid[1:-1, 2:])
    return np.argwhere(rim)


def find_objects(
    candidates: list[Candidates],
    shape: tuple[int, int],
    border: float,
    min_pixels: int,
    connectivity: Connectivity,
) -> Found:
    """Objects of a scene from the candidates of all its chunks, in any order.

    Objects are numbered 1, 2, ... by their first pixel in reading order, whatever the chunks.
    """
    runs, _ = join_runs(
        np.concatenate([c.pixels.runs for c in candidates]),
        np.concatenate([c.pixels.numbers for c in candidates]),
    )
    size = (runs[:, 2] - runs[:, 1]).astype(np.int64)
    label = components(len(runs), *run_pairs(runs, diagonal=connectivity != 4))
    n_detected = int(label.max(initial=-1)) + 1

    n_border = 0
    out_runs, out_numbers = [runs[:0]], [label[:0]]
    if border > 0:
        frame = int(border)
        in_zone = (
            (runs[:, 0] < frame)
            | (runs[:, 0] >= shape[0] - frame)
            | (runs[:, 1] < frame)
            | (runs[:, 2] > shape[1] - frame)
        )
        in_zone |= near_points(runs, np.concatenate([c.rim for c in candidates]), border, shape)
        touched = np.bincount(label, weights=in_zone, minlength=n_detected) > 0
        n_border = int(touched.sum())
        kept = ~touched[label]
        out_runs.append(runs[~kept])
        out_numbers.append(np.cumsum(touched, dtype=np.int64)[label[~kept]])
        runs, size, label = runs[kept], size[kept], label[kept]
    # Legacy: the size rule and the polygons know 4-connected parts only.
    diagonal = connectivity == 8
    label = components(len(runs), *run_pairs(runs, diagonal=diagonal))
    pixels = np.bincount(label, weights=size)
    small = pixels < min_pixels
    kept = ~small[label]
    number = np.cumsum(~small)[label[kept]].astype(np.int64)
    out_runs.append(runs[~kept])
    out_numbers.append(n_border + np.cumsum(small, dtype=np.int64)[label[~kept]])
    removed = np.concatenate(out_numbers).astype(np.int64) + int((~small).sum())
    return Found(
        runs[kept], number, n_detected, n_border, int(small.sum()), np.concatenate(out_runs), removed
    )


def paint(found: Found, top: int, left: int, height: int, width: int) -> NDArray[np.int32]:
    """Object numbers of one chunk."""
    labels = np.zeros(height * width, np.int32)
    runs, numbers = clip_runs(found, top, left, height, width)
    length = (runs[:, 2] - runs[:, 1]).astype(np.int64)
    begin = (runs[:, 0] - top).astype(np.int64) * width + runs[:, 1] - left
    at = np.arange(length.sum()) + np.repeat(begin - (np.cumsum(length) - length), length)
    labels[at] = np.repeat(numbers, length)
    return labels.reshape(height, width)


def clip_runs(found: Found, top: int, left: int, height: int, width: int) -> tuple[Runs, Numbers]:
    """Cut out the part of the found runs that lies in one chunk."""
    low, high = np.searchsorted(found.runs[:, 0], [top, top + height])
    runs, numbers = found.runs[low:high].copy(), found.numbers[low:high]
    np.clip(runs[:, 1:], left, left + width, out=runs[:, 1:])
    some = runs[:, 1] < runs[:, 2]
    return runs[some], numbers[some]


# --- Dask wiring -------------------------------------------------------------------------------------------


class LabelLayer(MaterializedLayer):  # type: ignore[misc]
    """The layer that paints object numbers, with the names of what it paints them from.

    An array whose own layer this is holds the labels as they were painted: whatever changes them adds another layer,
    and what only renames, copies or sends the array leaves it.

    Attributes
    ----------
    probability : str
        The array that was labelled.
    candidates : str
        The layer with the :class:`Candidates` of each of its chunks.
    found : str
        The task that returns :class:`Found`.
    """

    def __init__(self, tasks: Tasks, *, probability: str, candidates: str, found: str) -> None:
        super().__init__(tasks)
        self.probability, self.candidates, self.found = probability, candidates, found


def _count(found: Found, field: str) -> NDArray[np.int64]:
    return np.asarray(getattr(found, field), np.int64)


def candidates_of(labels: xr.DataArray) -> da.Array:
    """Give what labels are painted from as an array to persist: in place of its pixels each chunk is its Candidates.

    Parameters
    ----------
    labels : xarray.DataArray
        Of :func:`label_objects`, still lazy.

    Returns
    -------
    dask.array.Array
        For ``dask.persist`` alone, since its chunks hold no pixels.
    """
    layer = labels.data.dask.layers[labels.data.name]
    return lazy_array(labels.data.dask, layer.candidates, labels.data.chunks, object)


def with_candidates(labels: xr.DataArray, held: da.Array) -> xr.DataArray:
    """Give the same labels made from persisted candidates: the probability is not needed any more, and not computed.

    A scene's probability takes 4 bytes a pixel as long as something may ask for it again, its candidates a fraction of
    that, so that the memory of a run does not grow with its scenes.

    Parameters
    ----------
    labels : xarray.DataArray
        Of :func:`label_objects`.
    held : dask.array.Array
        Their :func:`candidates_of`, persisted.

    Returns
    -------
    xarray.DataArray
        Equal to ``labels``, lazy; :func:`darts_xr.vectorize` takes them with the same probability.
    """
    whole = labels.data.dask
    layer = whole.layers[labels.data.name]
    graph = extend(held.dask, layer.found, whole.layers[layer.found], {layer.candidates})

    def again(array: da.Array) -> da.Array:
        own = extend(graph, array.name, array.dask.layers[array.name], {layer.found})
        return lazy_array(own, array.name, array.chunks, array.dtype)

    out = labels.copy(data=again(labels.data))
    return out.assign_coords({field: ((), again(labels.coords[field].data)) for field in COUNTS})


# --- labelled public function ------------------------------------------------------------------------------


def label_objects(
    prob: xr.DataArray,
    *,
    threshold: float = 0.5,
    border: float = 10,
    min_pixels: int = 32,
    border_m: float | None = None,
    min_area_m2: float | None = None,
    connectivity: Connectivity = 8,
) -> xr.DataArray:
    """Label the objects of a probability, without those at the border and the small ones.

    Objects are the connected pixels with ``prob >= threshold``. An object with a pixel in the border zone
    (within ``border`` pixels of an invalid one, or in the outer ``border`` rows and columns) is removed
    whole, because it may go on where nothing was seen; then objects below ``min_pixels`` are removed (Nitze
    et al. 2025, Sci. Data 12:1512, Methods, post-processing). Numbers follow the first pixel of each object
    in reading order and do not depend on the chunks. ``border=0, min_pixels=1`` switches both rules off, which
    gives the raw objects of a single ensemble member (the paper's figure 5).

    Parameters
    ----------
    prob : xarray.DataArray
        Probability 0 to 1, floating point, NaN where invalid, dims ``(y, x)``, with a ``spatial_ref``
        coordinate; any chunks, or in memory. Or the raster that a run stored: uint8 per cent, 255 where invalid. At the
        run's threshold it gives the run's objects.
    threshold : float
        Smallest probability of an object's pixel.
    border : float
        Width of the border zone in pixels: Euclidean distance between pixel centres around invalid pixels,
        whole rows and columns at the scene's frame. 0 switches the rule off.
    min_pixels : int
        Pixels of the smallest object that is kept. 1 switches the rule off.
    border_m, min_area_m2 : float, optional
        Width of the border zone in metres and area of the smallest object in square metres, in place of
        ``border`` and ``min_pixels``.
    connectivity : {8, 4, "legacy"}
        Pixels that meet at a corner belong together (8) or not (4). ``"legacy"`` does as the published
        workflow: 8 for the border rule, 4 for the size rule and the objects that come out.

    Returns
    -------
    xarray.DataArray
        Lazy int32 array ``objects`` in the chunks of ``prob``, 0 where there is no object, with the
        attributes of ``prob`` and the parameters. Scalar lazy coordinates count what happened:
        ``n_detected``, ``n_removed_border``, ``n_removed_small``. Nothing is computed.

    Raises
    ------
    CRSError
        If ``prob`` has no CRS, or metres are asked for and its CRS is not in metres.
    ObjectError
        If ``prob`` is not a two-dimensional floating-point array or a parameter makes no sense.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from odc.geo.geobox import GeoBox
    >>> from odc.geo.xr import wrap_xr
    >>> p = np.zeros((64, 64), "float32")
    >>> p[20:30, 20:30] = 0.9
    >>> p[40:43, 40:43] = 0.9
    >>> box = GeoBox.from_bbox((500000, 7700000, 500192, 7700192), "EPSG:32608", shape=p.shape)
    >>> prob = wrap_xr(p, box)
    >>> labels = label_objects(prob)
    >>> int(labels.max()), int(labels.n_detected), int(labels.n_removed_small)
    (1, 2, 1)
    """
    geobox = check_grid(prob, "prob")
    prob = from_stored(prob)
    if not np.issubdtype(prob.dtype, np.floating):
        raise ObjectError(
            f"prob is {prob.dtype}, but probabilities are floating point 0 to 1 with NaN where invalid; "
            "divide a 0 to 100 raster by 100 and set its no-data value to NaN first"
        )
    if connectivity not in (4, 8, "legacy"):
        raise ObjectError(f"connectivity must be 4, 8 or 'legacy', got {connectivity!r}")
    if border_m is not None or min_area_m2 is not None:
        if not geobox.crs.projected or geobox.crs.units[0] not in ("m", "metre", "meter"):
            raise CRSError(f"border_m and min_area_m2 need a CRS in metres, but prob is in {geobox.crs}")
        cell = abs(geobox.affine.determinant)
        if border_m is not None:
            border = border_m / math.sqrt(cell)
        if min_area_m2 is not None:
            min_pixels = math.ceil(min_area_m2 / cell - 1e-9)
    if not border >= 0 or not min_pixels >= 0:
        raise ObjectError(f"border and min_pixels must be 0 or more, got {border!r} and {min_pixels!r}")

    data = as_dask(prob)
    token = tokenize(data.name, threshold, border, min_pixels, connectivity)
    runs, found, name = f"object-runs-{token}", f"objects-found-{token}", f"objects-{token}"
    candidates = {
        (runs, *block.at): Task(
            (runs, *block.at), find_candidates, TaskRef((data.name, *block.at)), block.top, block.left, threshold,
            border > 0,
        )
        for block in blocks(data)
    }  # fmt: skip
    merge = Task(
        found, find_objects, List(*map(TaskRef, candidates)), data.shape, border, min_pixels, connectivity
    )
    painted = {
        (name, *block.at): Task((name, *block.at), paint, TaskRef(found), *block[1:])
        for block in blocks(data)
    }
    graph = extend(data.dask, runs, candidates, {data.name})
    graph = extend(graph, found, {found: merge}, {runs})
    layer = LabelLayer(painted, probability=data.name, candidates=runs, found=found)
    labels = lazy_array(extend(graph, name, layer, {found}), name, data.chunks, np.int32)
    counts = {}
    for field in COUNTS:
        key = f"{field}-{token}"
        count = Task((key,), _count, TaskRef(found), field)
        counts[field] = lazy_array(extend(graph, key, {(key,): count}, {found}), key, (), np.int64)
    out = (
        prob.copy(data=labels)
        .rename("objects")
        .assign_coords({field: ((), count) for field, count in counts.items()})
    )
    out.attrs = {
        **prob.attrs,
        "long_name": "object number, 0 where there is none",
        "units": "1",
        "nodata": 0,
        "threshold": float(threshold),
        "border_px": float(border),
        "min_pixels": int(min_pixels),
        "connectivity": str(connectivity),
    }
    return linked(out)


def _stored_block(percent: NDArray[np.uint8]) -> NDArray[np.float32]:
    strange = percent[(percent > 100) & (percent != NO_DATA)]
    if strange.size:
        raise ObjectError(
            f"prob holds {int(strange[0])}, but a stored probability is 0 to 100 %, or {NO_DATA}"
        )
    return to_probability(percent)


def from_stored(prob: xr.DataArray) -> xr.DataArray:
    """Probability of a raster that was stored in per cent; any other array as it is."""
    if prob.dtype != np.uint8:
        return prob
    stated = prob.attrs.get("_FillValue", prob.attrs.get("nodata", prob.encoding.get("_FillValue")))
    if stated != NO_DATA:
        raise ObjectError(
            f"prob is uint8 with the no-data value {stated}, and a stored probability has {NO_DATA}; open its file "
            "with rioxarray.open_rasterio, which keeps that value, or divide a 0 to 100 raster by 100 and set its "
            "no-data value to NaN first"
        )
    data = da.map_blocks(_stored_block, as_dask(prob), dtype=np.float32, meta=np.empty((0, 0), np.float32))
    out = prob.copy(data=data)
    out.attrs = {key: value for key, value in prob.attrs.items() if key not in ("_FillValue", "nodata")}
    return out.assign_attrs(units="1")


def check_grid(array: xr.DataArray, name: str) -> Any:
    """Return the array's GeoBox, or raise an error that says what it lacks."""
    if array.ndim != 2:
        raise ObjectError(
            f"{name} has the dimensions {array.dims}, but one scene (y, x) is needed; "
            "select one time step first, for example with .isel(time=0)"
        )
    geobox = array.odc.geobox
    if geobox is None or geobox.crs is None:
        raise CRSError(
            f"{name} has no coordinate reference system; assign one with .odc.assign_crs(...) "
            "or keep the spatial_ref coordinate of the scene"
        )
    return geobox
