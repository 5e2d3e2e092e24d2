"""How fast objects become polygons and polygons become Level 2, against the straightforward ways.

    python -m benchmarks.objects --size 8000 --objects 200 2000 20000 --polygons 10000 119449 1000000 --json out.json

Cleaning, vectorizing and statistics of one synthetic scene: ours against scikit-image (label, dilation,
remove_small_objects, regionprops) and GDAL's polygonize on the whole array. Level 2 of synthetic Level 1
polygons: ours against ``geopandas.dissolve`` per year and ``explode``. Both sides run in turns on the same input,
each run in a fresh child process that reports its seconds, CPU seconds (robust on a busy machine) and peak
memory; figures are medians. Both sides must find the same objects, or the run fails.
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
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

import geohash
import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
import xarray as xr

_CHUNK = 1024
_SITE_SHARE = 0.365  # published: 43,572 sites among 119,449 Level 1 polygons

# --- synthetic input -----------------------------------------------------------------------------------------


def make_scene(path: Path, size: int, objects: int, seed: int = 1) -> None:
    """Write the probability of a rotated swath with clouds and bumps of some 300 pixels."""
    rng = np.random.default_rng(seed)
    scene = np.lib.format.open_memmap(path, "w+", np.float32, (size, size))
    scene[:] = 0.02
    half = 24
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    for row, column in rng.integers(half, max(size - half, half + 1), (objects, 2)):
        wide, high, turn = rng.uniform(6, 16), rng.uniform(5, 11), rng.uniform(0, np.pi)
        u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
        bump = 0.95 - 0.45 * ((u / wide) ** 2 + (v / high) ** 2) + rng.normal(0, 0.04, x.shape)
        window = scene[row - half : row + half + 1, column - half : column + half + 1]
        height, width = window.shape
        np.maximum(window, bump[:height, :width], out=window)
    np.clip(scene, 0, 1, out=scene)
    for row in range(size):
        lean = int(0.15 * row)
        scene[row, : max(int(0.1 * size) - lean, 0)] = np.nan
        scene[row, int(1.0 * size) - lean :] = np.nan
    side = max(size // 80, 2)
    for row, column in rng.integers(0, max(size - side, 1), (60, 2)):
        scene[row : row + side, column : column + side] = np.nan
    scene.flush()


def open_scene(path: Path, chunks: int | None) -> xr.DataArray:
    """Open the scene, lazily where chunks are given."""
    import dask.array as da
    from odc.geo.geobox import GeoBox
    from odc.geo.xr import wrap_xr

    values = np.load(path, mmap_mode="r")
    height, width = values.shape
    box = GeoBox.from_bbox((465_000, 7_900_000, 465_000 + 3 * width, 7_900_000 + 3 * height), "EPSG:32610",
                           shape=(height, width))  # fmt: skip
    data = np.asarray(values) if chunks is None else da.from_array(values, chunks=chunks, name=str(path))
    return wrap_xr(data, box)


def make_level1(n: int, seed: int = 2) -> gpd.GeoDataFrame:
    """Level 1 of six years: sites that are seen up to several times a year with other outlines."""
    rng = np.random.default_rng(seed)
    site = rng.integers(0, max(int(n * _SITE_SHARE), 1), n)
    sites = site.max() + 1
    longitude, latitude = rng.uniform(-160, 160, sites), rng.uniform(66, 76, sites)
    radius = rng.lognormal(np.log(35), 0.5, sites)[site] * rng.uniform(0.8, 1.2, n)  # metres
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    waves = sum(
        rng.normal(0, 0.25 / k, (n, 1)) * np.cos(k * angle + rng.uniform(0, 6, (n, 1))) for k in (2, 3, 5)
    )
    reach = radius[:, None] * np.clip(1 + waves, 0.3, None) / 111_320
    x = longitude[site][:, None] + reach * np.cos(angle) / np.cos(np.radians(latitude[site]))[:, None]
    y = latitude[site][:, None] + reach * np.sin(angle)
    year = 2018 + rng.choice(6, n, p=[0.04, 0.05, 0.06, 0.25, 0.3, 0.3])
    day = rng.integers(1, 29, n)
    date = [f"{a}-08-{b:02d}" for a, b in zip(year.tolist(), day.tolist(), strict=True)]
    shapes = shapely.polygons(np.stack([x, y], axis=-1))
    centre = shapely.get_coordinates(shapely.centroid(shapes)).tolist()
    return gpd.GeoDataFrame(
        {
            "id": np.arange(1, n + 1),
            "id_geohash": [geohash.encode(b, a, 12) for a, b in centre],
            "date": date,
            "year": year.astype(np.int64),
            "image_source": "PlanetScope (synthetic)",
            "image_id": [f"{a}08{b:02d}_201500_{i % 4096:04x}" for a, b, i in zip(year, day, range(n), strict=True)],
            "pval_mean": rng.uniform(0.5, 0.9, n),
            "pval_max": rng.uniform(0.9, 1, n),
            "DARTS_dataset_version": "benchmark",
            "DARTS_AI_model_version": "synthetic",
            "DARTS_AI_model_threshold": "0.5",
        },
        geometry=shapes,
        crs="EPSG:4326",
    )  # fmt: skip


# --- what is measured: each returns what both sides must agree on --------------------------------------------


def objects_ours(path: Path) -> list[float]:
    """Clean, vectorize and measure with darts_xr, chunk by chunk."""
    import dask

    from darts_xr.objects import label_objects, vectorize

    prob = open_scene(path, _CHUNK)
    with dask.config.set(scheduler="threads", num_workers=2):
        feats = vectorize(label_objects(prob), prob, crs=None)
    return [len(feats), feats.n_pixels.sum(), round(feats.area.sum()), round(feats.pval_p75.mean(), 6)]


def objects_plain(path: Path) -> list[float]:
    """Clean, vectorize and measure with scikit-image and GDAL on the whole array."""
    from rasterio.features import shapes
    from skimage.measure import label, regionprops
    from skimage.morphology import dilation, disk, remove_small_objects

    prob = open_scene(path, None)
    values = prob.values
    mask = values >= 0.5
    labels = label(mask, connectivity=2)
    zone = dilation(np.isnan(values), disk(10))
    zone[:10], zone[-10:], zone[:, :10], zone[:, -10:] = True, True, True, True
    mask &= ~np.isin(labels, np.setdiff1d(labels[zone], [0]))
    labels = label(remove_small_objects(mask, max_size=31, connectivity=2), connectivity=2).astype(np.int32)
    found = list(shapes(labels, mask=labels > 0, connectivity=4, transform=prob.odc.geobox.affine))
    feats = gpd.GeoDataFrame(
        {"object": [int(value) for _, value in found]},
        geometry=[shapely.geometry.shape(shape) for shape, _ in found],
        crs=prob.odc.geobox.crs.proj,
    ).dissolve("object")
    rows = []
    for region in regionprops(labels, intensity_image=values):
        inside = region.image_intensity[region.image].astype(np.float64)
        rows.append((region.label, inside.size, inside.mean(), inside.std(), inside.min(), inside.max(),
                     *np.percentile(inside, [25, 50, 75])))  # fmt: skip
    names = ["object", "n", "mean", "std", "min", "max", "p25", "p50", "p75"]
    feats = feats.join(pd.DataFrame(rows, columns=names).set_index("object"))
    return [len(feats), int(feats["n"].sum()), round(feats.area.sum()), round(float(feats["p75"].mean()), 6)]


def level2_ours(path: Path) -> list[float]:
    """Dissolve with darts_xr; ids, areas, dates and means of all columns included."""
    from darts_xr.products import level2

    return [len(level2(_read(path)))]


def level2_plain(path: Path) -> list[float]:
    """Dissolve with geopandas, geometry only."""
    rows = _read(path)
    parts = [year.dissolve().explode() for _, year in rows[["year", "geometry"]].groupby("year")]
    return [sum(len(part) for part in parts)]


def _read(path: Path) -> gpd.GeoDataFrame:
    if path not in _loaded:
        _loaded[path] = gpd.read_parquet(path)
    return _loaded[path]


_loaded: dict[Path, gpd.GeoDataFrame] = {}
_TASKS = {
    "objects_ours": objects_ours,
    "objects_plain": objects_plain,
    "level2_ours": level2_ours,
    "level2_plain": level2_plain,
}

# --- measuring -----------------------------------------------------------------------------------------------


def measure(task: str, path: Path, timeout: float = 3600) -> dict[str, Any]:
    """Run a task in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.objects", "--child", task, str(path)]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=timeout, env={**os.environ, **threads}
    )
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def child(task: str, path: Path) -> None:
    """Measure in this process and print the result as JSON."""
    function = _TASKS[task]
    # Imports are no part of the figures.
    for name in ("darts_xr.objects", "darts_xr.products", "skimage.measure", "skimage.morphology"):
        if name.startswith("darts_xr") or task == "objects_plain":
            import_module(name)
    if task.startswith("level2"):
        _read(path)
    before = _peak()
    start, cpu = time.perf_counter(), time.process_time()
    agreed = function(path)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    print(
        json.dumps(
            {"seconds": seconds, "cpu": cpu, "peak_mib": _peak(), "before_mib": before, "agreed": agreed},
            default=float,
        )
    )


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def compare(ours: str, plain: str | None, path: Path, runs: int) -> dict[str, Any]:
    """Run both sides in turns; medians, ratio and peaks."""
    results: dict[str, list[dict[str, Any]]] = {task: [] for task in (ours, plain) if task}
    for _ in range(runs):
        for task, measured in results.items():
            measured.append(measure(task, path))
    agreed = [r["agreed"] for measured in results.values() for r in measured]
    if any(not np.allclose(a, agreed[0], rtol=1e-6) for a in agreed):
        raise SystemExit(f"{ours} and {plain} disagree: {agreed}")
    row: dict[str, Any] = {"result": agreed[0]}
    for name, task in (("ours", ours), ("plain", plain)):
        if task:
            row[f"{name}_s"] = round(median(r["seconds"] for r in results[task]), 3)
            row[f"{name}_cpu_s"] = round(median(r["cpu"] for r in results[task]), 3)
            row[f"{name}_peak_mib"] = round(max(r["peak_mib"] for r in results[task]))
    if plain:
        row["times_faster"] = round(row["plain_s"] / row["ours_s"], 1)
    return row


