"""What a satellite would see of the synthetic landscape on one day: reflectance and usable-data mask, by block."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from darts_xr.sample.landscape import Landscape, Surface, cut, feature_window, smoothstep
from darts_xr.sample.noise import FloatArray, fractal_noise, smooth_noise
from darts_xr.sample.shapes import Band, Blob

# Reflectance × 10000 of blue, green, red, nir. Tundra after a real September scene on the Seward Peninsula.
_HEATH = (440, 575, 755, 2020)
_SEDGE = (395, 545, 640, 2230)
_WET = (180, 250, 310, 1050)
_BARREN = (470, 620, 830, 1230)
_CLEAR_WATER = (330, 330, 240, 140)
_TURBID_WATER = (560, 720, 640, 330)
_CLOUD = (4300, 4300, 4350, 4700)
_SNOW = (6900, 7000, 6900, 6400)


@dataclass(frozen=True)
class Pass:
    """One image: its day, its frame and its weather.

    Parameters
    ----------
    seed : int
        Seed of weather and sensor noise.
    year : float
        Acquisition as decimal year.
    frame : tuple of float
        West, south, east, north of the frame, metres.
    swath_angle : float
        Rotation of the swath against the frame, radians.
    cloud, haze, snow : float
        Shares of the frame, 0 to 1.
    """

    seed: int
    year: float
    frame: tuple[float, float, float, float]
    swath_angle: float
    cloud: float
    haze: float
    snow: float


def _paint(
    image: FloatArray, window: tuple[slice, slice], alpha: NDArray[np.floating], colour: NDArray[np.floating]
) -> None:
    view = image[(slice(None), *window)]
    view += alpha[None].astype(np.float32) * (colour - view)


def _bare_colour(ground: FloatArray, red_ratio: float, ndvi: float) -> FloatArray:
    """Bare ground as bright as ``red_ratio`` times its surround in red, less so in green and blue."""
    ratios = np.array([1 + 0.44 * (red_ratio - 1), 1 + 0.56 * (red_ratio - 1), red_ratio], dtype=np.float32)
    visible = np.median(ground[:3].reshape(3, -1), axis=1) * ratios
    return np.append(visible, visible[2] * (1 + ndvi) / (1 - ndvi)).astype(np.float32)[:, None, None]


def _plants(land: Landscape, x: NDArray[np.float64], y: NDArray[np.float64]) -> FloatArray:
    """Mixture of four surfaces, (4, h, w)."""
    seed, kind = land.seed, land.ground
    moist = fractal_noise(x, y, (700, 240, 80, 27), seed + 31)
    shrubs = fractal_noise(x, y, (420, 130, 40, 14), seed + 32)
    barren = fractal_noise(x, y, (520, 170, 60, 20), seed + 33)
    shares = np.stack(
        [
            np.ones_like(moist),
            np.exp(1.6 * shrubs - 0.4 + kind.shrubs),
            np.exp(2.9 * moist - 3.0 + kind.moss),
            np.exp(3.4 * barren - 3.4 + kind.barren),
        ]
    )
    shares /= shares.sum(axis=0)
    spectra = kind.brightness * np.array([_HEATH, _SEDGE, _WET, _BARREN], dtype=np.float32)
    ground: FloatArray = np.tensordot(spectra, shares, axes=(0, 0)).astype(np.float32)
    ground *= 1 + 0.04 * fractal_noise(x, y, (22, 9), seed + 34)
    return ground


def _shade(height: FloatArray, cell: float, sun_azimuth: float) -> FloatArray:
    """Brightness of slopes under a low sun, about 1 on level ground."""
    gy, gx = np.gradient(height, -cell, cell)
    lit: FloatArray = 1 + 0.55 * -(gx * np.sin(sun_azimuth) + gy * np.cos(sun_azimuth)) / np.sqrt(
        1 + gx**2 + gy**2
    )
    return lit[1:-1, 1:-1]


class _Canvas:
    """One block of ground as it is painted over, from below to above."""

    def __init__(self, land: Landscape, x: NDArray[np.float64], y: NDArray[np.float64]) -> None:
        self.x, self.y = x[None], y[:, None]
        self.cell = float(x[1] - x[0])
        self.image = _plants(land, x, y)
        self.texture = fractal_noise(x, y, (30, 11), land.seed + 41)
        self.mottle = fractal_noise(x, y, (60, 20), land.seed + 42)

    def window(self, blob: Blob) -> tuple[slice, slice] | None:
        return feature_window(blob, self.x, self.y, 3 * self.cell)

    def alpha(self, depth: NDArray[np.floating], soft: float = 0.0) -> NDArray[np.floating]:
        return np.clip(0.5 + depth / (self.cell + soft), 0, 1)

    def patch(self, surface: Surface, *, strength: float = 1.0, rough: float = 0.05) -> None:
        """Bare ground within an outline."""
        window = self.window(surface.outline)
        if window is None:
            return
        depth = surface.outline.depth(*cut(self.x, self.y, window))
        colour = _bare_colour(self.image[(slice(None), *window)], surface.red_ratio, surface.ndvi)
        colour = colour * (1 + rough * self.texture[window] + rough * self.mottle[window])
        cover = strength * np.clip(1 - 0.18 * np.maximum(self.mottle[window], 0), 0, 1)
        _paint(self.image, window, self.alpha(depth, 2.0) * cover, colour)

    def pond(self, pond: Surface) -> None:
        """Turbid water, as bright in the visible as bare soil and little darker in the near infrared."""
        window = self.window(pond.outline)
        if window is None:
            return
        depth = pond.outline.depth(*cut(self.x, self.y, window))
        colour = _bare_colour(self.image[(slice(None), *window)], pond.red_ratio, pond.ndvi)
        _paint(self.image, window, self.alpha(depth, 1.0), colour * (1 + 0.015 * self.texture[window]))

    def road(self, road: Band) -> None:
        """Paint a gravel road."""
        west, south, east, north = road.polygon().buffer(3 * self.cell).bounds
        cols = np.flatnonzero((self.x[0] > west) & (self.x[0] < east))
        rows = np.flatnonzero((self.y[:, 0] > south) & (self.y[:, 0] < north))
        if rows.size and cols.size:
            window = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(cols[0]), int(cols[-1]) + 1)
            alpha = self.alpha(road.depth(*cut(self.x, self.y, window)))
            colour = _bare_colour(self.image[(slice(None), *window)], 1.4, 0.11)
            _paint(self.image, window, 0.92 * alpha, colour * (1 + 0.03 * self.texture[window]))

    def slumps(self, land: Landscape, year: float) -> None:
        """All slumps of the day: bare floor, greener and blurred downslope, dark headwall at the upper rim."""
        for slump in land.slumps:
            blob = slump.at(year)
            window = None if blob is None else self.window(blob)
            if blob is None or window is None:
                continue
            wx, wy = cut(self.x, self.y, window)
            depth = blob.depth(wx, wy)
            along = blob.local(wx, wy)[0] / blob.length + 0.5  # 0 at the toe, 1 at the headwall
            colour = _bare_colour(self.image[(slice(None), *window)], slump.red_ratio, slump.ndvi)
            colour = colour * (1 + 0.04 * self.texture[window] + 0.04 * self.mottle[window])
            plants = slump.vegetated * (1.5 - along) + 0.14 * np.maximum(self.mottle[window], 0)
            toe_blur = 6.0 * np.clip(0.5 - along, 0, 1)
            alpha = np.clip(0.5 + depth / (self.cell + toe_blur), 0, 1) * np.clip(1 - plants, 0.15, 1)
            _paint(self.image, window, alpha, colour)
            wall = np.exp(-(((depth - 3) / 3.5) ** 2)) * smoothstep((along - 0.55) / 0.3)
            self.image[(slice(None), *window)] *= (1 - 0.3 * wall * (depth > -2)).astype(np.float32)


def _water(canvas: _Canvas, land: Landscape, x: NDArray[np.float64], y: NDArray[np.float64]) -> None:
    share = land.water(x, y)
    turbid = smoothstep(0.4 + 0.6 * smooth_noise(x, y, 350, land.seed + 51))[None]
    clear = np.array(_CLEAR_WATER, dtype=np.float32)[:, None, None]
    colour = clear + turbid * (np.array(_TURBID_WATER, dtype=np.float32)[:, None, None] - clear) * 0.6
    # Gravel bars and beaches lie along the river and the coast in places.
    river = np.abs(land.valley(x, y))
    shore = land.shore_distance(x, y)
    bare = smooth_noise(x, y, 90, land.seed + 52)
    bars = np.clip((0.028 - river) * 120, 0, 1) * smoothstep((bare - 0.9) * 4)
    beach = np.clip((14 - np.abs(shore)) / 4, 0, 1) * smoothstep((bare - 0.3) * 4)
    everywhere = (slice(0, y.size), slice(0, x.size))
    gravel = np.array([590, 760, 960, 1230], dtype=np.float32)[:, None, None] * (1 + 0.04 * canvas.texture)
    _paint(canvas.image, everywhere, np.maximum(bars, beach), gravel)
    _paint(canvas.image, everywhere, share, colour)


def ground(land: Landscape, x: NDArray[np.float64], y: NDArray[np.float64], year: float) -> FloatArray:
    """Reflectance × 10000 of the cloud-free ground, (4, h, w), blue green red nir."""
    canvas = _Canvas(land, x, y)
    for patch in land.burns:
        canvas.patch(patch, strength=0.55)
    for scar in land.old_scars:
        canvas.patch(scar, strength=0.8)
    for rock in land.rocks:
        canvas.patch(rock, strength=0.95, rough=0.055)
    _water(canvas, land, x, y)
    for pond in land.ponds:
        canvas.pond(pond)
    for road in land.roads:
        canvas.road(road)
    for pad in land.pads:
        canvas.patch(pad, rough=0.03)
    canvas.slumps(land, year)
    cell = canvas.cell
    wider_x = np.concatenate([[x[0] - cell], x, [x[-1] + cell]])
    wider_y = np.concatenate([[y[0] + cell], y, [y[-1] - cell]])
    canvas.image *= _shade(land.elevation(wider_x, wider_y, year), cell, sun_azimuth=2.9)
    return canvas.image


def _swath(image: Pass, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Pixels inside the rotated swath that touches all four sides of the frame."""
    west, south, east, north = image.frame
    c, s = np.cos(image.swath_angle), np.sin(image.swath_angle)
    dx, dy = x[None] - (west + east) / 2, y[:, None] - (south + north) / 2
    half = 0.5 * (east - west) / (abs(c) + abs(s))
    inside: NDArray[np.bool_] = (np.abs(dx * c + dy * s) < half) & (np.abs(dy * c - dx * s) < half)
    return inside


