"""Probability of thaw slumps for each pixel: every member on every model tile, seamless over chunks.

Model tiles lie on a lattice anchored at the scene's first pixel. A tile has a core, whose output is kept, and a
margin around it, which the networks see and whose output is dropped. Whatever the chunks of the scene, the same
tiles see the same pixels, so the numbers do not depend on the chunking.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal, get_args

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from darts_xr.cube.bands import DIFFERENCES, VALID
from darts_xr.cube.indices import normalised_difference
from darts_xr.cube.metadata import linked, metadata_of
from darts_xr.cube.windows import SceneWindow, window_pixels
from darts_xr.errors import CheckpointError, MissingBandsError, ParameterError, TilingError
from darts_xr.graph.overlap import map_overlap
from darts_xr.graph.planes import Planes, block_planes
from darts_xr.inference.ensemble import DEMO_CAUTION, Ensemble
from darts_xr.inference.forward import member_probabilities
from darts_xr.inference.published import published_windows
from darts_xr.inference.reach import reach
from darts_xr.inference.tiles import LEGACY_OVERLAP, LEGACY_WINDOW, cut_to_part, lattice_windows
from darts_xr.memory import keep_freed_memory

log = logging.getLogger(__name__)

FloatArray = NDArray[np.float32]
Tiling = Literal["lattice", "legacy"]
_LARGEST_BLOCK = 2048  # px; larger chunks are predicted in parts, so that memory stays bounded


def _predict_block(
    block: Planes,
    *,
    block_id: tuple[int, ...],
    ensemble: Ensemble,
    grid: tuple[tuple[int, ...], tuple[int, ...]],
    tile: int,
    margin: int,
    augment: bool,
    each: bool,
    place: str,
    part: tuple[slice, slice] | None,
) -> FloatArray:
    """Probability of one block with a margin: the mean (y, x), or with ``each`` (member, y, x)."""
    position = block_id[-2:]
    shape = grid[0][position[0]], grid[1][position[1]]
    origin = sum(grid[0][: position[0]]), sum(grid[1][: position[1]])
    seen = np.asarray(block[VALID])[margin : margin + shape[0], margin : margin + shape[1]] > 0
    windows = list(
        lattice_windows(
            seen, tile=tile, margin=margin, stride=ensemble.stride, cut=ensemble.batch_norm == "eval"
        )
    )
    if part is not None:
        here = tuple(
            slice(wanted.start - first, wanted.stop - first)
            for wanted, first in zip(part, origin, strict=True)
        )
        windows = list(
            cut_to_part(
                windows, (here[0], here[1]), reach=reach(ensemble), margin=margin, stride=ensemble.stride
            )
        )
    if not windows:
        return np.full((len(ensemble.members), *shape) if each else shape, np.nan, np.float32)
    result = member_probabilities(
        block, windows, ensemble=ensemble, margin=margin, shape=shape,
        augment=augment, place=place, origin=origin,
    )  # fmt: skip
    result = result if each else _mean_block(result)
    result[..., ~seen] = np.nan
    return result


def _mean_block(members: FloatArray) -> FloatArray:
    return np.asarray(members.mean(axis=0))


def window_chunks(
    chunks: tuple[int, ...], part: slice, tile: int, margin: int, least: int
) -> tuple[int, ...]:
    """Chunk sizes near the given ones for predicting the pixels ``part``; borders of predicted ones lie on the lattice.

    Where a part is wanted, what is read as margin is a chunk of its own, so that no more of the rest is asked for. No
    chunk but a single one is shorter than ``least``, what a neighbour needs as margin and a mirror to fill a stride.
    """
    total = sum(chunks)
    target = max(tile, round(min(max(chunks), _LARGEST_BLOCK) / tile) * tile)
    first, last = part.start // tile * tile, min(total, -(-part.stop // tile) * tile)
    if total - last < least:
        last = total
    if last - first < least:
        first = max(0, first - tile)
    borders = list(range(first, last, target))
    if len(borders) > 1 and last - borders[-1] < least:
        borders.pop()
    before, behind = first - margin, last + margin
    rim = {0 if before < least else before, total if total - behind < least else behind}
    cuts = sorted({0, *borders, last, *rim, total})
    return tuple(b - a for a, b in pairwise(cuts))


def _on_lattice(
    pixels: da.Array,
    ensemble: Ensemble,
    *,
    tile: int,
    margin: int,
    augment: bool,
    each: bool,
    place: str,
    part: tuple[slice, slice] | None,
) -> da.Array:
    """Lazy probability of planes in lattice chunks: the mean (y, x), or with ``each`` (member, y, x)."""
    leading = ((len(ensemble.members),),) if each else ()
    return map_overlap(
        _predict_block, pixels, depth=margin, boundary="mirror", trim=False, multiple=ensemble.stride,
        new_axis=range(len(leading)), chunks=(*leading, *pixels.chunks),
        meta=np.empty((0,) * (len(leading) + 2), np.float32),
        ensemble=ensemble, grid=pixels.chunks, tile=tile, margin=margin, augment=augment, each=each, place=place,
        part=part,
    )  # fmt: skip


@dataclass(frozen=True)
class _Request:
    """What a prediction is asked for: how the scene is tiled, and the rows and columns that are wanted."""

    tiling: Tiling
    tile: int
    margin: int
    augment: bool
    calibrated: bool
    rows: slice
    cols: slice

    @property
    def text(self) -> str:
        """What products say about the tiling."""
        windows = (
            f"legacy, window {LEGACY_WINDOW} px, overlap {LEGACY_OVERLAP} px, linear ramps"
            if self.tiling == "legacy"
            else f"lattice, tile {self.tile} px, margin {self.margin} px"
        )
        return f"{windows}{', mean over flips' if self.augment else ''}"


def _check(
    scene: xr.Dataset,
    ensemble: Ensemble,
    window: SceneWindow | None,
    tiling: Tiling,
    tile: int | None,
    margin: int | None,
    augment: bool,
    calibrated: bool,
) -> _Request:
    """Refuse what cannot be predicted, before anything is computed."""
    if tiling not in get_args(Tiling):
        raise ParameterError(f"tiling must be one of {', '.join(get_args(Tiling))}, got {tiling!r}")
    if tiling == "legacy" and (tile, margin) != (None, None):
        raise TilingError('tiling="legacy" has windows of its own; tile and margin are for tiling="lattice"')
    if missing := [name for name in (*ensemble.bands, VALID) if name not in scene]:
        raise MissingBandsError(
            f"{_place(scene)} lacks {', '.join(missing)}, which the ensemble {ensemble.name} needs. Open it with an "
            'auxiliary source that has them, or with auxiliary="neutral".'
        )
    if ensemble.synthetic_only and not metadata_of(scene).get("synthetic"):
        log.warning(
            "%s is no synthetic scene: %s (%s)",
            _place(scene),
            DEMO_CAUTION,
            ", ".join(ensemble.synthetic_only),
        )
    tile, margin = ensemble.tile if tile is None else tile, ensemble.margin if margin is None else margin
    if tiling == "lattice":
        ensemble.check_lattice(tile, margin)
    if calibrated and (unfitted := [m.name for m in ensemble.members if m.temperature is None]):
        raise CheckpointError(
            f"{', '.join(unfitted)} of {ensemble.name}: the checkpoint states no temperature, so its probability "
            "cannot be calibrated. Fit one with darts_xr.training, or leave calibrated out."
        )
    return _Request(tiling, tile, margin, augment, calibrated, *window_pixels(scene[VALID], window))


def _place(scene: xr.Dataset) -> str:
    return str(metadata_of(scene).get("item_id", "the scene"))


def _members(scene: xr.Dataset, ensemble: Ensemble, request: _Request, *, each: bool) -> da.Array:
    """Lazy probability of the wanted pixels: the mean (y, x), or with ``each`` (member, y, x)."""
    bands = [scene[name] for name in _planes_to_bring(scene, ensemble)]
    near = [chunks or (length,) for chunks, length in _chunks_of(scene)]
    place = _place(scene)
    members_only = tuple(replace(m, training={}, statistics=None) for m in ensemble.members)
    light = replace(ensemble, members=members_only, calibrated=request.calibrated)
    if request.tiling == "legacy":
        every = published_windows(bands, light, augment=request.augment, place=place)
    else:
        tile, margin = request.tile, request.margin
        least = max(margin, ensemble.stride)
        wanted = zip(near, (request.rows, request.cols), strict=True)
        chunks = tuple(window_chunks(along, part, tile, margin, least) for along, part in wanted)
        part = (request.rows, request.cols)
        whole = part == tuple(slice(0, sum(along)) for along in near)
        every = _on_lattice(
            block_planes(bands, chunks), light, tile=tile, margin=margin, augment=request.augment, each=each,
            place=place, part=None if whole else part,
        )  # fmt: skip
    every = every[..., request.rows, request.cols]
    return every if each or every.ndim == 2 else _mean(every)


def _planes_to_bring(scene: xr.Dataset, ensemble: Ensemble) -> list[str]:
    """Bands of the scene, and last its mask, that blocks are made of.

    A lazy normalised difference of two bands is left out: those two say as much, and it is made where the networks are.
    """
    names = list(ensemble.bands)
    for name, pair in DIFFERENCES.items():
        lazy = [n for n in (name, *pair) if n in scene and isinstance(scene[n].data, da.Array)]
        if name in names and len(lazy) == 1 + len(pair):
            own = normalised_difference(scene[pair[0]], scene[pair[1]], name)
            if scene[name].data.name == own.data.name:  # the same graph: nobody put another band in its place
                names = [band for band in dict.fromkeys((*pair, *names)) if band != name]
    return [*names, VALID]


def _chunks_of(scene: xr.Dataset) -> list[tuple[tuple[int, ...], int]]:
    like = scene[VALID].transpose("y", "x")
    return list(zip(like.chunks or ((), ()), like.shape, strict=True))


def _attributes(scene: xr.Dataset, ensemble: Ensemble, request: _Request) -> dict[Any, Any]:
    return {
        **scene.attrs,
        "ensemble": ensemble.name,
        "model_version": ensemble.version(synthetic_scene=bool(metadata_of(scene).get("synthetic"))),
        "checkpoints": ", ".join(f"{member.name}:{member.sha256}" for member in ensemble.members),
        "calibration": (
            ", ".join(f"{m.name} temperature {m.temperature:.3f}" for m in ensemble.members)
            if request.calibrated
            else "none"
        ),
        "batch_norm": ensemble.batch_norm,
        "precision": ensemble.precision,
        "tiling": request.text,
    }


def _labelled(scene: xr.Dataset, request: _Request, mean: da.Array, attrs: dict[Any, Any]) -> xr.DataArray:
    """Probability on the wanted part of the scene's grid, in the chunks of the scene."""
    like = scene[VALID].transpose("y", "x").isel(y=request.rows, x=request.cols)
    probability = xr.DataArray(
        mean.rechunk(like.chunks or mean.chunks),
        dims=("y", "x"),
        coords=like.coords,
        name="probability",
        attrs={**attrs, "long_name": "probability of an active retrogressive thaw slump", "units": "1"},
    )
    return linked(probability)


