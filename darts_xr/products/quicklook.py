"""One picture of a result: the image, the probability, and the outlines that came of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from darts_xr.products.files import replace_whole


def stretch_rgb(image: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Bring reflectance (3, y, x) to a picture (y, x, 4): 2 to 98 % of the valid pixels, clear where masked."""
    picture = np.zeros((*image.shape[1:], 4), np.float32)
    if valid.any():
        low, high = np.percentile(image[:, valid], (2, 98), axis=1)[..., None, None]
        stretched = np.clip((image - low) / np.maximum(high - low, 1), 0, 1) ** 0.8
        picture[..., :3] = np.moveaxis(stretched, 0, -1)
    picture[..., 3] = valid
    return picture


def write_quicklook(
    image: xr.Dataset, probability: xr.DataArray, outlines: gpd.GeoDataFrame, path: str | Path, *, title: str
) -> Path:
    """Draw image and probability side by side with the outlines on both.

    Parameters
    ----------
    image : xarray.Dataset
        ``red``, ``green``, ``blue`` and ``valid``, in memory; a decimated scene is enough.
    probability : xarray.DataArray
        (y, x) 0 to 1, NaN where masked, in memory; may be decimated too.
    outlines : geopandas.GeoDataFrame
        Objects in any CRS.
    path : path
        The PNG file.
    title : str
        Heading; synthetic scenes must be called so in it.

    Returns
    -------
    pathlib.Path
        The file.
    """
    from matplotlib.figure import Figure  # matplotlib loads slowly and is needed here alone

    grid = image["valid"].odc.geobox
    frame = tuple(grid.boundingbox[k] for k in (0, 2, 1, 3))
    figure = Figure(figsize=(13, 6.8), layout="constrained")
    axes = figure.subplots(1, 2, sharex=True, sharey=True)
    pixels = np.stack([image[name].values for name in ("red", "green", "blue")]).astype(np.float32)
    axes[0].imshow(stretch_rgb(pixels, image["valid"].values), extent=frame, interpolation="nearest")
    shown = axes[1].imshow(
        probability.values, extent=frame, vmin=0, vmax=1, cmap="magma", interpolation="nearest"
    )
    figure.colorbar(shown, ax=axes[1], shrink=0.8, label="probability of an active thaw slump")
    for ax, colour in zip(axes, ("yellow", "cyan"), strict=True):
        if len(outlines):
            outlines.to_crs(str(grid.crs)).boundary.plot(ax=ax, color=colour, linewidth=0.9)
        ax.set(aspect="equal", xlim=frame[:2], ylim=frame[2:], facecolor="0.85")
        ax.ticklabel_format(style="plain", useOffset=False)
        ax.tick_params(labelsize=7)
    axes[0].set_title("image (red, green, blue) and objects", fontsize=10)
    axes[1].set_title("ensemble probability and objects", fontsize=10)
    figure.suptitle(title, parse_math=False)  # an id may hold dollar signs
    replace_whole(Path(path), lambda part: figure.savefig(part, dpi=90, metadata={"Software": None}))
    return Path(path)
