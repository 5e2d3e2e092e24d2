"""Looking: scenes, probabilities and cubes as pictures, what was found as a map.

In come labelled arrays and GeoDataFrames of all stages, out go Matplotlib axes, a table of a site over time
(:func:`site_series`), and a map for a notebook (:func:`explore`). Every function that draws computes what it draws, of
a large scene every n-th pixel alone. The accessor ``.darts`` (:mod:`darts_xr.accessor`) has the same functions as
methods.
"""

from darts_xr.looking.histories import plot_history
from darts_xr.looking.maps import explore
from darts_xr.looking.pictures import MOST_PIXELS, classes, false_color, layer, overlay, rgb
from darts_xr.looking.sites import sheet, site_conditions, site_series, timeline
from darts_xr.looking.steps import scenes

__all__ = [
    "MOST_PIXELS",
    "classes",
    "explore",
    "false_color",
    "layer",
    "overlay",
    "plot_history",
    "rgb",
    "scenes",
    "sheet",
    "site_conditions",
    "site_series",
    "timeline",
]
