"""How fast a scene's ten bands and its mask come from files on disk, against reading the same pixels raw.

    python -m benchmarks.feed --size 8000 --threads 2 --json feed.json

The files are synthetic, written by this script in the layout of the real ones: image (4 × uint16, 3 m, UTM),
udm2 (8 × uint8), elevation (float32, 2 m, EPSG:3413) and Landsat trends (3 × uint8, 30 m, EPSG:3413), all
tiled, compressed GeoTIFF with the noise of real data. Every figure is the median of three runs, each in a fresh
child process whose peak memory is noted; the files are in the page cache. "raw" reads the scene's windows of all
four files, every compressed block once; "raw-chunks" reads the very windows that the chunks need.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

Window = tuple[int, int, int, int]

STAGES = ("raw", "raw-chunks", "image", "terrain", "trends", "full")
_STAGE_BANDS: dict[str, tuple[str, ...] | None] = {
    "image": ("blue", "green", "red", "nir", "ndvi"),
    "terrain": ("relative_elevation", "slope"),
    "trends": ("tc_brightness", "tc_greenness", "tc_wetness"),
    "full": None,
}
_SCENE_ID = "20230711_203344_41_2455"
_GTIFF = {"driver": "GTiff", "tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate"}


# --- synthetic files ---------------------------------------------------------------------------------------


def scene_grid(size: int) -> Any:
    """Pixel grid of the benchmark's scene: Banks Island, 3 m."""
    from affine import Affine
    from odc.geo.geobox import GeoBox

    return GeoBox((size, size), Affine(3, 0, 465000, 0, -3, 7990000), "EPSG:32610")


def _around(size: int, step: float, margin: float) -> tuple[float, float, int, int]:
    """Left, top, height, width of a north-up EPSG:3413 grid that holds the scene and a margin in metres."""
    box = scene_grid(size).footprint("EPSG:3413", npoints=100).boundingbox
    left, top = (math.floor((box.left - margin) / step) * step, math.ceil((box.top + margin) / step) * step)
    return (
        left,
        top,
        math.ceil((top - box.bottom + margin) / step),
        math.ceil((box.right + margin - left) / step),
    )


def _write(
    path: Path, dtype: str, bands: int, shape: tuple[int, int], grid: dict[str, Any], fill: Any
) -> None:
    import rasterio
    from rasterio.windows import Window as RasterWindow

    height, width = shape
    profile = {**_GTIFF, "dtype": dtype, "count": bands, "height": height, "width": width, **grid}
    with rasterio.open(path, "w", num_threads="all_cpus", bigtiff="if_safer", **profile) as file:
        for top in range(0, height, 512):
            rows = min(512, height - top)
            file.write(fill(top, rows, width).astype(dtype), window=RasterWindow(0, top, width, rows))


