"""What a training is asked to do: frozen settings with the paper's values as defaults, read from YAML by name.

The paper is Nitze et al. 2025 (Sci. Data 12:1512); "code" is initze/thaw-slump-segmentation v0.11.0, which trained its
networks, and decides where the paper is silent. ``pipelines/paper_training.yml`` repeats each value with its source.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal, TypeVar, get_args, get_type_hints

from darts_xr.errors import SettingsError
from darts_xr.inference import Architecture

Loss = Literal["focal", "dice", "jaccard", "lovasz", "tversky", "bce"]
StepPrecision = Literal["32-true", "bf16-mixed", "16-mixed"]
Monitor = Literal["iou", "f1", "average_precision", "loss"]
_T = TypeVar("_T")
_STRICT = {"extra": "forbid"}  # what pydantic is told of each class: no entry that nobody reads


@dataclass(frozen=True)
class Patching:
    """How scenes are cut.

    Parameters
    ----------
    side : int
        Side of a patch, pixels; a multiple of the network's stride.
    overlap : float
        Share of the side by which neighbours overlap.
    min_valid : float
        Patches with a smaller share of valid pixels are left out.
    """

    side: int = 1024
    overlap: float = 0.1
    min_valid: float = 0.5

    __pydantic_config__ = _STRICT

    def __post_init__(self) -> None:
        if self.side < 1 or not 0 <= self.overlap < 1 or not 0 <= self.min_valid <= 1:
            raise SettingsError(
                f"a patch needs a side of 1 px or more, an overlap from 0 to under 1 and min_valid from 0 to 1; "
                f"got {self}"
            )

    @property
    def step(self) -> int:
        """Pixels from one patch to the next."""
        return max(1, round(self.side * (1 - self.overlap)))


@dataclass(frozen=True)
class Augmentation:
    """The paper's seven transforms, each drawn for each patch with probability ``p``; 0 or empty turns one off.

    Parameters
    ----------
    p : float
        Probability of each.
    flips, turns : bool
        Mirror left-right and top-bottom; turn by a multiple of 90°. Of everything, labels too.
    blur : tuple of int
        Sides in pixels of box filters, one of which is drawn; image bands.
    brightness : float
        Largest reflectance that is added to or taken from all image bands.
    contrast : float
        Largest relative change of all image bands.
    noise : float
        Largest relative change by multiplicative noise, one factor for all image bands.
    colour : float
        Standard deviation of a relative change of each image band by itself, as sensors and haze make; 0 in the paper.
    holes, hole_side : int
        Cutout: number of square holes, and their side in pixels, within which the input is 0.
    """

    p: float = 0.5
    flips: bool = True
    turns: bool = True
    blur: tuple[int, ...] = (3, 5, 7)
    brightness: float = 0.02
    contrast: float = 0.2
    noise: float = 0.1
    colour: float = 0.0
    holes: int = 8
    hole_side: int = 8

    __pydantic_config__ = _STRICT

    def __post_init__(self) -> None:
        if any(side % 2 == 0 or side < 1 for side in self.blur):
            raise SettingsError(f"augmentation.blur takes odd sides in pixels, got {list(self.blur)}")
        if (
            not 0 <= self.p <= 1
            or min(self.brightness, self.contrast, self.noise, self.colour, self.holes) < 0
        ):
            raise SettingsError(f"augmentation takes p from 0 to 1 and no negative ranges, got {self}")


@dataclass(frozen=True)
class Sampling:
    """Shares of what is drawn in an epoch; kinds that the patches lack are left out.

    Parameters
    ----------
    positive, empty, hard : float
        Share of patches with slumps, of others, and of others in which the network found some; see
        ``Recipe.mine_after``.
    """

    positive: float = 0.5
    empty: float = 0.5
    hard: float = 0.0

    __pydantic_config__ = _STRICT

    def __post_init__(self) -> None:
        if min(self.positive, self.empty, self.hard) < 0 or self.positive + self.empty + self.hard <= 0:
            raise SettingsError(f"sampling takes shares of 0 or more, not all 0; got {self}")


@dataclass(frozen=True)
class Crop:
    """The part of each patch that a step sees, drawn anew each time.

    Parameters
    ----------
    side : int
        Side, pixels; a multiple of the network's stride, at most the side of a patch.
    hard : float
        Share that is drawn around ground without slumps in which the network found some, in patches that have such;
        see ``Recipe.mine_after``.
    anywhere : float
        Share that is drawn anywhere in the patch; so is all that has nothing to be drawn around.

    Notes
    -----
    What is left to 1 is drawn around a slump pixel.
    """

    side: int
    hard: float = 0.0
    anywhere: float = 0.0

    __pydantic_config__ = _STRICT

    def __post_init__(self) -> None:
        if self.side < 1 or min(self.hard, self.anywhere) < 0 or self.hard + self.anywhere > 1:
            raise SettingsError(
                f"crop takes a side of 1 px or more and shares of 0 or more that sum to 1 at most, got {self}"
            )


@dataclass(frozen=True)
class Start:
    """Where a network's first weights come from; nothing given: at random.

    Parameters
    ----------
    encoder : str, optional
        File with weights of the encoder alone, such as ImageNet's, three bands (red, green, blue).
    checkpoint : str, optional
        Checkpoint that :func:`darts_xr.inference.read_checkpoint` reads; bands may differ.
    member : str, optional
        Another member of the same configuration that is trained before.
    """

    encoder: str | None = None
    checkpoint: str | None = None
    member: str | None = None

    __pydantic_config__ = _STRICT

    def __post_init__(self) -> None:
        if sum(given is not None for given in (self.encoder, self.checkpoint, self.member)) > 1:
            raise SettingsError("start takes one of encoder, checkpoint and member")


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Parameters
    ----------
    epochs, batch : int
        Passes, and patches in a step on each device.
    patches_per_epoch : int, optional
        Patches drawn in an epoch; by default each patch eight times, as the code did.
    sampling : Sampling, optional
        Shares of what is drawn; by default every patch as often as any other.
    crop : Crop, optional
        The part of each patch that a step sees. By default the whole patch, which is also what validation sees.
    mine_after : float, optional
        Share of the epochs after which the network looks through all patches for ground without slumps in which it
        finds some, for the shares called ``hard`` in ``sampling`` and ``crop``. By default it never does.
    loss : dict
        Losses of segmentation-models-pytorch and their weights.
    gamma : float
        Exponent of the focal loss.
    optimiser, learning_rate, weight_decay
        ``"adam"`` or ``"adamw"`` and its values; the rate is the largest of the schedule.
    schedule : {"exponential", "one-cycle", "constant"}
        ``"exponential"`` multiplies the rate by ``decay`` after each epoch.
    decay : float
        See ``schedule``.
    precision : {"32-true", "bf16-mixed", "16-mixed"}
        Of the training steps; validation is in float32 always. A CPU that has no bfloat16 trains in float32, and says
        so.
    clip : float, optional
        Largest norm of the gradients.
    patience : int, optional
        Epochs without improvement before it stops.
    monitor : {"iou", "f1", "average_precision", "loss"}
        Score of the validation patches by which the best epoch is chosen.
    seed : int
        Seed of weights, draws and augmentation.
    workers : int
        Processes that read patches; 0: this process.
    keep_every : int
        Steps between states from which a killed training goes on.
    augmentation : Augmentation
        See there.
    """

    epochs: int = 50
    batch: int = 4
    patches_per_epoch: int | None = None
    sampling: Sampling | None = None
    crop: Crop | None = None
    mine_after: float | None = None
    loss: dict[Loss, float] = field(default_factory=lambda: {"focal": 1.0}, hash=False)
    gamma: float = 2.0
    optimiser: Literal["adam", "adamw"] = "adam"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    schedule: Literal["exponential", "one-cycle", "constant"] = "exponential"
    decay: float = 0.9
    precision: StepPrecision = "32-true"
    clip: float | None = None
    patience: int | None = None
    monitor: Monitor = "iou"
    seed: int = 0
    workers: int = 0
    keep_every: int = 100
    augmentation: Augmentation = field(default_factory=Augmentation)

    __pydantic_config__ = _STRICT

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "keep_every"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} must be 1 or more, got {getattr(self, name)}")
        if self.patches_per_epoch is not None and self.patches_per_epoch < self.batch:
            raise SettingsError(
                f"patches_per_epoch is {self.patches_per_epoch}, less than one batch of {self.batch}"
            )
        if self.mine_after is not None and not 0 < self.mine_after < 1:
            raise SettingsError(
                f"mine_after must be a share of the epochs between 0 and 1, got {self.mine_after}"
            )
        if self.mine_after is not None and self.epochs < 2:
            raise SettingsError("mine_after needs 2 epochs or more: one to learn, one with what was found")
        hard = max(self.crop.hard if self.crop else 0.0, self.sampling.hard if self.sampling else 0.0)
        if (self.mine_after is None) != (hard == 0):
            raise SettingsError(
                "hard ground is looked for if mine_after says when, and drawn if sampling.hard or crop.hard give it a "
                f"share; got mine_after {self.mine_after} and shares of at most {hard}"
            )
        if not self.learning_rate > 0:
            raise SettingsError(f"learning_rate must be above 0, got {self.learning_rate}")
        if not self.loss or min(self.loss.values()) < 0:
            raise SettingsError(f"loss takes one or more of {get_args(Loss)} with weights of 0 or more")


