"""Ensembles: which networks vote, and the one copy of their weights that each process keeps."""

from __future__ import annotations

import logging
import os
import threading
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn

from darts_xr.cube.bands import BANDS, Band
from darts_xr.errors import CheckpointError, ParameterError, TilingError
from darts_xr.inference.checkpoint import Checkpoint, read_checkpoint
from darts_xr.inference.core_network import WholeNetwork, checked_core_network
from darts_xr.inference.network import (
    bfloat16_slowdown,
    divide_logits,
    fold_batch_norm,
    keep_encoder_exact,
    preferred_device,
    use_batch_statistics,
)
from darts_xr.markup import html_table
from darts_xr.memory import keep_freed_memory

log = logging.getLogger(__name__)

BatchNorm = Literal["eval", "per-tile"]
Precision = Literal["auto", "float32", "tf32", "bfloat16", "bfloat16-all", "float16"]

#: What stands wherever networks without any real training met a scene that is not synthetic.
DEMO_CAUTION = "demo networks, trained on synthetic scenes only: no result to rely on"

_networks: dict[tuple[str, str, str, bool, bool, bool, bool], nn.Module] = {}
_loading = threading.Lock()


@dataclass(frozen=True)
class Ensemble:
    """Networks whose probabilities are averaged. Light: weights are loaded where they are used.

    Parameters
    ----------
    members : tuple of Checkpoint
        The networks.
    device : str
        ``"auto"`` (the process's first GPU, else the CPU), ``"cpu"`` or ``"cuda:N"``.
    batch_norm : {"eval", "per-tile"}
        ``"eval"``: batch normalisation with the statistics of the training. ``"per-tile"``: with each tile's own, as
        the published DARTS v1.2 probabilities were made.
    precision : {"auto", "float32", "tf32", "bfloat16", "bfloat16-all", "float16"}
        Type in which convolutions run. ``"auto"``: float16 on GPUs that have it, float32 on a CPU. ``"tf32"``: float32
        whose products a GPU may round to ten bits; ``"float32"`` never does. With ``"bfloat16"`` the encoder runs in
        float32, since outlines would move otherwise; with ``"bfloat16-all"`` it does not.
    compiled : bool
        Whether networks go through ``torch.compile``.
    calibrated : bool
        Whether logits are divided by the members' temperatures; :func:`darts_xr.predict` sets it.
    """

    members: tuple[Checkpoint, ...]
    device: str = "auto"
    batch_norm: BatchNorm = "eval"
    precision: Precision = "auto"
    compiled: bool = False
    calibrated: bool = False

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands that any member needs, in canonical order."""
        wanted = {name for member in self.members for name in member.band_names}
        return tuple(name for name in BANDS if name in wanted)

    @property
    def definitions(self) -> tuple[Band, ...]:
        """Definitions of these bands: what :func:`darts_xr.open_scene` must derive for these networks."""
        found = {band.name: band for member in reversed(self.members) for band in member.bands}
        return tuple(found[name] for name in self.bands)

    @property
    def tile(self) -> int:
        """Side of a model tile's core, pixels."""
        return max(member.tile for member in self.members)

    @property
    def margin(self) -> int:
        """Pixels that a network sees around the core of a tile."""
        return max(member.margin for member in self.members)

    @property
    def stride(self) -> int:
        """Sides of model tiles are multiples of this, pixels."""
        return max(member.architecture.stride for member in self.members)

    @property
    def name(self) -> str:
        """Names of the members, joined."""
        return "+".join(member.name for member in self.members)

    @property
    def synthetic_only(self) -> tuple[str, ...]:
        """Names of the members that were trained on synthetic scenes only."""
        return tuple(member.name for member in self.members if member.synthetic_only)

    def check_lattice(self, tile: int, margin: int) -> None:
        """Refuse a tile or a margin that does not suit the networks; raises :class:`darts_xr.errors.TilingError`."""
        for name, length, least in (("tile", tile, self.stride), ("margin", margin, 0)):
            if length < least or length % self.stride:
                raise TilingError(
                    f"{name} must be a multiple of {self.stride} px, the stride of {self.name}, and at least "
                    f"{least}; got {length}"
                )
        if margin > tile:
            raise TilingError(f"margin must not exceed the tile of {tile} px, got {margin}")

    def version(self, *, synthetic_scene: bool) -> str:
        """Names and digests of the members, and versions of the labels that they learnt.

        A caution follows where demo networks meet a scene that is not synthetic.
        """
        text = "+".join(f"{member.name}@{member.sha256[:8]}" for member in self.members)
        learnt = [str(m.training["version"]) for m in self.members if m.training.get("version")]
        text = f"{text} ({', '.join(dict.fromkeys(learnt))})" if learnt else text
        return text if synthetic_scene or not self.synthetic_only else f"{text} ({DEMO_CAUTION})"

    def __repr__(self) -> str:
        rows = [
            f"  {m.name}: {m.architecture.name}/{m.architecture.encoder}, {len(m.bands)} bands, "
            f"tile {m.tile}+2×{m.margin} px, sha256 {m.sha256[:12]}"
            for m in self.members
        ]
        return (
            f"<Ensemble of {len(self.members)} on {self.device}, batch norm {self.batch_norm}, precision "
            f"{self.precision}{', compiled' if self.compiled else ''}>\n" + "\n".join(rows)
        )

    def _repr_html_(self) -> str:
        rows = [
            [m.name, f"{m.architecture.name}/{m.architecture.encoder}", ", ".join(band.name for band in m.bands),
             f"{m.tile}+2×{m.margin} px", m.sha256[:12]]
            for m in self.members
        ]  # fmt: skip
        title = f"Ensemble of {len(self.members)} on {self.device}, batch norm {self.batch_norm}, {self.precision}"
        return html_table(title, rows, head=["member", "network", "bands", "tile", "sha256"])


