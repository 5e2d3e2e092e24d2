"""Small drawings as SVG, for pages that must hold everything themselves."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_COLOURS = ("#0b6bcb", "#d1480f", "#1b7f4d", "#7a5195")
_STATES = {"true": "#1b7f4d", "found": "#7fc7a0", "false": "#d1480f", "missed": "#7a5195"}
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 420, 290, 46, 34, 30


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Parameters
    ----------
    name : str
        What the legend calls it.
    x, y : numpy.ndarray
        Points; NaN breaks the line.
    """

    name: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]


def _ticks(low: float, high: float) -> list[float]:
    """Give some four to six round numbers of a range."""
    if not high > low:
        return [low]
    power = 10 ** math.floor(math.log10((high - low) / 4))
    step = next(power * m for m in (1, 2, 5, 10) if (high - low) / (power * m) <= 6)
    return [
        round(step * i, 10) for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    ]


def chart(title: str, lines: Sequence[Line]) -> str:
    """Draw lines over a common axis; y starts at 0 and reaches 1 at least.

    Parameters
    ----------
    title : str
        Heading.
    lines : sequence of Line
        At least one.

    Returns
    -------
    str
        An SVG element.

    Examples
    --------
    >>> chart("F1", [Line("f1", np.array([0.0, 1.0]), np.array([0.2, 0.4]))]).startswith("<svg")
    True
    """
    xs = np.concatenate([line.x for line in lines])
    ys = np.concatenate([line.y for line in lines])
    low, high = float(np.nanmin(xs)), float(np.nanmax(xs))
    top = max(1.0, float(np.nanmax(ys)) if np.isfinite(ys).any() else 1.0)
    wide, tall = _WIDTH - _LEFT - 12, _HEIGHT - _BOTTOM - _TOP

    def at(x: float, y: float) -> tuple[float, float]:
        return _LEFT + (x - low) / ((high - low) or 1) * wide, _TOP + (1 - y / top) * tall

    parts = [f"<text x='{_LEFT}' y='14' font-weight='600'>{html.escape(title)}</text>"]
    for tick in _ticks(0, top):
        y = at(low, tick)[1]
        parts.append(f"<line x1='{_LEFT}' x2='{_WIDTH - 12}' y1='{y:.1f}' y2='{y:.1f}' stroke='#e2e6eb'/>")
        parts.append(f"<text x='{_LEFT - 6}' y='{y + 4:.1f}' text-anchor='end'>{tick:g}</text>")
    for tick in _ticks(low, high):
        x = at(tick, 0)[0]
        parts.append(f"<text x='{x:.1f}' y='{_HEIGHT - _BOTTOM + 18}' text-anchor='middle'>{tick:g}</text>")
    for number, line in enumerate(lines):
        colour = _COLOURS[number % len(_COLOURS)]
        points = " ".join(
            f"{x:.1f},{y:.1f}"
            for x, y in (at(*p) for p in zip(line.x, line.y, strict=True) if np.isfinite(p).all())
        )
        parts.append(f"<polyline points='{points}' fill='none' stroke='{colour}' stroke-width='2'/>")
        parts.append(
            f"<text x='{_LEFT + 8 + 90 * number}' y='{_HEIGHT - 2}' fill='{colour}'>{html.escape(line.name)}</text>"
        )
    return _svg(_WIDTH, _HEIGHT, parts, title)


def hits_map(points: Mapping[str, NDArray[np.float64]], outline: Sequence[NDArray[np.float64]]) -> str:
    """Draw objects by what became of them, on the coverage.

    Parameters
    ----------
    points : mapping of str to numpy.ndarray
        By state (``true``, ``found``, ``false``, ``missed``), (n, 2) in a projection.
    outline : sequence of numpy.ndarray
        Rings of the coverage, (n, 2) in the same.

    Returns
    -------
    str
        An SVG element, or a sentence where there is nothing to draw.

    Examples
    --------
    >>> hits_map({"true": np.empty((0, 2))}, [])
    '<p>Nothing was scored.</p>'
    """
    everything = np.concatenate([*points.values(), *outline]) if points else np.empty((0, 2))
    if not len(everything):
        return "<p>Nothing was scored.</p>"
    west, south = everything.min(axis=0)
    east, north = everything.max(axis=0)
    reach = max(east - west, north - south, 1.0)
    side, margin = 640.0, 14.0
    scale = (side - 2 * margin) / reach
    height = (north - south) * scale + 2 * margin + 26

    def at(xy: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.column_stack([(xy[:, 0] - west) * scale + margin, (north - xy[:, 1]) * scale + margin])

    parts = []
    for ring in outline:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in at(ring))
        parts.append(f"<polygon points='{path}' fill='#eef1f4' stroke='#b8c1cc'/>")
    for number, (state, xy) in enumerate(points.items()):
        colour, radius = _STATES[state], 4.5 if state in ("found", "missed") else 2.6
        parts += [f"<circle cx='{x:.1f}' cy='{y:.1f}' r='{radius}' fill='{colour}'/>" for x, y in at(xy)]
        left = margin + 150 * number
        parts.append(f"<circle cx='{left}' cy='{height - 10:.1f}' r='{radius}' fill='{colour}'/>")
        parts.append(f"<text x='{left + 10}' y='{height - 6:.1f}'>{state}: {len(xy):,}</text>")
    return _svg(side, height, parts, "hits and misses")


def bars(title: str, rows: Sequence[tuple[str, float, str]]) -> str:
    """Draw bars from the left, one below the other.

    Parameters
    ----------
    title : str
        Heading.
    rows : sequence of tuple
        Name, length (0 or more) and what is written beside it.

    Returns
    -------
    str
        An SVG element.

    Examples
    --------
    >>> bars("Removed", [("in water", 3, "3"), ("too small", 1, "1")]).count("<rect")
    2
    """
    name, step = 170, 26
    longest = max((length for _, length, _ in rows), default=0) or 1
    parts = [f"<text x='0' y='14' font-weight='600'>{html.escape(title)}</text>"]
    for number, (label, length, told) in enumerate(rows):
        y, wide = 26 + number * step, max(1.0, length / longest * 250)
        parts.append(f"<text x='{name - 8}' y='{y + 14}' text-anchor='end'>{html.escape(label)}</text>")
        parts.append(f"<rect x='{name}' y='{y}' width='{wide:.1f}' height='18' fill='{_COLOURS[0]}'/>")
        parts.append(f"<text x='{name + wide + 6:.1f}' y='{y + 14}'>{html.escape(told)}</text>")
    return _svg(600, 30 + len(rows) * step, parts, title)


def _svg(width: float, height: float, parts: Sequence[str], label: str) -> str:
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width:.0f} {height:.0f}' width='{width:.0f}' "
        f"role='img' aria-label='{html.escape(label)}' font-family='system-ui,sans-serif' font-size='12'>"
        f"{''.join(parts)}</svg>"
    )
