"""What was found as a map that can be moved, in a notebook."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import geopandas as gpd

from darts_xr.errors import MissingExtraError, ParameterError, naming_extra
from darts_xr.globe import require_crs

_SHOWN = (
    "id", "date", "year", "area_ha", "pval_mean", "image_id", "n_features_level1",
    "site", "state", "area_m2", "growth_m2_per_year", "retreat_m_per_year",
)  # fmt: skip


def explore(
    found: Any, *, footprints: gpd.GeoDataFrame | None = None, tiles: str | None = "OpenStreetMap"
) -> Any:
    """Show objects on a map: by lonboard, which draws hundred thousands of them, or else by folium.

    Parameters
    ----------
    found : geopandas.GeoDataFrame or Run
        Level 1, Level 2 or histories of sites, whose growth and retreat then stand in the pop-ups; or a run, whose
        objects and footprints are taken. Rows without an outline, such as years in which a site was not detected, are
        not drawn.
    footprints : geopandas.GeoDataFrame, optional
        Outlines of what was seen.
    tiles : str, optional
        Background of a folium map; None: no background.

    Returns
    -------
    lonboard.Map or folium.Map
        A map that a notebook shows. Objects are coloured by mean probability where they have it.

    Raises
    ------
    MissingExtraError
        When neither lonboard nor folium is installed.
    ParameterError
        When there is nothing to show.

    Notes
    -----
    The browser fetches the backgrounds of both, and folium's own scripts, from other hosts. The map in the report of a
    run (``darts-xr report``) asks none.

    Examples
    --------
    >>> explore(level1)  # doctest: +SKIP
    """
    if not isinstance(found, gpd.GeoDataFrame):
        footprints = found.footprints if footprints is None else footprints
        found = found.level1
    require_crs(found, "found")
    seen = None if footprints is None else footprints.to_crs("EPSG:4326")
    objects = found[~found.geometry.is_empty].to_crs("EPSG:4326")  # a history has years without a detection
    objects = objects[[*(name for name in _SHOWN if name in objects), objects.geometry.name]]
    if objects.empty and (seen is None or seen.empty):
        raise ParameterError("there is nothing to show: no object and no footprint")
    if find_spec("lonboard"):
        return _lonboard(objects, seen)
    if find_spec("folium"):
        return _folium(objects, seen, tiles)
    raise MissingExtraError("a map needs lonboard or folium: pip install 'darts-xr[viz]'")


def _colours(objects: gpd.GeoDataFrame) -> Any:
    """RGB of each object, uint8."""
    import numpy as np

    with naming_extra("viz", "a map"):
        from matplotlib import colormaps

    strength = objects["pval_mean"].to_numpy() if "pval_mean" in objects else np.full(len(objects), 0.7)
    return (colormaps["plasma"](strength)[:, :3] * 255).round().astype(np.uint8)


def _lonboard(objects: gpd.GeoDataFrame, seen: gpd.GeoDataFrame | None) -> Any:
    from lonboard import Map, PolygonLayer  # type: ignore[import-not-found,unused-ignore]

    layers = []
    if seen is not None and len(seen):
        layers.append(
            PolygonLayer.from_geopandas(
                seen, filled=False, get_line_color=[90, 90, 90], line_width_min_pixels=1
            )
        )
    if len(objects):
        layers.append(
            PolygonLayer.from_geopandas(
                objects,
                get_fill_color=_colours(objects),
                line_width_min_pixels=1,
                pickable=True,
                auto_highlight=True,
            )
        )
    return Map(layers)


def _folium(objects: gpd.GeoDataFrame, seen: gpd.GeoDataFrame | None, tiles: str | None) -> Any:
    import folium  # type: ignore[import-untyped,import-not-found,unused-ignore]

    shown = folium.Map(tiles=tiles, control_scale=True)
    west, south, east, north = (objects if len(objects) else seen).total_bounds  # type: ignore[union-attr]
    if seen is not None and len(seen):
        folium.GeoJson(
            seen[[seen.geometry.name]].to_json(), name="seen",
            style_function=lambda _: {"color": "#5a5a5a", "weight": 1, "fillOpacity": 0.05},
        ).add_to(shown)  # fmt: skip
    if len(objects):
        names = [str(name) for name in objects.columns if name != objects.geometry.name]
        coloured = objects.assign(colour=["#" + bytes(row).hex() for row in _colours(objects).tolist()])
        folium.GeoJson(
            coloured.to_json(), name="objects",
            style_function=lambda f: {"color": f["properties"]["colour"], "weight": 2, "fillOpacity": 0.4},
            popup=folium.GeoJsonPopup(names) if names else None,
        ).add_to(shown)  # fmt: skip
    folium.LayerControl().add_to(shown)
    shown.fit_bounds([[south, west], [north, east]])
    return shown
