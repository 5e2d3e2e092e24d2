"""The whole archive on many simulated GPUs: Dask's own scheduler and the pipelines' own run, with sleeps for inference.

    python -m benchmarks.archive --workers 1 8 64 256 --json archive.json

Real: the plan of 17,169 scenes with the layers near each, the flow that starts and takes them in, client and scheduler
(each a process), workers' messages over TCP, records on disk. Simulated: what a worker does with a scene. It sleeps
while it "reads", sleeps with its only GPU locked, and sleeps while it "writes"; scenes are of 0.5 to 1.5 times the
archive's mean of 51.3 million pixels. Each worker has four threads, so it has further scenes in hand while the GPU is
busy, as a real one. Many workers share a few processes.

A speed-up shortens all sleeps. Scheduler and client then see the scenes a second of that many times the workers, so 8
workers at a speed-up of 16 are as much work for them as 128 workers in real time; only the workers are fewer.
The rates are targets: no GPU was measured.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import dask
import numpy as np
import psutil
import pystac

import darts_xr as dx
from darts_xr.cluster import worker_environment
from darts_xr.sample import write_world
from pipelines.detection import run_scenes
from pipelines.flow import ClusterPool, Limits
from pipelines.folder import RunFolder
from pipelines.planning import Planner
from pipelines.records import Record, RecordLog
from pipelines.scenes import Job, SceneTask
from pipelines.schema import COUNTS
from pipelines.settings import Rules, Settings
from pipelines.sources import load_sources

SCENES = 17_169
_FACTS = {"sha256": "0" * 64, "size": 1_000_000, "mtime_ns": 1_600_000_000_000_000_000}  # of a result's file
PIXELS = 880e9  # of the published archive
GPU_RATE = 31e6  # pixels a second and GPU: a target, not measured
#: Seconds for a scene of mean size: 189 ns of CPU a pixel to read and derive bands (RESULTS.md), on 12 cores a GPU that
#: three scenes share while the fourth is on the GPU; objects and files of the results.
READ, WRITE = 2.4, 0.6
THREADS = 4  # of each worker, as darts_xr.start_cluster has it beside a GPU
_PROCESSES = 3  # that the simulated workers share
_MILESTONES = (200, 2000)
_SPEEDUPS = {1: 128.0, 8: 16.0, 64: 2.0, 256: 1.0}
# Real workers have a process each: what each of them does in the background must not add up here.
_QUIET_WORKERS = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.system-monitor.interval": "10s",
    "distributed.admin.tick.interval": "10s",
    "distributed.admin.tick.limit": "60s",
}


# --- the simulated worker ----------------------------------------------------------------------------------

_gpus: dict[str, threading.Lock] = {}


@dataclass(frozen=True)
class Simulated:
    """Stands for :class:`pipelines.scenes.Job`, which it carries along: the same messages, no pixels."""

    job: Job
    speedup: float
    read: float
    write: float

    def __call__(self, task: SceneTask) -> Record:
        """Sleep as long as a scene takes; the record is as long as a real one."""
        from distributed import get_worker

        begun = time.monotonic()
        worker = get_worker().address
        height, width = json.loads(task.item)["properties"]["proj:shape"]
        share = height * width / (PIXELS / SCENES)
        time.sleep(self.read * share / self.speedup)
        gpu = height * width / GPU_RATE / self.speedup
        with _gpus.setdefault(worker, threading.Lock()):
            time.sleep(gpu)
        time.sleep(self.write * share / self.speedup)
        return {
            "id": task.id, "state": "done", "date": "2021-07-14", "pixels": height * width,
            "valid_pixels": height * width, "counts": dict.fromkeys(COUNTS, 7), "synthetic": True,
            "outputs": dict.fromkeys(self.job.files, _FACTS),
            "seconds": {"open": 0.1, "read_and_predict": 1.234, "objects": 0.567, "write": 0.891},
            "started": "2021-07-14T00:00:00+00:00", "worker": worker, "warnings": [], "inputs": task.inputs,
            "gpu": gpu, "thread": threading.get_ident(), "begun": begun, "ended": time.monotonic(),
        }  # fmt: skip


# --- the simulated archive ---------------------------------------------------------------------------------


def archive_items(scenes: int, folder: Path) -> tuple[Iterator[pystac.Item], list[pystac.Item]]:
    """Items of scenes all over the Arctic, and of elevation, trends and land cover on cells of one degree."""
    world = write_world(folder / "pattern", seed=1, scenes=1, size=256)
    scene = dx.load_items(world.catalog)[0].to_dict()
    layers = {item.id.split("_")[0]: item.to_dict() for item in dx.load_items(world.auxiliary)}
    rng = np.random.default_rng(0)
    side = np.sqrt(PIXELS / SCENES)
    heights = (side * rng.uniform(0.5, 1.5, scenes)).astype(int)
    east = -170 + max(2, round(110 * scenes / SCENES))  # a part of the archive lies as densely as the whole
    corners = np.stack([rng.uniform(-170, east, scenes), rng.uniform(60, 75, scenes)], 1)

    def placed(
        pattern: dict[str, Any], name: str, west: float, south: float, size: tuple[float, float]
    ) -> Any:
        document = json.loads(json.dumps(pattern).replace(pattern["id"], name))
        document["bbox"] = [west, south, west + size[0], south + size[1]]
        return document

    def images() -> Iterator[pystac.Item]:
        for number, (height, (west, south)) in enumerate(zip(heights, corners.tolist(), strict=True)):
            document = placed(scene, f"20210714_{number:06d}_00_242e", west, south, (0.6, 0.2))
            document["properties"]["proj:shape"] = [int(height), int(side)]
            yield pystac.Item.from_dict(document, preserve_dict=False, migrate=False)

    auxiliary = [
        pystac.Item.from_dict(
            placed(pattern, f"{kind}_{west}_{south}", west, south, (1, 1)), preserve_dict=False, migrate=False
        )
        for west in range(-171, east + 1)
        for south in range(59, 76)
        for kind, pattern in layers.items()
    ]
    return images(), auxiliary


# --- processes ---------------------------------------------------------------------------------------------


class _Child:
    """A process of the simulated cluster, which ends when its standard input is closed."""

    def __init__(self, *arguments: str) -> None:
        environment = {**os.environ, **worker_environment(1), "DASK_LOGGING__DISTRIBUTED": "warning"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.archive", *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip

    def first_line(self) -> str:
        """Wait until it has started."""
        assert self.process.stdout is not None
        if not (line := self.process.stdout.readline().strip()):
            raise RuntimeError(f"{self.process.args} did not start")
        return line

    def close(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


async def _until_closed() -> None:
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


async def _serve_scheduler() -> None:
    from distributed import Scheduler

    async with Scheduler(host="127.0.0.1", dashboard=False) as scheduler:
        print(scheduler.address, flush=True)
        await _until_closed()


async def _serve_workers(address: str, workers: int, threads: int) -> None:
    from distributed import Worker

    with tempfile.TemporaryDirectory() as place:
        started = [
            await Worker(
                address, nthreads=threads, host="127.0.0.1", memory_limit=0, local_directory=place, dashboard=False
            )
            for _ in range(workers)
        ]  # fmt: skip
        print("started", flush=True)
        await _until_closed()
        await asyncio.gather(*(worker.close(timeout=2, nanny=False) for worker in started))


@contextmanager
def simulated_cluster(
    workers: int, threads: int
) -> Iterator[tuple[Any, psutil.Process, list[psutil.Process]]]:
    """Start a client, the process of its scheduler, and those that the workers share."""
    from distributed import Client

    with ExitStack() as stack:
        scheduler = _Child("--child", "scheduler")
        stack.callback(scheduler.close)
        address = scheduler.first_line()
        hosts = []
        for host in range(min(_PROCESSES, workers)):
            count = len(range(host, workers, _PROCESSES))
            hosts.append(
                _Child("--child", "workers", address, "--workers", str(count), "--threads", str(threads))
            )
            stack.callback(hosts[-1].close)
        for started in hosts:
            started.first_line()
        client = stack.enter_context(Client(address))
        client.wait_for_workers(workers, timeout=120)
        yield (
            client,
            psutil.Process(scheduler.process.pid),
            [psutil.Process(host.process.pid) for host in hosts],
        )


# --- the measurement ---------------------------------------------------------------------------------------


class _Watch:
    """What client and scheduler take while the scenes go by; looked at now and then, since looking costs too."""

    def __init__(self, client: Any, scheduler: psutil.Process, hosts: Sequence[psutil.Process]) -> None:
        self._client, self._done = client, 0
        self._processes = {"client": [psutil.Process()], "scheduler": [scheduler], "workers": hosts}
        self.rows: list[dict[str, float]] = []
        self.tasks = 0

    def __call__(self, record: Record, total: int) -> None:
        """Take in the record of a scene."""
        self._done += 1
        if self._done in _MILESTONES or self._done == total:
            self.look()
        if self._done % 250 == 0 or self._done == total // 2:
            self.tasks = max(self.tasks, self._client.run_on_scheduler(_count_tasks))

    def look(self) -> None:
        """Note memory and CPU time of the processes."""
        row: dict[str, float] = {"scenes": self._done, "time": time.monotonic()}
        for name, processes in self._processes.items():
            times = [process.cpu_times() for process in processes]
            row[f"{name}_mib"] = round(sum(process.memory_info().rss for process in processes) / 2**20, 1)
            row[f"{name}_cpu_s"] = sum(each.user + each.system for each in times)
        self.rows.append(row)


def _count_tasks(dask_scheduler: Any) -> int:
    return len(dask_scheduler.tasks)


def _busy(records: list[Record], workers: int, start: float, end: float) -> float:
    """Share of the time that the GPUs were busy, of scenes that ended between two moments."""
    return sum(r["gpu"] for r in records if start <= r["ended"] <= end) / (workers * (end - start))


def _gaps(records: list[Record]) -> list[float]:
    """Seconds from the end of each scene to the begin of the next one on the same thread of a worker."""
    threads = defaultdict(list)
    for record in records:
        threads[record["worker"], record["thread"]].append((record["begun"], record["ended"]))
    found = []
    for spans in threads.values():
        spans.sort()
        found += [after[0] - before[1] for before, after in pairwise(spans)]
    return found


def benchmark(
    workers: int, *, scenes: int = SCENES, speedup: float | None = None, threads: int = THREADS, read: float = READ,
    write: float = WRITE, folder: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Do the archive once on so many simulated GPU workers."""
    speedup = _SPEEDUPS.get(workers, 1.0) if speedup is None else speedup
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=folder)))
        client, scheduler, hosts = stack.enter_context(simulated_cluster(workers, threads))
        images, auxiliary = archive_items(scenes, place)
        home, records, ensemble = RunFolder(place / "run"), dict[str, Record](), dx.load_ensemble("demo")
        begun = time.perf_counter()
        sources = load_sources(Settings(out=place / "run", auxiliary=auxiliary))
        planner = Planner(images, Job(ensemble, Rules(), str(home)), sources, records, Limits())
        prepared = time.perf_counter() - begun
        del auxiliary, sources
        pool = ClusterPool(client, Simulated(planner.job, speedup, read, write))
        watch = _Watch(client, scheduler, hosts)
        load = os.getloadavg()[0]
        stack.enter_context(home.locked())
        watch.look()
        begun = time.monotonic()
        run = run_scenes(
            planner, home, records, {"simulated": True}, pool=pool, limits=Limits(), on_scene=watch
        )
        ended = time.monotonic()
        if len(run.done) != scenes or len(RecordLog(home).read()) != scenes:
            raise RuntimeError(f"of {scenes} scenes only {len(run.done)} are recorded")
        size = sum(path.stat().st_size for path in (place / "run").rglob("*.jsonl"))
    return {
        "scenes": scenes, "workers": workers, "speedup": speedup, "threads": threads,
        "seconds_of_a_scene": {"gpu": round(PIXELS / SCENES / GPU_RATE, 3), "read": read, "write": write},
        "load_before": round(load, 2), "plan_s": round(prepared, 2),
        **_figures(list(records.values()), workers, watch, begun, ended), "record_bytes": round(size / scenes),
    }  # fmt: skip