def write_files(folder: Path, size: int, seed: int = 0) -> None:
    """Write image, mask, elevation and trends of one synthetic scene."""
    from affine import Affine

    rng = np.random.default_rng(seed)
    base = np.array([420, 550, 720, 2000])[:, None, None]

    def image(top: int, rows: int, width: int) -> Any:
        y, x = np.ogrid[top : top + rows, :width]
        wave = 1 + 0.2 * np.sin(x / 90.0) * np.cos(y / 70.0)
        return base * wave + rng.normal(0, 9, (4, rows, width)).astype("f4")

    def mask(top: int, rows: int, width: int) -> Any:
        y, x = np.ogrid[top : top + rows, :width]
        cloud = ((x // 300 + y // 200) % 11 == 0)[None]
        flags = np.concatenate([~cloud, *[cloud & False] * 4, cloud, cloud & False, cloud & False]).astype(
            "u1"
        )
        flags[6] = 90
        return flags

    def heights(top: int, rows: int, width: int) -> Any:
        y, x = np.ogrid[top : top + rows, :width]
        relief = 300 + 60 * np.sin(x / 400.0) * np.cos(y / 300.0) + 8 * np.sin(x / 37.0 + y / 53.0)
        return (relief + rng.normal(0, 0.05, (rows, width)))[None]

    def trends(top: int, rows: int, width: int) -> Any:
        return np.clip(rng.normal(127, 8, (3, rows, width)), 0, 255)

    order = folder / _SCENE_ID
    order.mkdir(parents=True, exist_ok=True)
    scene = scene_grid(size)
    utm = {"crs": str(scene.crs), "transform": scene.affine, "nodata": 0, "predictor": 2}
    _write(order / f"{_SCENE_ID}_3B_AnalyticMS_SR.tif", "uint16", 4, (size, size), utm, image)
    _write(order / f"{_SCENE_ID}_3B_udm2.tif", "uint8", 8, (size, size), {**utm, "nodata": None}, mask)
    for name, dtype, bands, step, fill, nodata, predictor in (
        ("dem", "float32", 1, 2.0, heights, -9999.0, 3),
        ("trends", "uint8", 3, 30.0, trends, None, 2),
    ):
        left, top, height, width = _around(size, step, 300.0)
        polar = {"crs": "EPSG:3413", "transform": Affine(step, 0, left, 0, -step, top), "nodata": nodata}
        _write(folder / f"{name}.tif", dtype, bands, (height, width), {**polar, "predictor": predictor}, fill)


def scene_item(folder: Path) -> Any:
    """STAC item of the image and its mask; catalogued once, since that is no part of the feed."""
    import pystac

    from darts_xr.planet import planet_items

    path = folder / "item.json"
    if not path.exists():
        next(iter(planet_items(folder / _SCENE_ID))).save_object(include_self_link=False, dest_href=str(path))
    return pystac.Item.from_file(str(path))


def auxiliary_items(folder: Path) -> Any:
    """STAC items of the two auxiliary files."""
    import datetime

    import pystac

    items = []
    for key, bands in (
        ("dem", [{"name": "dem", "nodata": -9999}]),
        ("trends", [{"name": f"tc_{name}"} for name in ("brightness", "greenness", "wetness")]),
    ):
        stamp = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
        item = pystac.Item(f"synthetic-{key}", None, None, stamp, {})
        item.add_asset(key, pystac.Asset(str(folder / f"{key}.tif"), extra_fields={"bands": bands}))
        items.append(item)
    return items


# --- the timed work ----------------------------------------------------------------------------------------


def _windows(folder: Path, size: int, chunk: int) -> Iterator[tuple[Path, Window]]:
    """Windows (top, left, bottom, right) that a chunk-wise pass over the scene needs of each file."""
    import rasterio

    order = folder / _SCENE_ID
    scene = scene_grid(size)
    for top in range(0, size, chunk):
        for left in range(0, size, chunk):
            shape = (min(chunk, size - top), min(chunk, size - left))
            for name in ("AnalyticMS_SR", "udm2"):
                yield order / f"{_SCENE_ID}_3B_{name}.tif", (top, left, top + shape[0], left + shape[1])
            block = scene.translate_pix(left, top).expand(shape)
            for name, margin in (("dem", 60.0), ("trends", 60.0)):
                box = block.footprint("EPSG:3413", npoints=50).boundingbox
                with rasterio.open(folder / f"{name}.tif") as file:
                    step, x0, y0 = file.transform.a, file.transform.c, file.transform.f
                    rows = [int((y0 - y) / step) for y in (box.top + margin, box.bottom - margin)]
                    cols = [int((x - x0) / step) for x in (box.left - margin, box.right + margin)]
                    limit = (file.height, file.width)
                yield (
                    folder / f"{name}.tif",
                    (max(rows[0], 0), max(cols[0], 0), min(rows[1], limit[0]), min(cols[1], limit[1])),
                )


def _once(windows: list[tuple[Path, Window]], block: int) -> list[tuple[Path, Window]]:
    """Split each file's windows anew into whole compressed blocks, so that none is read twice."""
    pieces = []
    for path in dict.fromkeys(path for path, _ in windows):
        own = np.array([window for p, window in windows if p == path])
        top, left = (int(v) // block * block for v in own[:, :2].min(axis=0))
        bottom, right = (int(v) for v in own[:, 2:].max(axis=0))
        for y in range(top, bottom, 4 * block):
            for x in range(left, right, 4 * block):
                pieces.append((path, (y, x, min(y + 4 * block, bottom), min(x + 4 * block, right))))
    return pieces


def _read_raw(pieces: list[tuple[Path, Window]], threads: int) -> None:
    from concurrent.futures import ThreadPoolExecutor

    import rasterio

    def read(piece: tuple[Path, Window]) -> int:
        path, (top, left, bottom, right) = piece
        with rasterio.open(path) as file:
            return int(file.read(window=((top, bottom), (left, right))).size)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(read, pieces))


def _consume(*blocks: Any) -> Any:
    return np.zeros((1,) * 2, np.uint8)  # a consumer that takes the blocks and lets them go


def _feed(item: Any, auxiliary: Any, stage: str, chunk: int, threads: int, side: int | None) -> None:
    """Open the scene and compute the stage's bands, of the first ``side`` pixels or of all."""
    import dask
    import dask.array as da

    from darts_xr.cube import open_scene

    names = _STAGE_BANDS[stage]
    image_only = names is not None and "ndvi" in names
    scene = open_scene(item, auxiliary=None if image_only else auxiliary, bands=names, chunks=chunk)
    part = scene.isel(y=slice(side), x=slice(side))
    wanted = list(scene.data_vars) if names is None or image_only else list(names)
    arrays = [part[name].data for name in wanted]
    sink = da.map_blocks(
        _consume,
        *arrays,
        chunks=tuple((1,) * n for n in arrays[0].numblocks),
        dtype=np.uint8,
        meta=np.empty((0, 0), np.uint8),
    )
    with dask.config.set(scheduler="threads", num_workers=threads):
        sink.compute()


def run_stage(stage: str, folder: Path, size: int, chunk: int, threads: int) -> dict[str, float]:
    """Do one stage in this process: seconds after a warm-up, and the process's peak memory in MiB.

    The warm-up, on two by two chunks, loads libraries and takes the memory that the threads then use again and again;
    in a fresh process this is about 0.1 s, whatever the size of the scene.
    """
    os.environ.setdefault("GDAL_NUM_THREADS", "1")
    if stage.startswith("raw"):
        windows = list(_windows(folder, size, chunk))
        pieces = windows if stage == "raw-chunks" else _once(windows, 512)

        def work(side: int | None) -> None:
            _read_raw(pieces[:4] if side else pieces, threads)
    else:
        item, auxiliary = scene_item(folder), auxiliary_items(folder)

        def work(side: int | None) -> None:
            _feed(item, auxiliary, stage, chunk, threads, side)

    work(2 * chunk)
    cpu, wall = time.process_time(), time.perf_counter()
    work(None)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": wall, "cpu_seconds": cpu, "peak_mib": peak}


def benchmark(
    size: int, *, chunk: int = 1024, threads: int = 2, repeats: int = 3, folder: Path | None = None
) -> dict[str, Any]:
    """Time all stages of one scene; each run in a child process of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        place = (folder or Path(scratch)) / f"scene-{size}"
        if not (place / "trends.tif").exists():
            write_files(place, size)
        scene_item(place)
        stages: dict[str, dict[str, float]] = {}
        for stage in STAGES:
            runs = []
            for _ in range(repeats):
                arguments = [
                    "--child",
                    stage,
                    "--size",
                    str(size),
                    "--chunk",
                    str(chunk),
                    "--threads",
                    str(threads),
                ]
                child = subprocess.run(
                    [sys.executable, "-m", "benchmarks.feed", *arguments, "--folder", str(place)],
                    env={**os.environ, "OMP_NUM_THREADS": "1"},
                    check=True,
                    capture_output=True,
                    text=True,
                )
                runs.append(json.loads(child.stdout))
            stages[stage] = {key: round(median(run[key] for run in runs), 3) for key in runs[0]}
    seconds = stages["full"]["seconds"]
    return {
        "data": "synthetic, written by benchmarks/feed.py",
        "size": size,
        "chunk": chunk,
        "threads": threads,
        "stages": stages,
        "ratio_to_raw": round(seconds / stages["raw"]["seconds"], 2),
        "ratio_to_raw_in_cpu_seconds": round(stages["full"]["cpu_seconds"] / stages["raw"]["cpu_seconds"], 2),
        "ratio_to_raw_chunks": round(seconds / stages["raw-chunks"]["seconds"], 2),
        "million_pixels_per_second_and_core": round(size * size / seconds / threads / 1e6, 2),
        "nanoseconds_per_pixel": round(seconds / size / size * 1e9, 1),
        "peak_mib": stages["full"]["peak_mib"],
    }


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--size", type=int, nargs="+", default=[1000, 2000, 4000, 8000], help="scene sides in pixels"
    )
    parser.add_argument("--chunk", type=int, default=1024, help="chunk side in pixels")
    parser.add_argument("--threads", type=int, nargs="+", default=[2], help="thread counts")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="keep the synthetic files here and use them again")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--child", choices=STAGES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(
            json.dumps(
                run_stage(options.child, options.folder, options.size[0], options.chunk, options.threads[0])
            )
        )
        return
    results = []
    for size in options.size:
        for threads in options.threads:
            result = benchmark(
                size, chunk=options.chunk, threads=threads, repeats=options.repeats, folder=options.folder
            )
            results.append(result)
            print(json.dumps(result, indent=2))
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