def predict(
    scene: xr.Dataset,
    ensemble: Ensemble,
    *,
    window: SceneWindow | None = None,
    tiling: Tiling = "lattice",
    tile: int | None = None,
    margin: int | None = None,
    augment: bool = False,
    calibrated: bool = False,
) -> xr.DataArray:
    """Probability that a pixel belongs to an active retrogressive thaw slump.

    Parameters
    ----------
    scene : xarray.Dataset
        A scene of :func:`darts_xr.open_scene`, or one that was saved and opened again: the bands that the ensemble
        needs and ``valid``, dims (y, x).
    ensemble : Ensemble
        From :func:`darts_xr.load_ensemble`. All members see each chunk while it is in memory.
    window : tuple of float or tuple of slice, optional
        The part that is wanted: west, south, east, north in degrees (west > east across 180°), or slices of rows and
        columns. The result is that part of the whole scene's, to 1e-5. The networks see, of the model
        tiles that it touches, the part and as far around it as they look; read are the chunks of the scene that these
        tiles and their margin touch.
    tiling : {"lattice", "legacy"}, optional
        ``"lattice"``: model tiles on a lattice anchored at the scene's first pixel. ``"legacy"``: the windows of the
        published workflow, 1024 px with an overlap of 256 blended by linear ramps, and 0 in the outermost ring of
        pixels; for scenes of at least 1024 px. Neither depends on the chunking.
    tile, margin : int, optional
        Side of the core of a lattice tile and pixels seen beyond it; by default those of the checkpoints.
    augment : bool, optional
        Average over the scene and its three flips, at four times the cost.
    calibrated : bool, optional
        Divide each member's logits by the temperature that its checkpoint states, so that of all pixels with a
        probability of 0.7 about 70 % are slumps, as far as the scene is like those of the validation. Thresholds found
        without it do not hold with it.

    Returns
    -------
    xarray.DataArray
        ``probability`` (y, x), float32, 0 to 1, NaN where ``valid`` is False; the mean of all members, which
        :func:`darts_xr.predict_members` gives singly. Coordinates and attributes are those of the scene, the
        attributes with the checkpoints and the tiling. Lazy, in the chunks of the scene; of a scene in memory, in
        those of the lattice.

    Raises
    ------
    MissingBandsError
        When the scene lacks a band that a member needs.
    CheckpointError
        When ``calibrated`` is asked for and a member states no temperature.
    TilingError
        When tile and margin do not suit the networks, or the scene is too small for ``tiling="legacy"``.
    WindowError
        When the window holds no pixel of the scene.
    PredictionError
        While computing, when a network fails; the message names scene, member and tile.

    Notes
    -----
    Tiles without a valid pixel are not sent to the networks, others are cut to their valid part; beyond the edge of the
    image the networks see it mirrored. Nitze et al. 2025 (Sci. Data 12:1512), Methods, "Inference": mean of two UNet++.

    Examples
    --------
    >>> prob = predict(scene, load_ensemble("demo"))  # doctest: +SKIP
    >>> near = predict(scene, load_ensemble("demo"), window=(-121.6, 72.3, -121.5, 72.31))  # doctest: +SKIP
    """
    keep_freed_memory()
    request = _check(scene, ensemble, window, tiling, tile, margin, augment, calibrated)
    mean = _members(scene, ensemble, request, each=False)
    return _labelled(scene, request, mean, _attributes(scene, ensemble, request))


