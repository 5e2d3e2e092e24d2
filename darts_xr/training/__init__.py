"""Scenes and outlines come in, checkpoints go out.

Bands, scaling and masking are those of :mod:`darts_xr.cube` and :mod:`darts_xr.inference`, from one definition, so that
a network is trained on exactly what it will be given.
"""

from darts_xr.training.examples import TrainingScene, collect_scene, label_mask
from darts_xr.training.fit import Schedule, fit, score_pixels

__all__ = ["Schedule", "TrainingScene", "collect_scene", "fit", "label_mask", "score_pixels"]