@dataclass(frozen=True)
class Design:
    """The network of a member; see :class:`darts_xr.inference.Architecture`."""

    name: str = "UnetPlusPlus"
    encoder: str = "resnet34"
    depth: int = 5
    decoder_channels: tuple[int, ...] = (256, 128, 64, 32, 16)
    options: dict[str, Any] = field(default_factory=dict, hash=False)

    __pydantic_config__ = _STRICT

    def architecture(self, in_channels: int) -> Architecture:
        """Architecture for so many bands."""
        return Architecture(
            self.name, self.encoder, self.depth, self.decoder_channels, in_channels, dict(self.options)
        )


def read_settings(kind: type[_T], values: Mapping[str, Any], where: str) -> _T:
    """Read settings from what a YAML file held.

    Parameters
    ----------
    kind : type
        A dataclass of settings.
    values : mapping
        Plain values; nested mappings for nested settings.
    where : str
        What messages call the file.

    Returns
    -------
    instance of ``kind``

    Raises
    ------
    SettingsError
        An entry anywhere is unknown, missing, of another type or out of range; the message gives its path.

    Examples
    --------
    >>> read_settings(Patching, {"side": 256}, "config.yml").step
    230
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_python(dict(values))
    except ValidationError as error:
        problems = [_problem(kind, problem["loc"], problem) for problem in error.errors()]
    raise SettingsError(f"{where}: " + "; ".join(problems))


def _problem(kind: Any, place: tuple[int | str, ...], problem: Any) -> str:
    path = ".".join(str(part) for part in place) or "the configuration"
    if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        known = _known(kind, place[:-1])
        return f"{path} is unknown" + (f"; known are {', '.join(known)}" if known else "")
    if problem["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"{path} is missing"
    return f"{path}: {problem['msg']}, got {problem['input']!r:.80}"


def _known(kind: Any, place: tuple[int | str, ...]) -> list[str]:
    """Entries that settings take at a place, as far as the path can be followed through the types."""
    for part in place:
        kind = _without_none(kind)
        if is_dataclass(kind):
            kind = get_type_hints(kind).get(str(part))
        else:  # names to settings, or a sequence of them
            held = [option for option in get_args(kind) if option is not Ellipsis]
            kind = held[-1] if held else None
    kind = _without_none(kind)
    return [item.name for item in fields(kind)] if is_dataclass(kind) else []


def _without_none(kind: Any) -> Any:
    """Take the None from what may be left out."""
    options = get_args(kind)
    return next(o for o in options if o is not type(None)) if type(None) in options else kind
