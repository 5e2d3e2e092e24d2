"""What a GPU does with the networks, the planes and the whole flow: for the first hour on a machine that has one.

    python -m benchmarks.gpu probe agreement networks shapes predict card terrain feed flow --out gpu/
    python -m benchmarks.gpu predict --device cpu --small --out dry/

Each step writes its figures as JSON lines, ``OUT/STEP.jsonl``, as soon as it has them, and a part that fails writes why
and costs none of the others. ``--seconds`` ends a step before its next part. Networks are the published pair
(UNet++ with ResNet-34) with random weights, scenes are noise or synthetic; speed does not depend on what they show.
With ``--small`` and ``--device cpu`` all that is no question to a GPU runs on a machine without one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import dask
import numpy as np
import psutil
import torch
import xarray as xr

import darts_xr as dx
from benchmarks.feed import auxiliary_items, scene_item, write_files
from benchmarks.terrain import terrain as heights
from benchmarks.throughput import measure, noise, swath
from darts_xr.cube.terrain import relative_elevation, slope
from darts_xr.device_array import DeviceArray
from darts_xr.devices import network_threads
from darts_xr.graph.planes import Planes, block_planes
from darts_xr.inference import Ensemble
from darts_xr.inference.ensemble import network_of
from darts_xr.sample import write_world
from pipelines.detection import detect
from pipelines.settings import Settings
from pipelines.throughput import Bench, bare_members, networks

Row = dict[str, Any]


@dataclass(frozen=True)
class Hour:
    """Where and how large to measure.

    Parameters
    ----------
    device : torch.device
        What is measured.
    small : bool
        Toy sizes and the demo's networks.
    ends : float
        When the step is to end, on the clock of ``time.perf_counter``.
    folder : Path
        For networks and scenes.
    """

    device: torch.device
    small: bool
    ends: float
    folder: Path

    @property
    def cuda(self) -> bool:
        """Whether it is a GPU."""
        return self.device.type == "cuda"

    @property
    def left(self) -> float:
        """Seconds until the step is to end."""
        return self.ends - time.perf_counter()

    def sync(self) -> None:
        """Wait for the device."""
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[[], Any], repeats: int = 5) -> float:
        """Median seconds of some work with all that it asks of the device, after two warm-ups."""
        times = []
        for _ in range(repeats + 2):
            began = time.perf_counter()
            work()
            self.sync()
            times.append(time.perf_counter() - began)
        return statistics.median(times[2:])

    def ensemble(self, precision: str = "auto") -> Ensemble:
        """Networks that are measured."""
        models = ("demo",) if self.small else ("published",)
        request = Bench(models=models, device=str(self.device))
        return replace(networks(request, self.folder), precision=precision)  # type: ignore[arg-type]


class Load:
    """How busy card and cores are meanwhile: share of time with a kernel (NVML, every 50 ms), and cores in use."""

    def __init__(self, hour: Hour) -> None:
        self.hour, self.seen, self.watching = hour, list[int](), threading.Event()

    def __enter__(self) -> Load:
        if self.hour.cuda:
            self.watching.set()
            self.thread = threading.Thread(target=self._watch, daemon=True)
            self.thread.start()
        self.cpu, self.began = time.process_time(), time.perf_counter()
        return self

    def _watch(self) -> None:
        while self.watching.is_set():
            self.seen.append(torch.cuda.utilization(self.hour.device))
            time.sleep(0.05)

    def __exit__(self, *_: object) -> None:
        self.hour.sync()
        self.wall = time.perf_counter() - self.began
        self.cores = (time.process_time() - self.cpu) / self.wall
        if self.watching.is_set():
            self.watching.clear()
            self.thread.join()

    def row(self, pixels: int) -> Row:
        """Figures of so many pixels."""
        busy = statistics.mean(self.seen) / 100 if self.seen else None
        return {"mpx_s": pixels / self.wall / 1e6, "busy": busy, "cores": self.cores}


# --- steps: each gives its parts, by name, and a part gives rows -------------------------------------------


Part = tuple[str, Callable[[], Iterator[Row]]]


def probe(hour: Hour) -> Iterator[Part]:
    """Say what the machine is, and how fast it copies and multiplies at best."""

    def machine() -> Iterator[Row]:
        names = ("torch", "numpy", "dask", "distributed", "xarray", "segmentation-models-pytorch", "timm")
        yield {name: version(name) for name in names} | {"python": sys.version.split()[0]}
        yield {"cores": psutil.cpu_count(), "memory_gib": psutil.virtual_memory().total / 2**30}

    def card() -> Iterator[Row]:
        about = torch.cuda.get_device_properties(hour.device)
        yield {"card": about.name, "gib": about.total_memory / 2**30, "cuda": torch.version.cuda,
               "cudnn": torch.backends.cudnn.version()}  # fmt: skip
        one = torch.empty(2**30, device=hour.device)
        other = torch.empty_like(one)
        yield {"copy_tb_s": 2 * one.nbytes / hour.seconds(lambda: other.copy_(one)) / 1e12}
        square = torch.randn(8192, 8192, device=hour.device, dtype=torch.float16)
        yield {"float16_tflops": 2 * 8192**3 / hour.seconds(lambda: square @ square) / 1e12}
        for pinned in (False, True):
            host = torch.empty(2**28, dtype=torch.uint8, pin_memory=pinned)
            seconds = hour.seconds(partial(host.to, hour.device, non_blocking=True))
            yield {"upload_gb_s": host.nbytes / seconds / 1e9, "pinned": pinned}

    yield "machine", machine
    if hour.cuda:
        yield "card", card


def agreement(hour: Hour) -> Iterator[Part]:
    """Correct first: the marked tests, then probabilities of each precision against the processor's float32."""

    def tests() -> Iterator[Row]:
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        yield {"exit": done.returncode, "says": done.stdout[-700:] + done.stderr[-300:]}

    def precisions() -> Iterator[Row]:
        size = 256 if hour.small else 2048
        ensemble = hour.ensemble("float32")
        scene = noise(ensemble, swath(size, 0.35), size // 2)
        expected = dx.predict(scene, replace(ensemble, device="cpu")).values
        for precision in ("float32", "bfloat16", *(("tf32", "float16") if hour.cuda else ())):
            found = dx.predict(scene, replace(ensemble, precision=precision)).values  # type: ignore[arg-type]
            off = np.abs(found - expected)
            yield {
                "precision": precision,
                "largest": float(np.nanmax(off)),
                "mean": float(np.nanmean(off)),
                "other_class": int(((found >= 0.5) != (expected >= 0.5)).sum()),
                "same_mask": bool((np.isnan(found) == np.isnan(expected)).all()),
                "pixels": int(np.isfinite(expected).sum()),
            }

    if hour.cuda:
        yield "tests", tests
    yield "precisions", precisions


def bare(hour: Hour) -> Iterator[Part]:
    """Networks alone: precision, tile, batch; eager, through torch.compile and as a CUDA graph."""
    sides, counts = ((128,), (1, 2)) if hour.small else ((1152, 576, 2176), (1, 4, 12))
    for precision in ("float16", "bfloat16-all", "tf32", "float32") if hour.cuda else ("float32",):
        ensemble = hour.ensemble(precision)
        for side in sides:

            def eager(ensemble: Ensemble = ensemble, side: int = side) -> Iterator[Row]:
                for count in counts:
                    whole, cores = (
                        bare_members(ensemble, side, 3, count, margin) for margin in (None, ensemble.margin)
                    )
                    yield {
                        "precision": ensemble.precision, "side": side, "batch": count,
                        "mpx_s": whole.wall.median / 1e6, "cores_only_mpx_s": cores.wall.median / 1e6,
                    }  # fmt: skip

            yield f"{precision}, {side} px", eager

    def compiled() -> Iterator[Row]:
        ensemble = replace(hour.ensemble(), compiled=True)
        began = time.perf_counter()
        rate = bare_members(ensemble, sides[0], 3, counts[0], ensemble.margin)
        ready = time.perf_counter() - began
        yield {"compiled": True, "side": sides[0], "mpx_s": rate.wall.median / 1e6, "with_compiling_s": ready}

    def graphs() -> Iterator[Row]:
        for count in counts:
            seconds, again = network_threads(hour.device).run(
                _graphed, hour, hour.ensemble(), sides[0], count
            )
            pixels = count * sides[0] ** 2
            yield {"graph": True, "side": sides[0], "batch": count, "mpx_s": pixels / seconds / 1e6,
                   "eager_mpx_s": pixels / again / 1e6}  # fmt: skip

    if not hour.small:
        yield "torch.compile", compiled
    if hour.cuda:
        yield "CUDA graphs", graphs


def _graphed(hour: Hour, ensemble: Ensemble, side: int, count: int) -> tuple[float, float]:
    """Seconds of the members' passes as a CUDA graph, and asked for one by one; weights and pixels in float16."""
    loaded = []
    for member in ensemble.members:
        network, _ = network_of(member, ensemble.device, ensemble.batch_norm)
        tiles = torch.rand(count, len(member.bands), side, side, device=hour.device)
        loaded.append((network, tiles.contiguous(memory_format=torch.channels_last)))

    def passes() -> None:
        with torch.inference_mode(), torch.autocast("cuda", dtype=torch.float16, cache_enabled=False):
            for network, tiles in loaded:
                network(tiles, ensemble.margin)

    stream = torch.cuda.Stream(hour.device)
    with torch.cuda.stream(stream):
        for _ in range(3):
            passes()
    torch.cuda.current_stream(hour.device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        passes()
    return hour.seconds(graph.replay), hour.seconds(passes)


def shapes(hour: Hour) -> Iterator[Part]:
    """Measure what the first tile of a new shape costs, in time and in memory of the host (cuDNN's plans)."""

    def each() -> Iterator[Row]:
        ensemble = hour.ensemble()
        sides = range(128, 256, 64) if hour.small else range(256, 1088, 64)
        process = psutil.Process()
        for side in sides:
            held, began = process.memory_info().rss, time.perf_counter()
            bare_members(ensemble, side, 1, 1, ensemble.margin)
            first = time.perf_counter() - began
            again = 1 / bare_members(ensemble, side, 1, 1, ensemble.margin).wall.median * side**2
            yield {"side": side, "first_two_s": first, "later_s": again,
                   "host_mib": (process.memory_info().rss - held) / 2**20}  # fmt: skip

    yield "shapes", each


def predict(hour: Hour) -> Iterator[Part]:
    """``predict`` from memory against bare members, on full scenes and with a collar, by chunks and threads."""
    size = 512 if hour.small else 8192
    ensemble = hour.ensemble()
    tile, margin = (128, 32) if hour.small else (ensemble.tile, ensemble.margin)
    for no_data in (0.0, 0.35):
        for threads in (2,) if hour.small else (4, 8, 16):

            def one(no_data: float = no_data, threads: int = threads) -> Iterator[Row]:
                with dask.config.set(scheduler="threads", num_workers=threads), Load(hour) as load:
                    found = measure(
                        ensemble, size=size, no_data=no_data, tile=tile, margin=margin, chunk=tile, repeats=3
                    )
                yield {**found, "threads": threads, "busy": load.row(1)["busy"]}

            yield f"no data {no_data}, {threads} threads", one


def card(hour: Hour) -> Iterator[Part]:
    """How full the card is while ``predict`` runs: kernels and copies by the profiler."""
    size = 512 if hour.small else 4096
    ensemble = hour.ensemble()
    scene = noise(ensemble, swath(size, 0.0), size // 4).persist()

    def profiled() -> Iterator[Row]:
        from torch.profiler import ProfilerActivity, profile

        def work() -> None:
            dask.compute(dx.predict(scene, ensemble), scheduler="threads", num_workers=4)

        work()
        with profile(activities=[ProfilerActivity.CUDA if hour.cuda else ProfilerActivity.CPU]) as seen:
            began = time.perf_counter()
            work()
            hour.sync()
            wall = time.perf_counter() - began
        spans: dict[str, list[tuple[float, float]]] = {"kernels": [], "copies": []}
        for event in seen.events():
            if event.device_type.name == "CUDA":
                kind = "copies" if "memcpy" in event.name.lower() else "kernels"
                spans[kind].append((event.time_range.start, event.time_range.end))
        yield {
            "mpx_s": size**2 / wall / 1e6,
            **{f"{k}_share": _union(v) / 1e6 / wall for k, v in spans.items()},
        }
        for entry in sorted(seen.key_averages(), key=lambda e: -e.self_device_time_total)[:12]:
            yield {"kernel": entry.key[:90], "ms": entry.self_device_time_total / 1e3, "calls": entry.count}

    yield "profile", profiled


def _union(spans: list[tuple[float, float]]) -> float:
    """Length of what spans cover together."""
    total, end = 0.0, float("-inf")
    for first, last in sorted(spans):
        total += max(0.0, last - max(first, end))
        end = max(end, last)
    return total


def terrain(hour: Hour) -> Iterator[Part]:
    """Slope and relative elevation on the device against the processor's, with and without a void."""
    z = heights(512 if hour.small else 4096)
    holed = z.copy()
    holed[100:140, 200:260] = np.nan
    for name, work in (("slope", slope), ("relative elevation", relative_elevation)):
        for kind, values in (("whole", z), ("with a void", holed)):

            def one(
                name: str = name, work: Callable[..., Any] = work, kind: str = kind, values: Any = values
            ) -> Iterator[Row]:
                placed, expected = torch.from_numpy(values).to(hour.device), work(values, resolution=2.0)
                found = work(placed, resolution=2.0).cpu().numpy()
                seconds = hour.seconds(lambda: work(placed, resolution=2.0))
                yield {
                    "what": name, "on": kind, "ns_px": seconds / values.size * 1e9,
                    "largest": float(np.nanmax(np.abs(found - expected))),
                    "same_voids": bool((np.isnan(found) == np.isnan(expected)).all()),
                }  # fmt: skip

            yield f"{name}, {kind}", one


def feed(hour: Hour) -> Iterator[Part]:
    """All planes of a scene from files by threads, layers derived on the processor and on the device."""
    size, files = (1024, hour.folder / "feed") if hour.small else (8000, hour.folder / "feed-8000")
    devices = dict.fromkeys(("cpu", str(hour.device) if hour.cuda else "cpu:0"))
    for device in devices:
        for threads in (1, 2) if hour.small else (1, 4, 8, 16):

            def one(device: str = device, threads: int = threads) -> Iterator[Row]:
                if not (files / "trends.tif").exists():
                    write_files(files, size)
                scene = dx.open_scene(scene_item(files), auxiliary=auxiliary_items(files), device=device)
                blocks = _all_planes(scene)
                with Load(hour) as load:
                    dask.compute(blocks, scheduler="threads", num_workers=threads)
                row = load.row(size**2)
                yield {
                    "device": device,
                    "threads": threads,
                    **row,
                    "ns_px": 1e3 / row["mpx_s"] * row["cores"],
                }

            yield f"{device}, {threads} threads", one


def _all_planes(scene: xr.Dataset) -> Any:
    """Blocks of a scene as ``predict`` asks for them, which go at once."""
    bands = [scene[name] for name in scene.data_vars if name not in ("measured", "mask_class")]
    made = block_planes(bands, scene["valid"].chunks)  # type: ignore[arg-type]
    return made.map_blocks(_gone, chunks=(1, 1), dtype=np.uint8, meta=np.empty((0, 0), np.uint8))


def _gone(block: Planes) -> Any:
    for plane in block.values():
        if isinstance(plane, DeviceArray) and plane.tensor.device.type == "cuda":
            torch.cuda.synchronize(plane.tensor.device)
    return np.zeros((1, 1), np.uint8)


def flow(hour: Hour) -> Iterator[Part]:
    """From files to polygons: in this process, then on a cluster of one worker with the GPU."""
    count, size = (1, 256) if hour.small else (6, 4096)

    def run(client: Any, name: str) -> Iterator[Row]:
        world = write_world(hour.folder / "world", seed=3, scenes=count, size=size)
        ensemble = hour.ensemble()
        for number in range(2):
            with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=hour.folder) as out:
                settings = Settings(out=out, models=ensemble, auxiliary=str(world.auxiliary))
                with Load(hour) as load:
                    done = detect(world.catalog, settings, client=client)
                scenes = done.done
                valid = sum(record["valid_pixels"] for record in scenes)
                yield {"on": name, "run": number, "done": len(scenes), "of": count, **load.row(valid),
                       "stages": [record["seconds"] for record in scenes][:2]}  # fmt: skip

    def cluster() -> Iterator[Row]:
        with dx.start_cluster(**({"n_workers": 1} if not hour.cuda else {})) as client:
            yield from run(client, "cluster")

    yield "this process", lambda: run(None, "process")
    yield "cluster", cluster


STEPS: dict[str, Callable[[Hour], Iterator[Part]]] = {
    "probe": probe, "agreement": agreement, "networks": bare, "shapes": shapes, "predict": predict, "card": card,
    "terrain": terrain, "feed": feed, "flow": flow,
}  # fmt: skip


def benchmark(step: str, hour: Hour) -> Iterator[Row]:
    """Rows of a step; a part that fails gives one that says why, and the next one follows."""
    for name, work in STEPS[step](hour):
        if hour.left <= 0:
            yield {"part": name, "left_out": "no time left"}
            continue
        began = time.perf_counter()
        try:
            for row in work():
                rounded = {k: float(f"{v:.5g}") if isinstance(v, float) else v for k, v in row.items()}
                yield {"part": name, **rounded}
        except Exception as error:  # an hour on a borrowed machine must not end with one part
            yield {
                "part": name,
                "failed": f"{type(error).__name__}: {error}",
                "where": traceback.format_exc()[-900:],
            }
        yield {"part": name, "seconds": round(time.perf_counter() - began, 2)}


def main() -> None:
    """Run steps from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("steps", nargs="+", choices=list(STEPS))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="toy sizes, the demo's networks")
    parser.add_argument(
        "--seconds", type=float, default=540, help="after which a step begins no further part"
    )
    parser.add_argument("--out", type=Path, default=Path("gpu"), help="folder for the figures")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="darts_xr_gpu_") as folder:
        for step in options.steps:
            ends = time.perf_counter() + options.seconds
            hour = Hour(torch.device(options.device), options.small, ends, Path(folder))
            with (options.out / f"{step}.jsonl").open("a") as file:
                for row in benchmark(step, hour):
                    line = json.dumps(row, default=str)
                    print(line, flush=True)
                    file.write(line + "\n")
                    file.flush()


if __name__ == "__main__":
    main()
