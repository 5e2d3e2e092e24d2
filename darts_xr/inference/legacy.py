"""Run folders of `thaw-slump-segmentation`, the code behind DARTS v1.2: ``config.yml`` and ``checkpoints/NN.pt``.

That code stacks its sources in alphabetical order and divides each by a fixed number, whatever the configuration's
order; with this project's physical units these are the scales of :data:`darts_xr.cube.bands.LEGACY_BANDS`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml

from darts_xr.cube.bands import LEGACY_BANDS
from darts_xr.errors import CheckpointError
from darts_xr.inference.network import Architecture
from darts_xr.inference.weights import Description, Weights, check_band_count, load_safely, strip_wrappers

# Of the lattice. The windows of the published workflow (tiling="legacy") change as many pixels' class, against one pass
# over the scene, as this margin does with tiles half as wide (docs/results.md, "Margin of the model tiles").
TILE = 1024  # px; larger ones see fewer pixels twice, and take more memory than many machines have
MARGIN = 64  # px beyond the core
_CONFIG = "config.yml"
# Sources by the names that configurations of different years use, in the order in which they are stacked.
_SOURCES = {
    "ndvi": ("ndvi",),
    "planet": ("blue", "green", "red", "nir"),
    "relativeelevation": ("relative_elevation",),
    "slope": ("slope",),
    "tcvis": ("tc_brightness", "tc_greenness", "tc_wetness"),
}
_ALIASES = {"planetscope": "planet"}
# Sources of the published networks, by the number of bands that they take.
_PUBLISHED = {10: tuple(_SOURCES), 7: tuple(name for name in _SOURCES if name != "tcvis")}


def weights_file(path: Path) -> Path:
    """Weights of a run folder, those of the highest number, or the file itself."""
    if path.is_file():
        return path
    if config_of(path) is None:
        raise CheckpointError(
            f"{path} has no {_CONFIG}, so it is no run folder of thaw-slump-segmentation. Give such a folder, or a "
            "checkpoint file."
        )
    numbered = [file for file in (path / "checkpoints").glob("*.pt") if file.stem.isdigit()]
    if not numbered:
        raise CheckpointError(
            f"{path} has no checkpoints/NN.pt; the training wrote none, or they were moved."
        )
    return max(numbered, key=lambda file: int(file.stem))


def config_of(path: Path) -> Path | None:
    """``config.yml`` of a run folder, or of the weights in it or beside it."""
    folders = [path] if path.is_dir() else [path.parent, path.parent.parent]
    return next((folder / _CONFIG for folder in folders if (folder / _CONFIG).is_file()), None)


def describe(path: Path) -> Description:
    """Read the configuration that belongs to a weights file, and check it against the weights."""
    file = config_of(path)
    if file is None:
        return _recognised(path)
    config = yaml.safe_load(file.read_text())
    try:
        model, sources = config["model"], config["data_sources"]
        name, encoder = model["architecture"], model["encoder"]
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"{file} lacks {error}; expected are model.architecture, model.encoder and data_sources, as "
            "thaw-slump-segmentation writes them."
        ) from error
    bands = tuple(LEGACY_BANDS[band] for band in _stacked(file, sources))
    check_band_count(path, weights(path), bands)
    return Description(
        name=path.stem if file.parent == path.parent else file.parent.name,
        architecture=Architecture(name=name, encoder=encoder, depth=5, in_channels=len(bands)),
        bands=bands,
        tile=TILE,
        margin=MARGIN,
        training={"made_by": "thaw-slump-segmentation", "run_info": config.get("run_info")},
        licence="unknown",
    )


def _recognised(path: Path) -> Description:
    """Describe weights alone where they are laid out as the published ones: the network is told by its layers.

    The published files (``…_RTS_v6_tcvis_UnetPP_resnet34_1024px.pt`` and ``…_notcvis_…``) are bare state dicts of a
    UNet++ with ResNet-34 that takes all ten bands, or the seven without Landsat trends.
    """
    held = weights(path)
    taken = next((w.shape[1] for key, w in held.items() if key.startswith("encoder.") and w.ndim == 4), 0)
    if taken in _PUBLISHED:
        bands = tuple(LEGACY_BANDS[name] for source in _PUBLISHED[taken] for name in _SOURCES[source])
        architecture = Architecture(in_channels=taken)
        with torch.device("meta"):
            expected = {key: tuple(w.shape) for key, w in architecture.build().state_dict().items()}
        if {key: tuple(w.shape) for key, w in held.items()} == expected:
            return Description(
                path.stem, architecture, bands, TILE, MARGIN,
                {"made_by": "thaw-slump-segmentation", "recognised": f"by its layers and {taken} bands"}, "unknown",
            )  # fmt: skip
    raise CheckpointError(
        f"{path} holds weights alone, laid out unlike the published networks (UNet++ with ResNet-34 of 10 or 7 bands; "
        f"these take {taken}), and neither beside it nor one folder up is a {_CONFIG} that says which bands they take. "
        "Put the run's config.yml beside it."
    )


def weights(path: Path) -> Weights:
    """Tensors of the file under the names that the bare network gives them."""
    return strip_wrappers(load_safely(path))


def _stacked(file: Path, sources: Any) -> list[str]:
    """Names of the bands in the order in which the networks were given them."""
    wanted = set()
    for source in sources:
        plain = str(source).lower().replace("_", "")
        wanted.add(_ALIASES.get(plain, plain))
    if unknown := sorted(wanted - _SOURCES.keys()):
        raise CheckpointError(
            f"{file}: data_sources names {', '.join(unknown)}, which scenes do not have; known are "
            f"{', '.join(_SOURCES)}."
        )
    return [band for source, bands in _SOURCES.items() if source in wanted for band in bands]
