"""One scene as a picture: colour composites, layers in their units, classes, outlines on top."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import geopandas as gpd
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from darts_xr.cube.landcover import ESRI_CLASSES
from darts_xr.cube.metadata import metadata_of, time_text
from darts_xr.errors import CRSError, MissingBandsError, ParameterError, naming_extra
from darts_xr.globe import require_crs
from darts_xr.percent import to_probability
from darts_xr.planet.masks import MASK_CLASSES
from darts_xr.products.quicklook import stretch_rgb

#: Longest side of what is drawn; of more, every n-th pixel.
MOST_PIXELS = 1500
_GREY = "#d9d9d9"  # no data


@dataclass(frozen=True)
class _Style:
    """How a layer is drawn: colours safe for the colour-blind, words with unit, range (None: 2 to 98 % of it)."""

    colours: str
    label: str
    limits: tuple[float, float] | None = None
    middle: float | None = None  # of a symmetric range


_STYLES = {
    **{name: _Style("gray", f"{name}, reflectance × 10,000") for name in ("blue", "green", "red", "nir")},
    "ndvi": _Style("BrBG", "NDVI", (-1.0, 1.0)),
    "relative_elevation": _Style("PuOr_r", "relative elevation, m", middle=0.0),
    "slope": _Style("cividis", "slope, degrees"),
    **{
        f"tc_{name}": _Style("PuOr", f"trend of tasselled-cap {name}, 8 bits, 127: no change", middle=127.0)
        for name in ("brightness", "greenness", "wetness")
    },
    "probability": _Style("magma", "probability", (0.0, 1.0)),
    "member_probability": _Style("magma", "probability of a member", (0.0, 1.0)),
    "spread": _Style("viridis", "largest minus smallest member", (0.0, 1.0)),
}
# Colours of the ESRI annual land cover as its makers draw it.
_LANDCOVER = {
    0: "#1a5a8c", 1: "#419bdf", 2: "#397d49", 4: "#7a87c6", 5: "#e49635", 7: "#c4281b", 8: "#a59b8f", 9: "#a8ebff",
    10: "#616161", 11: "#e3e2c3",
}  # fmt: skip
_VALID = {0: "masked", 1: "valid"}
_MASK = {number: name for number, name in MASK_CLASSES.items() if number}  # 0: no data
# Of a palette that the colour-blind can tell apart (Okabe and Ito); clear ground is pale.
_MASK_COLOURS = {
    1: "#e4ecc4", 2: "#56b4e9", 3: "#000000", 4: "#cc79a7", 5: "#d55e00", 6: "#0072b2", 7: "#e69f00",
}  # fmt: skip
_BINARY = {0: "no object", 1: "object"}

# --- what is drawn -----------------------------------------------------------------------------------------


def _thinned(data: xr.Dataset) -> xr.Dataset:
    """Every n-th pixel of (y, x) data, in memory."""
    step = max(1, math.ceil(max(data.sizes["y"], data.sizes["x"]) / MOST_PIXELS))
    return data.isel(y=slice(None, None, step), x=slice(None, None, step)).compute()


def _one_scene(data: xr.Dataset | xr.DataArray) -> None:
    if extra := [str(name) for name in data.dims if name not in ("y", "x")]:
        raise ParameterError(
            f"a picture is of one scene (y, x), and this has {', '.join(extra)} too; select one step first, such as "
            f".isel({extra[0]}=0)"
        )


def _extent(data: xr.Dataset | xr.DataArray) -> tuple[tuple[float, float, float, float], Any]:
    """Left, right, bottom, top of the pixels' outer edges, and the CRS."""
    box = data.odc.geobox
    if box is None or box.crs is None:
        raise CRSError("it has no coordinate reference system; assign one with .odc.assign_crs(...)")
    west, south, east, north = box.boundingbox
    return (west, east, south, north), box.crs


