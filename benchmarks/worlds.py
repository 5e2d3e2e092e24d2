"""What networks are worth on synthetic worlds that did not teach them: objects of both levels, growth of their sites.

    python -m benchmarks.worlds --seeds 0 1 2 3 --models tcvis.safetensors notcvis.safetensors --json out.json

Each world is drawn, detected and aggregated as ``darts-xr demo`` does. Growth is compared at sites that show one slump
and were wholly covered and detected in two years or more: from their first to their last year with a detection, against
the truth's outlines of these years.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import shapely

import darts_xr as dx
from darts_xr.sample import read_truth, write_world
from pipelines.aggregation import aggregate
from pipelines.detection import detect
from pipelines.following import histories
from pipelines.settings import Settings
from pipelines.validation import score_run

_COVERED = 0.99  # share of a site


def measured(folder: Path, seed: int, models: tuple[str, ...], scenes: int, size: int) -> dict[str, Any]:
    """Score one world, and give the growth of each site: true, found (m²)."""
    world = write_world(folder / f"world-{seed}", seed=seed, scenes=scenes, size=size)
    settings = Settings(
        out=folder / f"run-{seed}",
        models=models,
        auxiliary=world.auxiliary,
        infrastructure=world.infrastructure,
    )
    run = detect(world.catalog, settings)
    truth = read_truth(world)
    scores = score_run(run, aggregate(run, name="synthetic"), truth)
    compared, left_out = growth(histories(run.folder), truth)
    return {
        "seed": seed,
        **{level: {name: scores[level][name] for name in ("f1", "precision", "recall")} for level in scores},
        "growth": compared,
        "sites_left_out": left_out,
    }


def growth(table: gpd.GeoDataFrame, truth: gpd.GeoDataFrame) -> tuple[list[tuple[float, float]], int]:
    """Compare the growth of each site that allows it: true, found (m²); and count the sites that do not."""
    crs = truth.estimate_utm_crs()
    outlines, years = truth.to_crs(crs).geometry, truth["date"].str[:4].astype(int)
    found = table[(table["state"] == "detected") & (table["covered_share"] > _COVERED)].to_crs(crs)
    pairs = []
    for _, rows in found.groupby("site"):
        ends = rows.sort_values("year").iloc[[0, -1]]
        true = [
            outlines[(years == row.year) & outlines.intersects(ends.geometry.iloc[-1])].union_all()
            for row in ends.itertuples()
        ]
        if len(rows) < 2 or any(shapely.get_num_geometries(shape) != 1 or shape.is_empty for shape in true):
            continue
        areas = ends["area_m2"].to_numpy()
        pairs.append((true[1].area - true[0].area, float(areas[1] - areas[0])))
    return pairs, table["site"].nunique() - len(pairs)


def main(argv: list[str] | None = None) -> None:
    """Run the comparison and print what it found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(20)))
    parser.add_argument("--models", nargs="+", default=["demo"])
    parser.add_argument("--scenes", type=int, default=6)
    parser.add_argument("--size", type=int, default=1536)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    rows: list[dict[str, Any]] = []
    for seed in args.seeds:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measured(Path(folder), seed, tuple(args.models), args.scenes, args.size))
        print(seed, *(f"{level} {rows[-1][level]['f1']:.3f}" for level in ("level1", "level2")), flush=True)
    for level in ("level1", "level2"):
        f1 = [row[level]["f1"] for row in rows]
        print(f"F1 of {level}: mean {np.mean(f1):.3f}, {min(f1):.3f} to {max(f1):.3f}")
    true, found = np.array([pair for row in rows for pair in row["growth"]]).reshape(-1, 2).T
    if true.size:
        error = found / true - 1
        print(
            f"growth of {true.size} sites: median error {np.median(error):+.1%}, "
            f"{int((np.abs(error) <= 0.15).sum())} within 15 %; "
            f"{sum(row['sites_left_out'] for row in rows)} other sites cannot be compared"
        )
    if args.json:
        args.json.write_text(
            json.dumps({"darts_xr": dx.__version__, "models": args.models, "rows": rows}, indent=1)
        )


if __name__ == "__main__":
    main()
