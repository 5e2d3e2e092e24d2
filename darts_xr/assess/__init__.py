"""Assess: how good detections are, and where they are dense.

In come polygons of :mod:`darts_xr.products` (or of anyone else), an inventory to compare them with, and the
coverage; out go object-level :class:`Scores`, a table of them over probability thresholds, and hexagons with
the share of thaw slumps, as GeoDataFrame and as a map.
"""

from darts_xr.assess.bootstrap import Bootstrap
from darts_xr.assess.confirmation import ERROR_CLASSES, VERDICTS, confirmation_table, error_table
from darts_xr.assess.density import h3_density, h3_density_by_year, plot_density
from darts_xr.assess.experts import agreement_layer, expert_matrix, marked_by, recall_by_agreement
from darts_xr.assess.grid import grid_counts, gridded_comparison
from darts_xr.assess.intervals import cohen_kappa, wilson
from darts_xr.assess.match import MatchRule, Scores, match_objects, pool_scores
from darts_xr.assess.overview import overview
from darts_xr.assess.periods import ReferenceTime
from darts_xr.assess.readers import Inventory, read_inventory
from darts_xr.assess.sensitivity import buffer_curve, probability_densities, threshold_sweep
from darts_xr.assess.squares import random_squares
from darts_xr.assess.tables import Comparison, score_all, score_images, score_years

__all__ = [
    "ERROR_CLASSES",
    "VERDICTS",
    "Bootstrap",
    "Comparison",
    "Inventory",
    "MatchRule",
    "ReferenceTime",
    "Scores",
    "agreement_layer",
    "buffer_curve",
    "cohen_kappa",
    "confirmation_table",
    "error_table",
    "expert_matrix",
    "grid_counts",
    "gridded_comparison",
    "h3_density",
    "h3_density_by_year",
    "marked_by",
    "match_objects",
    "overview",
    "plot_density",
    "pool_scores",
    "probability_densities",
    "random_squares",
    "read_inventory",
    "recall_by_agreement",
    "score_all",
    "score_images",
    "score_years",
    "threshold_sweep",
    "wilson",
]
