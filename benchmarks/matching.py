"""How long it takes to score a whole archive's detections against a large inventory.

    python -m benchmarks.matching --detections 119449 --references 50000 --json out.json

Synthetic polygons of some 24 corners in clusters around the pole, of 2018 to 2023, and a coverage of square footprints
for each year; scored by year, without a buffer and with one of 200 m. Each case runs in a process of its own on two
cores, which reports the seconds of the scores, those of reading the files, and its peak memory. A double loop over a
sample of the same objects must give the same hits, or the run fails.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import shapely

_CRS = "EPSG:3571"
_YEARS = range(2018, 2024)
_CHECKED = 200  # detections that a double loop counts again


def _polygons(rng: np.random.Generator, centres: np.ndarray, corners: int = 24) -> np.ndarray:
    """Round shapes of some 6,000 m²."""
    turn = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    radius = 45 * rng.uniform(0.6, 1.4, (len(centres), corners))
    x = centres[:, :1] + radius * np.cos(turn)
    y = centres[:, 1:] + radius * np.sin(turn)
    return shapely.polygons(np.stack([x, y], axis=2))


def make_input(folder: Path, detections: int, references: int, seed: int = 1) -> None:
    """Write detections, references and coverage as GeoParquet in EPSG:4326."""
    rng = np.random.default_rng(seed)
    angle, reach = rng.uniform(0, 2 * np.pi, 400), rng.uniform(1.0e6, 3.2e6, 400)
    clusters = np.stack([reach * np.cos(angle), reach * np.sin(angle)], axis=1)
    where = rng.integers(0, 400, references)
    places = clusters[where] + rng.normal(0, 15_000, (references, 2))
    truth = gpd.GeoDataFrame(geometry=_polygons(rng, places), crs=_CRS)
    near = places[rng.integers(0, references, detections)] + rng.normal(0, 60, (detections, 2))
    found = gpd.GeoDataFrame(
        {"year": rng.choice(_YEARS, detections)}, geometry=_polygons(rng, near), crs=_CRS
    )
    squares = shapely.box(*(clusters[:, [0, 1, 0, 1]] + np.array([-40_000, -40_000, 40_000, 40_000])).T)
    shape = shapely.union_all(squares)
    seen = gpd.GeoDataFrame({"year": list(_YEARS)}, geometry=[shape] * len(_YEARS), crs=_CRS)
    for name, frame in (("detections", found), ("references", truth), ("coverage", seen)):
        frame.to_crs(4326).to_parquet(folder / f"{name}.parquet")


def measure(folder: Path, buffer: float) -> dict[str, Any]:
    """Score in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.matching", "--child", str(folder), str(buffer)],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1],
        env={**os.environ, "OMP_NUM_THREADS": "2"},
    )  # fmt: skip
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def child(folder: Path, buffer: float) -> dict[str, Any]:
    """Score in this process."""
    from darts_xr.assess import Comparison, score_years

    started = time.perf_counter()
    found, truth, seen = (
        gpd.read_parquet(folder / f"{name}.parquet") for name in ("detections", "references", "coverage")
    )
    read, before = time.perf_counter(), time.process_time()
    table = score_years(found, truth, seen, comparison=Comparison(buffer=buffer))
    cpu = time.process_time() - before
    ended, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    _check(found, truth, buffer)
    pooled = table.set_index("scope").loc["all"]
    return {
        "buffer": buffer, "read_s": round(read - started, 2), "score_s": round(ended - read, 2),
        "score_cpu_s": round(cpu, 2),
        "peak_mib": round(used.ru_maxrss / 1024), "f1": round(float(pooled["f1"]), 4),
        "true": int(pooled["true"]),
    }  # fmt: skip


def _check(found: gpd.GeoDataFrame, truth: gpd.GeoDataFrame, buffer: float) -> None:
    """Compare hits of some detections with those of a double loop over distances in an equidistant projection."""
    from darts_xr.assess.match import Pairs

    first = found.geometry.iloc[[0]].to_crs(_CRS).iloc[0].centroid
    away = found.geometry.to_crs(_CRS).distance(first).to_numpy()
    order = np.argsort(away)[:_CHECKED]
    some = found.iloc[order[away[order] < 100_000]]
    lon, lat = gpd.GeoSeries([first], crs=_CRS).to_crs(4326).iloc[0].coords[0]
    local = f"+proj=aeqd +lon_0={lon} +lat_0={lat} +datum=WGS84"
    one, other = some.geometry.to_crs(local).to_numpy(), truth.geometry.to_crs(local)
    near = other[other.distance(shapely.Point(0, 0)) < 200_000].to_numpy()
    # Within 0.1 m of the buffer the two projections may round differently.
    apart = np.array([shapely.distance(shape, near).min() for shape in one])
    sure = np.abs(apart - buffer) > 0.1 if buffer else np.ones(len(apart), bool)
    hits = Pairs(some, truth, buffer=buffer).match().detected_hit
    if not (hits == (apart <= buffer))[sure].all():
        raise SystemExit("the scores differ from a double loop")


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark and print what it measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--detections", type=int, default=119_449)
    parser.add_argument("--references", type=int, default=50_000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs=2)
    args = parser.parse_args(argv)
    if args.child:
        print(json.dumps(child(Path(args.child[0]), float(args.child[1]))))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        make_input(Path(folder), args.detections, args.references)
        for buffer in (0.0, 200.0):
            rows.append(measure(Path(folder), buffer))
            print(rows[-1])
    if args.json:
        figures = {"detections": args.detections, "references": args.references, "rows": rows}
        args.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
