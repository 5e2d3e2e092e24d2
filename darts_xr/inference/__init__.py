"""A scene's bands come in, the probability of thaw slumps goes out, lazy and chunk by chunk.

Checkpoints of this project, thaw-slump-segmentation or darts-nextgen say which bands a network wants and how they are
scaled; an ensemble is a tuple of checkpoints, light enough for any graph; :func:`predict` runs all members on each
chunk in one pass, on model tiles whose place depends on the scene alone.
"""

from darts_xr.inference.checkpoint import Checkpoint, read_checkpoint, save_checkpoint
from darts_xr.inference.drift import Drift, scene_drift
from darts_xr.inference.ensemble import Ensemble, load_ensemble
from darts_xr.inference.forward import network_input
from darts_xr.inference.network import Architecture
from darts_xr.inference.predict import predict, predict_members

__all__ = [
    "Architecture",
    "Checkpoint",
    "Drift",
    "Ensemble",
    "load_ensemble",
    "network_input",
    "predict",
    "predict_members",
    "read_checkpoint",
    "save_checkpoint",
    "scene_drift",
]
