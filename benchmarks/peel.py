"""Real pixels: a network trained on two thirds of the Peel Plateau against simpler classifiers on the last third.

    python -m benchmarks.peel [--data ../shared/data/rts-experts-peel] [--out peel] [--seeds 3] [--epochs 40]

Sentinel-2, 10 m, blue, green, red, near infrared and NDVI; truth is what more than half of 12 experts drew (Nitze et
al. 2024, doi 10.1002/ppp.2249). Everything is learnt west of a line, and scored east of it. Prints a table of pixel and
object F1 as JSON and draws ``peel.png``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import odc.geo.xr  # noqa: F401  registers .odc
import rasterio
import rasterio.features
import shapely
import torch
import xarray as xr
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from sklearn.ensemble import HistGradientBoostingClassifier

import darts_xr as dx
from darts_xr.cube import select_bands
from darts_xr.cube.warp import on_grid
from darts_xr.inference import Checkpoint, load_ensemble, save_checkpoint
from darts_xr.training import (
    Augmentation,
    Design,
    LabelledScene,
    Lessons,
    Patching,
    Recipe,
    fit,
    write_patches,
)
from darts_xr.training.burn import burn

DATA = Path("../shared/data/rts-experts-peel")
BANDS = ("ndvi", "blue", "green", "red", "nir")
POSITIONS = {"blue": 1, "green": 2, "red": 3, "nir": 7}  # of B2, B3, B4 and B8 in the file
SIDE = 64  # px of a patch
LEAST = 3  # px, 300 m²: the size of the smallest object of a detection at 3 m

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Plateau:
    """The image, what each expert drew on it, and the line between learning and scoring."""

    scene: xr.Dataset
    experts: NDArray[np.bool_]  # (expert, y, x)
    first_scored: int  # column

    @property
    def truth(self) -> Mask:
        """What more than half of the experts drew."""
        return self.experts.mean(axis=0) > 0.5

    def features(self) -> NDArray[np.float32]:
        """Bands, (pixel, band)."""
        return np.stack([self.scene[name].values.ravel() for name in BANDS], axis=1).astype("f4")


def load(data: Path) -> Plateau:
    """Read image and experts."""
    (image,) = (data / "imagery").glob("S2_*.tif")
    with rasterio.open(image) as file:
        grid = GeoBox(file.shape, file.transform, "EPSG:32608")
        planes = {name: file.read(place) for name, place in POSITIONS.items()}
    planes["ndvi"] = dx.ndvi(planes["red"], planes["nir"])
    planes["valid"] = np.ones(grid.shape, bool)
    scene = xr.Dataset(
        {name: on_grid(plane, grid, name) for name, plane in planes.items()},
        attrs={"item_id": image.stem, "time": "2021-08-21T21:00:19Z"},
    )
    files = sorted(data.glob("experts/*/*.shp"))
    experts = np.stack([burn(grid, gpd.read_file(file)) == 1 for file in files])
    return Plateau(scene, experts, grid.shape[1] * 2 // 3)


def outlines(mask: Mask, grid: GeoBox) -> gpd.GeoDataFrame:
    """Make polygons of connected pixels."""
    shapes = rasterio.features.shapes(mask.astype("u1"), mask, connectivity=8, transform=grid.transform)
    return gpd.GeoDataFrame(
        geometry=[shapely.geometry.shape(shape) for shape, _ in shapes], crs=str(grid.crs)
    )


def pixel_f1(found: Mask, truth: Mask) -> float:
    """F1 of the pixels."""
    both = int((found & truth).sum())
    return 2 * both / max(int(found.sum()) + int(truth.sum()), 1)


def object_f1(found: Mask, truth: Mask, grid: GeoBox) -> float:
    """F1 of the objects of at least three pixels, any overlap counts, by this project's label and matcher."""
    objects = []
    for mask in (found, truth):
        prob = on_grid(mask.astype("f4"), grid, "probability")
        prob.attrs = {"item_id": "peel", "time": "2021-08-21T00:00:00Z"}
        objects.append(dx.vectorize(dx.label_objects(prob, border=0, min_pixels=LEAST), prob))
    return float(np.nan_to_num(dx.match_objects(objects[0], objects[1]).f1))


def threshold(plateau: Plateau) -> tuple[Mask, str]:
    """Best threshold on one band, chosen in the west."""
    west = np.zeros(plateau.truth.shape, bool)
    west[:, : plateau.first_scored] = True
    truth, best = plateau.truth, (-1.0, np.zeros_like(west), "")
    for name in BANDS:
        values = plateau.scene[name].values.astype("f4")
        for level in np.quantile(values[west], np.linspace(0.005, 0.995, 199)):
            for found, sign in ((values < level, "<"), (values > level, ">")):
                score = pixel_f1(found[west], truth[west])
                if score > best[0]:
                    best = score, found, f"{name} {sign} {level:.3f}"
    return best[1], best[2]


def boosted(plateau: Plateau, seed: int) -> Mask:
    """Gradient-boosted trees on the bands of each pixel, learnt in the west."""
    columns = np.arange(plateau.truth.size) % plateau.truth.shape[1]
    west = columns < plateau.first_scored
    model = HistGradientBoostingClassifier(max_iter=200, early_stopping=True, random_state=seed)
    features = plateau.features()
    model.fit(features[west], plateau.truth.ravel()[west])
    return (model.predict_proba(features)[:, 1] >= 0.5).reshape(plateau.truth.shape)


