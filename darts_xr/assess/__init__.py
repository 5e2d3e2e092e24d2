"""Assess: how good detections are, and where they are dense.

In come polygons of :mod:`darts_xr.products` (or of anyone else), an inventory to compare them with, and the
coverage; out go object-level :class:`Scores`, a table of them over probability thresholds, and hexagons with
the share of thaw slumps, as GeoDataFrame and as a map.
"""

from darts_xr.assess.density import h3_density, plot_density
from darts_xr.assess.match import Scores, match_objects, pool_scores, threshold_sweep

__all__ = ["Scores", "h3_density", "match_objects", "plot_density", "pool_scores", "threshold_sweep"]
