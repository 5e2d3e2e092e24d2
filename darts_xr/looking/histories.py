"""The history of a site as a figure."""

from __future__ import annotations

from typing import Any

import geopandas as gpd

from darts_xr.errors import ParameterError, naming_extra
from darts_xr.products.histories import DETECTED, NOT_COVERED, NOT_DETECTED

_MARKS = {DETECTED: ("o", "#0072B2"), NOT_DETECTED: ("x", "#D55E00"), NOT_COVERED: ("|", "#7f7f7f")}


def plot_history(histories: gpd.GeoDataFrame, site: int, *, ax: Any = None) -> Any:
    """Draw the area of a site over the years, with the years in which it was not seen or not detected.

    Parameters
    ----------
    histories : geopandas.GeoDataFrame
        Of :func:`darts_xr.products.site_histories`; with ``area_low_m2`` and ``area_high_m2``, these are drawn as bars.
    site : int
        Number of the site.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        The axes.

    Raises
    ------
    ParameterError
        When there is no such site.

    Examples
    --------
    >>> axes = plot_history(histories, 1)  # doctest: +SKIP
    """
    rows = histories[histories["site"] == site]
    if rows.empty:
        raise ParameterError(f"there is no site {site}; sites are 1 to {histories['site'].max()}")
    with naming_extra("viz", "a picture"):
        import matplotlib.pyplot as plt

    if ax is None:
        _, ax = plt.subplots(figsize=(6, 3.5), layout="constrained")
    height = rows["area_m2"].fillna(0) / 1e4
    seen = rows["state"] == DETECTED
    ax.plot(rows["year"][seen], height[seen], color="#0072B2", linewidth=1)
    if {"area_low_m2", "area_high_m2"} <= set(rows.columns):
        ax.vlines(
            rows["year"][seen], rows["area_low_m2"][seen] / 1e4, rows["area_high_m2"][seen] / 1e4,
            color="#0072B2", alpha=0.5, label="threshold ± 0.15",
        )  # fmt: skip
    for state, (mark, colour) in _MARKS.items():
        here = rows["state"] == state
        if here.any():
            ax.plot(rows["year"][here], height[here], mark, color=colour, markersize=8, label=state)
    ax.set_xticks(rows["year"].tolist())
    ax.set_ylabel("area, ha")
    top = ax.get_ylim()[1]
    ax.set_ylim(-0.05 * top, 1.05 * top)  # points and bars whole
    shrunk = rows["change"] == "shrank"
    if shrunk.any():
        ax.plot(rows["year"][shrunk], height[shrunk], "v", color="#CC79A7", markersize=6, label="shrank")
    doubtful = rows["doubt"] != "" if "doubt" in rows else shrunk & False
    if doubtful.any():
        ax.plot(rows["year"][doubtful], height[doubtful], "x", color="black", label="offset or snow")
    synthetic = " (synthetic)" if histories.attrs.get("synthetic") else ""
    ax.set_title(f"site {site}, {rows['site_geohash'].iloc[0]}{synthetic}", fontsize=10)
    ax.legend(frameon=False, fontsize=8)
    ax.grid(alpha=0.3)
    return ax