def render_block(
    land: Landscape, image: Pass, x: NDArray[np.float64], y: NDArray[np.float64], noise_key: tuple[int, int]
) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """Draw one block of an image and of its ``udm2``.

    Parameters
    ----------
    land : Landscape
        The site.
    image : Pass
        Day, frame and weather.
    x, y : numpy.ndarray
        Pixel centres of columns (w,) and rows (h,), metres.
    noise_key : tuple of int
        Number of the block, so that sensor noise differs from block to block.

    Returns
    -------
    tuple of numpy.ndarray
        (4, h, w) uint16 reflectance × 10000, 0 = no data, and (8, h, w) uint8 ``udm2``.
    """
    seen = _swath(image, x, y)
    pixels = np.zeros((4, y.size, x.size), np.uint16)
    udm2 = np.zeros((8, y.size, x.size), np.uint8)
    udm2[7] = ~seen  # bit 0 of udm1: black fill
    if not seen.any():
        return pixels, udm2
    rng = np.random.default_rng([image.seed, *noise_key])
    day = np.random.default_rng(image.seed)
    reflectance = ground(land, x, y, image.year)

    snow = smooth_noise(x, y, 150, image.seed + 4) - _upper_quantile(image.snow)
    cloud_field = fractal_noise(x, y, (900, 380, 150), image.seed + 1, roughness=0.45)
    sun = float(day.uniform(2.6, 3.4))
    reach = float(day.uniform(180, 420))
    shadow_field = fractal_noise(
        x + reach * np.sin(sun), y + reach * np.cos(sun), (900, 380, 150), image.seed + 1, roughness=0.45
    )
    haze_field = smooth_noise(x, y, 1400, image.seed + 3)
    limit = _upper_quantile(image.cloud)
    cloud, shadow = smoothstep((cloud_field - limit) / 0.25), smoothstep((shadow_field - limit) / 0.25)
    haze = 0.12 * smoothstep((haze_field - _upper_quantile(image.haze)) / 0.5)

    reflectance *= np.array(1 + day.normal(0, 0.03, (4, 1, 1)), dtype=np.float32)
    reflectance += smoothstep(snow / 0.06) * (np.array(_SNOW, np.float32)[:, None, None] - reflectance)
    reflectance *= (1 - 0.5 * shadow).astype(np.float32)
    bright = np.array(_CLOUD, np.float32)[:, None, None]
    reflectance += haze * (bright * 0.6 - reflectance)
    reflectance += cloud * (bright - reflectance)
    reflectance += rng.normal(0, 7.0, reflectance.shape).astype(np.float32)
    np.clip(np.rint(reflectance), 1, 20000, out=reflectance)
    pixels[:, seen] = reflectance[:, seen].astype(np.uint16)

    # The mask misses the soft rims by a few pixels and every pixel has one class, as in the product.
    classes = [(5, cloud > 0.3), (2, shadow > 0.35), (1, snow > 0.02), (4, haze > 0.1), (3, haze > 0.05)]
    free = seen.copy()
    for band, where in classes:
        udm2[band] = free & where
        free &= ~where
    udm2[0] = free
    confidence = 96 - 40 * (np.abs(cloud - 0.3) < 0.3) + 4 * smooth_noise(x, y, 300, image.seed + 6)
    udm2[6] = np.where(seen, np.clip(confidence, 48, 100), 0).astype(np.uint8)
    udm2[7] |= (udm2[5] > 0).astype(np.uint8) << 1
    return pixels, udm2


def _upper_quantile(share: float) -> float:
    """Level that a unit-variance field exceeds on the given share of the area."""
    return float(ndtri(1 - share)) if share > 0 else 99.0
