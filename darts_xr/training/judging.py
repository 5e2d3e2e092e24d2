"""How good an ensemble is on patches that taught it nothing: scores, thresholds, calibration, in one pass over them.

Each network sees each patch once. Of its logits only counts in fine bins are kept, slump and other ground apart, for
every member, every pair and the mean of all; everything else follows from the counts.
"""

from __future__ import annotations

import html
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit

from darts_xr.errors import TrainingError, naming_extra
from darts_xr.inference import Checkpoint
from darts_xr.inference.network import preferred_device
from darts_xr.training.burn import IGNORED
from darts_xr.training.draws import plain_loader, planes_of
from darts_xr.training.module import scaled_input
from darts_xr.training.patches import LABELS, PatchStore
from darts_xr.training.settings import Recipe

# Logits beyond ±16 are probabilities beyond 1e-7, which no score tells apart.
_BINS = 3200
_REACH = 16.0
_EDGES = np.linspace(-_REACH, _REACH, _BINS + 1)
_CENTRES = (_EDGES[1:] + _EDGES[:-1]) / 2
_DRAWS = 1000  # of the bootstrap
_COLUMNS = ("precision", "recall", "f1", "iou")
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Judgement:
    """Counts of validation pixels by logit, and what follows from them.

    Parameters
    ----------
    counts : dict
        By members that vote together (a tuple of names): (patch, class, bin) counts; class 1 is slump.
    synthetic : bool
        Whether any of the patches is.
    """

    counts: dict[tuple[str, ...], Counts] = field(hash=False)
    synthetic: bool = False

    @property
    def members(self) -> tuple[str, ...]:
        """Names of the networks."""
        return tuple(names[0] for names in self.counts if len(names) == 1)

    def table(self) -> pd.DataFrame:
        """Each member, each pair and the mean of all at its best threshold and at 0.5, by F1 of the pixels."""
        rows = [
            {
                "members": "+".join(names),
                **self.best(names),
                **{f"{k}_at_0.5": v for k, v in self.at(names, 0.5).items()},
            }
            for names in self.counts
        ]
        return pd.DataFrame(rows).set_index("members").sort_values("f1", ascending=False)

    def at(self, names: tuple[str, ...], threshold: float) -> dict[str, float]:
        """Pixel scores at a threshold on the probability (reached or passed)."""
        return _scores(self.counts[names].sum(axis=0), _first_bin(threshold))

    def best(self, names: tuple[str, ...]) -> dict[str, float]:
        """Scores at the threshold with the highest F1 of the pixels."""
        total = self.counts[names].sum(axis=0)
        tp, fp, fn = _stats(total)
        f1 = 2 * tp / np.maximum(2 * tp + fp + fn, 1)
        place = int(np.argmax(f1))
        return {"threshold": round(float(expit(_EDGES[place])), 4), **_scores(total, place)}

    def interval(
        self, names: tuple[str, ...], threshold: float = 0.5, *, seed: int = 0
    ) -> dict[str, tuple[float, float]]:
        """95 % intervals of the scores at a threshold, by drawing patches with replacement 1000 times."""
        counts = self.counts[names]
        tp, fp, fn = (part[:, _first_bin(threshold)] for part in _stats(counts))
        rng = np.random.default_rng(seed)
        drawn = rng.integers(len(counts), size=(_DRAWS, len(counts)))
        sums = [part[drawn].sum(axis=1) for part in (tp, fp, fn)]
        ratios = _ratios(*sums)
        return {
            name: tuple(np.round(np.quantile(ratios[name], (0.025, 0.975)), 4).tolist()) for name in _COLUMNS
        }

    def temperature(self, name: str) -> float:
        """Temperature of a member: the one with the least cross entropy on these pixels (Guo et al. 2017).

        Raises
        ------
        TrainingError
            The patches show slump pixels only, or none.
        """
        negative, positive = self.counts[(name,)].sum(axis=0)
        if not negative.sum() or not positive.sum():
            raise TrainingError(f"{name} cannot be calibrated: the validation pixels are all of one class.")

        def entropy(log_temperature: float) -> float:
            scaled = _CENTRES / np.exp(log_temperature)
            losses = positive * np.logaddexp(0, -scaled) + negative * np.logaddexp(0, scaled)
            return float(losses.sum() / (positive.sum() + negative.sum()))

        found = minimize_scalar(entropy, bounds=(np.log(0.05), np.log(20)), method="bounded")
        return round(float(np.exp(found.x)), 4)

    def reliability(
        self, names: tuple[str, ...], *, temperature: float = 1.0, bins: int = 10
    ) -> pd.DataFrame:
        """Mean probability, share of slump pixels and number of pixels, by bin of probability.

        The temperature is for one member; probabilities of several are averaged after they were calibrated.
        """
        negative, positive = self.counts[names].sum(axis=0)
        p = expit(_CENTRES / temperature)
        place = np.minimum((p * bins).astype(int), bins - 1)
        both = (negative + positive).astype(float)
        pixels = np.bincount(place, both, bins)
        with np.errstate(invalid="ignore"):
            mean = np.bincount(place, both * p, bins) / pixels
            share = np.bincount(place, positive, bins) / pixels
        return pd.DataFrame({"probability": mean, "slump_share": share, "pixels": pixels.astype(int)})

    def calibration_error(self, names: tuple[str, ...], *, temperature: float = 1.0, bins: int = 15) -> float:
        """Give the expected calibration error: mean distance of probability and share of slumps, by pixels."""
        rows = self.reliability(names, temperature=temperature, bins=bins).dropna()
        distance = (rows["probability"] - rows["slump_share"]).abs()
        return round(float((distance * rows["pixels"]).sum() / rows["pixels"].sum()), 5)

    def _repr_html_(self) -> str:
        return f"<p>{html.escape('Pixels of validation patches')}</p>{self.table().to_html()}"


