"""Label polygons and scenes come in, checkpoints that the engine runs go out.

Labels are matched to scenes (:func:`read_labels`, :func:`match_labels`), scenes are cut into a store of patches
(:func:`write_patches`), split without leaks (:func:`split_patches`) and learnt by Lightning (:func:`fit`); what came of
it is judged (:func:`judge`), calibrated and described. Bands, scaling and masking are those of :mod:`darts_xr.cube`
and :mod:`darts_xr.inference`, from one definition, so that a network is trained on exactly what it will be given.
"""

from importlib import import_module
from typing import Any

from darts_xr.errors import MissingExtraError

# Names load on first use: what trains needs the extra "train", and says so only when it is asked for.
_HOMES = {
    "Augmentation": "settings",
    "Crop": "settings",
    "Design": "settings",
    "Judgement": "judging",
    "LabelFile": "labels",
    "LabelledScene": "patches",
    "Labels": "labels",
    "Lessons": "fitting",
    "MatchReport": "matching",
    "Parts": "splits",
    "PatchStore": "patches",
    "Patching": "settings",
    "Recipe": "settings",
    "Sampling": "settings",
    "SceneLabels": "matching",
    "Split": "splits",
    "Start": "settings",
    "check_leakage": "splits",
    "ensemble_card": "cards",
    "export_member": "export",
    "first_weights": "starts",
    "ground_apart": "splits",
    "fit": "fitting",
    "judge": "judging",
    "label_mask": "burn",
    "label_statistics": "labels",
    "leave_one_out": "splits",
    "match_labels": "matching",
    "member_card": "cards",
    "open_patches": "patches",
    "plot_reliability": "judging",
    "read_labels": "labels",
    "read_settings": "settings",
    "score_objects": "object_scores",
    "split_patches": "splits",
    "scaled_as": "starts",
    "standardised": "statistics",
    "training_statistics": "statistics",
    "write_patches": "patches",
}
_EXTRA = {
    "kornia",
    "matplotlib",
    "onnx",
    "onnxscript",
    "pydantic",
    "pytorch_lightning",
    "tensorboard",
    "tensorstore",
    "torchmetrics",
    "zarr",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'darts_xr.training' has no attribute {name!r}")
    from darts_xr.inference._torchvision import declare_missing_operators

    declare_missing_operators()  # torchmetrics imports torchvision, too
    try:
        value = getattr(import_module(f"darts_xr.training.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in _EXTRA:
            raise
        raise MissingExtraError(
            f"darts_xr.training.{name} needs {error.name}, which the extra train brings: "
            "pip install 'darts-xr[train]'"
        ) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
