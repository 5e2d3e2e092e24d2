"""Assess: how good detections are, and where they are dense.

In come polygons of :mod:`darts_xr.products` (or of anyone else), an inventory to compare them with, and the
coverage; out go object-level :class:`Scores`, a table of them over probability thresholds, and hexagons with
the share of thaw slumps, as GeoDataFrame and as a map.
"""

from darts_xr.assess.bootstrap import Bootstrap
from darts_xr.assess.density import h3_density, plot_density
from darts_xr.assess.match import MatchRule, Scores, match_objects, pool_scores
from darts_xr.assess.periods import ReferenceTime
from darts_xr.assess.readers import Inventory, read_inventory
from darts_xr.assess.sensitivity import buffer_curve, probability_densities, threshold_sweep
from darts_xr.assess.tables import Comparison, score_all, score_images, score_years

__all__ = [
    "Bootstrap",
    "Comparison",
    "Inventory",
    "MatchRule",
    "ReferenceTime",
    "Scores",
    "buffer_curve",
    "h3_density",
    "match_objects",
    "plot_density",
    "pool_scores",
    "probability_densities",
    "read_inventory",
    "score_all",
    "score_images",
    "score_years",
    "threshold_sweep",
]
