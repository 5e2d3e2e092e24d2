"""Model cards: what a network learnt, how good it was on what it had not seen, and where not to trust it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from darts_xr.cube.bands import BANDS, Band
from darts_xr.inference import Checkpoint
from darts_xr.training.judging import Judgement

_SYNTHETIC = (
    "Trained on **synthetic** scenes only: it shows that the machinery works and knows nothing of real ones."
)
_ALWAYS = (
    "Scores are of pixels and patches held out from the same label set; other regions, seasons and sensors can be much "
    "worse. `darts_xr.inference.drift.scene_drift` tells scenes unlike those of the training.",
    "Calibration holds for ground like that of the validation patches.",
    "Masked pixels were in neither loss nor scores.",
)


def member_card(member: Checkpoint, judgement: Judgement | None) -> str:
    """Card of one network for its checkpoint's header: facts and scores, without the hash of the file it stands in.

    Parameters
    ----------
    member : Checkpoint
        Its description; the file need not exist yet.
    judgement : Judgement, optional
        Of the validation patches.

    Returns
    -------
    str
        Markdown.
    """
    t = member.training
    recipe = t.get("recipe", {})
    facts = {
        "Network": f"{member.architecture.name}/{member.architecture.encoder}, depth {member.architecture.depth}",
        "Bands": ", ".join(member.band_names),
        "Scales of the bands": _scales(member.bands),
        "Labels": f"{t.get('dataset', 'unnamed')}, version {t.get('version', 'unknown')}",
        "Regions": ", ".join(t.get("regions", [])) or "unknown",
        "Training data": _data(t.get("train")),
        "Validation data": _data(t.get("validation")),
        "First weights": t.get("start", "unknown"),
        "Seed": recipe.get("seed", "unknown"),
        "Epochs": f"{t.get('chosen_epoch', '?')} chosen of {recipe.get('epochs', '?')}",
        "Precision of the steps": t.get("precision", recipe.get("precision", "unknown")),
        "Loss": ", ".join(f"{weight:g} × {name}" for name, weight in recipe.get("loss", {}).items()),
        "Temperature": "none" if member.temperature is None else f"{member.temperature:.3f}",
        "Licence": member.licence,
        "torch": t.get("torch", "unknown"),
    }
    lines = [f"## {member.name}", "", *_rows(facts)]
    if judgement is not None:
        names = (member.name,)
        lines += ["", *_scored(judgement, names), "", _calibrated(judgement, member)]
    return "\n".join(lines)


def ensemble_card(
    members: Sequence[Checkpoint],
    judgement: Judgement | None,
    *,
    match: Mapping[str, Any] | None = None,
    objects: pd.DataFrame | None = None,
    limits: Sequence[str] = (),
) -> str:
    """Card of an ensemble.

    Parameters
    ----------
    members : sequence of Checkpoint
        From their files, whose hashes it names.
    judgement : Judgement, optional
        Of the validation patches.
    match : mapping, optional
        Counts of the match report of the labels.
    objects : pandas.DataFrame, optional
        Object scores of the validation scenes.
    limits : sequence of str
        What a user must know beside what always holds.

    Returns
    -------
    str
        Markdown.

    Examples
    --------
    >>> print(ensemble_card(load_ensemble("demo").members, None))  # doctest: +SKIP
    """
    synthetic = any(m.training.get("synthetic") for m in members)
    lines = [f"# Model card: {'+'.join(m.name for m in members)}", ""]
    if synthetic:
        lines += [_SYNTHETIC, ""]
    lines += ["| member | SHA-256 |", "|---|---|", *(f"| {m.name} | `{m.sha256}` |" for m in members)]
    if match:
        lines += ["", "## Labels", "", *_rows({key.replace("_", " "): value for key, value in match.items()})]
    if judgement is not None:
        best = judgement.table().reset_index()
        lines += ["", "## Members, pairs and mean (validation pixels)", "", *_markdown(best)]
        everyone = tuple(m.name for m in members)
        if len(everyone) > 1:
            lines += ["", *_scored(judgement, everyone)]
    if objects is not None and len(objects):
        lines += [
            "",
            "## Objects (validation scenes, any overlap counts)",
            "",
            *_markdown(objects.reset_index()),
        ]
    lines += ["", *(f"\n{m.training['card']}" for m in members if m.training.get("card"))]
    lines += ["", "## Limits", "", *(f"* {line}" for line in (*limits, *_ALWAYS))]
    return "\n".join(lines) + "\n"


def _scales(bands: Sequence[Band]) -> str:
    """Say what a network is given of each band's value where that is not what the published ones are given."""
    own = [
        band
        for band in bands
        if band.name not in BANDS
        or (band.offset, band.divisor, band.clip)
        != (BANDS[band.name].offset, BANDS[band.name].divisor, BANDS[band.name].clip)
    ]
    texts = [f"({band.name} {band.offset:+.4g}) / {band.divisor:.4g}" for band in own]
    return ", ".join(texts) or "as published"


def _data(described: Any) -> str:
    if not isinstance(described, Mapping):
        return "none" if described is None else str(described)
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in described.items())


def _rows(facts: Mapping[str, Any]) -> list[str]:
    return ["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in facts.items())]


def _markdown(frame: pd.DataFrame) -> list[str]:
    def shown(value: Any) -> str:
        return f"{value:.3f}" if isinstance(value, float) else str(value)

    head = [f"| {' | '.join(map(str, frame.columns))} |", "|" + "---|" * len(frame.columns)]
    return head + [f"| {' | '.join(map(shown, row))} |" for row in frame.itertuples(index=False)]


def _scored(judgement: Judgement, names: tuple[str, ...]) -> list[str]:
    scores, interval = judgement.at(names, 0.5), judgement.interval(names)
    rows = [
        f"| {key} | {value:.3f} | {interval[key][0]:.3f} to {interval[key][1]:.3f} |"
        for key, value in scores.items()
    ]
    return [
        f"| {'+'.join(names)}, threshold 0.5 | pixels | 95 % interval over patches |",
        "|---|---|---|",
        *rows,
    ]


def _calibrated(judgement: Judgement, member: Checkpoint) -> str:
    before = judgement.calibration_error((member.name,))
    if member.temperature is None:
        return f"Expected calibration error {before:.4f}; no temperature was fitted."
    after = judgement.calibration_error((member.name,), temperature=member.temperature)
    return f"Expected calibration error {before:.4f}, with the temperature {after:.4f}."