def _axes(ax: Any, data: xr.Dataset | xr.DataArray) -> Any:
    """Axes in metres or degrees with the right aspect, and a title that says what is seen."""
    with naming_extra("viz", "a picture"):
        import matplotlib.pyplot as plt  # heavy, and only pictures need it

    (_, _, south, north), crs = _extent(data)
    if ax is None:
        _, ax = plt.subplots(figsize=(7, 6), layout="constrained")
    if crs.geographic:
        ax.set_aspect(1 / max(math.cos(math.radians((south + north) / 2)), 0.01))
        ax.set_xlabel("longitude, degrees")
        ax.set_ylabel("latitude, degrees")
    else:
        ax.set_aspect("equal")
        ax.set_xlabel("easting, m")
        ax.set_ylabel("northing, m")
        ax.ticklabel_format(useOffset=False, style="plain")
        ax.tick_params(axis="x", labelrotation=30)
    ax.set_facecolor(_GREY)
    ax.set_title(scene_title(data), fontsize=10)
    return ax


def scene_title(data: xr.Dataset | xr.DataArray) -> str:
    """Id and day of a scene, and that it is synthetic where it is."""
    facts = metadata_of(data)
    parts = [str(facts["item_id"])] if "item_id" in facts else []
    if "time" in facts:
        parts.append(time_text(facts["time"])[:10])
    return (", ".join(parts) + (" (synthetic)" if facts.get("synthetic") else "")).strip()


# --- labelled public functions -----------------------------------------------------------------------------


def _composite(scene: xr.Dataset, bands: tuple[str, str, str], ax: Any) -> Any:
    if lacking := [name for name in bands if name not in scene]:
        raise MissingBandsError(f"the scene has no {', '.join(lacking)}; open it with bands={list(bands)!r}")
    wanted = [*bands, "valid"] if "valid" in scene else list(bands)
    _one_scene(scene[wanted])
    shown = _thinned(scene[wanted])
    pixels = np.stack([shown[name].values for name in bands]).astype(np.float32)
    known = np.asarray(np.isfinite(pixels).all(axis=0))
    valid = shown["valid"].values.astype(bool) if "valid" in shown else known
    ax = _axes(ax, scene)
    ax.imshow(
        stretch_rgb(pixels, valid), extent=_extent(scene)[0], interpolation="nearest", aspect=ax.get_aspect()
    )
    return ax


def rgb(scene: xr.Dataset, *, ax: Any = None) -> Any:
    """Draw a scene in red, green and blue.

    Parameters
    ----------
    scene : xarray.Dataset
        (y, x) with ``red``, ``green``, ``blue`` and, if it has it, ``valid``. What is drawn is computed.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        Axes in metres or degrees; each band stretched from 2 to 98 % of the valid pixels, masked ones grey.

    Raises
    ------
    MissingBandsError
        When the scene lacks a band.
    ParameterError
        When it has other dimensions than (y, x).

    Examples
    --------
    >>> axes = rgb(dx.open_scene(item))  # doctest: +SKIP
    """
    return _composite(scene, ("red", "green", "blue"), ax)


def false_color(scene: xr.Dataset, *, ax: Any = None) -> Any:
    """Draw a scene in near infrared, red and green, where plants are red and bare ground is grey to cyan.

    Parameters, Returns and Raises as of :func:`rgb`.

    Examples
    --------
    >>> axes = false_color(dx.open_scene(item))  # doctest: +SKIP
    """
    return _composite(scene, ("nir", "red", "green"), ax)


def layer(array: xr.DataArray, *, ax: Any = None) -> Any:
    """Draw a layer with its colours and its unit; a mask, objects or land cover as classes.

    Parameters
    ----------
    array : xarray.DataArray
        (y, x): a band of a scene, ``probability`` (0 to 1, or per cent as stored), ``spread`` of the members,
        ``valid``, ``mask_class``, ``binary``, ``landcover``. Others are drawn in grey-free colours with their own
        name and unit.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        With a colour bar, or a legend of the classes.

    Raises
    ------
    ParameterError
        When it has other dimensions than (y, x).

    Examples
    --------
    >>> axes = layer(scene["relative_elevation"])  # doctest: +SKIP
    """
    known = {
        "valid": _VALID, "binary": _BINARY, "landcover": {0: "open sea", **ESRI_CLASSES}, "mask_class": _MASK
    }  # fmt: skip
    if array.name in known:
        colours = {"landcover": _LANDCOVER, "mask_class": _MASK_COLOURS}.get(str(array.name))
        return classes(array, known[str(array.name)], colours=colours, ax=ax)
    _one_scene(array)
    shown = _thinned(array.to_dataset(name="shown"))["shown"]
    values = shown.values.astype(np.float32)
    if array.name == "probability" and array.dtype == np.uint8:
        values = to_probability(values)
    unit = array.attrs.get("units", "")
    words = str(array.attrs.get("long_name", array.name)) + (f", {unit}" if unit not in ("", "1") else "")
    style = _STYLES.get(str(array.name), _Style("viridis", words))
    low, high = style.limits or _robust(values, style.middle)
    ax = _axes(ax, array)
    image = ax.imshow(
        values, extent=_extent(array)[0], interpolation="nearest", aspect=ax.get_aspect(), cmap=style.colours,
        vmin=low, vmax=high,
    )  # fmt: skip
    ax.figure.colorbar(image, ax=ax, label=style.label, shrink=0.8)
    return ax


