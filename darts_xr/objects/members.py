"""What each network of an ensemble would have found alone, before any cleaning."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import pandas as pd
import xarray as xr

from darts_xr.errors import ObjectError
from darts_xr.objects.label import label_objects
from darts_xr.objects.polygons import vectorize


def member_objects(prediction: xr.Dataset, *, threshold: float = 0.5) -> gpd.GeoDataFrame:
    """Polygons of each single member, neither cleaned nor filtered.

    For comparison with the ensemble's objects, as in figure 5 of Nitze et al. 2025 (Sci. Data 12:1512). Computes.

    Parameters
    ----------
    prediction : xarray.Dataset
        Of ``predict_members(scene, ensemble)``: ``member_probability`` with dims ``(member, y, x)``.
    threshold : float
        Least probability of an object's pixels.

    Returns
    -------
    geopandas.GeoDataFrame
        The columns of :func:`vectorize` after ``member`` (str), EPSG:4326, members in the order of the ensemble.

    Raises
    ------
    ObjectError
        If the prediction holds no single members.

    Examples
    --------
    >>> from odc.geo.geobox import GeoBox
    >>> from odc.geo.xr import wrap_xr
    >>> box = GeoBox.from_bbox((500000, 7700000, 500024, 7700024), "EPSG:32608", shape=(8, 8))
    >>> p = wrap_xr(np.pad(np.full((4, 4), 0.9, "float32"), 2), box)
    >>> both = xr.concat([p, 0.6 * p], dim="member").assign_coords(member=["tcvis", "notcvis"])
    >>> member_objects(both.to_dataset(name="member_probability"))[["member", "n_pixels"]].values.tolist()
    [['tcvis', 16], ['notcvis', 16]]
    """
    if "member_probability" not in prediction:
        raise ObjectError("the prediction holds no single members; take the result of predict_members")
    frames = []
    for name in prediction["member"].values:
        alone = prediction["member_probability"].sel(member=name, drop=True)
        alone.attrs = dict(prediction.attrs)
        found = vectorize(label_objects(alone, threshold=threshold, border=0, min_pixels=1), alone)
        found.insert(0, "member", np.full(len(found), str(name), object))
        frames.append(found)
    return pd.concat(frames, ignore_index=True)
