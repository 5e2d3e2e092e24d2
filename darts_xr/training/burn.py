"""Outlines on a scene's pixel grid: slump, other ground, or not known."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import rasterio.features
import xarray as xr
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from shapely.geometry.base import BaseGeometry

from darts_xr.errors import CRSError

#: Label of pixels that teach nothing: masked, of unknown class, or outside of what was labelled.
IGNORED = 255

#: What an outline may be, and what it burns.
KINDS = {"slump": 1, "negative": 0, "ignore": IGNORED}


def burn(
    grid: GeoBox, outlines: gpd.GeoDataFrame, footprint: BaseGeometry | None = None
) -> NDArray[np.uint8]:
    """Labels of a pixel grid by pixel centres; see :func:`label_mask`, which also takes the valid mask."""
    if outlines.crs is None:
        raise CRSError("The outlines have no CRS. Set it with outlines.set_crs(...), never by guessing.")
    projected = outlines.to_crs(str(grid.crs))
    kinds = projected["kind"].to_numpy() if "kind" in projected else np.full(len(projected), "slump")
    shapes = projected.geometry.to_numpy()
    burned = np.zeros(grid.shape, np.uint8)
    # Slumps last: an outline drawn within ground that is called negative or doubtful says more than that.
    for kind in ("negative", "ignore", "slump"):
        chosen = [
            s for s, k in zip(shapes, kinds, strict=True) if k == kind and s is not None and not s.is_empty
        ]
        if chosen:
            rasterio.features.rasterize(
                chosen, out=burned, transform=grid.transform, default_value=KINDS[kind]
            )
    if footprint is not None:
        (seen,) = gpd.GeoSeries([footprint], crs="EPSG:4326").to_crs(str(grid.crs))
        inside = rasterio.features.geometry_mask([seen], grid.shape, grid.transform, invert=True)
        burned[~inside] = IGNORED
    return burned


def label_mask(
    scene: xr.Dataset, outlines: gpd.GeoDataFrame, *, footprint: BaseGeometry | None = None
) -> NDArray[np.uint8]:
    """Burn outlines into the scene's grid: 1 slump, 0 other ground, 255 not known.

    Parameters
    ----------
    scene : xarray.Dataset
        A scene; its ``valid`` is computed.
    outlines : geopandas.GeoDataFrame
        True outlines, any CRS; those off the scene do no harm. A column ``kind`` tells ``"slump"`` (all without it)
        from ``"negative"`` (ground that is no slump) and ``"ignore"`` (ground that nobody is sure of).
    footprint : shapely geometry, optional
        What was looked at when the outlines were drawn, EPSG:4326; elsewhere nothing is known.

    Returns
    -------
    numpy.ndarray
        (y, x) uint8; a pixel belongs to an outline when its centre does. 255 also where ``valid`` is False.

    Raises
    ------
    CRSError
        When the outlines have no CRS.

    Notes
    -----
    As the code of Nitze et al. 2025, which burns by pixel centres; that code took masked pixels for ground without
    slumps, here they are left out of loss and scores.

    Examples
    --------
    >>> label_mask(scene, outlines)  # doctest: +SKIP
    """
    burned = burn(scene.odc.geobox, outlines, footprint)
    burned[~np.asarray(scene["valid"].values)] = IGNORED
    return burned
