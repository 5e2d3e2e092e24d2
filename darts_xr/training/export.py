"""A member for programs that know nothing of this package: ``torch.export`` and ONNX, checked against itself."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn

from darts_xr.atomic import write_atomic
from darts_xr.cube.bands import bands_to_dicts
from darts_xr.errors import CheckpointError
from darts_xr.inference import Checkpoint
from darts_xr.inference.network import divide_logits

Format = Literal["torch", "onnx"]
_LARGEST_DIFFERENCE = 1e-4  # of probabilities


class _Probability(nn.Module):
    """Scaled bands in, probability out."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, bands: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.network(bands))


def export_member(
    member: Checkpoint, path: str | os.PathLike[str], *, side: int | None = None, calibrated: bool = False
) -> float:
    """Write a member as ``torch.export`` program (``.pt2``) or as ONNX (``.onnx``), and check what it gives.

    Parameters
    ----------
    member : Checkpoint
        From :func:`darts_xr.inference.read_checkpoint`.
    path : path
        File to write; its ending says the format.
    side : int, optional
        Side of the input, pixels; a multiple of the network's stride, by default that of the checkpoint's tile with its
        margin. Only the number of tiles in a batch is free.
    calibrated : bool, optional
        Divide logits by the checkpoint's temperature.

    Returns
    -------
    float
        Largest difference of the written program's probability from the network's, on noise.

    Raises
    ------
    CheckpointError
        The ending is unknown, the side does not suit the network, no temperature is stated, or the written program
        gives other numbers; then no file is left.

    Notes
    -----
    Input: (tile, band, y, x) float32, scaled as the bands in the file's metadata say: ``(value + offset) / divisor``, 0
    where masked. Output: (tile, 1, y, x) probability.

    Examples
    --------
    >>> export_member(load_ensemble("demo").members[0], "tcvis.onnx")  # doctest: +SKIP
    """
    path = Path(path)
    if path.suffix not in (".pt2", ".onnx"):
        raise CheckpointError(f"{path}: give .pt2 for torch.export or .onnx for ONNX")
    side = side or member.tile + 2 * member.margin
    if side % member.architecture.stride:
        raise CheckpointError(
            f"side must be a multiple of {member.architecture.stride} px, the stride of {member.name}; got {side}"
        )
    if calibrated and member.temperature is None:
        raise CheckpointError(f"{member.name} states no temperature, so it cannot be exported calibrated")
    network = member.load_network()
    if calibrated and member.temperature is not None:
        divide_logits(network, member.temperature)
    module = _Probability(network).eval()
    noise = torch.rand(2, len(member.bands), side, side, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = module(noise).numpy()
    facts = {
        "name": member.name,
        "sha256": member.sha256,
        "licence": member.licence,
        "bands": json.dumps(bands_to_dicts(member.bands)),
        "calibrated": str(calibrated),
    }
    found: dict[str, float] = {}

    def write(part: Path) -> None:
        found["difference"] = (_write_onnx if path.suffix == ".onnx" else _write_torch)(
            module, noise, expected, facts, part
        )
        if not found["difference"] <= _LARGEST_DIFFERENCE:
            raise CheckpointError(
                f"{member.name}: the exported program gives probabilities that differ by {found['difference']:.2g}. It "
                "was not kept."
            )

    write_atomic(path, write)
    return found["difference"]


def _write_torch(
    module: nn.Module, noise: torch.Tensor, expected: np.ndarray, facts: dict[str, str], part: Path
) -> float:
    free = ({0: torch.export.Dim("tile", min=1, max=4096)},)
    program = torch.export.export(module, (noise,), dynamic_shapes=free)
    torch.export.save(program, part, extra_files={"darts_xr.json": json.dumps(facts)})
    again = torch.export.load(part).module()
    with torch.inference_mode():
        return float(np.abs(again(noise).numpy() - expected).max())


def _write_onnx(
    module: nn.Module, noise: torch.Tensor, expected: np.ndarray, facts: dict[str, str], part: Path
) -> float:
    import onnx
    from onnx.reference import ReferenceEvaluator

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice of the exporter to itself
        program = torch.onnx.export(
            module, (noise,), dynamo=True, input_names=["bands"], output_names=["probability"],
            dynamic_shapes=({0: torch.export.Dim("tile", min=1, max=4096)},), verbose=False,
        )  # fmt: skip
    assert program is not None  # dynamo=True gives a program
    model = program.model_proto
    for key, value in facts.items():
        model.metadata_props.add(key=key, value=value)
    onnx.save_model(model, part)
    (found,) = ReferenceEvaluator(onnx.load(part)).run(None, {"bands": noise.numpy()})
    return float(np.abs(found - expected).max())
