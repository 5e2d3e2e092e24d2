"""The sites of a run over the years, with what the stored probability says of their areas' uncertainty."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely

import darts_xr as dx
from darts_xr.errors import MissingExtraError, PipelineError, naming_extra
from darts_xr.looking import plot_history, site_conditions, site_series
from darts_xr.products import site_histories
from pipelines.records import Run, open_run
from pipelines.results import read_results

log = logging.getLogger(__name__)

_AROUND = 30.0  # metres around a site into which it may have grown
_DEGREES = 0.01  # around a site whose pixels are opened: more than 30 m up to 88° north


def histories(run: str | os.PathLike[str] | Run, *, images: Any = None) -> gpd.GeoDataFrame:
    """Follow each site of a run through its years.

    Parameters
    ----------
    run : path or Run
        A run of :func:`pipelines.detect`.
    images : source, optional
        The scenes that the run was made from, as for :func:`darts_xr.search`: their offsets and snow are told.

    Returns
    -------
    geopandas.GeoDataFrame
        As of :func:`darts_xr.products.site_histories`, and of the highest probability of each year's images, on the
        site and 30 m around it: ``area_low_m2`` and ``area_high_m2`` (pixels at or above the run's threshold + 0.15 and
        - 0.15; also those of objects that a rule or a filter removed there) and ``no_data_share`` (pixels that no image
        of the year shows). NaN in years in which no image meets the site. With ``images`` also, of the images of each
        year, as of :func:`darts_xr.looking.site_conditions`: ``offset_x_m`` and ``offset_y_m`` of the one that lies
        furthest off, the largest ``snow_share``, and ``doubt`` where any of them has one. Doubtful years stay in the
        table.

    Raises
    ------
    PipelineError
        When the run has no finished scene.

    Examples
    --------
    >>> histories("run")[["site", "year", "state"]]  # doctest: +SKIP
    """
    run = run if isinstance(run, Run) else open_run(run)
    results = read_results(run)
    if not results.scenes:
        raise PipelineError(f"{run.folder} has no finished scene. See darts-xr report for the reasons.")
    table = site_histories(dx.level2(results.level1), dx.coverage(results.footprints)["level2"])
    for name in ("area_low_m2", "area_high_m2", "no_data_share"):
        table.insert(len(table.columns) - 1, name, np.nan)
    for name in ("offset_x_m", "offset_y_m", "snow_share", "doubt"):
        table.insert(
            len(table.columns) - 1, name, pd.array([""] * len(table), "str") if name == "doubt" else np.nan
        )
    done = {scene.record["id"] for scene in results.scenes}
    scenes = [] if images is None else [item for item in dx.search(images) if item.id in done]
    items = dx.load_items(str(run.folder / "catalog.json"))
    threshold = float(run.record["rules"]["threshold"])
    for _, rows in table.groupby("site"):
        whole = shapely.union_all(rows.geometry.to_numpy())
        west, south, east, north = whole.bounds
        # Pixels by day of image, then the highest of each year.
        cube = dx.open_cube(
            items, bbox=(west - _DEGREES, south - _DEGREES, east + _DEGREES, north + _DEGREES)
        )
        # -1 for what was not seen: of NaN alone NumPy warns, and Dask hides that warning in one thread only.
        yearly = cube["probability"].fillna(-1).groupby("time.year").max("time").rename(year="time")
        series = site_series(yearly.where(yearly >= 0), whole, threshold=threshold, margin=_AROUND)
        here = rows.index[rows["year"].isin(series.index)]
        of_year = series.loc[table.loc[here, "year"]]
        table.loc[here, "area_low_m2"] = of_year["area_low_m2"].to_numpy()
        table.loc[here, "area_high_m2"] = of_year["area_high_m2"].to_numpy()
        table.loc[here, "no_data_share"] = 1 - of_year["seen"].to_numpy()
        ids = set(cube["item_id"].values.tolist())
        if near := [item for item in scenes if item.id in ids]:
            seen = dx.open_cube(near, bands=["nir", "red", "mask_class", "valid"], like=cube)
            for year, of_images in site_conditions(seen, whole, margin=_AROUND).groupby(
                lambda time: time.year
            ):
                at = rows.index[rows["year"] == year]
                table.loc[at, "offset_x_m"], table.loc[at, "offset_y_m"] = _furthest(of_images)
                table.loc[at, "snow_share"] = of_images["snow_share"].max()
                said = {word for doubt in of_images["doubt"] for word in doubt.split(", ") if word}
                table.loc[at, "doubt"] = ", ".join(sorted(said))
    table.attrs["synthetic"] = bool(run.record["synthetic"])
    return table


def _furthest(images: pd.DataFrame) -> tuple[float, float]:
    """Offset of the image that lies furthest off; NaN where none could be estimated."""
    known = images.dropna(subset=["offset_x_m", "offset_y_m"])
    if known.empty:
        return np.nan, np.nan
    both = known[["offset_x_m", "offset_y_m"]].to_numpy()
    east, north = both[int(np.hypot(*both.T).argmax())]
    return float(east), float(north)


def write_histories(
    table: gpd.GeoDataFrame, folder: str | os.PathLike[str], *, figures: int = 12
) -> list[Path]:
    """Write the table as CSV and GeoPackage, and a figure of the sites that have the most years and ground.

    Parameters
    ----------
    table : geopandas.GeoDataFrame
        Of :func:`histories`.
    folder : path
        Local folder; made when missing.
    figures : int
        Sites in the figure.

    Returns
    -------
    list of pathlib.Path
        The files.
    """
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    files = [place / "histories.csv", place / "histories.gpkg"]
    table.drop(columns="geometry").to_csv(files[0], index=False)
    table.to_file(files[1], driver="GPKG")
    ranks: Any = table.groupby("site")["area_m2"].agg(["count", "max"])
    shown = ranks.sort_values(["count", "max"], ascending=False).index[:figures].tolist()
    if not shown:
        return files
    try:
        with naming_extra("viz", "a figure of the sites"):
            from matplotlib.figure import Figure
    except MissingExtraError as error:
        log.warning("%s is not drawn: %s", place / "histories.png", error)
        return files
    across = min(3, len(shown))
    down = -(-len(shown) // across)
    figure = Figure(figsize=(5 * across, 3 * down), layout="constrained")
    for site, ax in zip(shown, figure.subplots(down, across, squeeze=False).ravel(), strict=False):
        plot_history(table, site, ax=ax)
    for ax in figure.axes[len(shown) :]:
        ax.set_axis_off()
    files.append(place / "histories.png")
    figure.savefig(files[-1], dpi=130)
    return files
