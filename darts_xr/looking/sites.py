"""One site over time: what a cube of probability says of it, as table, line and contact sheet."""

from __future__ import annotations

import math
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
import xarray as xr
from rasterio.features import geometry_mask
from shapely.geometry.base import BaseGeometry

from darts_xr.cube import coregistration
from darts_xr.cube.metadata import time_text
from darts_xr.errors import ParameterError, naming_extra
from darts_xr.looking.pictures import layer, overlay, rgb
from darts_xr.planet.masks import MASK_CLASSES, SNOW

#: Distance from a threshold within which an area is uncertain.
SPREAD = 0.15
#: Share of a site that must have been seen for a time step to say anything of it.
LEAST_SEEN = 0.1
_AROUND = 300.0  # m of ground beside a site by which images are compared
_BRIGHT = 4000  # reflectance × 10000 in red
_SNOWY = 0.05
_GROUND = [
    number for number, name in MASK_CLASSES.items() if name in ("clear", "snow", "shadow", "light haze")
]


def _in_crs(site: BaseGeometry | gpd.GeoDataFrame | gpd.GeoSeries, crs: Any) -> BaseGeometry:
    """Outline of a site in a CRS; a bare geometry is in degrees."""
    if isinstance(site, BaseGeometry):
        series = gpd.GeoSeries([site], crs="EPSG:4326")
    else:
        series = site.geometry
    shape = shapely.union_all(series.to_crs(str(crs)).to_numpy())
    if shape.is_empty:
        raise ParameterError("the site is empty; give a polygon in degrees, or a row of a GeoDataFrame")
    return shape


def _around(cube: Any, shape: BaseGeometry, margin: float) -> Any:
    """Part of a cube around a shape in its CRS."""
    west, south, east, north = shape.buffer(margin).bounds
    box = cube.odc.geobox.boundingbox
    if west >= box.right or east <= box.left or south >= box.top or north <= box.bottom:
        raise ParameterError("the site lies outside the cube; open the cube with the site's bbox")
    return cube.sel(x=slice(west, east), y=slice(north, south))


def site_conditions(
    images: xr.Dataset, site: BaseGeometry | gpd.GeoDataFrame | gpd.GeoSeries, *, margin: float = 30.0
) -> pd.DataFrame:
    """Tell of each time step's image whether areas of a site can be compared: how far it lies off, and the snow in it.

    Parameters
    ----------
    images : xarray.Dataset
        (time, y, x) with ``nir``, ``red``, ``valid``, ``mask_class``, in a CRS in metres, such as
        ``open_cube(catalogue, bands=["nir", "red", "mask_class", "valid"], like=cube)``. The part within 300 m of the
        site is computed.
    site : shapely geometry, geopandas.GeoDataFrame or GeoSeries
        Outline; a bare geometry in degrees.
    margin : float
        Metres around the outline in which snow is counted.

    Returns
    -------
    pandas.DataFrame
        One row a time step, index ``time``: ``item_id``; ``offset_x_m`` and ``offset_y_m`` of
        :func:`darts_xr.cube.coregistration` on ``nir`` within 300 m, the site left out, since it changes;
        ``snow_share`` (0 to 1; NaN where no ground was seen): of the site's pixels without cloud those that the mask
        calls snow, or that are valid and brighter in red than 0.4, as snow is and thawed ground is not; ``doubt``:
        "offset" where it is more than a pixel, "snow" where it is more than 5 %, "offset, snow", or empty.

    Raises
    ------
    ParameterError
        When the site lies outside the cube, or the images lack a band.

    Examples
    --------
    >>> doubts = site_conditions(images, level2.iloc[[0]])["doubt"]  # doctest: +SKIP
    """
    if lacking := [name for name in ("nir", "red", "mask_class", "valid") if name not in images]:
        raise ParameterError(f"the images have no {', '.join(lacking)}; open the cube with these bands, too")
    shape = _in_crs(site, images.odc.geobox.crs)
    near = _around(images[["nir", "red", "mask_class", "valid"]], shape, _AROUND).compute()
    box = near.odc.geobox
    inside = geometry_mask([shape.buffer(margin)], box.shape, box.affine, invert=True)
    offsets = coregistration(near["nir"], near["valid"] & ~inside)
    kinds, valid = near["mask_class"].values[:, inside], near["valid"].values[:, inside]
    snow = (kinds == SNOW) | (valid & (near["red"].values[:, inside] > _BRIGHT))
    known = np.isin(kinds, _GROUND).sum(axis=1)
    share = np.divide(snow.sum(axis=1), known, out=np.full(len(known), np.nan), where=known > 0)
    far = np.hypot(*offsets[["offset_x_m", "offset_y_m"]].to_numpy().T)
    said = {"offset": far > abs(box.resolution.x), "snow": share > _SNOWY}
    doubt = [", ".join(word for word, there in said.items() if there[k]) for k in range(len(far))]
    ids = near["item_id"].values.astype(str) if "item_id" in near.coords else "unknown"
    table = offsets.assign(snow_share=share, doubt=pd.array(doubt, "str"))
    table.insert(0, "item_id", ids)
    return table


