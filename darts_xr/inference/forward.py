"""Pixels through networks on one device: scaled once for all members, in batches that fit, of blocks that wait."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from darts_xr.cube.bands import DIFFERENCES, VALID, Band, scale_band
from darts_xr.cube.indices import normalised_difference
from darts_xr.devices import await_event, download, network_threads, record, upload
from darts_xr.errors import DeviceError, PredictionError
from darts_xr.graph.planes import Planes
from darts_xr.inference.batches import Placed, batches, blocks_together
from darts_xr.inference.checkpoint import Checkpoint
from darts_xr.inference.ensemble import Ensemble, network_of, resolve_device
from darts_xr.inference.tiles import Window

log = logging.getLogger(__name__)

FloatArray = NDArray[np.float32]

_FLIPS = ((-1,), (-2,), (-2, -1))
# What torch's RuntimeErrors say where a GPU, or a library on it, has failed.
_STICKY = ("CUDA error", "cuDNN error", "CUDNN_STATUS", "CUBLAS_STATUS", "cuBLAS error")

_DTYPES = {
    "float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16, "bfloat16-all": torch.bfloat16,
    "float16": torch.float16,
}  # fmt: skip


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
    return _scaled(dict(zip(names, stack, strict=True)), valid, member.bands)


def _scaled(planes: Mapping[str, torch.Tensor], valid: torch.Tensor, bands: Sequence[Band]) -> torch.Tensor:
    """Band after band, so that each plane stays in the cache through all steps."""
    scaled = torch.empty((len(bands), *valid.shape), dtype=torch.float32, device=valid.device)
    for plane, band in zip(scaled, bands, strict=True):
        torch.mul(scale_band(band, planes[band.name].float()), valid, out=plane)
    return scaled


def member_probabilities(
    block: Planes,
    windows: Sequence[Window],
    *,
    ensemble: Ensemble,
    margin: int,
    shape: tuple[int, int],
    augment: bool,
    place: str,
    origin: tuple[int, int],
) -> FloatArray:
    """Probabilities of all members on the windows of one block.

    Parameters
    ----------
    block : Planes
        Bands in physical units and ``valid``, with ``margin`` pixels around. A normalised difference that is not there
        is made of its bands on the device.
    windows : sequence of Window
        Where to predict; elsewhere the result is NaN.
    ensemble, margin, shape : Ensemble, int, tuple of int
        Networks, width of the margin, and size of the result.
    augment : bool
        Whether to average over flips.
    place, origin : str, tuple of int
        Scene and position of the block's first pixel in it, for messages.

    Returns
    -------
    numpy.ndarray
        (member, y, x) float32, ``shape`` pixels.
    """
    device = resolve_device(ensemble.device)
    planes, arrived = upload(block, device)
    asked = _Asked(planes, arrived, windows, shape, place, origin)
    work = partial(_answers, ensemble=ensemble, margin=margin, augment=augment)
    alike = (_identity(ensemble), margin, augment)
    answer = network_threads(device).together(alike, work, asked, most=blocks_together(device))
    host, sound = download(*answer)
    if sound:
        _check_finite(host, windows, ensemble, place, origin)
        return host
    log.warning("numbers too large for float16 in a block of %s: it is repeated in float32", place)
    return member_probabilities(
        block, windows, ensemble=replace(ensemble, precision="float32"), margin=margin, shape=shape, augment=augment,
        place=place, origin=origin,
    )  # fmt: skip


@dataclass(frozen=True)
class _Asked:
    """A block to predict: what :func:`member_probabilities` was given, its planes on the device."""

    planes: dict[str, torch.Tensor]
    arrived: torch.cuda.Event | None
    windows: Sequence[Window]
    shape: tuple[int, int]
    place: str
    origin: tuple[int, int]


# Probabilities of all members, whether all passes kept within their type, and when both are there.
_Answer = tuple[torch.Tensor, torch.Tensor | None, torch.cuda.Event | None]


def _identity(ensemble: Ensemble) -> tuple[Any, ...]:
    """Tell by what two ensembles are the same networks, for tasks bring copies of their own."""
    how = (ensemble.device, ensemble.batch_norm, ensemble.precision, ensemble.compiled, ensemble.calibrated)
    return (*(member.sha256 for member in ensemble.members), ensemble.tile, *how)


def _answers(
    asked: Sequence[_Asked], *, ensemble: Ensemble, margin: int, augment: bool
) -> list[_Answer | Exception]:
    """Answer blocks together; where something fails, each alone, so that it is no other block's affair."""
    try:
        return [*_together(asked, ensemble, margin, augment)]
    except Exception as error:  # its owner is told
        if len(asked) == 1:
            return [error]
    return [
        answer
        for one in asked
        for answer in _answers([one], ensemble=ensemble, margin=margin, augment=augment)
    ]


