"""Throughput for who buys hardware: bare networks, prediction from memory and the whole flow, on one worker or many."""

from __future__ import annotations

import json
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import dask
import platformdirs
import pystac
import torch

import darts_xr as dx
from darts_xr.atomic import write_atomic
from darts_xr.cube.bands import BANDS, select_bands
from darts_xr.devices import network_threads
from darts_xr.errors import ParameterError, PipelineError
from darts_xr.inference import Architecture, Ensemble, save_checkpoint
from darts_xr.inference.batches import batch_pixels
from darts_xr.inference.ensemble import network_of, resolve_device
from darts_xr.inference.forward import compute_dtype, products
from darts_xr.inference.legacy import MARGIN, TILE
from darts_xr.inference.tiles import lattice_windows
from darts_xr.sample import SampleWorld, write_world
from pipelines.detection import detect
from pipelines.digests import digest
from pipelines.settings import Settings

log = logging.getLogger(__name__)

ARCHIVE_PIXELS = 880e9  # input pixels of 2021 to 2023 (Nitze et al. 2025)
ARCHIVE_SCENES = 17_169
#: Word for networks of the published architecture with random weights, which are as quick as trained ones.
PUBLISHED = "published"
_PUBLISHED_BANDS = {"tcvis": tuple(BANDS)[:10], "notcvis": tuple(BANDS)[:7]}
_SCENES = 2  # a worker: one is read and another one written while the networks work
_SIDES = {"cuda": 4096, "cpu": 1024}  # of the synthetic scenes: on a CPU the published networks take minutes
_PRECISIONS = {"cuda": ("float32", "tf32", "float16", "bfloat16"), "cpu": ("float32", "bfloat16")}
_BATCHES = {"cuda": (1, 4, 16), "cpu": (1, 2)}
_TILES = {"cuda": (0.5, 1, 2), "cpu": (0.25, 0.5, 1)}  # times the tile of the networks


@dataclass(frozen=True)
class Bench:
    """What to measure.

    Parameters
    ----------
    models : sequence of path
        Checkpoints; ``"published"``: the published architecture, UNet++ with ResNet-34 of ten and of seven bands, with
        random weights; ``"demo"``: the small networks that come with the package.
    device : str
        Where the networks run.
    size : int, optional
        Side of the synthetic scenes, pixels; by default 4096 on a GPU and 1024 on a CPU.
    repeats : int
        Measurements of each, after one that warms up.
    workers : sequence of int
        Numbers of workers to compare, each with a cluster of its own; empty: what there is.
    sweep : bool
        Also the bare networks over batch, tile and precision.
    price_per_hour : float, optional
        Of one worker (one GPU), in any currency.
    folder : path, optional
        Where scenes, networks and results go meanwhile; all workers must see it. By default a temporary folder here.

    Raises
    ------
    ParameterError
        When a number makes no sense.

    Examples
    --------
    >>> Bench(models=("demo",)).repeats
    3
    """

    models: Sequence[str | os.PathLike[str]] = (PUBLISHED,)
    device: str = "auto"
    size: int | None = None
    repeats: int = 3
    workers: Sequence[int] = ()
    sweep: bool = False
    price_per_hour: float | None = None
    folder: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        for name, values in (("repeats", [self.repeats]), ("workers", self.workers)):
            if any(value < 1 for value in values):
                raise ParameterError(f"{name} must be 1 or more, got {min(values)}")
        if self.price_per_hour is not None and self.price_per_hour < 0:
            raise ParameterError(f"price_per_hour must be 0 or more, got {self.price_per_hour}")


class Spread(NamedTuple):
    """Pixels per second: the median of the repeats, the slowest and the quickest."""

    median: float
    min: float
    max: float

    @classmethod
    def of(cls, pixels: int, seconds: Sequence[float]) -> Spread:
        """Rates of works of so many pixels."""
        return cls(pixels / statistics.median(seconds), pixels / max(seconds), pixels / min(seconds))

    def rounded(self) -> dict[str, int]:
        """Return plain numbers."""
        return {name: round(value) for name, value in self._asdict().items()}


class Rate(NamedTuple):
    """Pixels per second of the clock and of the processors' work, which other programs hardly change."""

    wall: Spread
    cpu: Spread


def rate(pixels: int, work: Callable[[], Any], repeats: int, *, warm: bool = True) -> Rate:
    """Measure pixels per second over some repeats."""
    if warm:
        work()  # loads weights, fills caches
    walls, cpus = [], []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return Rate(Spread.of(pixels, walls), Spread.of(pixels, cpus))