def network(plateau: Plateau, seed: int, epochs: int, folder: Path) -> NDArray[np.float32]:
    """Probability of a UNet++ that was trained in the west on patches of 640 m."""
    west = plateau.scene.isel(x=slice(0, plateau.first_scored)).chunk({"y": 256, "x": 256})
    drawn = outlines(plateau.truth, plateau.scene.odc.geobox)
    store = write_patches(
        [LabelledScene(west, drawn, "Peel Plateau")],
        folder / "west.zarr",
        patching=Patching(SIDE, 0.5),
        bands=BANDS,
    )
    bands = select_bands(BANDS)
    architecture = Design(encoder="resnet18", depth=3, decoder_channels=(64, 32, 16)).architecture(len(bands))
    member = Checkpoint("", "", f"peel_{seed}", architecture, bands, 256, 64)
    torch.manual_seed(seed)
    net = architecture.build()
    recipe = Recipe(
        epochs=epochs, batch=8, patches_per_epoch=80, loss={"focal": 4.0, "dice": 1.0}, optimiser="adamw",
        weight_decay=0.01, learning_rate=2e-3, schedule="one-cycle", clip=1.0, seed=seed, keep_every=1000,
        augmentation=Augmentation(blur=(), holes=0, brightness=0.01, contrast=0.1, noise=0.05),
    )  # fmt: skip
    fit(net, member, Lessons(store, store.rows), recipe, folder / f"run_{seed}")
    saved = save_checkpoint(
        folder / f"peel_{seed}.safetensors", net, name=member.name, architecture=architecture, bands=bands, tile=256,
        margin=64, training={"labels": "majority of 12 experts, western two thirds"}, licence="MIT",
    )  # fmt: skip
    probability = dx.predict(plateau.scene, load_ensemble(saved.path, device="cpu"))
    values: NDArray[np.float32] = probability.values
    return values


def measure(data: Path, folder: Path, *, seeds: int, epochs: int) -> dict[str, Any]:
    """Score everything east of the line."""
    plateau = load(data)
    east = (slice(None), slice(plateau.first_scored, None))
    truth, grid = plateau.truth[east], plateau.scene.odc.geobox[east]

    def scored(masks: list[Mask]) -> dict[str, Any]:
        pixels = [pixel_f1(mask[east], truth) for mask in masks]
        objects = [object_f1(mask[east], truth, grid) for mask in masks]
        return {"pixel_f1": _spread(pixels), "object_f1": _spread(objects), "runs": len(masks)}

    found, rule = threshold(plateau)
    probabilities = [network(plateau, seed, epochs, folder) for seed in range(seeds)]
    trees = [boosted(plateau, seed) for seed in range(seeds)]
    pairs = list(combinations(range(len(plateau.experts)), 2))
    experts = [plateau.experts[k][east] for k in range(len(plateau.experts))]
    result = {
        "threshold": {"rule": rule, **scored([found])},
        "gradient boosting": scored(trees),
        "UNet++": scored([p >= 0.5 for p in probabilities]),
        "expert against expert": {
            "pixel_f1": _spread([pixel_f1(experts[a], experts[b]) for a, b in pairs]),
            "object_f1": _spread([object_f1(experts[a], experts[b], grid) for a, b in pairs]),
            "runs": len(pairs),
        },
        "expert against majority": scored(list(plateau.experts)),
        "scored": {
            "pixels": int(truth.size),
            "slump_pixels": int(truth.sum()),
            "objects": len(outlines(truth, grid)),
        },
    }
    draw(plateau, found, trees[0], probabilities[0], folder / "peel.png")
    return result


def _spread(values: list[float]) -> list[float]:
    return [
        round(float(np.mean(values)), 3),
        round(float(np.std(values, ddof=1)) if len(values) > 1 else 0.0, 3),
    ]


def draw(plateau: Plateau, found: Mask, trees: Mask, p: NDArray[np.float32], path: Path) -> None:
    """Image, experts, and what each method found, with the line between learning and scoring."""
    from matplotlib.figure import Figure

    rgb = np.stack([plateau.scene[name].values for name in ("red", "green", "blue")], axis=-1).astype("f4")
    low, high = np.percentile(rgb, (2, 98), axis=(0, 1))
    panels = {
        "Sentinel-2": np.clip((rgb - low) / (high - low), 0, 1),
        "share of 12 experts": plateau.experts.mean(axis=0),
        "best threshold": found,
        "gradient boosting": trees,
        "UNet++": p,
    }
    figure = Figure(figsize=(15, 3.4), layout="constrained")
    for axes, (title, panel) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        axes.imshow(panel, cmap="magma", vmin=0, vmax=1)
        if title != "share of 12 experts":
            axes.contour(plateau.truth, levels=[0.5], colors="cyan", linewidths=0.6)
        axes.axvline(plateau.first_scored - 0.5, color="white", lw=1)
        axes.set(title=title, xticks=[], yticks=[])
    figure.savefig(path, dpi=110)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=40)
    given = parser.parse_args()
    folder = given.out or Path(tempfile.mkdtemp(prefix="darts_xr_peel_"))
    folder.mkdir(parents=True, exist_ok=True)
    print(json.dumps(measure(given.data, folder, seeds=given.seeds, epochs=given.epochs), indent=1))


if __name__ == "__main__":
    main()
