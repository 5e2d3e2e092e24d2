from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darts_xr.inference.legacy import MARGIN, TILE
from darts_xr.inference.tiles import Window, lattice_windows, legacy_ramp, legacy_starts


def covered(windows: list[Window], shape: tuple[int, int]) -> np.ndarray:
    count = np.zeros(shape, int)
    for w in windows:
        count[w.top : w.bottom, w.left : w.right] += 1
    return count


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 400), st.integers(1, 400), st.floats(-1, 2), st.floats(0, 3.2), st.booleans())
def test_every_valid_pixel_is_covered_once(
    height: int, width: int, offset: float, angle: float, cut: bool
) -> None:
    y, x = np.mgrid[:height, :width]
    valid = np.cos(angle) * y / height + np.sin(angle) * x / width > offset
    windows = list(lattice_windows(valid, tile=256, margin=32, stride=16, cut=cut))
    count = covered(windows, valid.shape)
    assert (count[valid] == 1).all()
    assert (count <= 1).all()
    assert all(side % 16 == 0 for w in windows for side in w.shape)


def test_a_full_tile_stays_whole_and_an_empty_one_is_left_out() -> None:
    valid = np.ones((512, 512), bool)
    valid[:256, :256] = False
    windows = list(lattice_windows(valid, tile=256, margin=32, stride=16, cut=True))
    assert windows == [Window(0, 256, 256, 512), Window(256, 0, 512, 256), Window(256, 256, 512, 512)]


def test_a_diagonal_rim_costs_less_than_its_box() -> None:
    valid = np.tri(1024, dtype=bool)
    windows = list(lattice_windows(valid, tile=1024, margin=32, stride=16, cut=True))
    seen = sum((w.shape[0] + 64) * (w.shape[1] + 64) for w in windows)
    assert len(windows) < 20
    assert seen < 0.85 * (1024 + 64) ** 2
    assert list(lattice_windows(valid, tile=1024, margin=32, stride=16, cut=False)) == [
        Window(0, 0, 1024, 1024)
    ]


@settings(max_examples=40, deadline=None)
@given(st.floats(-1, 2), st.floats(0, 3.2))
def test_nothing_narrower_than_two_cells_is_split_off(offset: float, angle: float) -> None:
    y, x = np.mgrid[:512, :512] / 512
    valid = np.cos(angle) * y + np.sin(angle) * x > offset
    windows = list(lattice_windows(valid, tile=512, margin=32, stride=16, cut=True))
    assert len(windows) <= 1 or min(side for window in windows for side in window.shape) >= 128


@pytest.mark.parametrize(
    ("length", "starts"),
    [
        (1024, {0: 2}),  # the second window is moved back onto the first
        (1025, {0: 1, 1: 1}),
        (1792, {0: 1, 768: 2}),
        (1793, {0: 1, 768: 1, 769: 1}),
    ],
)
def test_published_windows_along_an_axis(length: int, starts: dict[int, int]) -> None:
    assert legacy_starts(length) == starts


def test_published_windows_of_an_orthotile() -> None:
    assert sum(legacy_starts(8000).values()) ** 2 == 121
    assert sum(legacy_starts(4000).values()) * sum(legacy_starts(8000).values()) == 66


def test_ramps_of_neighbouring_windows_add_to_one() -> None:
    ramp = legacy_ramp()
    assert ramp[0] == 0
    np.testing.assert_allclose(ramp[-256:] + ramp[:256], 1, atol=1e-6)


@pytest.mark.parametrize(("tile", "full", "cut"), [(TILE, 1.27, 1.41), (2048, 1.13, 1.30)])
def test_published_networks_see_few_pixels_more_than_are_valid(tile: int, full: float, cut: float) -> None:
    side = 8192
    whole = np.ones((side, side), bool)
    # A swath that leaves 35 % of its frame empty, as those of PlanetScope do.
    angle = 0.285
    along, across = np.cos(angle), np.sin(angle)
    y, x = (np.arange(side, dtype=np.float32) - side / 2 for _ in range(2))
    reach = 0.5 * side / (along + across)
    swath = (np.abs(x * along + y[:, None] * across) < reach) & (
        np.abs(y[:, None] * along - x * across) < reach
    )
    assert 0.64 < swath.mean() < 0.66
    for valid, most in ((whole, full), (swath, cut)):
        windows = lattice_windows(valid, tile=tile, margin=MARGIN, stride=32, cut=True)
        seen = sum(
            (height + 2 * MARGIN) * (width + 2 * MARGIN) for height, width in (w.shape for w in windows)
        )
        assert seen / valid.sum() <= most
