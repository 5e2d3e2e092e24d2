"""Assess: how good detections are, and where they are dense.

In come polygons of :mod:`darts_xr.products` (or of anyone else), an inventory to compare them with, and the
coverage; out go object-level :class:`Scores`, a table of them over probability thresholds, and hexagons with
the share of thaw slumps, as GeoDataFrame and as a map.
"""

from darts_xr.assess.bootstrap import Bootstrap
from darts_xr.assess.confirmation import ERROR_CLASSES, VERDICTS, confirmation_table, error_table
from darts_xr.assess.density import h3_density, h3_density_by_year, plot_density
from darts_xr.assess.expected import expected_area
from darts_xr.assess.experts import agreement_layer, expert_matrix, marked_by, recall_by_agreement
from darts_xr.assess.grid import grid_counts, gridded_comparison
from darts_xr.assess.intervals import cohen_kappa, wilson
from darts_xr.assess.match import MatchRule, Scores, match_objects, pool_scores
from darts_xr.assess.periods import ReferenceTime
from darts_xr.assess.readers import Inventory, read_inventory
from darts_xr.assess.sampling import SamplePlan, review_sample
from darts_xr.assess.sensitivity import buffer_curve, probability_densities, sweep_years, threshold_sweep
from darts_xr.assess.squares import random_squares
from darts_xr.assess.tables import Comparison, score_all, score_images, score_years
from darts_xr.assess.tiers import Tiers, assign_tiers, calibrate_tiers
from darts_xr.assess.verdicts import (
    Review,
    consistency,
    hard_negatives,
    merge_verdicts,
    read_verdicts,
    reviewed_precision,
)

__all__ = [
    "ERROR_CLASSES",
    "VERDICTS",
    "Bootstrap",
    "Comparison",
    "Inventory",
    "MatchRule",
    "ReferenceTime",
    "Review",
    "SamplePlan",
    "Scores",
    "Tiers",
    "agreement_layer",
    "assign_tiers",
    "buffer_curve",
    "calibrate_tiers",
    "cohen_kappa",
    "confirmation_table",
    "consistency",
    "error_table",
    "expected_area",
    "expert_matrix",
    "grid_counts",
    "gridded_comparison",
    "h3_density",
    "h3_density_by_year",
    "hard_negatives",
    "marked_by",
    "match_objects",
    "merge_verdicts",
    "plot_density",
    "pool_scores",
    "probability_densities",
    "random_squares",
    "read_inventory",
    "read_verdicts",
    "recall_by_agreement",
    "review_sample",
    "reviewed_precision",
    "score_all",
    "score_images",
    "score_years",
    "sweep_years",
    "threshold_sweep",
    "wilson",
]