def predict_members(
    scene: xr.Dataset,
    ensemble: Ensemble,
    *,
    window: SceneWindow | None = None,
    tiling: Tiling = "lattice",
    tile: int | None = None,
    margin: int | None = None,
    augment: bool = False,
    calibrated: bool = False,
) -> xr.Dataset:
    """Probability by each member of an ensemble, their mean and their spread.

    Parameters
    ----------
    scene, ensemble, window, tiling, tile, margin, augment, calibrated
        As for :func:`darts_xr.predict`.

    Returns
    -------
    xarray.Dataset
        ``probability`` (y, x) as :func:`darts_xr.predict` gives it, ``member_probability`` (member, y, x), and
        ``spread`` (y, x), the largest minus the smallest member; float32, NaN where ``valid`` is False. Lazy; all
        three come out of one pass over the pixels.

    Raises
    ------
    MissingBandsError, TilingError, WindowError, PredictionError
        As for :func:`darts_xr.predict`.

    Examples
    --------
    >>> votes = predict_members(scene, load_ensemble("demo"))  # doctest: +SKIP
    >>> votes["member_probability"].plot(col="member")  # doctest: +SKIP
    """
    keep_freed_memory()
    request = _check(scene, ensemble, window, tiling, tile, margin, augment, calibrated)
    attrs = _attributes(scene, ensemble, request)
    each = _members(scene, ensemble, request, each=True)
    probability = _labelled(scene, request, _mean(each), attrs)
    member = xr.DataArray(
        each.rechunk((-1, *probability.data.chunks)),
        dims=("member", "y", "x"),
        coords={**probability.coords, "member": [m.name for m in ensemble.members]},
        attrs={"long_name": "probability by member", "units": "1"},
    )
    spread = (member.max("member", skipna=False) - member.min("member", skipna=False)).assign_attrs(
        long_name="largest minus smallest member", units="1"
    )
    return linked(
        xr.Dataset({"probability": probability, "member_probability": member, "spread": spread}, attrs=attrs)
    )


def _mean(each: da.Array) -> da.Array:
    return da.map_blocks(_mean_block, each, drop_axis=0, dtype=np.float32, meta=np.empty((0, 0), np.float32))