def site_series(
    probability: xr.DataArray,
    site: BaseGeometry | gpd.GeoDataFrame | gpd.GeoSeries,
    *,
    threshold: float = 0.5,
    margin: float = 30.0,
    images: xr.Dataset | None = None,
) -> pd.DataFrame:
    """Tell what each time step of a cube says of a site.

    Parameters
    ----------
    probability : xarray.DataArray
        (time, y, x), 0 to 1, NaN where not seen, in a CRS in metres, such as ``open_cube(run)["probability"]``. The
        part around the site is computed.
    site : shapely geometry, geopandas.GeoDataFrame or GeoSeries
        Outline; a bare geometry in degrees.
    threshold : float
        Least probability of an object's pixels.
    margin : float
        Metres around the outline that belong to the site, into which it may have grown.
    images : xarray.Dataset, optional
        The images, as for :func:`site_conditions`, whose columns are added by the images' ids.

    Returns
    -------
    pandas.DataFrame
        One row a time step, index ``time``: ``item_id``, ``seen`` (share of the site's pixels that are not masked),
        ``pval_mean``, ``pval_max``, ``area_m2`` of the pixels at or above the threshold, ``area_low_m2`` and
        ``area_high_m2`` of those above threshold + 0.15 and threshold - 0.15. All of these are NaN where less than 10 %
        was seen: such a step does not cover the site, and its area is not 0. With ``images`` also ``offset_x_m``,
        ``offset_y_m``, ``snow_share`` and ``doubt``: areas of steps with a doubt are in the table all the same.

    Raises
    ------
    ParameterError
        When the site lies outside the cube.

    Examples
    --------
    >>> series = site_series(cube["probability"], level2.iloc[[0]])  # doctest: +SKIP
    """
    shape = _in_crs(site, probability.odc.geobox.crs)
    near = _around(probability, shape, margin).compute()
    box = near.odc.geobox
    inside = geometry_mask([shape.buffer(margin)], box.shape, box.affine, invert=True)
    values = near.values[:, inside]
    cell = abs(box.affine.determinant)
    seen = np.isfinite(values)
    filled = np.where(seen, values, 0)
    count = np.where(seen.mean(axis=1) >= LEAST_SEEN, seen.sum(axis=1), 0)
    columns: dict[str, Any] = {
        "item_id": near["item_id"].values.astype(str) if "item_id" in near.coords else "unknown",
        "seen": seen.mean(axis=1),
        "pval_mean": np.divide(filled.sum(axis=1), count, out=np.full(len(count), np.nan), where=count > 0),
        "pval_max": np.where(count > 0, filled.max(axis=1), np.nan),
    }
    for name, level in (
        ("area_m2", threshold), ("area_low_m2", threshold + SPREAD), ("area_high_m2", threshold - SPREAD)
    ):  # fmt: skip
        columns[name] = np.where(count > 0, (filled >= np.float32(level)).sum(axis=1) * cell, np.nan)
    table = pd.DataFrame(columns, index=pd.Index(near["time"].values, name="time"))
    if images is None:
        return table
    conditions = site_conditions(images, site, margin=margin).drop_duplicates("item_id").set_index("item_id")
    return table.join(conditions, on="item_id")


