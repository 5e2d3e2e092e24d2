"""The report of a simulated run of the whole archive: size of the page, and seconds to write and to open it.

    python -m benchmarks.report --json report.json

Records, footprints and objects are made up, all over the Arctic on both sides of 180°; reading them from a run folder
is not part of it. The page is opened from a file, in headless Chromium.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely

from benchmarks.archive import PIXELS, SCENES
from darts_xr.products import LEVEL1_COLUMNS
from pipelines.folder import RunFolder
from pipelines.records import Record, Run, summary
from pipelines.reports import report_page
from pipelines.results import Results, SceneResult

OBJECTS = 119_449  # of Level 1 of the published archive
_FACTS = {"sha256": "0" * 64, "size": 1_000_000, "mtime_ns": 1_600_000_000_000_000_000}
_REASONS = ("AssetError: image.tif: tile 17 cannot be read", "RemoteReadError: 503 for udm2.tif")


def simulated_run(folder: Path, scenes: int = SCENES, objects: int = OBJECTS) -> tuple[Run, Results]:
    """Run with so many simulated scenes, of which some failed, and what its scenes hold."""
    rng = np.random.default_rng(0)
    middles = rng.choice([-160.0, -130.0, 65.0, 100.0, 145.0, 178.0], scenes)
    west, south = (middles + rng.normal(0, 8, scenes) + 180) % 360 - 180, rng.uniform(66, 76, scenes)
    years = 2018 + np.arange(scenes) % 6
    names = [f"{year}0714_{number:06d}_00_242e" for number, year in enumerate(years)]
    owners = np.sort(rng.integers(0, scenes, objects))
    level1 = _level1(rng, names, years, west, south, owners)
    ends = np.searchsorted(owners, np.arange(scenes + 1))
    records: dict[str, Record] = {}
    found: list[SceneResult] = []
    for number, name in enumerate(names):
        lon, lat, first, last = float(west[number]), float(south[number]), ends[number], ends[number + 1]
        if number % 97 == 5:
            records[name] = {
                "id": name, "state": "failed", "reason": f"{_REASONS[number % 2]} of {name}", "inputs": {}, "tries": 3,
                "earlier_reasons": [], "bbox": [lon, lat, min(lon + 0.6, 180.0), lat + 0.2],
            }  # fmt: skip
            continue
        pixels, count = int(PIXELS / SCENES * rng.uniform(0.5, 1.5)), int(last - first)
        records[name] = {
            "id": name, "state": "done", "date": f"{years[number]}-07-14", "pixels": pixels, "valid_pixels": pixels,
            "counts": {
                "n_detected": count + 6, "n_removed_border": 1, "n_removed_small": 2, "n_removed_water": 2,
                "n_removed_infrastructure": 1, "n_objects": count,
            },
            "synthetic": True, "outputs": dict.fromkeys(("level1.parquet", "item.json", "quicklook.png"), _FACTS),
            "seconds": {"open": 0.1, "read_and_predict": 31.2, "objects": 2.6, "write": 1.9},
            "started": f"2026-07-14T{number % 24:02d}:00:00+00:00", "warnings": [], "inputs": {}, "tries": 1,
            "earlier_reasons": [], "auxiliary_coverage": {"elevation": 0.98, "trends": 1.0}, "neutral": [],
        }  # fmt: skip
        found.append(SceneResult(records[name], _swath(lon, lat), level1.iloc[first:last]))
    settings = {
        "darts_xr": "simulated", "ensemble": "simulated", "checkpoints": [], "rules": {"threshold": 0.5},
        "water_filter": True, "infrastructure_filter": None, "auxiliary": "simulated", "state": "complete",
        "seconds": 1.0,
    }  # fmt: skip
    return Run(RunFolder(folder), {**settings, **summary(records)}), Results(found, {}, {})


def _swath(lon: float, lat: float) -> Any:
    """Slanted footprint as real ones are, of 25 by 16 km; cut at 180°."""
    ring = np.array([lon, lat]) + np.array([[0, 0.04], [0.5, 0], [0.62, 0.14], [0.12, 0.18]])
    whole = shapely.Polygon(ring)
    if ring[:, 0].max() <= 180:
        return whole
    east = shapely.intersection(whole, shapely.box(-180, -90, 180, 90))
    rest = shapely.intersection(whole, shapely.box(180, -90, 540, 90))
    return shapely.MultiPolygon([east, shapely.transform(rest, lambda xy: xy - [360, 0])])


def _level1(
    rng: np.random.Generator, names: list[str], years: Any, west: Any, south: Any, owners: Any
) -> gpd.GeoDataFrame:
    """Objects of all scenes, of which only what the page shows is more than a blank."""
    count = len(owners)
    x = (west[owners] + rng.uniform(0.15, 0.45, count) + 180) % 360 - 180
    y = south[owners] + rng.uniform(0.05, 0.12, count)
    facts = {
        "image_id": np.array(names, object)[owners], "year": years[owners], "id": np.arange(count) + 1,
        "pval_mean": 0.5 + 0.5 * rng.beta(2, 1.5, count), "area_m2": rng.integers(300, 60_000, count),
    }  # fmt: skip
    table = pd.DataFrame(
        {name: facts.get(name, "") for name in LEVEL1_COLUMNS if name != "geometry"}, index=range(count)
    )
    return gpd.GeoDataFrame(table, geometry=shapely.box(x, y, x + 0.004, y + 0.0015), crs=4326)


def benchmark(folder: Path, scenes: int = SCENES, objects: int = OBJECTS) -> dict[str, Any]:
    """Write the page of a simulated run and measure."""
    run, results = simulated_run(folder, scenes, objects)
    began = time.perf_counter()
    page = report_page(run, results)
    wrote = time.perf_counter() - began
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return {
        "scenes": scenes, "objects": objects, "seconds_to_write": round(wrote, 2),
        "megabytes": round(path.stat().st_size / 1e6, 2), "page": str(path),
    }  # fmt: skip


def seconds_to_open(page: Path, folder: Path, times: int = 3) -> list[float]:
    """Seconds until headless Chromium has drawn the page, of each try."""
    from tests.pipelines.browser import browser

    taken = []
    with browser(folder) as chromium:
        for _ in range(times):
            began = time.perf_counter()
            chromium.open(page.as_uri())
            chromium.run(
                "return document.getElementById('map').getContext('2d').getImageData(9, 9, 1, 1).data[0]"
            )
            taken.append(round(time.perf_counter() - began, 2))
    return taken


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenes", type=int, default=SCENES)
    parser.add_argument("--objects", type=int, default=OBJECTS)
    parser.add_argument("--folder", type=Path, help="keep the page here")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = options.folder or Path(place) / "run"
        folder.mkdir(parents=True, exist_ok=True)
        told = benchmark(folder, options.scenes, options.objects)
        told["seconds_to_open"] = seconds_to_open(Path(told["page"]), Path(place))
    print(json.dumps(told, indent=2))
    if options.json:
        options.json.write_text(json.dumps(told, indent=2))


if __name__ == "__main__":
    main()