def load_ensemble(
    *paths: str | os.PathLike[str],
    device: str = "auto",
    batch_norm: BatchNorm = "eval",
    precision: Precision = "auto",
    compiled: bool = False,
    tile: int | None = None,
    margin: int | None = None,
) -> Ensemble:
    """Describe an ensemble from its checkpoint files.

    Parameters
    ----------
    *paths : path
        One checkpoint a member, in any format that :func:`read_checkpoint` reads, or the word ``"demo"`` for the two
        networks that come with the package, ``"demo/tcvis"`` and ``"demo/notcvis"`` (which needs no trends) for one of
        them. Those were trained on synthetic scenes only and know nothing of real ones.
    device : str, optional
        Where the networks run: ``"auto"``, ``"cpu"`` or ``"cuda:N"``. ``"auto"`` is decided in the process that
        predicts, so that a client never touches a GPU.
    batch_norm : {"eval", "per-tile"}, optional
        See :class:`Ensemble`.
    precision : {"auto", "float32", "tf32", "bfloat16", "bfloat16-all", "float16"}, optional
        See :class:`Ensemble`. Half precision is no longer exact to the last digits.
    compiled : bool, optional
        Send the networks through ``torch.compile``. Every shape of tile is compiled anew, which takes a minute or more,
        so it pays in long runs over whole scenes only.
    tile, margin : int, optional
        Side of the core of a model tile and pixels seen beyond it, in place of what the checkpoints state; multiples of
        the networks' stride. Part of the result: a run knows scenes that were done with others.

    Returns
    -------
    Ensemble
        Headers only; weights are loaded once in each process that predicts.

    Raises
    ------
    CheckpointError
        When no path is given, or a file is missing, damaged or of another kind, or members want different kernel
        radii for one band.
    TilingError
        When tile or margin are given and do not suit the networks.

    Examples
    --------
    >>> load_ensemble("demo").bands[:3]
    ('ndvi', 'blue', 'green')
    """
    keep_freed_memory()
    if not paths:
        raise CheckpointError(
            'No checkpoint given. Give one path a member, or "demo" for the shipped networks.'
        )
    for name, value, choices in (
        ("batch_norm", batch_norm, get_args(BatchNorm)),
        ("precision", precision, get_args(Precision)),
    ):
        if value not in choices:
            raise CheckpointError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
    resolved = [file for path in paths for file in _checkpoint_files(os.fspath(path))]
    try:
        torch.device("cpu" if device == "auto" else device)
    except (RuntimeError, TypeError) as error:
        raise ParameterError(f"device must be auto, cpu, cuda or cuda:N, got {device!r}") from error
    given: dict[str, Any] = {
        name: side for name, side in (("tile", tile), ("margin", margin)) if side is not None
    }
    members = tuple(replace(read_checkpoint(path), **given) for path in resolved)
    definitions: dict[str, tuple[object, str]] = {}
    for member in members:
        if unknown := [name for name in member.band_names if name not in BANDS]:
            raise CheckpointError(
                f"{member.path} wants the bands {', '.join(unknown)}, which scenes do not have; they have "
                f"{', '.join(BANDS)}."
            )
        for band in member.bands:
            derivation = (band.source, band.resampling, band.radius, band.kernel_grid)
            first = definitions.setdefault(band.name, (derivation, member.name))
            if first[0] != derivation:
                raise CheckpointError(
                    f"Members {first[1]} and {member.name} derive {band.name} differently ({first[0]} and "
                    f"{derivation}), so one cube cannot feed both. Run them as two ensembles."
                )
    ensemble = Ensemble(members, device, batch_norm, precision, compiled)
    if given:
        ensemble.check_lattice(ensemble.tile, ensemble.margin)
    return ensemble