# --- kernels -----------------------------------------------------------------------------------------------


def _first_bin(threshold: float) -> int:
    """First bin whose logits all reach a threshold on the probability."""
    return int(np.clip(np.ceil((logit(threshold) + _REACH) / (2 * _REACH) * _BINS - 1e-9), 0, _BINS - 1))


def _stats(counts: Counts) -> tuple[Counts, Counts, Counts]:
    """Count true and false positives and false negatives with each bin as the first that counts as found."""
    above = np.flip(np.cumsum(np.flip(counts, -1), axis=-1), -1)
    fp, tp = above[..., 0, :], above[..., 1, :]
    return tp, fp, counts[..., 1, :].sum(axis=-1, keepdims=True) - tp


def _ratios(tp: Any, fp: Any, fn: Any) -> dict[str, Any]:
    """Scores from counts by segmentation-models-pytorch; 0 where a ratio has no denominator."""
    import segmentation_models_pytorch as smp

    tensors = [torch.as_tensor(np.atleast_1d(part)).double() for part in (tp, fp, fn)]
    tensors.append(torch.zeros_like(tensors[0]))  # true negatives, which none of these scores counts
    kinds = {
        "precision": smp.metrics.precision, "recall": smp.metrics.recall, "f1": smp.metrics.f1_score,
        "iou": smp.metrics.iou_score,
    }  # fmt: skip
    return {
        name: score(*tensors, reduction="none", zero_division=0.0).numpy() for name, score in kinds.items()
    }


def _scores(total: Counts, place: int) -> dict[str, float]:
    tp, fp, fn = (part[place] for part in _stats(total))
    return {name: round(float(value[0]), 4) for name, value in _ratios(tp, fp, fn).items()}


