"""The paper's seven augmentations, by kornia: geometry moves everything, light changes the image alone.

Flips, quarter turns, blur, brightness and contrast, multiplicative noise, cutout (Nitze et al. 2025, Sci. Data
12:1512). The published code drew them on raw numbers, which its library cut to 0..1; here light is changed in
reflectance, before anything is scaled, and the vegetation index is derived again from what came of it.
"""

from __future__ import annotations

from typing import Any

import kornia.augmentation as K  # noqa: N812  kornia's own short form
import torch

from darts_xr.cube import ndvi
from darts_xr.cube.bands import VALID
from darts_xr.planet.bands import IMAGE_BANDS
from darts_xr.training.mining import CELL
from darts_xr.training.settings import Augmentation, Crop

_REFLECTANCE = 10_000.0  # stored value of a reflectance of 1
Planes = dict[str, torch.Tensor]


def random_crop(
    planes: Planes, labels: torch.Tensor, crop: Crop, hard: torch.Tensor | None = None
) -> tuple[Planes, torch.Tensor]:
    """Cut a square out of each patch of a batch: near a slump pixel, near hard ground, or anywhere.

    Parameters
    ----------
    planes : dict of torch.Tensor
        Bands by name, each (patch, y, x).
    labels : torch.Tensor
        Labels, (patch, y, x).
    crop : Crop
        Side of the squares, and how often they lie where.
    hard : torch.Tensor, optional
        Hard ground, (patch, cell, cell) bool; see :func:`darts_xr.training.mining.hard_cells`.

    Returns
    -------
    tuple
        Bands and labels, (patch, side, side).
    """
    side = crop.side
    room = torch.tensor(labels.shape[-2:]) - side
    corners = []
    for number, patch in enumerate(labels.cpu()):
        centres = _centres(patch, None if hard is None else hard[number], crop)
        if len(centres):
            pixel = centres[int(torch.randint(len(centres), ()))]
            # Up to a third of the side off the middle, so that slumps are seen near the edges as well.
            off = ((torch.rand(2) - 0.5) * side * 2 / 3).long()
            corners.append(torch.minimum((pixel - side // 2 + off).clamp_min(0), room).tolist())
        else:
            corners.append((torch.rand(2) * (room + 1)).long().tolist())

    def cut(plane: torch.Tensor) -> torch.Tensor:
        return torch.stack(
            [
                patch[top : top + side, left : left + side]
                for patch, (top, left) in zip(plane, corners, strict=True)
            ]
        )

    return {name: cut(plane) for name, plane in planes.items()}, cut(labels)


def _centres(labels: torch.Tensor, hard: torch.Tensor | None, crop: Crop) -> torch.Tensor:
    """Pixels near which a crop of this patch may lie, (pixel, 2); none: anywhere."""
    chance = float(torch.rand(()))
    if chance < crop.anywhere:
        return torch.empty((0, 2), dtype=torch.long)
    if hard is not None and chance < crop.anywhere + crop.hard and hard.any():
        middles = hard.nonzero() * CELL + CELL // 2
        return torch.minimum(middles, torch.tensor(labels.shape) - 1)
    return (labels == 1).nonzero()


class Augment:
    """Change bands and labels of a batch; draws from torch's generator of the moment.

    Parameters
    ----------
    settings : Augmentation
        Which transforms, and how far.
    """

    def __init__(self, settings: Augmentation) -> None:
        self.settings, p = settings, settings.p
        moves: list[Any] = []
        if settings.flips:
            moves += [K.RandomHorizontalFlip(p=p), K.RandomVerticalFlip(p=p)]
        if settings.turns:
            moves.append(K.RandomRotation90(times=(0, 3), p=p, resample="nearest"))
        self._moves = moves
        light: list[Any] = []
        if settings.brightness:
            light.append(K.RandomBrightness(_around(settings.brightness), clip_output=False, p=p))
        # kornia's contrast multiplies, which is also what multiplicative noise with one factor a patch does.
        light += [
            K.RandomContrast(_around(reach), clip_output=False, p=p)
            for reach in (settings.contrast, settings.noise)
            if reach
        ]
        self._light = light
        self._colour = settings.colour
        self._blurs = [K.RandomBoxBlur((side, side), p=p) for side in settings.blur if side > 1]

    def __call__(self, planes: Planes, labels: torch.Tensor) -> tuple[Planes, torch.Tensor, torch.Tensor]:
        """Bands, labels, and where cutout left something (all of them (patch, y, x))."""
        planes, labels = self._move(planes, labels)
        planes = self._relight(planes)
        return planes, labels, self._kept(labels)

    def _move(self, planes: Planes, labels: torch.Tensor) -> tuple[Planes, torch.Tensor]:
        names = list(planes)
        stack = torch.stack([*(planes[name].float() for name in names), labels.float()], dim=1)
        for move in self._moves:
            stack = move(stack)
        moved = {name: stack[:, place] for place, name in enumerate(names)}
        moved[VALID] = moved[VALID] > 0.5
        return moved, stack[:, -1].round().to(labels.dtype)

    def _relight(self, planes: Planes) -> Planes:
        names = [name for name in IMAGE_BANDS if name in planes]
        if not names or not (self._light or self._blurs or self._colour):
            return planes
        valid = planes[VALID][:, None].float()
        image = torch.stack([planes[name] for name in names], dim=1) / _REFLECTANCE * valid
        if self._blurs:
            # Blurred with the mask and divided by it, so that no-data does not darken the pixels beside it.
            blur = self._blurs[int(torch.randint(len(self._blurs), ()))]
            both = blur(torch.cat([image, valid], dim=1))
            image = both[:, :-1] / both[:, -1:].clamp_min(1e-6) * valid
        for change in self._light:
            image = change(image)
        if self._colour:
            factors = 1 + self._colour * torch.randn(image.shape[:2], device=image.device)
            chosen = torch.rand(len(image), 1, device=image.device) < self.settings.p
            image = image * torch.where(chosen, factors, 1.0)[..., None, None]
        image = image.clamp_min(0) * _REFLECTANCE
        out = planes | {name: image[:, place] for place, name in enumerate(names)}
        if "ndvi" in planes and {"red", "nir"} <= planes.keys():
            out["ndvi"] = ndvi(out["red"], out["nir"])
        return out

    def _kept(self, labels: torch.Tensor) -> torch.Tensor:
        kept = torch.ones((len(labels), 1, *labels.shape[1:]), device=labels.device)
        side = self.settings.hole_side
        share = min(1.0, side * side / (labels.shape[-1] * labels.shape[-2]))
        if self.settings.holes and share < 1:
            hole = K.RandomErasing(scale=(share, share), ratio=(1.0, 1.0), p=1.0)
            cut = torch.ones_like(kept)
            for _ in range(self.settings.holes):
                cut = hole(cut)
            chosen = torch.rand(len(labels), 1, 1, 1) < self.settings.p
            kept = torch.where(chosen.to(kept.device), cut, kept)
        return kept[:, 0] > 0.5


def _around(reach: float) -> tuple[float, float]:
    return max(0.0, 1 - reach), 1 + reach