def _together(asked: Sequence[_Asked], ensemble: Ensemble, margin: int, augment: bool) -> list[_Answer]:
    """Run all members over the windows of some blocks; those of one shape share passes."""
    device = asked[0].planes[VALID].device
    windows = [Placed(number, window) for number, block in enumerate(asked) for window in block.windows]
    bands = _distinct_bands(ensemble)
    sound: list[list[torch.Tensor]] = [[] for _ in asked]
    with products(ensemble.precision, device), torch.inference_mode():
        results, scaled = [], []
        for block in asked:
            await_event(block.arrived, device)
            results.append(torch.full((len(ensemble.members), *block.shape), torch.nan, device=device))
            scaled.append(_scaled(_with_differences(block.planes, bands), block.planes[VALID] > 0, bands))
        for number, member in enumerate(ensemble.members):
            network, _ = network_of(
                member,
                ensemble.device,
                ensemble.batch_norm,
                ensemble.compiled,
                calibrated=ensemble.calibrated,
                precision=ensemble.precision,
            )
            inputs = [block[_channels(member, bands)] for block in scaled]
            for batch in batches(windows, margin, device, ensemble):
                tiles = _cut(inputs, batch, margin)
                try:
                    kept, fits = _probability(network, tiles, margin, ensemble, augment)
                except Exception as error:  # whatever a network raises, the message must say where
                    raise _failure(error, network, tiles, margin, batch, ensemble, member, asked) from error
                for k, (block_number, window) in enumerate(batch):
                    target = results[block_number][
                        number, window.top : window.bottom, window.left : window.right
                    ]
                    target.copy_(kept[k, : target.shape[0], : target.shape[1]])
                    if fits is not None:
                        sound[block_number].append(fits[k])
        # The host does not wait for the answer here: it comes with the result.
        flags = [torch.stack(each).all() if each else None for each in sound]
        done = record(device)
        return [(result, flag, done) for result, flag in zip(results, flags, strict=True)]


def _with_differences(planes: Mapping[str, torch.Tensor], bands: Sequence[Band]) -> dict[str, torch.Tensor]:
    """Add the normalised differences that are wanted and were not brought."""
    whole = dict(planes)
    for band in bands:
        if band.name not in whole:
            first, second = DIFFERENCES[band.name]
            whole[band.name] = normalised_difference(whole[first], whole[second], band.name)
    return whole


def _check_finite(
    probability: FloatArray,
    windows: Sequence[Window],
    ensemble: Ensemble,
    place: str,
    origin: tuple[int, int],
) -> None:
    """Refuse answers that are no numbers: as NaN they would pass for masked pixels."""
    for window in windows:
        cores = probability[:, window.top : window.bottom, window.left : window.right]
        if np.isnan(cores).any():
            number = int(np.isnan(cores).any(axis=(1, 2)).argmax())
            raise PredictionError(
                f"{place}: member {ensemble.members[number].name} answered NaN in the tile "
                f"whose core begins at row {origin[0] + window.top}, column {origin[1] + window.left}. Its weights, or "
                "the pixels there, are damaged; try precision='float32', or load the checkpoint again."
            )


def _failure(
    error: Exception,
    network: nn.Module,
    tiles: torch.Tensor,
    margin: int,
    batch: Sequence[Placed],
    ensemble: Ensemble,
    member: Checkpoint,
    asked: Sequence[_Asked],
) -> PredictionError:
    """Say where a network failed, and whether anything can still be computed on its device."""
    if is_sticky(error):
        return DeviceError(
            f"{asked[batch[0].block].place}: {tiles.device} failed under member {member.name} "
            f"({type(error).__name__}: {error}). Nothing can be computed there until this process starts anew; if it "
            "comes again, look at the machine's GPU log."
        )
    number, window = batch[_failing(network, tiles, margin, ensemble)]
    (row, column), place = asked[number].origin, asked[number].place
    return PredictionError(
        f"{place}: member {member.name} failed on the tile of {tiles.shape[-2]} × {tiles.shape[-1]} px whose core "
        f"begins at row {row + window.top}, column {column + window.left} of the scene ({tiles.device}): "
        f"{_advice(error)}"
    )


def is_sticky(error: BaseException) -> bool:
    """Whether an error of torch means that the GPU's state in this process is spoilt for good."""
    if isinstance(error, torch.OutOfMemoryError):
        return False
    if isinstance(error, torch.AcceleratorError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _STICKY)


