"""Let a CPU build of torch work beside a torchvision wheel built for CUDA.

segmentation-models-pytorch needs timm, which imports torchvision. The torchvision wheel of the package index is
compiled against CUDA torch; beside a CPU torch its compiled operators do not load, and the import dies on
``operator torchvision::nms does not exist``. Neither operator is used here, so declaring the two names is enough.
Where the compiled operators load (CUDA builds, conda), the names exist already and nothing happens.
"""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path

import torch

log = logging.getLogger(__name__)
_library: torch.library.Library | None = None  # kept alive: the names vanish with it


def declare_missing_operators() -> None:
    """Declare ``torchvision::nms`` and ``torchvision::qnms`` where the compiled library cannot provide them."""
    global _library
    if _library is not None or torch.version.cuda is not None:
        return
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return
    for binary in Path(spec.origin).parent.glob("_C*.so"):
        try:
            torch.ops.load_library(str(binary))
        except OSError as error:
            log.debug("torchvision's compiled operators do not load beside this torch: %s", error)
        else:
            return
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _library = library
