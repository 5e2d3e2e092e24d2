"""How much the seams between model tiles change a probability, against the margin that tiles see beyond their core.

    python -m benchmarks.margins demo --size 1536 --tile 256 --json margins.json

The reference is one pass over each whole (synthetic) scene, which has no seams. For each margin the table shows the
largest change of a probability, the share of valid pixels that change class at 0.5, and the pixels that the networks
see for each pixel of the scene; the last row is the published tiling. A small tile makes many seams, so the figures are
on the safe side for larger ones.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import darts_xr as dx
from darts_xr.inference import Ensemble
from darts_xr.inference.tiles import LEGACY_WINDOW, legacy_starts
from darts_xr.sample import write_world

ALLOWED = 1e-5  # share of pixels that may change class
THRESHOLD = 0.5


def sample_scene(ensemble: Ensemble, size: int, seed: int) -> xr.Dataset:
    """One synthetic scene in memory; no network that comes with the package was trained on such a seed below 1000."""
    with tempfile.TemporaryDirectory(prefix="darts_xr_margins_") as folder:
        world = write_world(Path(folder), seed=seed, scenes=1, size=size)
        item = dx.load_items(world.catalog)[0]
        scene: xr.Dataset = dx.open_scene(
            item, auxiliary=str(world.auxiliary), bands=ensemble.definitions
        ).load()
    return scene


class Changes:
    """Largest change of a probability and pixels that change class, over several scenes."""

    def __init__(self) -> None:
        self.largest, self.changed, self.pixels, self.seconds = 0.0, 0, 0, 0.0

    def add(self, prob: xr.DataArray, reference: xr.DataArray, seconds: float) -> None:
        """Compare one scene's probability with its reference."""
        seen = reference.notnull().values
        a, b = prob.values[seen], reference.values[seen]
        self.largest = max(self.largest, float(np.abs(a - b).max()))
        self.changed += int(((a >= THRESHOLD) != (b >= THRESHOLD)).sum())
        self.pixels += a.size
        self.seconds += seconds

    def row(self, tiling: str, tile: int, margin: int, cost: float) -> dict[str, Any]:
        """Give the figures as one row of the table."""
        return {
            "tiling": tiling,
            "tile": tile,
            "margin": margin,
            "largest_change": self.largest,
            "class_changes": self.changed / self.pixels,
            "pixels_per_pixel": round(cost, 3),
            "seconds": round(self.seconds, 2),
        }


def benchmark(
    models: Sequence[str] = ("demo",),
    *,
    size: int = 1536,
    tile: int = 256,
    margins: Sequence[int] = (0, 16, 32, 48, 64, 96, 128),
    seeds: Sequence[int] = (11, 12, 13),
) -> dict[str, Any]:
    """Compare every margin, and the published tiling, with one pass over each of several scenes."""
    ensemble = dx.load_ensemble(*models)
    found = {margin: Changes() for margin in margins}
    published = Changes()
    slumps = 0
    for seed in seeds:
        scene = sample_scene(ensemble, size, seed)
        whole = -(-size // ensemble.stride) * ensemble.stride
        # The single pass too sees the scene mirrored beyond its edges, as far as the widest margin does.
        reference = dx.predict(scene, ensemble, tile=whole, margin=max(margins)).compute()
        slumps += int((reference >= THRESHOLD).sum())
        for margin, changes in found.items():
            started = time.perf_counter()
            prob = dx.predict(scene, ensemble, tile=tile, margin=margin).compute()
            changes.add(prob, reference, time.perf_counter() - started)
        if size >= LEGACY_WINDOW:
            started = time.perf_counter()
            prob = dx.predict(scene, ensemble, tiling="legacy").compute()
            inner = {"y": slice(1, -1), "x": slice(1, -1)}  # the outermost ring is 0 by design
            published.add(prob.isel(inner), reference.isel(inner), time.perf_counter() - started)
    rows = [
        changes.row("lattice", tile, margin, ((tile + 2 * margin) / tile) ** 2)
        for margin, changes in found.items()
    ]
    enough = [row["margin"] for row in rows if row["class_changes"] < ALLOWED]
    if published.pixels:
        cost = sum(legacy_starts(size).values()) ** 2 * LEGACY_WINDOW**2 / size**2
        rows.append(published.row("legacy", LEGACY_WINDOW, 256, cost))
    return {
        "models": ensemble.name,
        "checkpoints": [member.sha256 for member in ensemble.members],
        "size": size,
        "seeds": list(seeds),
        "valid_pixels": next(iter(found.values())).pixels,
        "slump_pixels": slumps,
        "synthetic": True,
        "rows": rows,
        "cheapest_margin": min(enough, default=None),
    }


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="*", default=["demo"], help='checkpoints, or "demo"')
    parser.add_argument("--size", type=int, default=1536, help="side of the synthetic scene, px")
    parser.add_argument("--tile", type=int, default=256, help="side of a tile's core, px")
    parser.add_argument("--margins", type=int, nargs="+", default=[0, 16, 32, 48, 64, 96, 128])
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13], help="one synthetic scene each")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    given = parser.parse_args()
    result = benchmark(
        given.models, size=given.size, tile=given.tile, margins=given.margins, seeds=given.seeds
    )
    print(
        f"{result['models']}: {result['valid_pixels']:,} valid pixels, {result['slump_pixels']:,} of slumps, synthetic"
    )
    print(
        f"{'tiling':>8} {'tile':>5} {'margin':>6} {'largest Δp':>10} {'class changes':>13} {'px per px':>9} {'s':>6}"
    )
    for row in result["rows"]:
        print(
            f"{row['tiling']:>8} {row['tile']:>5} {row['margin']:>6} {row['largest_change']:>10.5f} "
            f"{row['class_changes']:>13.2e} {row['pixels_per_pixel']:>9} {row['seconds']:>6}"
        )
    print(f"cheapest margin with fewer than 1 in 100,000 class changes: {result['cheapest_margin']}")
    if given.json:
        given.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