def timeline(
    probability: xr.DataArray,
    site: BaseGeometry | gpd.GeoDataFrame | gpd.GeoSeries,
    *,
    threshold: float = 0.5,
    images: xr.Dataset | None = None,
    ax: Any = None,
) -> Any:
    """Draw the area of a site over time, with what it would be at threshold ± 0.15.

    Parameters
    ----------
    probability, site, threshold, images
        As for :func:`site_series`.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        Points are open where less than 90 % of the site was seen, and crossed where ``images`` are off by more than a
        pixel or show snow. Steps that do not cover the site are marks at the foot.

    Examples
    --------
    >>> axes = timeline(cube["probability"], level2.iloc[[0]])  # doctest: +SKIP
    """
    with naming_extra("viz", "a picture"):
        import matplotlib.dates as mdates
        import matplotlib.pyplot as plt

    table = site_series(probability, site, threshold=threshold, images=images)
    if ax is None:
        _, ax = plt.subplots(figsize=(7, 3.5), layout="constrained")
    unseen = table.index[table["area_m2"].isna()]
    table = table[table["area_m2"].notna()]
    area = table["area_m2"] / 1e4
    below = area - table["area_low_m2"] / 1e4
    above = table["area_high_m2"] / 1e4 - area
    ax.errorbar(table.index, area, yerr=[below, above], fmt="none", ecolor="#0072B2", capsize=3, alpha=0.6)
    for whole, face, label in ((True, "#0072B2", "seen"), (False, "white", "seen in part (< 90 %)")):
        rows = (table["seen"] >= 0.9) == whole
        if rows.any():
            ax.plot(table.index[rows], area[rows], "o", color="#0072B2", markerfacecolor=face, label=label)
    if "doubt" in table and len(doubtful := table.index[table["doubt"].fillna("") != ""]):
        ax.plot(doubtful, area[doubtful], "x", color="#D55E00", markersize=9, label="offset or snow")
    if len(unseen):
        foot = [0.0] * len(unseen)
        ax.plot(unseen, foot, "|", color="#7f7f7f", markersize=8, label="not covered")
    synthetic = "synthetic" in probability.coords and bool(np.any(probability["synthetic"].values))
    dates = mdates.AutoDateLocator(minticks=3, maxticks=7)  # type: ignore[no-untyped-call,unused-ignore]
    words = mdates.ConciseDateFormatter(dates)  # type: ignore[no-untyped-call,unused-ignore]
    ax.xaxis.set(major_locator=dates, major_formatter=words)
    ax.set_ylabel("area, ha")
    top = ax.get_ylim()[1]
    ax.set_ylim(-0.05 * top, 1.05 * top)  # points and bars whole
    ax.set_title(
        f"area at a threshold of {threshold:g}, bars: ± {SPREAD:g}" + (" (synthetic)" if synthetic else ""),
        fontsize=10,
    )
    ax.grid(alpha=0.3)
    if len(table) or len(unseen):
        ax.legend(frameon=False)
    return ax


def sheet(
    cube: xr.Dataset | xr.DataArray,
    site: BaseGeometry | gpd.GeoDataFrame | gpd.GeoSeries,
    *,
    margin: float = 150.0,
    columns: int = 4,
) -> Any:
    """Draw a contact sheet: one small picture of a site a time step.

    Parameters
    ----------
    cube : xarray.Dataset or xarray.DataArray
        (time, y, x): images with ``red``, ``green``, ``blue``, or else ``probability``, in a CRS in metres.
    site : shapely geometry, geopandas.GeoDataFrame or GeoSeries
        Outline that is drawn on each; a bare geometry in degrees.
    margin : float
        Metres of ground around it.
    columns : int
        Pictures in a row.

    Returns
    -------
    numpy.ndarray of matplotlib.axes.Axes
        (row, column) axes of the pictures; those beyond the last step are empty. ``axes[0, 0].figure`` is the sheet.

    Raises
    ------
    ParameterError
        When the site lies outside the cube.

    Examples
    --------
    >>> axes = sheet(cube, level2.iloc[[0]])  # doctest: +SKIP
    """
    with naming_extra("viz", "a picture"):
        import matplotlib.pyplot as plt

    crs = cube.odc.geobox.crs
    shape = _in_crs(site, crs)
    near = _around(cube, shape, margin)
    if isinstance(near, xr.Dataset) and not {"red", "green", "blue"} <= set(near.data_vars):
        near = near["probability"]
    near = near.compute()
    outline = gpd.GeoDataFrame(geometry=[shape], crs=str(crs))
    steps = near.sizes["time"]
    across = min(columns, steps)
    down = math.ceil(steps / across)
    figure, axes = plt.subplots(
        down, across, figsize=(3 * across, 3.2 * down), layout="constrained", squeeze=False
    )
    for number, ax in enumerate(axes.ravel()):
        if number >= steps:
            ax.set_axis_off()
            continue
        step = near.isel(time=number)
        drawn = rgb(step, ax=ax) if isinstance(step, xr.Dataset) else layer(step, ax=ax)
        overlay(step, outline, ax=drawn, color="cyan")
        ax.set_title(time_text(step["time"].values)[:10], fontsize=9)
        ax.set(xticks=[], yticks=[], xlabel="", ylabel="")  # set_axis_off would hide the grey of no data, too
        if isinstance(step, xr.DataArray):
            drawn.images[0].colorbar.remove()
    if isinstance(near, xr.DataArray):
        figure.colorbar(axes[0, 0].images[0], ax=axes, label="probability", shrink=0.8)
    if "synthetic" in near.coords and bool(np.any(near["synthetic"].values)):
        figure.suptitle("synthetic scenes, no real observation", fontsize=10)
    return axes
