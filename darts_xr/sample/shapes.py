"""Outlines of the synthetic world's features: blobs around a centre and bands along a line."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

Array = NDArray[np.floating]


@dataclass(frozen=True)
class Blob:
    """An ellipse with a wavy rim.

    Parameters
    ----------
    x, y : float
        Centre, metres.
    length, width : float
        Full axes, metres; ``length`` runs along ``heading``.
    heading : float
        Direction of the long axis, radians anticlockwise from east.
    waves : tuple of (int, float, float)
        Order, amplitude (share of the radius) and phase of each wave on the rim.
    """

    x: float
    y: float
    length: float
    width: float
    heading: float
    waves: tuple[tuple[int, float, float], ...] = ()

    @property
    def reach(self) -> float:
        """Radius of a circle around the centre that holds the blob, metres."""
        return 0.5 * max(self.length, self.width) * (1 + sum(abs(a) for _, a, _ in self.waves))

    @property
    def area(self) -> float:
        """Area inside the rim, square metres."""
        return np.pi / 4 * self.length * self.width * (1 + 0.5 * sum(a * a for _, a, _ in self.waves))

    def scaled_to(self, area: float) -> Blob:
        """Return the same shape with another area."""
        f = float(np.sqrt(area / self.area))
        return Blob(self.x, self.y, self.length * f, self.width * f, self.heading, self.waves)

    def local(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Coordinates along and across the long axis, metres from the centre."""
        c, s = np.cos(self.heading), np.sin(self.heading)
        dx, dy = x - self.x, y - self.y
        return dx * c + dy * s, dy * c - dx * s

    def depth(self, x: Array, y: Array) -> Array:
        """Signed distance to the rim to first order, metres, positive inside."""
        u, v = self.local(x, y)
        a, b = self.length / 2, self.width / 2
        rho = np.hypot(u / a, v / b) + 1e-9
        theta = np.arctan2(v / b, u / a)
        rim = np.ones_like(rho)
        for order, amplitude, phase in self.waves:
            rim += amplitude * np.cos(order * theta + phase)
        gradient = np.hypot(u / a**2, v / b**2) / rho + 1e-9
        return (rim - rho) / gradient

    def polygon(self, vertices: int = 120) -> shapely.Polygon:
        """Return the rim as a polygon in the blob's own coordinates' CRS."""
        theta = np.linspace(0, 2 * np.pi, vertices, endpoint=False)
        rim = np.ones_like(theta)
        for order, amplitude, phase in self.waves:
            rim += amplitude * np.cos(order * theta + phase)
        u, v = rim * self.length / 2 * np.cos(theta), rim * self.width / 2 * np.sin(theta)
        c, s = np.cos(self.heading), np.sin(self.heading)
        return shapely.Polygon(np.column_stack([self.x + u * c - v * s, self.y + u * s + v * c]))


@dataclass(frozen=True)
class Band:
    """A strip of constant width along a line, such as a road."""

    points: tuple[tuple[float, float], ...]
    width: float

    def depth(self, x: Array, y: Array) -> Array:
        """Signed distance to the edge, metres, positive inside."""
        distance = np.full(np.broadcast(x, y).shape, np.inf)
        for (x0, y0), (x1, y1) in zip(self.points[:-1], self.points[1:], strict=True):
            dx, dy = x1 - x0, y1 - y0
            t = np.clip(((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy), 0, 1)
            np.minimum(distance, np.hypot(x - x0 - t * dx, y - y0 - t * dy), out=distance)
        return self.width / 2 - distance

    def polygon(self) -> shapely.Polygon:
        """Return the strip as a polygon."""
        return shapely.LineString(self.points).buffer(self.width / 2)


def random_blob(
    rng: np.random.Generator,
    x: float,
    y: float,
    area: float,
    *,
    elongation: float,
    heading: float,
    waviness: float,
) -> Blob:
    """Return a blob of the given area with random waves of orders 2 to 12 on its rim."""
    waves = tuple(
        (k, float(waviness * rng.normal() / k**0.9), float(rng.uniform(0, 2 * np.pi))) for k in range(2, 13)
    )
    total = sum(abs(a) for _, a, _ in waves)
    if total > 0.75:  # a rim that folds onto its centre is no outline
        waves = tuple((k, a * 0.75 / total, p) for k, a, p in waves)
    return Blob(x, y, float(np.sqrt(elongation)), float(1 / np.sqrt(elongation)), heading, waves).scaled_to(
        area
    )