def bare_members(
    ensemble: Ensemble, side: int, repeats: int, count: int | None = None, margin: int | None = None
) -> Rate:
    """Pixels per second of all members, one after the other, on loaded tiles, as many a pass as ``predict`` takes.

    Pixels are those of the tiles. Networks compute whole tiles, as segmentation-models-pytorch does; with ``margin``
    what ``predict`` computes of a tile whose core ends so many pixels before its edges.
    """
    device = resolve_device(ensemble.device)
    count = max(1, batch_pixels(device, ensemble) // side**2) if count is None else count
    half = compute_dtype(ensemble.precision, device)

    def measure() -> Rate:
        loaded = []
        for member in ensemble.members:
            network, _ = network_of(
                member, ensemble.device, ensemble.batch_norm, ensemble.compiled, precision=ensemble.precision,
                whole=margin is None,
            )  # fmt: skip
            tiles = torch.rand(count, len(member.bands), side, side, device=device)
            loaded.append((network, tiles.contiguous(memory_format=torch.channels_last)))

        def forward() -> None:
            with (
                products(ensemble.precision, device),
                torch.inference_mode(),
                torch.autocast(device.type, dtype=half, enabled=half != torch.float32),
            ):
                for network, tiles in loaded:
                    torch.sigmoid(network(tiles, margin or 0)).sum().item()

        return rate(count * side**2, forward, repeats)

    # In the thread in which predict runs them: after any other has used OpenMP, both are slower.
    return network_threads(device).run(measure)


def networks(request: Bench, folder: Path) -> Ensemble:
    """Ensemble that a request names; random weights of the published architecture are written to a folder."""
    paths: list[str | os.PathLike[str]] = []
    for model in request.models:
        if model != PUBLISHED:
            paths.append(model)
            continue
        for number, (name, bands) in enumerate(_PUBLISHED_BANDS.items()):
            architecture = Architecture(in_channels=len(bands))
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(number)
                network = architecture.build()
            path = folder / f"random-{name}.safetensors"
            save_checkpoint(
                path, network, name=f"random-{name}", architecture=architecture, bands=select_bands(bands), tile=TILE,
                margin=MARGIN, training={"synthetic": True, "made_by": "darts-xr bench: random weights"},
                licence="MIT",
            )  # fmt: skip
            paths.append(path)
    return dx.load_ensemble(*paths, device=request.device)


def bench(
    request: Bench | None = None,
    *,
    client: Any = None,
    clusters: Callable[[int], AbstractContextManager[Any]] | None = None,
) -> dict[str, Any]:
    """Measure pixels per second on synthetic scenes; the last result is kept for :func:`pipelines.plan`.

    Parameters
    ----------
    request : Bench, optional
        What to measure.
    client : distributed.Client, optional
        Cluster to measure on; by default this process.
    clusters : callable, optional
        Opens a cluster of so many workers, for ``request.workers``: a context manager that gives a client. By default
        :func:`darts_xr.start_cluster` on this machine.

    Returns
    -------
    dict
        ``measurements``, one a number of workers: pixels per second (median, min, max of the repeats; all workers
        together; pixels of tiles for members, else valid ones) of the bare members, of the members as ``predict`` runs
        them, of ``predict`` from memory and from files to polygons; the last a worker; ``busy_share``, the time that
        the members in ``predict`` alone would take for the pixels that they see in the flow, as a share of its time;
        ``seen_per_valid``, these pixels (margins and masked ones among them) for each valid one; peak memory of a
        worker. ``scaling``, ``sweep``; and for the 880 billion pixels of the published archive with *these* networks:
        worker hours, hours with all workers, price.

    Raises
    ------
    PipelineError
        When a scene of the measurement fails.

    Examples
    --------
    >>> result = bench(Bench(models=("demo",), workers=(1, 2), price_per_hour=2.1))  # doctest: +SKIP
    >>> result["archive"]["price"]  # doctest: +SKIP
    """
    request = request or Bench()
    with ExitStack() as stack:
        place = stack.enter_context(tempfile.TemporaryDirectory(prefix="darts_xr_bench_", dir=request.folder))
        folder = Path(place)
        ensemble = networks(request, folder)
        side = ensemble.tile + 2 * ensemble.margin
        scenes: _Scenes | None = None
        about: dict[str, Any] = {}
        measurements, sweep = [], []
        for count in request.workers or (None,):
            with _cluster(count, client, clusters) as at:
                if scenes is None:
                    about = _on_workers(at, _about, request.device)[0]
                    kind = "cpu" if about["device"] == "cpu" else "cuda"
                    most = max([*request.workers, len(_addresses(at))])
                    scenes = _scenes(folder / "world", request.size or _SIDES[kind], _SCENES * most, ensemble)
                    if request.sweep:
                        sweep = _on_workers(at, _sweep, ensemble, kind, request.repeats, first=True)[0]
                measurements.append(_measure(ensemble, side, scenes, request.repeats, at, folder))
    assert scenes is not None
    last, whole = measurements[-1], "files to polygons"
    hours = ARCHIVE_PIXELS / last["per_worker"] / 3600
    result = {
        "darts_xr": dx.__version__,
        "network": " and ".join(_network(member) for member in ensemble.members),
        "ensemble": ensemble.name,
        "network_key": _key(ensemble),
        **about,
        "scene_side": scenes.size,
        "valid_share": round(scenes.valid_share, 3),
        "repeats": request.repeats,
        "measurements": measurements,
        "scaling": [
            {
                "workers": row["workers"],
                "speed_up": round(_median(row, whole) / _median(measurements[0], whole), 3),
                "per_worker": round(row["per_worker"] / measurements[0]["per_worker"], 3),
            }
            for row in measurements
        ],
        "sweep": sweep,
        "archive": {
            "pixels": ARCHIVE_PIXELS,
            "scenes": ARCHIVE_SCENES,
            "worker_hours": round(hours, 1),
            "hours": round(hours / last["workers"], 1),
            "price": None if request.price_per_hour is None else round(hours * request.price_per_hour, 2),
        },
        "synthetic": True,
    }
    _keep(ensemble, result)
    return result


def _keep(ensemble: Ensemble, result: dict[str, Any]) -> None:
    """Keep a result for plans, unless its scenes are too small to say anything of real ones."""
    if result["scene_side"] < ensemble.tile:
        log.warning(
            "not kept for darts-xr detect --dry-run: scenes of %d px are smaller than a tile of the networks (%d px)",
            result["scene_side"], ensemble.tile,
        )  # fmt: skip
        return
    try:
        write_atomic(_kept(ensemble), lambda part: part.write_text(json.dumps(result)))
    except OSError as error:
        log.warning("not kept for darts-xr detect --dry-run: %s", error)


@dataclass(frozen=True)
class _Scenes:
    """Synthetic scenes, how many of their pixels are valid, and how many the networks see, with margins."""

    world: SampleWorld
    size: int
    items: list[pystac.Item]
    valid: list[int]
    seen: list[int]

    @property
    def valid_share(self) -> float:
        return sum(self.valid) / len(self.valid) / self.size**2


def _scenes(folder: Path, size: int, count: int, ensemble: Ensemble) -> _Scenes:
    world = write_world(folder, seed=3, scenes=count, size=size)
    items = list(dx.load_items(world.catalog))
    masks = [dx.open_scene(item)["valid"].values for item in items]
    margin, seen = ensemble.margin, []
    for mask in masks:
        windows = lattice_windows(mask, tile=ensemble.tile, margin=margin, stride=ensemble.stride, cut=True)
        seen.append(
            sum((height + 2 * margin) * (width + 2 * margin) for height, width in (w.shape for w in windows))
        )
    return _Scenes(world, size, items, [int(mask.sum()) for mask in masks], seen)


def _cluster(
    count: int | None, client: Any, clusters: Callable[[int], AbstractContextManager[Any]] | None
) -> AbstractContextManager[Any]:
    if count is None:
        return nullcontext(client)
    return dx.start_cluster(n_workers=count) if clusters is None else clusters(count)


def _addresses(client: Any) -> list[str]:
    """Workers of a cluster; one nameless for this process."""
    return [""] if client is None else sorted(client.scheduler_info(n_workers=-1)["workers"])


def _on_workers(client: Any, work: Callable[..., Any], *args: Any, first: bool = False) -> list[Any]:
    """Do the same on each worker at once, or on the first alone."""
    if client is None:
        return [work(*args)]
    places = _addresses(client)[: 1 if first else None]
    asked = [client.submit(work, *args, workers=[place], pure=False) for place in places]
    return list(client.gather(asked))


def _about(device: str) -> dict[str, Any]:
    where = resolve_device(device)
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else "cpu"
    return {"device": name, "threads": torch.get_num_threads(), "cores": os.cpu_count()}


def _measure(
    ensemble: Ensemble, side: int, scenes: _Scenes, repeats: int, client: Any, folder: Path
) -> dict[str, Any]:
    """Measure all on one cluster."""
    if client is not None:
        client.wait_for_workers(1)
    count = len(_addresses(client))
    here = slice(0, _SCENES * count)
    items, auxiliary = scenes.items[here], str(scenes.world.auxiliary)
    before = _members(ensemble, side, repeats, client, ensemble.margin)
    scene = dx.open_scene(items[0], auxiliary=auxiliary, bands=ensemble.definitions).persist()
    memory = rate(scenes.valid[0], lambda: dask.compute(dx.predict(scene, ensemble)), repeats).wall
    runs = iter(range(repeats + 1))

    def whole() -> None:
        # A new folder: an old run would only be looked up.
        with tempfile.TemporaryDirectory(prefix=f"run{next(runs)}-", dir=folder) as out:
            run = detect(items, Settings(out=out, models=ensemble, auxiliary=auxiliary), client=client)
        if run.failed:
            raise PipelineError(f"the measurement failed: {run.failed[0]['reason']}")

    flow = rate(sum(scenes.valid[here]), whole, repeats).wall
    peaks = _on_workers(client, _peaks, ensemble.device)
    # The machine may drift, so that the members are measured before and after.
    after = _members(ensemble, side, repeats, client, ensemble.margin)
    cores = Spread((before.median + after.median) / 2, min(before.min, after.min), max(before.max, after.max))
    bare = _members(ensemble, side, repeats, client, None)  # last, for they take more memory than a run
    return {
        "workers": count,
        "scenes": len(items),
        "pixels_per_second": {
            "bare members": bare.rounded(),
            "members in predict": cores.rounded(),
            "predict from memory": memory.rounded(),
            "files to polygons": flow.rounded(),
        },
        "per_worker": round(flow.median / count),
        "busy_share": round(flow.median * sum(scenes.seen[here]) / sum(scenes.valid[here]) / cores.median, 3),
        "seen_per_valid": round(sum(scenes.seen[here]) / sum(scenes.valid[here]), 3),
        "peak_worker_mib": max(peak[0] for peak in peaks),
        "peak_gpu_mib": max(peak[1] for peak in peaks) or None,
    }


def _members(ensemble: Ensemble, side: int, repeats: int, client: Any, margin: int | None) -> Spread:
    """Pixels per second of all workers' members at once, as :func:`bare_members` gives those of one."""
    rates = _on_workers(client, bare_members, ensemble, side, repeats, None, margin)
    return Spread(*(sum(each) for each in zip(*(rate.wall for rate in rates), strict=True)))


def _peaks(device: str) -> tuple[int, int]:
    """Peak memory of this process so far, and of its GPU's, MiB."""
    import resource  # not on Windows

    where = resolve_device(device)
    gpu = torch.cuda.max_memory_reserved(where) if where.type == "cuda" else 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, gpu // 2**20


def _sweep(ensemble: Ensemble, kind: str, repeats: int) -> list[dict[str, Any]]:
    """Members in ``predict`` over batch, tile and precision; without a rate where the memory does not suffice."""
    rows = []
    for precision in _PRECISIONS[kind]:
        for part in _TILES[kind]:
            tile = max(ensemble.stride, int(ensemble.tile * part) // ensemble.stride * ensemble.stride)
            side = tile + 2 * ensemble.margin
            for batch in _BATCHES[kind]:
                row: dict[str, Any] = {"precision": precision, "tile": tile, "batch": batch}
                if kind == "cuda":
                    torch.cuda.empty_cache()
                    torch.cuda.reset_peak_memory_stats()
                try:
                    chosen = replace(ensemble, precision=precision)  # type: ignore[arg-type]
                    found = bare_members(chosen, side, repeats, count=batch, margin=ensemble.margin).wall
                except torch.OutOfMemoryError:
                    rows.append({**row, "seen": None, "kept": None})
                    continue
                row |= {"seen": found.rounded(), "kept": round(found.median * tile**2 / side**2)}
                if kind == "cuda":
                    row["peak_gpu_mib"] = torch.cuda.max_memory_reserved() // 2**20
                rows.append(row)
    return rows


def _median(row: dict[str, Any], what: str) -> float:
    return float(row["pixels_per_second"][what]["median"])


def _network(member: Any) -> str:
    words = f"{member.architecture.name}/{member.architecture.encoder} of {len(member.bands)} bands"
    return f"{words}, depth {member.architecture.depth}"


def last_rate(ensemble: Ensemble) -> float | None:
    """Frame pixels per second and worker, files to polygons, of the last :func:`bench` of such networks here."""
    try:
        result = json.loads(_kept(ensemble).read_text())
        return float(result["measurements"][0]["per_worker"] / result["valid_share"])
    except (FileNotFoundError, json.JSONDecodeError, KeyError):
        return None


def _kept(ensemble: Ensemble) -> Path:
    return Path(platformdirs.user_cache_dir("darts_xr")) / f"bench-{_key(ensemble)}.json"


def _key(ensemble: Ensemble) -> str:
    """Hash of what speed depends on: the networks' shapes, whatever their weights."""
    shapes = [
        [m.architecture.to_dict(), list(m.band_names), m.tile, m.margin] for m in ensemble.members
    ]  # fmt: skip
    return digest(shapes)
