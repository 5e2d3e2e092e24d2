"""Multiplications of the published networks for each valid pixel, counted: nothing is computed, so no machine matters.

    python -m benchmarks.work --sizes 2048 4096 8192 --json work.json

For each size a full frame and a swath that leaves 35 % of it empty. *Seen* are the pixels that the networks see for
each valid one; *work* are the multiplications for each valid pixel, in multiples of what segmentation-models-pytorch
takes for a pixel of a tile: 1 is a scene without margins of which nothing is saved.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.throughput import swath
from darts_xr.inference import Architecture
from darts_xr.inference.core_network import WholeNetwork, core_network
from darts_xr.inference.legacy import MARGIN, TILE
from darts_xr.inference.tiles import lattice_windows


def multiplications(network: nn.Module, channels: int, height: int, width: int, margin: int) -> float:
    """Multiplications of a pass over one tile whose sides include the margin."""
    pixels = torch.empty(1, channels, height, width, device="meta")
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(pixels, margin)
    return counter.get_total_flops() / 2


def benchmark(
    architecture: Architecture | None = None,
    *,
    sizes: Sequence[int] = (2048, 4096, 8192),
    tile: int = TILE,
    margin: int = MARGIN,
) -> dict[str, Any]:
    """Count on a full frame and on a swath of each size."""
    design = Architecture() if architecture is None else architecture
    channels = design.in_channels
    built = design.build().eval()
    whole, core = (network.to("meta") for network in (WholeNetwork(built), core_network(built)))
    side = tile + 2 * margin
    bare = multiplications(whole, channels, side, side, 0) / side**2
    known: dict[tuple[int, int], float] = {}
    rows = []
    for size in sizes:
        for no_data in (0.0, 0.35):
            valid = swath(size, no_data)
            windows = list(lattice_windows(valid, tile=tile, margin=margin, stride=design.stride, cut=True))
            shapes = [(window.shape[0] + 2 * margin, window.shape[1] + 2 * margin) for window in windows]
            for shape in set(shapes) - set(known):
                known[shape] = multiplications(core, channels, *shape, margin)
            rows.append(
                {
                    "size": size,
                    "valid_share": round(float(valid.mean()), 3),
                    "windows": len(windows),
                    "seen": round(sum(height * width for height, width in shapes) / int(valid.sum()), 3),
                    "work": round(sum(known[shape] for shape in shapes) / bare / int(valid.sum()), 3),
                }
            )
    return {
        "network": f"{design.name}/{design.encoder} of {channels} bands",
        "tile": tile,
        "margin": margin,
        "bare_multiplications_a_pixel": round(bare),
        "rows": rows,
    }


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[2048, 4096, 8192], help="sides of the scenes, px"
    )
    parser.add_argument("--tile", type=int, default=TILE, help="side of a tile's core, px")
    parser.add_argument("--margin", type=int, default=MARGIN, help="pixels seen beyond it")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    given = parser.parse_args()
    result = benchmark(sizes=given.sizes, tile=given.tile, margin=given.margin)
    print(f"{result['network']}, tile {result['tile']}, margin {result['margin']}:", end=" ")
    print(f"{result['bare_multiplications_a_pixel']:,} multiplications a pixel of a bare tile")
    print(f"{'size':>5} {'valid':>6} {'windows':>7} {'seen':>6} {'work':>6}")
    for row in result["rows"]:
        print(
            f"{row['size']:>5} {row['valid_share']:>6} {row['windows']:>7} {row['seen']:>6} {row['work']:>6}"
        )
    if given.json:
        given.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
