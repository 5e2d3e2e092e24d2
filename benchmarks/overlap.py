"""How much of a run's time is inference: 12 scenes on 2 workers, against the networks' own time on the same tiles.

    python -m benchmarks.overlap --scenes 12 --size 1536 --json overlap.json

The networks' own time is what passes inside their forward passes while the same workers, both at once, predict the same
scenes from memory. The run reads, predicts, cleans, vectorizes and writes; its wall time is compared with that sum
divided by the workers. Scenes are synthetic.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import dask

import darts_xr as dx
from darts_xr.inference import Ensemble
from darts_xr.inference.ensemble import network_of
from darts_xr.sample import write_world
from pipelines.detection import detect
from pipelines.settings import Settings


def _inside_networks(item: dict[str, Any], auxiliary: str, ensemble: Ensemble) -> float:
    """Seconds inside the forward passes while a scene in memory is predicted by this worker alone."""
    import pystac

    spent, began = [0.0], [0.0]

    def enter(*_: Any) -> None:
        began[0] = time.perf_counter()

    def leave(*_: Any) -> None:
        spent[0] += time.perf_counter() - began[0]

    with dask.config.set(scheduler="synchronous"):
        scene = dx.open_scene(
            pystac.Item.from_dict(item), auxiliary=auxiliary, bands=ensemble.definitions
        ).load()
        networks = [network_of(m, ensemble.device, ensemble.batch_norm)[0] for m in ensemble.members]
        hooks = [
            hook
            for n in networks
            for hook in (n.register_forward_pre_hook(enter), n.register_forward_hook(leave))
        ]
        try:
            dx.predict(scene, ensemble).compute()
        finally:
            for hook in hooks:
                hook.remove()
    return spent[0]


def benchmark(*, scenes: int = 12, size: int = 1536, workers: int = 2, repeats: int = 3) -> dict[str, Any]:
    """Compare a run's wall time with the networks' own time; medians of the repeats."""
    ensemble = dx.load_ensemble("demo")
    rows = []
    with tempfile.TemporaryDirectory(prefix="darts_xr_overlap_") as place:
        world = write_world(Path(place) / "world", seed=5, scenes=scenes, size=size)
        items = [item.to_dict(transform_hrefs=False) for item in dx.load_items(world.catalog)]
        with dx.start_cluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as client:
            for number in range(repeats + 1):
                futures = client.map(
                    _inside_networks, items, auxiliary=str(world.auxiliary), ensemble=ensemble, pure=False
                )
                bare = sum(client.gather(futures)) / workers
                began = time.perf_counter()
                settings = Settings(
                    out=Path(place) / f"run{number}", models=ensemble, auxiliary=world.auxiliary,
                    infrastructure=world.infrastructure,
                )  # fmt: skip
                detect(world.catalog, settings, client=client)
                rows.append((bare, time.perf_counter() - began))
    rows = rows[1:]  # the first pass loads networks and libraries
    return {
        "data": "synthetic",
        "scenes": scenes,
        "size": size,
        "workers": workers,
        "load_after": os.getloadavg()[0],
        "bare_seconds": round(statistics.median(bare for bare, _ in rows), 2),
        "run_seconds": round(statistics.median(wall for _, wall in rows), 2),
        "run_over_bare": round(statistics.median(wall / bare for bare, wall in rows), 3),
    }


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--scenes", type=int, default=12)
    parser.add_argument("--size", type=int, default=1536, help="side of each scene, px")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    given = vars(parser.parse_args())
    target = given.pop("json")
    result = benchmark(**given)
    print(json.dumps(result, indent=2))
    if target:
        target.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
