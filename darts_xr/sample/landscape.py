"""The synthetic landscape: relief, water, slumps and the things that look like slumps, from one seed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy import ndimage

from darts_xr.sample.noise import FloatArray, fractal_noise, smooth_noise
from darts_xr.sample.shapes import Band, Blob, random_blob

DEM_YEAR = 2016.5
TREND_YEAR = 2019.6
REFERENCE_YEAR = 2023.6  # outlines have their full size in late summer 2023
MIN_OUTLINE_AREA = 600.0  # m²; smaller slumps (one label in twenty) are neither drawn nor part of the truth
_GRID_STEP = 12.0  # m, the coarse grid on which features find their places


@dataclass(frozen=True)
class Ground:
    """What kind of land it is.

    Parameters
    ----------
    shrubs, moss, barren : float
        Added to the logarithm of the share of each surface.
    brightness : float
        Factor on the reflectance of all of them.
    relief : float
        Factor on the height of the hills.
    new_slumps : float
        Share of the slumps that opened after elevation and trends were measured, between first and second summer.
    """

    shrubs: float = 0.0
    moss: float = 0.0
    barren: float = 0.0
    brightness: float = 1.0
    relief: float = 1.0
    new_slumps: float = 0.06


#: Kinds of land that a world can have. The first is calibrated on real data (docs/sample-world.md), the second is the
#: first with more slumps that opened late, to learn from; the others are made up to be unlike it, for tests of what a
#: network does on land that it has not seen.
GROUNDS = {
    "tundra": Ground(),
    "young_tundra": Ground(new_slumps=0.15),
    "polar_desert": Ground(shrubs=-2.5, moss=-1.0, barren=3.0, brightness=1.15, relief=1.3),
    "shrubland": Ground(shrubs=2.0, moss=1.0, barren=-2.0, brightness=0.8, relief=0.8),
}


@dataclass(frozen=True)
class Slump:
    """An active thaw slump: bare scar, headwall at its upper end, growing upslope.

    Parameters
    ----------
    outline : Blob
        Outline at the reference year; its long axis points upslope.
    onset : float
        Year in which it started.
    retreat : float
        Share of the length that the headwall gains a year.
    scar_depth : float
        Height of the headwall, metres.
    red_ratio, ndvi, vegetated : float
        Brightness of the bare floor against its surround, its NDVI, and the share that is overgrown.
    """

    outline: Blob
    onset: float
    retreat: float
    scar_depth: float
    red_ratio: float
    ndvi: float
    vegetated: float

    def at(self, year: float) -> Blob | None:
        """Outline at a date; None before the onset and while it is too small to be drawn."""
        if year < self.onset:
            return None
        growth = max(0.3, 1 - self.retreat * (REFERENCE_YEAR - year))
        full = self.outline
        back = 0.5 * full.length * (1 - growth)  # the lower edge stays where it is
        blob = Blob(
            full.x - back * float(np.cos(full.heading)),
            full.y - back * float(np.sin(full.heading)),
            full.length * growth,
            full.width * growth**0.5,
            full.heading,
            full.waves,
        )
        return blob if blob.area >= MIN_OUTLINE_AREA else None


@dataclass(frozen=True)
class Surface:
    """A patch of other ground: a rock outcrop, a pond, a pad, a burn, a drained lake or an overgrown old scar."""

    outline: Blob
    red_ratio: float = 1.0
    ndvi: float = 0.1
    relief: float = 0.0  # m, bump (positive) or scar (negative)


@dataclass(frozen=True)
class Lake:
    """A lake with a level surface and banks."""

    outline: Blob
    level: float
    bank: float


def smoothstep(t: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return 0 below 0, 1 above 1 and a smooth rise between."""
    t = np.clip(t, 0, 1)
    return t * t * (3 - 2 * t)


