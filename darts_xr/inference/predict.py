"""Probability of thaw slumps for each pixel: every member on every model tile, seamless over chunks.

Model tiles lie on a lattice anchored at the scene's first pixel. A tile has a core, whose output is kept, and a
margin around it, which the networks see and whose output is dropped. Whatever the chunks of the scene, the same
tiles see the same pixels, so the numbers do not depend on the chunking.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import dask.array as da
import numpy as np
import odc.geo.xr  # noqa: F401  registers .odc
import torch
import xarray as xr
from numpy.typing import NDArray

from darts_xr.cube.bands import scale_band
from darts_xr.errors import MissingBandsError, PredictionError
from darts_xr.inference.checkpoint import Checkpoint
from darts_xr.inference.ensemble import Ensemble, network_of

FloatArray = NDArray[np.float32]
_BATCH_PIXELS = 2**20  # pixels in one forward pass on the CPU; more does not run faster
_one_at_a_time = threading.Lock()  # a forward pass already uses all cores that torch was given


@dataclass(frozen=True)
class _Tile:
    """Window of a haloed block that a network sees, and where the kept part lies."""

    rows: slice
    cols: slice
    core_rows: slice  # within the block without halo
    core_cols: slice


def network_input(
    stack: torch.Tensor, names: tuple[str, ...], valid: torch.Tensor, member: Checkpoint
) -> torch.Tensor:
    """Scale the bands of one member; masked pixels are 0 in all of them, as in the published workflow.

    Parameters
    ----------
    stack : torch.Tensor
        (band, y, x) float32 in physical units, bands in the order of ``names``.
    names : tuple of str
        Names of the bands in ``stack``.
    valid : torch.Tensor
        (y, x) bool.
    member : Checkpoint
        Whose bands to take.

    Returns
    -------
    torch.Tensor
        (band, y, x) float32.
    """
    scaled = torch.stack([scale_band(band, stack[names.index(band.name)]) for band in member.bands])
    return scaled * valid


def _lattice(
    shape: tuple[int, int], tile: int, margin: int, stride: int, valid: NDArray[np.bool_]
) -> Iterator[_Tile]:
    """Tiles of a block that have a valid pixel, their windows cut to the valid box in steps of the stride.

    ``shape`` is the block without halo; ``valid`` is the block with a halo of ``margin`` on each side.
    """
    for top in range(0, shape[0], tile):
        for left in range(0, shape[1], tile):
            height, width = min(tile, shape[0] - top), min(tile, shape[1] - left)
            core = valid[margin + top : margin + top + height, margin + left : margin + left + width]
            rows, cols = np.flatnonzero(core.any(axis=1)), np.flatnonzero(core.any(axis=0))
            if rows.size == 0:
                continue
            y0, x0 = int(rows[0]) // stride * stride, int(cols[0]) // stride * stride
            y1, x1 = -(-(int(rows[-1]) + 1) // stride) * stride, -(-(int(cols[-1]) + 1) // stride) * stride
            yield _Tile(
                slice(top + y0, top + y1 + 2 * margin),
                slice(left + x0, left + x1 + 2 * margin),
                slice(top + y0, min(top + y1, shape[0])),
                slice(left + x0, min(left + x1, shape[1])),
            )


def _extend(block: FloatArray, margin: int, stride: int, halo: tuple[int, int, int, int]) -> FloatArray:
    """Give a block a full margin on each side, mirrored where the scene ends, and whole strides.

    ``halo`` holds the rows above and below and the columns left and right that neighbours gave.
    """
    above, below, left, right = halo
    height, width = block.shape[1] - above - below, block.shape[2] - left - right
    pad_y = (margin - above, margin - below + (-height) % stride)
    pad_x = (margin - left, margin - right + (-width) % stride)
    if not any((*pad_y, *pad_x)):
        return block
    return np.pad(block, ((0, 0), pad_y, pad_x), mode="reflect")


def _predict_block(
    block: FloatArray,
    block_info: Any = None,
    *,
    ensemble: Ensemble,
    names: tuple[str, ...],
    tile: int,
    margin: int,
    scene: str,
) -> FloatArray:
    """Member probabilities of one block with halo: (band + valid, h, w) → (member, h, w) without halo."""
    position, count = block_info[0]["chunk-location"][1:], block_info[0]["num-chunks"][1:]
    halo = tuple(
        margin if neighbour else 0
        for k in (0, 1)
        for neighbour in (position[k] > 0, position[k] < count[k] - 1)
    )
    above, below, left, right = halo
    shape = block.shape[1] - above - below, block.shape[2] - left - right
    result = np.full((len(ensemble.members), *shape), np.nan, dtype=np.float32)
    seen = block[-1, above : above + shape[0], left : left + shape[1]] > 0
    if not seen.any():
        return result
    extended = _extend(block, margin, ensemble.stride, (above, below, left, right))
    valid = extended[-1] > 0
    tiles = list(_lattice(shape, tile, margin, ensemble.stride, valid))
    stack, mask = torch.from_numpy(extended[:-1]), torch.from_numpy(valid)
    for number, member in enumerate(ensemble.members):
        network, device = network_of(member, ensemble.device, ensemble.batch_norm)
        with torch.inference_mode():
            scaled = network_input(stack.to(device), names, mask.to(device), member)
            for batch in _batches(tiles, single=ensemble.batch_norm == "per-tile"):
                pixels = torch.stack([scaled[:, t.rows, t.cols] for t in batch])
                pixels = pixels.contiguous(memory_format=torch.channels_last)
                try:
                    with _one_at_a_time:
                        probability = torch.sigmoid(network(pixels))[:, 0].float().cpu().numpy()
                except RuntimeError as error:
                    raise PredictionError(
                        f"{scene}: member {member.name} failed on the tile at row {batch[0].core_rows.start}, column "
                        f"{batch[0].core_cols.start} of chunk {tuple(position)} ({device}): {error}"
                    ) from error
                for t, p in zip(batch, probability, strict=True):
                    height, width = t.core_rows.stop - t.core_rows.start, t.core_cols.stop - t.core_cols.start
                    kept = p[margin : margin + height, margin : margin + width]
                    result[number, t.core_rows, t.core_cols] = kept
    result[:, ~seen] = np.nan
    return result


def _batches(tiles: list[_Tile], *, single: bool) -> Iterator[list[_Tile]]:
    """Group tiles of one size, as many as fill a forward pass."""
    groups: dict[tuple[int, int], list[_Tile]] = {}
    for t in tiles:
        groups.setdefault((t.rows.stop - t.rows.start, t.cols.stop - t.cols.start), []).append(t)
    for (height, width), group in groups.items():
        size = 1 if single else max(1, _BATCH_PIXELS // (height * width))
        for first in range(0, len(group), size):
            yield group[first : first + size]


def _stack_block(*bands: NDArray[Any]) -> FloatArray:
    return np.stack([np.asarray(band, dtype=np.float32) for band in bands])


def _mean_block(members: FloatArray) -> FloatArray:
    return np.asarray(members.mean(axis=0))


def lattice_chunks(chunks: tuple[int, ...], tile: int) -> tuple[int, ...]:
    """Chunk sizes near the given ones whose borders lie on the lattice; only the last may end between."""
    total = sum(chunks)
    target = max(tile, round(max(chunks) / tile) * tile)
    borders = list(range(0, total, target))
    if len(borders) > 1 and total - borders[-1] < tile:
        borders.pop()  # a sliver could not give its neighbour a full margin
    return tuple(b - a for a, b in zip(borders, [*borders[1:], total], strict=True))


def predict(
    scene: xr.Dataset,
    ensemble: Ensemble,
    *,
    members: bool = False,
    tiling: Literal["lattice"] = "lattice",
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
    tiling : {"lattice"}, optional
        Model tiles on a lattice anchored at the scene's first pixel: the result does not depend on the chunking.

    Returns
    -------
    xarray.DataArray or xarray.Dataset
        ``probability`` (y, x), float32, 0 to 1, NaN where ``valid`` is False; the mean of all members. With
        ``members=True`` a Dataset that also has ``member_probability`` (member, y, x) and ``spread`` (y, x), the
        largest minus the smallest member. Lazy when the scene is; a scene in memory gives a lazy result of one chunk.

    Raises
    ------
    MissingBandsError
        When the scene lacks a band that a member needs.
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
    if tiling != "lattice":
        raise ValueError(f'tiling must be "lattice", got {tiling!r}')
    names = ensemble.bands
    if missing := [name for name in (*names, "valid") if name not in scene]:
        raise MissingBandsError(
            f"{scene.attrs.get('item_id', 'The scene')} lacks {', '.join(missing)}, which the ensemble {ensemble.name} "
            'needs. Open it with an auxiliary source that has them, or with auxiliary="neutral".'
        )
    tile, margin = ensemble.tile, ensemble.margin
    like = scene["valid"]
    height, width = like.shape
    given = like.chunks or ((height,), (width,))
    chunks = lattice_chunks(given[0], tile), lattice_chunks(given[1], tile)
    bands = [_aligned(scene[name], chunks) for name in (*names, "valid")]
    stack = da.map_blocks(
        _stack_block, *bands, dtype=np.float32, new_axis=0, chunks=((len(bands),), *chunks),
        meta=np.empty((0, 0, 0), np.float32), name=None,
    )  # fmt: skip
    member_probability = da.map_overlap(
        _predict_block, stack, depth={0: 0, 1: margin, 2: margin}, boundary="none", trim=False, allow_rechunk=False,
        dtype=np.float32, meta=np.empty((0, 0, 0), np.float32), chunks=((len(ensemble.members),), *chunks),
        ensemble=ensemble, names=names, tile=tile, margin=margin, scene=scene.attrs.get("item_id", "scene"),
    )  # fmt: skip
    mean = da.map_blocks(
        _mean_block, member_probability, drop_axis=0, dtype=np.float32, meta=np.empty((0, 0), np.float32)
    )
    attrs = {
        **scene.attrs,
        "ensemble": ensemble.name,
        "checkpoints": [f"{member.name}:{member.sha256}" for member in ensemble.members],
        "batch_norm": ensemble.batch_norm,
        "tiling": f"{tiling}, tile {tile} px, margin {margin} px",
    }
    probability = xr.DataArray(
        mean.rechunk(given),
        dims=("y", "x"),
        coords=like.coords,
        name="probability",
        attrs={**attrs, "long_name": "probability of an active retrogressive thaw slump", "units": "1"},
    )
    if not members:
        return probability
    each = xr.DataArray(
        member_probability.rechunk((-1, *given)),
        dims=("member", "y", "x"),
        coords={**like.coords, "member": [member.name for member in ensemble.members]},
        attrs={"long_name": "probability by member", "units": "1"},
    )
    spread = (each.max("member") - each.min("member")).assign_attrs(
        long_name="largest minus smallest member", units="1"
    )
    return xr.Dataset({"probability": probability, "member_probability": each, "spread": spread}, attrs=attrs)


def _aligned(band: xr.DataArray, chunks: tuple[tuple[int, ...], tuple[int, ...]]) -> da.Array:
    data = band.transpose("y", "x").data
    return data.rechunk(chunks) if isinstance(data, da.Array) else da.from_array(data, chunks=chunks)