def _figures(
    records: list[Record], workers: int, watch: _Watch, begun: float, ended: float
) -> dict[str, Any]:
    first, *rows = watch.rows
    last = rows[-1]
    wall = last["time"] - begun
    cpu = {
        name: last[f"{name}_cpu_s"] - first[f"{name}_cpu_s"] for name in ("client", "scheduler", "workers")
    }
    ends = sorted(record["ended"] for record in records)
    middle = ends[len(ends) // 20], ends[-1 - len(ends) // 20]
    gaps = np.array(_gaps(records) or [0.0])
    memory = {
        name: {int(row["scenes"]): row[f"{name}_mib"] for row in watch.rows}
        for name in ("client", "scheduler")
    }
    growth = {
        f"{name}_growth": round(seen[_MILESTONES[1]] / seen[_MILESTONES[0]] - 1, 3)
        for name, seen in memory.items()
        if set(_MILESTONES) <= set(seen)
    }
    return {
        "wall_s": round(wall, 1),
        "scenes_per_s": round(len(records) / wall, 2),
        "gpu_busy": round(sum(record["gpu"] for record in records) / workers / wall, 4),
        "gpu_busy_between_5_and_95_percent": round(_busy(records, workers, *middle), 4),
        "gap_ms": {
            "median": round(float(np.median(gaps)) * 1e3, 2),
            "p95": round(float(np.percentile(gaps, 95)) * 1e3, 2),
        },
        "cores_busy": {name: round(seconds / wall, 3) for name, seconds in cpu.items()},
        "cpu_ms_a_scene": {name: round(seconds / len(records) * 1e3, 2) for name, seconds in cpu.items()},
        "memory_mib": memory,
        **growth,
        "most_tasks_in_scheduler": watch.tasks,
        "summary_s": round(ended - last["time"], 2),
    }


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 8, 64, 256], help="simulated GPUs")
    parser.add_argument("--scenes", type=int, default=SCENES)
    parser.add_argument("--speedup", type=float, help=f"by default {_SPEEDUPS}, else 1")
    parser.add_argument("--threads", type=int, default=THREADS, help="of each worker")
    parser.add_argument("--read", type=float, default=READ, help="seconds to read a mean scene")
    parser.add_argument("--write", type=float, default=WRITE, help="seconds to write its results")
    parser.add_argument(
        "--folder", type=Path, help="where run folders are made and removed; by default in /tmp"
    )
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        with dask.config.set(_QUIET_WORKERS):
            kind, *address = options.child
            asyncio.run(
                _serve_scheduler()
                if kind == "scheduler"
                else _serve_workers(address[0], options.workers[0], options.threads)
            )
        return
    results = []
    print(
        f"{'GPUs':>5} {'speed-up':>8} {'as in real time':>15} {'scenes/s':>8} {'wall s':>7} {'busy':>6} {'5-95 %':>6} "
        f"{'gap ms':>7} {'client':>7} {'scheduler':>9} {'tasks':>6} {'MiB of client at 200, 2000, end':>33} "
        f"{'of scheduler':>24}"
    )
    for workers in options.workers:
        row = benchmark(
            workers, scenes=options.scenes, speedup=options.speedup, threads=options.threads, read=options.read,
            write=options.write, folder=options.folder,
        )  # fmt: skip
        results.append(row)
        memory = [
            ", ".join(f"{mib:.0f}" for count, mib in seen.items() if count)
            for seen in row["memory_mib"].values()
        ]
        print(
            f"{workers:>5} {row['speedup']:>8g} {workers * row['speedup']:>10g} GPUs {row['scenes_per_s']:>8} "
            f"{row['wall_s']:>7} {row['gpu_busy']:>6.3f} {row['gpu_busy_between_5_and_95_percent']:>6.3f} "
            f"{row['gap_ms']['median']:>7} {row['cores_busy']['client']:>7.0%} {row['cores_busy']['scheduler']:>9.0%} "
            f"{row['most_tasks_in_scheduler']:>6} {memory[0]:>33} {memory[1]:>24}",
            flush=True,
        )
        if options.json:
            options.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    # Tasks of a module with a name are sent by name, as those of the pipelines are.
    from benchmarks import archive

    archive.main()