def _distinct_bands(ensemble: Ensemble) -> list[Band]:
    """Bands that any member wants, each scaling once; those of the largest member first, as one run of planes."""
    members = sorted(ensemble.members, key=lambda member: -len(member.bands))
    return list(dict.fromkeys(band for member in members for band in member.bands))


def _channels(member: Checkpoint, bands: list[Band]) -> slice | list[int]:
    """Places of a member's bands: a slice, which copies nothing, where they follow one another."""
    places = [bands.index(band) for band in member.bands]
    run = slice(places[0], places[0] + len(places))
    return run if places == list(range(run.start, run.stop)) else places


def _cut(inputs: Sequence[torch.Tensor], batch: Sequence[Placed], margin: int) -> torch.Tensor:
    """Copy the windows' pixels, once, into the layout in which convolutions are fastest."""
    height, width = (side + 2 * margin for side in batch[0].window.shape)
    tiles = torch.empty(
        (len(batch), len(inputs[0]), height, width),
        device=inputs[0].device,
        memory_format=torch.channels_last,
    )
    for tile, (number, window) in zip(tiles, batch, strict=True):
        tile.copy_(inputs[number][:, window.top : window.top + height, window.left : window.left + width])
    return tiles


def _probability(
    network: nn.Module, tiles: torch.Tensor, margin: int, ensemble: Ensemble, augment: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Probability of the tiles' cores, (tile, y, x), and as :func:`_once`; in halves where memory does not suffice."""
    try:
        p, fits = _once(network, tiles, margin, (), ensemble)
        if augment:
            for flip in _FLIPS:
                flipped, also = _once(network, tiles, margin, flip, ensemble)
                p += flipped
                fits = fits & also if fits is not None and also is not None else fits
            p /= 1 + len(_FLIPS)
        return p, fits
    except torch.OutOfMemoryError:
        if len(tiles) == 1:
            raise
    # Outside the handler, which would keep the failed pass's memory alive through its traceback.
    if tiles.device.type == "cuda":
        torch.cuda.empty_cache()
    halves = [_probability(network, half, margin, ensemble, augment) for half in torch.tensor_split(tiles, 2)]
    flags = [fits for _, fits in halves if fits is not None]
    return torch.cat([p for p, _ in halves]), torch.cat(flags) if flags else None


def _once(
    network: nn.Module, tiles: torch.Tensor, margin: int, flip: tuple[int, ...], ensemble: Ensemble
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Probability of the tiles' cores; in float16 also, for each, whether all numbers kept within its range."""
    pixels = torch.flip(tiles, flip).contiguous(memory_format=torch.channels_last) if flip else tiles
    with _precision(ensemble, tiles.device):
        logits = network(pixels, margin)
    half = compute_dtype(ensemble.precision, tiles.device) is torch.float16
    fits = logits.isfinite().flatten(1).all(dim=1) if half else None
    return torch.flip(torch.sigmoid(logits[:, 0].float()), flip), fits


def _failing(network: nn.Module, tiles: torch.Tensor, margin: int, ensemble: Ensemble) -> int:
    """Find the first tile that fails on its own; 0 where only all of them together do."""
    for number, tile in enumerate(tiles[:, None]):
        try:
            _once(network, tile, margin, (), ensemble)
        except Exception as error:  # any failure is the one looked for
            log.debug("tile %d of %d fails alone: %s", number, len(tiles), error)
            return number
    return 0


def _advice(error: Exception) -> str:
    if isinstance(error, torch.OutOfMemoryError):
        return f"one tile alone needs more memory than there is; give predict a smaller tile. {error}"
    return f"{type(error).__name__}: {error}"


def _precision(ensemble: Ensemble, device: torch.device) -> AbstractContextManager[object]:
    dtype = compute_dtype(ensemble.precision, device)
    return nullcontext() if dtype is torch.float32 else torch.autocast(device.type, dtype=dtype)


@contextmanager
def products(precision: str, device: torch.device) -> Iterator[None]:
    """Let a GPU round products of float32 to ten bits where tf32 is asked for, and nowhere else.

    torch's own default allows it in convolutions. The setting is the process's, so it holds while one has the device.
    """
    if device.type != "cuda":
        yield
        return
    settings: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [setting.allow_tf32 for setting in settings]
    for setting in settings:
        setting.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.allow_tf32 = value


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Type in which convolutions run: by default half the width on GPUs that have it in hardware, else float32."""
    if precision != "auto":
        return _DTYPES[precision]
    if device.type != "cuda":
        return torch.float32
    # Not bfloat16: with its three digits objects change their outlines, with float16's they stay.
    return torch.float16 if torch.cuda.get_device_capability(device) >= (7, 0) else torch.float32
