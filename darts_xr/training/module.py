"""One network under training, as Lightning runs it: input, loss, scores, rate."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import segmentation_models_pytorch as smp
import torch
from torch import nn
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import (
    BinaryAUROC,
    BinaryAveragePrecision,
    BinaryF1Score,
    BinaryJaccardIndex,
    BinaryPrecision,
    BinaryRecall,
)

from darts_xr.cube.bands import VALID
from darts_xr.errors import TrainingError
from darts_xr.inference import Checkpoint, network_input
from darts_xr.training.augmentation import Augment, random_crop
from darts_xr.training.burn import IGNORED
from darts_xr.training.draws import Batch, planes_of
from darts_xr.training.mining import HardGround
from darts_xr.training.patches import LABELS, PatchStore
from darts_xr.training.settings import Recipe, StepPrecision

_LOSSES = {
    "focal": smp.losses.FocalLoss,
    "dice": smp.losses.DiceLoss,
    "jaccard": smp.losses.JaccardLoss,
    "lovasz": smp.losses.LovaszLoss,
    "tversky": smp.losses.TverskyLoss,
}
_LEVELS = 200  # thresholds of the curves; exact curves would keep every pixel


def pixel_scores() -> MetricCollection:
    """IoU, F1, precision and recall at 0.5, area under the ROC curve, average precision; ignored pixels left out."""
    given: dict[str, Any] = {"ignore_index": IGNORED}
    return MetricCollection(
        {
            "iou": BinaryJaccardIndex(**given),
            "f1": BinaryF1Score(**given),
            "precision": BinaryPrecision(**given),
            "recall": BinaryRecall(**given),
            "auroc": BinaryAUROC(thresholds=_LEVELS, **given),
            "average_precision": BinaryAveragePrecision(thresholds=_LEVELS, **given),
        }
    )


def scaled_input(planes: dict[str, torch.Tensor], member: Checkpoint) -> torch.Tensor:
    """Make what the network is given, (patch, band, y, x): the same scaling and masking as in prediction."""
    names = member.band_names
    stack = torch.stack([planes[name] for name in names])
    scaled = network_input(stack, names, planes[VALID], member)
    return scaled.transpose(0, 1).contiguous(memory_format=torch.channels_last)


class SlumpLoss(nn.Module):
    """Weighted sum of losses of segmentation-models-pytorch; ignored pixels count in none."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.weights = dict(recipe.loss)
        parts: dict[str, nn.Module] = {}
        for name in self.weights:
            if name == "bce":
                parts[name] = smp.losses.SoftBCEWithLogitsLoss(ignore_index=IGNORED)
            else:
                options = {"gamma": recipe.gamma} if name == "focal" else {}
                parts[name] = _LOSSES[name]("binary", ignore_index=IGNORED, **options)
        self.parts = nn.ModuleDict(parts)

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Loss of logits (patch, 1, y, x) and labels (patch, y, x)."""
        target = labels[:, None].to(logits.dtype)
        if not (labels != IGNORED).any():
            return logits.sum() * 0  # the mean over nothing would be NaN
        return torch.stack([w * self.parts[name](logits, target) for name, w in self.weights.items()]).sum()


class SlumpModule(pl.LightningModule):
    """Network, loss and scores of one member.

    Parameters
    ----------
    network : torch.nn.Module
        As built by ``member.architecture``.
    member : Checkpoint
        Bands and scaling; its file need not exist yet.
    recipe : Recipe
        How to train.
    store : PatchStore
        Where batches come from; names the bands in them.
    steps : int
        Steps of the whole training, for schedules that know their end.
    precision : str
        Of the steps, kept in every state: a training goes on as it began.
    hard : HardGround, optional
        What was mined; see ``Recipe.mine_after``.
    """

    def __init__(
        self,
        network: nn.Module,
        member: Checkpoint,
        recipe: Recipe,
        store: PatchStore,
        *,
        steps: int,
        precision: StepPrecision = "32-true",
        hard: HardGround | None = None,
    ) -> None:
        super().__init__()
        self.steps, self.step_precision = steps, precision
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.member, self.recipe, self.store = member, recipe, store
        self.loss = SlumpLoss(recipe)
        self.hard = hard or HardGround()
        self.augment = Augment(recipe.augmentation)
        self.scores = pixel_scores()
        self.mean_loss = MeanMetric()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits, (patch, 1, y, x)."""
        return self.network(inputs)

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Augment, predict, compare; what is drawn depends on seed, step and rank alone."""
        torch.manual_seed(hash((self.recipe.seed, self.global_step, self.global_rank)) % 2**63)
        planes, labels = planes_of(batch, self.store.layout), batch[LABELS]
        if self.recipe.crop is not None:
            planes, labels = random_crop(planes, labels, self.recipe.crop, self.hard.of(batch["row"]))
        planes, labels, kept = self.augment(planes, labels)
        logits = self(scaled_input(planes, self.member) * kept[:, None])
        loss: torch.Tensor = self.loss(logits.float(), labels)
        if not torch.isfinite(loss):
            raise TrainingError(self._not_finite(batch, float(loss.detach())))
        self.log(
            "train_loss",
            loss,
            on_step=False,
            on_epoch=True,
            batch_size=len(labels),
            prog_bar=True,
            sync_dist=True,
        )
        return loss

    def _not_finite(self, batch: Batch, loss: float) -> str:
        table = self.store.table.iloc[batch["row"].cpu().numpy()]
        places = ", ".join(f"{r.scene} (row {r.row}, column {r.col})" for r in table.itertuples())
        return (
            f"{self.member.name}: the loss is {loss} in epoch {self.current_epoch + 1}, step {self.global_step}, on "
            f"the patches of {places}. The last good state is kept in {self.trainer.default_root_dir}. Look at these "
            "patches for numbers that are no numbers; else lower learning_rate, or set clip."
        )

    def on_validation_epoch_start(self) -> None:
        """Begin the scores of an epoch."""
        self.scores.reset()
        self.mean_loss.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Score a batch in float32, as predictions are made; returns its probabilities, (patch, y, x)."""
        labels = batch[LABELS]
        with torch.autocast(self.device.type, enabled=False):
            logits = self(scaled_input(planes_of(batch, self.store.layout), self.member))
        self.mean_loss.update(self.loss(logits, labels), weight=int((labels != IGNORED).sum()))
        p = torch.sigmoid(logits[:, 0])
        self.scores.update(p, labels.long())
        return p

    def on_validation_epoch_end(self) -> None:
        """Log the scores of an epoch."""
        self.log_dict({f"val_{name}": value for name, value in self.scores.compute().items()}, prog_bar=True)
        self.log("val_loss", self.mean_loss.compute(), prog_bar=True)

    def predict_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Probability of a batch, (patch, y, x) float32, before any mask."""
        with torch.autocast(self.device.type, enabled=False):
            logits = self(scaled_input(planes_of(batch, self.store.layout), self.member))
        return torch.sigmoid(logits[:, 0])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the precision beside the weights."""
        checkpoint["precision"] = self.step_precision

    def configure_optimizers(self) -> Any:
        """Optimiser and schedule of the recipe."""
        r = self.recipe
        kind = torch.optim.Adam if r.optimiser == "adam" else torch.optim.AdamW
        optimiser = kind(self.network.parameters(), lr=r.learning_rate, weight_decay=r.weight_decay)
        if r.schedule == "constant":
            return optimiser
        if r.schedule == "exponential":
            rate: Any = torch.optim.lr_scheduler.ExponentialLR(optimiser, r.decay)
            return {"optimizer": optimiser, "lr_scheduler": {"scheduler": rate, "interval": "epoch"}}
        # Not the trainer's own estimate: asking for it opens the loaders before a resumed training knows its place.
        rate = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, r.learning_rate, total_steps=self.steps, pct_start=0.2
        )
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": rate, "interval": "step"}}