def _count(logits: torch.Tensor, labels: torch.Tensor) -> Counts:
    """(patch, class, bin) counts of a batch; ignored pixels in none."""
    place = ((logits.clamp(-_REACH, _REACH - 1e-4) + _REACH) * (_BINS / (2 * _REACH))).long()
    patch = torch.arange(len(labels), device=labels.device)[:, None, None].expand_as(labels)
    known = labels != IGNORED
    flat = ((patch * 2 + (labels == 1)) * _BINS + place)[known]
    counted = torch.bincount(flat, minlength=len(labels) * 2 * _BINS)
    return counted.reshape(len(labels), 2, _BINS).cpu().numpy()


# --- labelled public function ------------------------------------------------------------------------------


def judge(
    members: Sequence[Checkpoint], store: PatchStore, rows: NDArray[np.integer], *, calibrated: bool = False
) -> Judgement:
    """Run networks over validation patches and count.

    Parameters
    ----------
    members : sequence of Checkpoint
        The networks, from their files.
    store : PatchStore
        Where the patches lie.
    rows : numpy.ndarray
        Which of them, by their place in the table.
    calibrated : bool
        Whether logits are divided by the members' temperatures before they vote.

    Returns
    -------
    Judgement
        Computed at once, in float32, on the first GPU where there is one.

    Raises
    ------
    TrainingError
        There is no patch.

    Examples
    --------
    >>> judge(load_ensemble("demo").members, store, rows).table()  # doctest: +SKIP
    """
    if not len(rows):
        raise TrainingError("There is no validation patch to judge by.")
    device = preferred_device()
    networks = [member.load_network().to(device, memory_format=torch.channels_last) for member in members]  # type: ignore[call-overload]
    names = [member.name for member in members]
    sizes = sorted({1, 2, len(members)} & set(range(1, len(members) + 1)))
    votes = [
        combination for size in sizes for combination in itertools.combinations(range(len(members)), size)
    ]
    counted: dict[tuple[int, ...], list[Counts]] = {vote: [] for vote in votes}
    with torch.inference_mode():
        for batch in plain_loader(store, rows, Recipe()):
            labels = batch[LABELS].to(device)
            planes = planes_of({key: value.to(device) for key, value in batch.items()}, store.layout)
            logits = [
                network(scaled_input(planes, member))[:, 0]
                / (member.temperature or 1.0 if calibrated else 1.0)
                for network, member in zip(networks, members, strict=True)
            ]
            for vote in votes:
                if len(vote) == 1:
                    mixed = logits[vote[0]]
                else:  # probabilities are averaged, as in prediction
                    mixed = (
                        torch.stack([torch.sigmoid(logits[k].double()) for k in vote])
                        .mean(0)
                        .logit(1e-9)
                        .float()
                    )
                counted[vote].append(_count(mixed, labels))
    return Judgement(
        {tuple(names[k] for k in vote): np.concatenate(parts) for vote, parts in counted.items()},
        synthetic=bool(store.table["synthetic"].iloc[rows].any()),
    )


def plot_reliability(judgement: Judgement, temperatures: dict[str, float], path: Any) -> None:
    """Draw how often pixels of each probability are slumps, before and after calibration, one panel a member.

    Parameters
    ----------
    judgement : Judgement
        From :func:`judge`, not calibrated.
    temperatures : dict
        By name of the member.
    path : path
        PNG to write.
    """
    with naming_extra("train", "a picture"):
        from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6 * len(temperatures), 3.6), layout="constrained")
    for axes, (name, temperature) in zip(
        np.atleast_1d(figure.subplots(1, len(temperatures))), temperatures.items(), strict=True
    ):
        axes.plot([0, 1], [0, 1], color="0.7", lw=1)
        for value, style in ((1.0, "o--"), (temperature, "s-")):
            rows = judgement.reliability((name,), temperature=value)
            error = judgement.calibration_error((name,), temperature=value)
            axes.plot(
                rows["probability"],
                rows["slump_share"],
                style,
                ms=4,
                label=f"T = {value:.2f}, ECE {error:.4f}",
            )
        title = f"{name} (synthetic)" if judgement.synthetic else name
        axes.set(title=title, xlabel="probability", ylabel="share of slump pixels", xlim=(0, 1), ylim=(0, 1))
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)