def run(
    size: int, objects: list[int], polygons: list[int], runs: int = 3, plain_limit: int = 200_000
) -> dict[str, Any]:
    """Measure everything.

    Parameters
    ----------
    size : int
        Height and width of the scene in pixels.
    objects : list of int
        Numbers of objects that are planted.
    polygons : list of int
        Numbers of Level 1 polygons.
    runs : int
        Runs of each side.
    plain_limit : int
        Numbers of polygons above this are measured on our side only.

    Returns
    -------
    dict
        ``objects`` and ``level2``, each a list of rows.
    """
    out: dict[str, Any] = {"size": size, "runs": runs, "cpus": os.cpu_count(), "objects": [], "level2": []}
    with tempfile.TemporaryDirectory() as folder:
        for n in objects:
            path = Path(folder) / "scene.npy"
            make_scene(path, size, n)
            out["objects"].append({"planted": n, **compare("objects_ours", "objects_plain", path, runs)})
            print(out["objects"][-1], flush=True)
        for n in polygons:
            path = Path(folder) / "level1.parquet"
            make_level1(n).to_parquet(path)
            row = compare("level2_ours", "level2_plain" if n <= plain_limit else None, path, runs)
            out["level2"].append(
                {"polygons": n, "cpu_us_per_polygon": round(row["ours_cpu_s"] / n * 1e6, 1), **row}
            )
            print(out["level2"][-1], flush=True)
    return out


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=8000)
    parser.add_argument("--objects", type=int, nargs="*", default=[200, 2000, 20_000])
    parser.add_argument("--polygons", type=int, nargs="*", default=[10_000, 119_449, 1_000_000])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        child(options.child[0], Path(options.child[1]))
        return
    figures = run(options.size, options.objects, options.polygons, options.runs)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2, default=float) + "\n")


if __name__ == "__main__":
    main()