def _robust(values: NDArray[np.float32], middle: float | None) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    if not known.size:
        return 0.0, 1.0
    low, high = np.percentile(known, (2, 98))
    if middle is not None:
        reach = max(abs(low - middle), abs(high - middle))
        return float(middle - reach), float(middle + reach)
    return float(low), float(high)


def classes(
    array: xr.DataArray, names: Mapping[int, str], *, colours: Mapping[int, str] | None = None, ax: Any = None
) -> Any:
    """Draw a map of classes with a legend that says how much of what is known each covers.

    Parameters
    ----------
    array : xarray.DataArray
        (y, x) of whole numbers or booleans.
    names : mapping of int to str
        Name of each class; others, and NaN, are no data and stay grey.
    colours : mapping of int to str, optional
        Colour of each class; by default of a palette that the colour-blind can tell apart.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        The axes.

    Examples
    --------
    >>> axes = classes(scene["valid"], {0: "masked", 1: "valid"})  # doctest: +SKIP
    """
    with naming_extra("viz", "a picture"):
        from matplotlib import colormaps
        from matplotlib.colors import to_rgba
        from matplotlib.patches import Patch

    _one_scene(array)
    values = _thinned(array.to_dataset(name="shown"))["shown"].values
    picture = np.zeros((*values.shape, 4), np.float32)
    known = max(int(np.isin(values, list(names)).sum()), 1)
    handles, palette = [], colormaps["tab20b" if len(names) > 3 else "cividis"]
    for number, (value, name) in enumerate(names.items()):
        here = values == value
        if not here.any():
            continue
        colour = to_rgba(colours[value]) if colours else palette(number / max(len(names) - 1, 1))
        picture[here] = colour
        handles.append(Patch(color=colour, label=f"{name}, {here.sum() / known:.1%}"))
    ax = _axes(ax, array)
    ax.imshow(picture, extent=_extent(array)[0], interpolation="nearest", aspect=ax.get_aspect())
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    return ax


def overlay(
    data: xr.Dataset | xr.DataArray, features: gpd.GeoDataFrame, *, ax: Any = None, color: str = "yellow"
) -> Any:
    """Draw outlines on a picture of the data: a scene in red, green and blue, an array as :func:`layer`.

    Parameters
    ----------
    data : xarray.Dataset or xarray.DataArray
        What lies below.
    features : geopandas.GeoDataFrame
        Polygons in any CRS.
    ax : matplotlib.axes.Axes, optional
        Where to draw; axes that hold a picture of ``data`` get the outlines alone.
    color : str
        Colour of the outlines.

    Returns
    -------
    matplotlib.axes.Axes
        The axes, kept to the extent of the data.

    Raises
    ------
    CRSError
        When the features or the data have no CRS.

    Examples
    --------
    >>> axes = overlay(scene, level1)  # doctest: +SKIP
    """
    require_crs(features, "features")
    if ax is None or not ax.images:
        ax = rgb(data, ax=ax) if isinstance(data, xr.Dataset) else layer(data, ax=ax)
    (west, east, south, north), crs = _extent(data)
    if len(features):
        features.to_crs(str(crs)).boundary.plot(ax=ax, color=color, linewidth=1.2, aspect=None)
    ax.set_xlim(west, east)
    ax.set_ylim(south, north)
    return ax
