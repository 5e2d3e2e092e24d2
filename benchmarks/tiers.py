"""Whether the precision that tiers state holds on worlds they were not measured on.

    python -m benchmarks.tiers --measure 100 101 102 103 --check 104 105 106 107 --json out.json

Synthetic worlds of the given seeds, detected with the shipped networks; each detection is right if it meets the truth
of its day inside the footprint without its border zone. Tiers are measured on the first worlds, with detections of one
place counted as one, and checked on the others.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import darts_xr as dx
from darts_xr.assess import ReferenceTime, assign_tiers, calibrate_tiers
from darts_xr.assess.match import Pairs, project_union
from darts_xr.assess.periods import DatedReference
from darts_xr.sample import read_truth, write_world
from pipelines.aggregation import read_level1
from pipelines.detection import detect
from pipelines.review import sites_of
from pipelines.settings import Rules, Settings
from pipelines.validation import inner_footprints


def judged(folder: Path, seed: int, scenes: int, size: int, threshold: float) -> pd.DataFrame:
    """Detect a world, and give its detections with their mean probability, their place, and whether they are right."""
    world = write_world(folder / f"world-{seed}", seed=seed, scenes=scenes, size=size)
    run = detect(
        world.catalog,
        Settings(
            out=folder / f"run-{seed}", auxiliary=world.auxiliary, infrastructure=world.infrastructure,
            rules=Rules(threshold=threshold),
        ),
    )  # fmt: skip
    level1 = read_level1(run)
    truth = DatedReference(read_truth(world), ReferenceTime(date="date"))
    pairs = Pairs(level1, truth.shapes)
    counted, hit = np.zeros((2, len(level1)), bool)
    footprints = inner_footprints(run)
    for place, row in enumerate(footprints.itertuples()):
        seen = project_union(footprints.geometry.iloc[[place]])
        part = pairs.match((level1["image_id"] == row.image_id).to_numpy(), truth.of_day(row.date), seen)
        counted |= part.detected_counted
        hit |= part.detected_hit
    out = pd.DataFrame(level1[["id", "pval_mean"]]).assign(
        right=hit, site=[f"{seed}-{n}" for n in sites_of(level1)], seed=seed
    )
    return out[counted].reset_index(drop=True)


def main(argv: list[str] | None = None) -> None:
    """Run the check and print what it found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--measure", type=int, nargs="+", default=[100, 101, 102, 103])
    parser.add_argument("--check", type=int, nargs="+", default=[104, 105, 106, 107])
    parser.add_argument("--scenes", type=int, default=4)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--threshold", type=float, default=0.5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        sides = [
            pd.concat([judged(Path(folder), s, args.scenes, args.size, args.threshold) for s in seeds])
            for seeds in (args.measure, args.check)
        ]
    measured, checked = sides
    tiers = calibrate_tiers(measured["pval_mean"], measured["right"], site=measured["site"].tolist())
    told = assign_tiers(checked, tiers)
    rows: list[dict[str, Any]] = []
    for row in tiers.table.to_dict("records"):
        of_tier = (told["tier"] == row["tier"]).to_numpy()
        observed = float(checked["right"].to_numpy()[of_tier].mean()) if of_tier.any() else float("nan")
        inside = bool(row["low"] <= observed <= row["high"]) if of_tier.any() else None
        rows.append({**row, "checked_n": int(of_tier.sum()), "observed": observed, "inside": inside})
    table = pd.DataFrame(rows)
    print(table.round(3).to_string(index=False))
    if args.json:
        args.json.write_text(json.dumps({"darts_xr": dx.__version__, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