_DEMO = ("tcvis", "notcvis")


def demo_checkpoints() -> list[Path]:
    """Paths of the two networks that come with the package, trained on synthetic scenes only."""
    folder = files("darts_xr") / "inference" / "demo"
    return [Path(str(folder / f"{name}.safetensors")) for name in _DEMO]


def _checkpoint_files(path: str) -> list[Path]:
    """File of a checkpoint; of a demo network by its name, of both by the word demo."""
    shipped = dict(zip((f"demo/{name}" for name in _DEMO), demo_checkpoints(), strict=True))
    if path == "demo":
        return list(shipped.values())
    # A file that is there goes before a name.
    return [shipped[path] if path in shipped and not Path(path).exists() else Path(path)]


def resolve_device(device: str) -> torch.device:
    """Return the device that a name stands for in this process."""
    return preferred_device() if device == "auto" else torch.device(device)


def network_of(
    member: Checkpoint,
    device: str,
    batch_norm: BatchNorm,
    compiled: bool = False,
    *,
    calibrated: bool = False,
    precision: Precision = "auto",
    whole: bool = False,
) -> tuple[nn.Module, torch.device]:
    """Return a member's network, made ready for prediction on its device once in this process.

    It takes tiles and a margin and gives the logits of their cores. With ``whole`` it computes whole tiles, as
    segmentation-models-pytorch does, whatever is kept of them.
    """
    keep_freed_memory()  # here too: an ensemble may come to a process as a pickle
    where = resolve_device(device)
    rough_encoder = precision == "bfloat16-all"
    key = (member.sha256, str(where), batch_norm, compiled, calibrated, rough_encoder, whole)
    with _loading:  # two threads would otherwise load the same weights at the same time
        if key not in _networks:
            network = member.load_network()
            if precision in ("bfloat16", "bfloat16-all") and (times := bfloat16_slowdown(where)) > 1:
                log.warning(
                    "precision %r: this CPU takes %.1f times as long for a convolution in bfloat16 as in float32; "
                    "leave precision out",
                    precision,
                    times,
                )
            if calibrated and member.temperature is not None:
                divide_logits(network, member.temperature)
            channels, stride = member.architecture.in_channels, member.architecture.stride
            if batch_norm == "per-tile":
                use_batch_statistics(network)
                whole = True  # the margin belongs to a tile's statistics
            else:
                network = fold_batch_norm(network, channels, 4 * stride)
            if not rough_encoder:
                keep_encoder_exact(network)
            ready = WholeNetwork(network) if whole else checked_core_network(network, channels, stride)
            ready = ready.to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]
            _networks[key] = torch.compile(ready) if compiled else ready  # type: ignore[assignment]
        return _networks[key], where
