"""Probability of thaw slumps for each pixel: every member on every model tile, seamless over chunks.

Model tiles lie on a lattice anchored at the scene's first pixel. A tile has a core, whose output is kept, and a
margin around it, which the networks see and whose output is dropped. Whatever the chunks of the scene, the same
tiles see the same pixels, so the numbers do not depend on the chunking.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, Literal, get_args

import dask.array as da
import numpy as np
import odc.geo.xr  # noqa: F401  registers .odc
import xarray as xr
from numpy.typing import NDArray

from darts_xr.errors import MissingBandsError, TilingError
from darts_xr.graph.overlap import map_with_halo
from darts_xr.inference.ensemble import Ensemble
from darts_xr.inference.forward import member_probabilities
from darts_xr.inference.published import published_windows
from darts_xr.inference.structured import VALID, lazy_records
from darts_xr.inference.tiles import LEGACY_OVERLAP, LEGACY_WINDOW, lattice_windows
from darts_xr.memory import keep_freed_memory

FloatArray = NDArray[np.float32]
Tiling = Literal["lattice", "legacy"]
_LARGEST_BLOCK = 2048  # px; larger chunks are predicted in parts, so that memory stays bounded


def _predict_block(
    block: NDArray[Any],
    position: tuple[int, int],
    *,
    ensemble: Ensemble,
    grid: tuple[tuple[int, ...], tuple[int, ...]],
    tile: int,
    margin: int,
    augment: bool,
    each: bool,
    place: str,
) -> FloatArray:
    """Probability of one block of records with a margin: the mean (y, x), or with ``each`` (member, y, x)."""
    shape = grid[0][position[0]], grid[1][position[1]]
    origin = sum(grid[0][: position[0]]), sum(grid[1][: position[1]])
    seen = block[VALID][margin : margin + shape[0], margin : margin + shape[1]] > 0
    windows = list(
        lattice_windows(
            seen, tile=tile, margin=margin, stride=ensemble.stride, cut=ensemble.batch_norm == "eval"
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


def lattice_chunks(chunks: tuple[int, ...], tile: int, least: int) -> tuple[int, ...]:
    """Chunk sizes near the given ones whose borders lie on the lattice; only the last may end between.

    None but a single one is shorter than ``least``, what a neighbour needs as margin and a mirror to fill a stride.
    """
    total = sum(chunks)
    wanted = min(max(chunks), _LARGEST_BLOCK)
    target = max(tile, round(wanted / tile) * tile)
    borders = list(range(0, total, target))
    if len(borders) > 1 and total - borders[-1] < least:
        borders.pop()
    return tuple(b - a for a, b in zip(borders, [*borders[1:], total], strict=True))


def _on_lattice(
    records: da.Array, ensemble: Ensemble, *, tile: int, margin: int, augment: bool, each: bool, place: str
) -> da.Array:
    """Lazy probability of records in lattice chunks: the mean (y, x), or with ``each`` (member, y, x)."""
    predict_block = partial(
        _predict_block, ensemble=ensemble, grid=records.chunks, tile=tile, margin=margin, augment=augment, each=each,
        place=place,
    )  # fmt: skip
    return map_with_halo(
        predict_block,
        records,
        margin,
        multiple=ensemble.stride,
        leading=(len(ensemble.members),) if each else (),
        meta=np.empty((0,) * (3 if each else 2), np.float32),
    )


def _check_lattice(ensemble: Ensemble, tile: int, margin: int) -> None:
    for name, length, least in (("tile", tile, ensemble.stride), ("margin", margin, 0)):
        if length < least or length % ensemble.stride:
            raise TilingError(
                f"{name} must be a multiple of {ensemble.stride} px, the stride of {ensemble.name}, and at least "
                f"{least}; got {length}"
            )
    if margin > tile:
        raise TilingError(f"margin must not exceed the tile of {tile} px, got {margin}")


def predict(
    scene: xr.Dataset,
    ensemble: Ensemble,
    *,
    members: bool = False,
    tiling: Tiling = "lattice",
    tile: int | None = None,
    margin: int | None = None,
    augment: bool = False,
) -> xr.DataArray | xr.Dataset:
    """Probability that a pixel belongs to an active retrogressive thaw slump.

    Parameters
    ----------
    scene : xarray.Dataset
        A scene of :func:`darts_xr.open_scene`: the bands that the ensemble needs and ``valid``, dims (y, x).
    ensemble : Ensemble
        From :func:`darts_xr.load_ensemble`. All members see each chunk while it is in memory.
    members : bool, optional
        Also return each member's probability and the spread between members.
    tiling : {"lattice", "legacy"}, optional
        ``"lattice"``: model tiles on a lattice anchored at the scene's first pixel. ``"legacy"``: the windows of the
        published workflow, 1024 px with an overlap of 256 blended by linear ramps, and 0 in the outermost ring of
        pixels; for scenes of at least 1024 px. Neither depends on the chunking.
    tile, margin : int, optional
        Side of the core of a lattice tile and pixels seen beyond it; by default those of the checkpoints.
    augment : bool, optional
        Average over the scene and its three flips, at four times the cost.

    Returns
    -------
    xarray.DataArray or xarray.Dataset
        ``probability`` (y, x), float32, 0 to 1, NaN where ``valid`` is False; the mean of all members. With
        ``members=True`` a Dataset that also has ``member_probability`` (member, y, x) and ``spread`` (y, x), the
        largest minus the smallest member. Lazy, in the chunks of the scene; of a scene in memory, in those of the
        lattice.

    Raises
    ------
    MissingBandsError
        When the scene lacks a band that a member needs.
    TilingError
        When tile and margin do not suit the networks, or the scene is too small for ``tiling="legacy"``.
    PredictionError
        While computing, when a network fails; the message names scene, member and tile.

    Notes
    -----
    Tiles without a valid pixel are not sent to the networks, others are cut to their valid part; beyond the edge of the
    image the networks see it mirrored. Nitze et al. 2025 (Sci. Data 12:1512), Methods, "Inference": mean of two UNet++.

    Examples
    --------
    >>> prob = predict(scene, load_ensemble("demo"))  # doctest: +SKIP
    """
    keep_freed_memory()
    if tiling not in get_args(Tiling):
        raise ValueError(f"tiling must be one of {', '.join(get_args(Tiling))}, got {tiling!r}")
    if tiling == "legacy" and (tile, margin) != (None, None):
        raise TilingError('tiling="legacy" has windows of its own; tile and margin are for tiling="lattice"')
    names = ensemble.bands
    place = str(scene.attrs.get("item_id", "the scene"))
    if missing := [name for name in (*names, VALID) if name not in scene]:
        raise MissingBandsError(
            f"{place} lacks {', '.join(missing)}, which the ensemble {ensemble.name} needs. Open it with an auxiliary "
            'source that has them, or with auxiliary="neutral".'
        )
    tile, margin = ensemble.tile if tile is None else tile, ensemble.margin if margin is None else margin
    like = scene[VALID].transpose("y", "x")
    bands = [scene[name] for name in (*names, VALID)]
    near = like.chunks or tuple((n,) for n in like.shape)
    light = replace(ensemble, members=tuple(replace(m, training={}) for m in ensemble.members))
    if tiling == "legacy":
        settings = f"legacy, window {LEGACY_WINDOW} px, overlap {LEGACY_OVERLAP} px, linear ramps"
        each = published_windows(lazy_records(bands, near), light, augment=augment, place=place)
    else:
        _check_lattice(ensemble, tile, margin)
        settings = f"lattice, tile {tile} px, margin {margin} px"
        least = max(margin, ensemble.stride)
        records = lazy_records(bands, tuple(lattice_chunks(along, tile, least) for along in near))
        each = _on_lattice(
            records, light, tile=tile, margin=margin, augment=augment, each=members, place=place
        )
    mean = each if each.ndim == 2 else _mean(each)
    attrs = {
        **scene.attrs,
        "ensemble": ensemble.name,
        "checkpoints": [f"{member.name}:{member.sha256}" for member in ensemble.members],
        "batch_norm": ensemble.batch_norm,
        "precision": ensemble.precision,
        "tiling": f"{settings}{', mean over flips' if augment else ''}",
    }
    probability = xr.DataArray(
        mean.rechunk(like.chunks or mean.chunks),
        dims=("y", "x"),
        coords=like.coords,
        name="probability",
        attrs={**attrs, "long_name": "probability of an active retrogressive thaw slump", "units": "1"},
    )
    return _with_members(probability, each, ensemble, attrs) if members else probability


def _mean(each: da.Array) -> da.Array:
    return da.map_blocks(_mean_block, each, drop_axis=0, dtype=np.float32, meta=np.empty((0, 0), np.float32))


def _with_members(
    probability: xr.DataArray, each: da.Array, ensemble: Ensemble, attrs: dict[Any, Any]
) -> xr.Dataset:
    """Mean, members and their spread as one Dataset."""
    member = xr.DataArray(
        each.rechunk((-1, *probability.data.chunks)),
        dims=("member", "y", "x"),
        coords={**probability.coords, "member": [m.name for m in ensemble.members]},
        attrs={"long_name": "probability by member", "units": "1"},
    )
    spread = (member.max("member") - member.min("member")).assign_attrs(
        long_name="largest minus smallest member", units="1"
    )
    return xr.Dataset(
        {"probability": probability, "member_probability": member, "spread": spread}, attrs=attrs
    )