def feature_window(
    blob: Blob, x: NDArray[np.floating], y: NDArray[np.floating], margin: float
) -> tuple[slice, slice] | None:
    """Rows and columns of the grid within reach of a blob; None where the grid misses it.

    ``x`` and ``y`` are (1, w) and (h, 1), or both (h, w).
    """
    r = blob.reach + margin
    near_x, near_y = np.abs(x - blob.x) < r, np.abs(y - blob.y) < r
    if x.shape[0] == 1:
        rows, cols = np.flatnonzero(near_y[:, 0]), np.flatnonzero(near_x[0])
    else:
        near = near_x & near_y
        rows, cols = np.flatnonzero(near.any(axis=1)), np.flatnonzero(near.any(axis=0))
    if rows.size == 0 or cols.size == 0:
        return None
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(cols[0]), int(cols[-1]) + 1)


def cut(
    x: NDArray[np.floating], y: NDArray[np.floating], window: tuple[slice, slice]
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Coordinates of a window of the grid."""
    rows, cols = window
    if x.shape[0] == 1:
        return x[:, cols], y[rows]
    return x[rows, cols], y[rows, cols]


@dataclass
class Landscape:
    """All that does not depend on the image: relief and features of one site.

    Parameters
    ----------
    seed : int
        Seed of the world.
    bounds : tuple of float
        West, south, east, north of the site in its UTM zone, metres.
    ground : Ground
        Kind of land.
    """

    seed: int
    bounds: tuple[float, float, float, float]
    ground: Ground = field(default_factory=Ground)
    lakes: list[Lake] = field(default_factory=list)
    slumps: list[Slump] = field(default_factory=list)
    old_scars: list[Surface] = field(default_factory=list)
    rocks: list[Surface] = field(default_factory=list)
    ponds: list[Surface] = field(default_factory=list)
    pads: list[Surface] = field(default_factory=list)
    burns: list[Surface] = field(default_factory=list)
    disturbances: list[Surface] = field(default_factory=list)
    roads: list[Band] = field(default_factory=list)

    def __post_init__(self) -> None:
        west, south, east, north = self.bounds
        rng = np.random.default_rng([self.seed, round(west), round(south)])
        self._sea_heading = float(rng.uniform(0, 2 * np.pi))
        extent = max(east - west, north - south)
        self._sea_offset = -float(rng.uniform(0.36, 0.44)) * extent
        _place_features(self, rng)

    def shore_distance(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> FloatArray:
        """Distance from the sea on the grid of ``y`` by ``x``, metres, negative offshore."""
        west, south, east, north = self.bounds
        c, s = np.cos(self._sea_heading), np.sin(self._sea_heading)
        plane = (x[None] - (west + east) / 2) * c + (y[:, None] - (south + north) / 2) * s - self._sea_offset
        return plane.astype(np.float32) + 45 * fractal_noise(x, y, (420, 160, 60), self.seed + 11)

    def valley(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> FloatArray:
        """Field whose zero line is the river: small numbers are valley floor."""
        return smooth_noise(x, y, 2200, self.seed + 21)

    def relief(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> FloatArray:
        """Height without features, metres, on the grid of ``y`` by ``x`` (aligned with the site's UTM zone)."""
        height = 75 + 24 * self.ground.relief * fractal_noise(
            x, y, (1500, 750, 375, 190, 95, 48), self.seed + 1, roughness=0.52
        )
        height -= 40 * np.exp(-((self.valley(x, y) / 0.22) ** 2))
        height = 1 + 4 * np.logaddexp(0, height / 4)
        shore = self.shore_distance(x, y)
        return (height * (1 - np.exp(-np.maximum(shore, 0) / 140))).astype(np.float32)

    def add_features(
        self,
        height: FloatArray,
        x: NDArray[np.floating],
        y: NDArray[np.floating],
        year: float,
        *,
        slumps: bool = True,
    ) -> FloatArray:
        """Press lakes, scars and knobs into the relief; ``x`` and ``y`` broadcast to its shape."""
        for lake in self.lakes:
            window = feature_window(lake.outline, x, y, lake.bank)
            if window is not None:
                outside = -lake.outline.depth(*cut(x, y, window))
                blend = smoothstep(outside / lake.bank)
                height[window] = lake.level + (height[window] - lake.level) * blend
        for surface in (*self.rocks, *self.old_scars, *self.pads):
            window = feature_window(surface.outline, x, y, 4)
            if window is not None and surface.relief:
                height[window] += surface.relief * smoothstep(surface.outline.depth(*cut(x, y, window)) / 10)
        for slump in self.slumps if slumps else ():
            blob = slump.at(year)
            window = None if blob is None else feature_window(blob, x, y, 4)
            if blob is not None and window is not None:
                wx, wy = cut(x, y, window)
                along = np.clip(blob.local(wx, wy)[0] / blob.length + 0.5, 0, 1) ** 0.7
                wall = smoothstep(blob.depth(wx, wy) / min(6.0, blob.width / 4))
                height[window] -= slump.scar_depth * along * wall
        return height

    def elevation(
        self, x: NDArray[np.float64], y: NDArray[np.float64], year: float, *, slumps: bool = True
    ) -> FloatArray:
        """Height in metres on the grid of ``y`` by ``x`` at a date; the sea is at 0."""
        return self.add_features(self.relief(x, y), x[None], y[:, None], year, slumps=slumps)

    def water(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> FloatArray:
        """Share of open water (sea, lakes, river) in each cell, 0 to 1, rims smoothed over one cell."""
        cell = abs(float(x[1] - x[0]))
        share = np.clip(0.5 - self.shore_distance(x, y) / cell, 0, 1)
        # The river is where the valley field is near zero; dividing by its usual slope makes metres of it.
        river = (0.011 - np.abs(self.valley(x, y))) * 1500
        np.maximum(share, np.clip(0.5 + river / cell, 0, 1), out=share)
        for lake in self.lakes:
            window = feature_window(lake.outline, x[None], y[:, None], cell)
            if window is not None:
                depth = lake.outline.depth(*cut(x[None], y[:, None], window))
                share[window] = np.maximum(share[window], np.clip(0.5 + depth / cell, 0, 1))
        return share.astype(np.float32)

    def truth(self, year: float) -> list[shapely.Polygon]:
        """Outlines of the active slumps at a date, in the site's UTM zone."""
        blobs = (slump.at(year) for slump in self.slumps)
        return [blob.polygon() for blob in blobs if blob is not None]


class _Site:
    """The coarse grid on which features find places that suit them and are still free."""

    def __init__(self, land: Landscape, rng: np.random.Generator) -> None:
        west, south, east, north = land.bounds
        self.rng = rng
        self.x = np.arange(west + _GRID_STEP / 2, east, _GRID_STEP)
        self.y = np.arange(north - _GRID_STEP / 2, south, -_GRID_STEP)
        self.taken: list[shapely.Polygon] = []
        self.survey(land)

    def survey(self, land: Landscape) -> None:
        """Read slope, aspect and water off the land as it is now."""
        height = land.elevation(self.x, self.y, DEM_YEAR, slumps=False)
        gy, gx = np.gradient(ndimage.gaussian_filter(height, 1.5), -_GRID_STEP, _GRID_STEP)
        self.slope = np.degrees(np.arctan(np.hypot(gx, gy)))
        self.uphill = np.arctan2(gy, gx)
        self.wet = land.water(self.x, self.y) > 0.02
        self.from_water = (
            ndimage.distance_transform_edt(~self.wet) * _GRID_STEP
            if self.wet.any()
            else np.full(self.wet.shape, 1e6)
        )
        self.local_height = height - ndimage.uniform_filter(height, 31)

    def pick(self, weight: NDArray[np.floating]) -> tuple[int, int] | None:
        """Return a random cell, likelier where the weight is higher; None where all weights are 0."""
        total = weight.sum()
        if total <= 0:
            return None
        k = int(self.rng.choice(weight.size, p=(weight / total).ravel()))
        return divmod(k, weight.shape[1])

    def free(self, polygon: shapely.Polygon, gap: float, *, dry: bool = True) -> bool:
        """Whether a polygon keeps its distance from all others, lies inside the site and, if asked, on land."""
        px, py = shapely.get_coordinates(polygon).T
        j = np.floor((px - self.x[0]) / _GRID_STEP + 0.5).astype(int)
        i = np.floor((self.y[0] - py) / _GRID_STEP + 0.5).astype(int)
        if j.min() < 0 or i.min() < 0 or j.max() >= self.x.size or i.max() >= self.y.size:
            return False
        if dry and self.wet[i, j].any():
            return False
        grown = polygon.buffer(gap)
        return not any(grown.intersects(other) for other in self.taken)


def _lognormal_areas(
    rng: np.random.Generator, n: int, median: float, sigma: float, low: float, high: float
) -> list[float]:
    """Areas in m², largest first so that the large ones still find room."""
    areas: list[float] = []
    while len(areas) < n:
        area = float(median * np.exp(sigma * rng.normal()))
        if low <= area <= high:
            areas.append(area)
    return sorted(areas, reverse=True)


def _place_features(land: Landscape, rng: np.random.Generator) -> None:
    """Fill the landscape's lists; counts grow with the root of the area, as labels per image do."""
    west, south, east, north = land.bounds
    area_km2 = (east - west) * (north - south) / 1e6
    crowd = float(np.sqrt(area_km2 / 21.0))
    largest = min(210_000.0, 6_000 * area_km2)
    site = _Site(land, rng)
    _place_lakes(land, site, round(9 * crowd) + 1, area_km2)
    site.survey(land)
    site.taken = [lake.outline.polygon().buffer(-5) for lake in land.lakes]
    _place_slumps(land, site, max(4, round(22 * crowd)), largest)
    _place_roads(land, site, max(1, round(1.3 * crowd)))
    _place_surfaces(land, site, crowd)


def _place_lakes(land: Landscape, site: _Site, count: int, area_km2: float) -> None:
    rng = site.rng
    for area in _lognormal_areas(rng, count, 25_000, 1.0, 6_000, 22_000 * area_km2):
        for _ in range(40):
            cell = site.pick(np.exp(-site.local_height / 3) * (site.slope < 5) * (site.from_water > 60))
            if cell is None:
                break
            x, y = float(site.x[cell[1]]), float(site.y[cell[0]])
            blob = random_blob(
                rng, x, y, area, elongation=rng.uniform(1, 2), heading=rng.uniform(0, np.pi), waviness=0.25
            )
            if site.free(blob.polygon(), 120):
                i, j = cell
                near = site.local_height[max(0, i - 8) : i + 9, max(0, j - 8) : j + 9]
                height = land.relief(np.array([x, x + 1]), np.array([y, y - 1]))[0, 0]
                level = float(height + near.min() - site.local_height[cell] - rng.uniform(1, 4))
                land.lakes.append(Lake(blob, max(0.5, level), float(rng.uniform(50, 110))))
                site.taken.append(blob.polygon())
                break


def _place_slumps(land: Landscape, site: _Site, count: int, largest: float) -> None:
    rng = site.rng
    weight = ((site.slope > 4) & (site.slope < 15) & ~site.wet) * (1 + 5 * (site.from_water < 90))
    for area in _lognormal_areas(rng, count, 6_300, 1.5, 780, largest):
        for _ in range(150):
            cell = site.pick(weight)
            if cell is None:
                break
            heading = float(site.uphill[cell] + rng.normal(0, 0.2))
            # Slumps are wider than long about as often as the reverse.
            stretch = float(np.exp(abs(rng.normal(0, 0.62))) * 1.04) ** (1 if rng.random() < 0.55 else -1)
            blob = random_blob(
                rng,
                0,
                0,
                area,
                elongation=stretch,
                heading=heading,
                waviness=float(np.exp(rng.normal(-1.15, 0.65))),
            )
            # The picked cell is the lower edge; the body lies upslope of it.
            x = float(site.x[cell[1]] + 0.5 * blob.length * np.cos(heading))
            y = float(site.y[cell[0]] + 0.5 * blob.length * np.sin(heading))
            blob = replace(blob, x=x, y=y)
            polygon = blob.polygon()
            if site.free(polygon, 30):
                site.taken.append(polygon)
                overgrown = rng.random() < 0.1
                ratio = float(np.clip(rng.normal(1.27, 0.13), 0.95, 1.5))
                land.slumps.append(
                    Slump(
                        outline=blob,
                        onset=float(rng.uniform(2021.7, 2022.4))
                        if rng.random() < land.ground.new_slumps
                        else 1990.0,
                        retreat=float(rng.uniform(0.03, 0.08)),
                        scar_depth=float(np.clip(0.055 * np.sqrt(area) * rng.uniform(0.7, 1.4), 1.2, 12)),
                        red_ratio=ratio,
                        ndvi=float(np.clip(rng.normal(0.12, 0.04), 0.05, 0.25)),
                        vegetated=float(rng.uniform(0.45, 0.6) if overgrown else rng.uniform(0.0, 0.16)),
                    )
                )
                break


def _place_roads(land: Landscape, site: _Site, count: int) -> None:
    rng = site.rng
    west, south, east, north = land.bounds
    for _ in range(count):
        for _ in range(60):
            along = np.linspace(0.02, 0.98, 7)
            across = np.clip(rng.uniform(0.1, 0.9) + np.cumsum(rng.normal(0, 0.06, 7)), 0.02, 0.98)
            px, py = west + along * (east - west), south + across * (north - south)
            if rng.random() < 0.5:
                px, py = west + across * (east - west), south + along * (north - south)
            road = Band(tuple(zip(px.tolist(), py.tolist(), strict=True)), float(rng.uniform(9, 16)))
            strip = road.polygon()
            if not any(strip.buffer(25).intersects(other) for other in site.taken):
                land.roads.append(road)
                site.taken.append(strip)
                break


def _place_surfaces(land: Landscape, site: _Site, crowd: float) -> None:
    """Rocks, turbid ponds, pads, old scars, burns and drained lakes: what a slump detector may stumble over."""
    rng = site.rng

    def scatter(
        count: int,
        median: float,
        low: float,
        high: float,
        weight: NDArray[np.floating],
        gap: float,
        waviness: float,
    ) -> list[Blob]:
        blobs = []
        for area in _lognormal_areas(rng, count, median, 0.9, low, high):
            for _ in range(60):
                cell = site.pick(weight)
                if cell is None:
                    break
                heading = float(site.uphill[cell] + np.pi / 2 + rng.normal(0, 0.5))
                blob = random_blob(
                    rng, float(site.x[cell[1]]), float(site.y[cell[0]]), area,
                    elongation=float(np.exp(abs(rng.normal(0, 0.5)))), heading=heading, waviness=waviness,
                )  # fmt: skip
                if site.free(blob.polygon(), gap):
                    site.taken.append(blob.polygon())
                    blobs.append(blob)
                    break
        return blobs

    dry = (~site.wet).astype(float)
    hilltop = dry * np.exp(np.clip(site.local_height, -8, 8) / 2.5)
    for blob in scatter(round(22 * crowd), 3_000, 450, 30_000, hilltop, 25, 0.35):
        ratio, ndvi = (
            float(np.clip(rng.normal(1.27, 0.16), 0.9, 1.55)),
            float(np.clip(rng.normal(0.14, 0.06), 0.03, 0.3)),
        )
        land.rocks.append(Surface(blob, ratio, ndvi, float(rng.uniform(0.3, 3.5))))
    flat = dry * (site.slope < 3.5)
    for blob in scatter(round(14 * crowd), 1_200, 350, 5_000, flat, 20, 0.15):
        land.ponds.append(Surface(blob, float(rng.uniform(0.9, 1.35)), float(rng.uniform(-0.05, 0.2))))
    for blob in scatter(round(2 * crowd), 5_000, 1_500, 15_000, flat, 25, 0.03):
        land.pads.append(Surface(blob, float(rng.uniform(1.3, 1.6)), float(rng.uniform(0.06, 0.16)), 1.0))
    sloping = dry * ((site.slope > 4) & (site.slope < 15))
    for blob in scatter(round(6 * crowd), 8_000, 1_000, 40_000, sloping, 25, 0.25):
        land.old_scars.append(Surface(blob, 0.97, 0.53, -float(rng.uniform(0.8, 3.0))))
    for blob in scatter(round(3 * crowd), 60_000, 15_000, 200_000, dry, 0, 0.25):
        land.burns.append(Surface(blob, float(rng.uniform(0.85, 0.95)), float(rng.uniform(0.38, 0.48))))
    # Ground that was disturbed and is green again: only the trends show it, as strongly as a slump.
    for blob in scatter(round(26 * crowd), 6_000, 900, 60_000, dry, 5, 0.2):
        land.disturbances.append(Surface(blob))
