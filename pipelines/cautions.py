"""What a reader of a run's results must know before relying on them, in one line each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from darts_xr.inference.ensemble import DEMO_CAUTION

#: Share of a scene's valid pixels that a layer must cover for nothing to be said of it.
COVERED = 0.99


def cautions(scenes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines on demo networks, neutral layers, drift and gaps of the auxiliary layers, of finished scenes' records."""
    found = []
    total = len(scenes)
    if demo := sum(bool(scene.get("demo_networks")) for scene in scenes):
        found.append(f"{demo} of {total} scene(s) are not synthetic: {DEMO_CAUTION}")
    for layer in sorted({layer for scene in scenes for layer in scene.get("neutral", ())}):
        count = sum(layer in scene.get("neutral", ()) for scene in scenes)
        found.append(f"{layer} is neutral, not measured, in {count} of {total} scene(s)")
    if unlike := sum(bool(scene.get("drift", {}).get("unusual")) for scene in scenes):
        found.append(f"{unlike} of {total} scene(s) are unlike any that the networks were trained on")
    for layer, shares in auxiliary_coverage(scenes).items():
        if shares["least"] < COVERED:
            found.append(
                f"{layer} covers only {shares['least']:.1%} of the valid pixels of one scene, {shares['mean']:.1%} on "
                "average"
            )
    if unknown := sum(len(scene.get("unknown_rejected", ())) for scene in scenes):
        named = [f"{place} in {s['id']}" for s in scenes for place in s.get("unknown_rejected", ())]
        found.append(
            f"{unknown} rejected detection(s) are not found with the same outline, so nothing was removed for them: "
            f"{', '.join(named[:3])}{', …' if unknown > 3 else ''}"
        )
    return found


def unknown_images(record: Mapping[str, Any]) -> list[str]:
    """Line on images in which reviewers rejected something and that a run does not have, of its ``run.json``."""
    said = record.get("verdicts") or {"rejected": []}
    own = {scene["id"] for part in ("scenes", "left_out") for scene in record.get(part, [])}
    own |= set(record.get("pending", []))
    if absent := sorted({str(image) for image, *_ in said["rejected"]} - own):
        return [
            f"verdicts are of {len(absent)} image(s) that are not in this run: {', '.join(absent[:3])}"
            f"{', …' if len(absent) > 3 else ''}"
        ]
    return []


def auxiliary_coverage(scenes: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Share of valid pixels that each layer covers: the least of the scenes that it was read for, and the mean."""
    shares: dict[str, list[float]] = {}
    for scene in scenes:
        for layer, share in scene.get("auxiliary_coverage", {}).items():
            if layer in scene.get("neutral", ()):
                continue  # filled on purpose, which is a caution of its own
            shares.setdefault(layer, []).append(float(share))
    return {
        layer: {
            "least": round(min(values), 4),
            "mean": round(sum(values) / len(values), 4),
            "scenes": len(values),
        }
        for layer, values in sorted(shares.items())
    }
