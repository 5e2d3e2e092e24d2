"""Augmentation: geometry moves bands and labels alike, light stays within its range and leaves labels alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from darts_xr.errors import SettingsError
from darts_xr.training import Augmentation
from darts_xr.training.augmentation import Augment

OFF = {
    "flips": False,
    "turns": False,
    "blur": (),
    "brightness": 0.0,
    "contrast": 0.0,
    "noise": 0.0,
    "holes": 0,
}


def _planes(seed: int, count: int = 6, side: int = 32) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    rng = np.random.default_rng(seed)
    labels = torch.from_numpy(rng.choice(np.array([0, 1, 255], "uint8"), (count, side, side)))
    coded = labels.float() * 3 + 5  # a band from which the labels can be read back
    red = torch.from_numpy(rng.uniform(300, 3000, (count, side, side)).astype("f4"))
    nir = torch.from_numpy(rng.uniform(300, 3000, (count, side, side)).astype("f4"))
    planes = {
        "red": red,
        "nir": nir,
        "ndvi": (nir - red) / (nir + red),
        "slope": coded,
        "valid": labels != 255,
    }
    return planes, labels


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_bands_mask_and_labels_move_together(seed: int):
    planes, labels = _planes(seed)
    torch.manual_seed(seed)
    moved, turned, kept = Augment(Augmentation(**OFF | {"flips": True, "turns": True}, p=1.0))(planes, labels)
    assert torch.equal(moved["slope"], turned.float() * 3 + 5)
    assert torch.equal(moved["valid"], turned != 255)
    assert kept.all()
    for name in ("red", "nir"):
        assert torch.equal(moved[name].flatten(1).sort().values, planes[name].flatten(1).sort().values)
    eight = [torch.rot90(flip, turn, (1, 2)) for flip in (labels, labels.flip(1)) for turn in range(4)]
    for number, found in enumerate(turned):
        assert any(torch.equal(found, way[number]) for way in eight)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), reach=st.floats(0.001, 0.05))
def test_light_stays_in_its_range_of_reflectance_and_the_index_follows(seed: int, reach: float):
    planes, labels = _planes(seed)
    planes["valid"] = torch.ones_like(planes["valid"])
    torch.manual_seed(seed)
    lit, same, _ = Augment(Augmentation(**OFF | {"brightness": reach}, p=1.0))(planes, labels)
    assert torch.equal(same, labels)
    assert torch.equal(lit["slope"], planes["slope"])
    change = (lit["red"] - planes["red"]) / 10_000
    assert float(change[lit["red"] > 0].abs().max()) <= reach + 1e-6
    total = lit["nir"] + lit["red"]
    torch.testing.assert_close(lit["ndvi"][total > 0], ((lit["nir"] - lit["red"]) / total)[total > 0])


def test_noise_and_contrast_are_one_factor_for_all_image_bands():
    planes, labels = _planes(1)
    planes["valid"] = torch.ones_like(planes["valid"])
    torch.manual_seed(0)
    changed, _, _ = Augment(Augmentation(**OFF | {"noise": 0.1}, p=1.0))(planes, labels)
    factors = torch.stack([changed[name] / planes[name] for name in ("red", "nir")])
    assert float(factors.amax((0, 2, 3)).sub(factors.amin((0, 2, 3))).max()) < 1e-5
    assert float(factors.min()) >= 0.9
    assert float(factors.max()) <= 1.1
    torch.testing.assert_close(changed["ndvi"], planes["ndvi"], atol=1e-5, rtol=0)


def test_blur_does_not_carry_no_data_into_valid_pixels():
    planes, labels = _planes(2)
    planes["red"] = torch.full_like(planes["red"], 1000.0)
    planes["valid"] = torch.ones_like(planes["valid"])
    planes["valid"][:, :16] = False
    blurred, _, _ = Augment(Augmentation(**OFF | {"blur": (5,)}, p=1.0))(planes, labels)
    torch.testing.assert_close(blurred["red"][:, 16:], planes["red"][:, 16:])
    assert not blurred["red"][:, :16].any()


def test_cutout_leaves_holes_and_p_is_kept():
    planes, labels = _planes(3, count=64)
    torch.manual_seed(0)
    _, same, kept = Augment(Augmentation(**OFF | {"holes": 4, "hole_side": 6}, p=0.5))(planes, labels)
    assert torch.equal(same, labels)
    gone = (~kept).flatten(1).sum(1)
    assert 0.3 < float((gone > 0).float().mean()) < 0.7
    assert int(gone.max()) <= 4 * 36
    _, _, all_kept = Augment(Augmentation(**OFF, p=1.0))(planes, labels)
    assert all_kept.all()


def test_ranges_that_make_no_sense_are_refused():
    with pytest.raises(SettingsError, match="odd sides"):
        Augmentation(blur=(4,))
    with pytest.raises(SettingsError, match="p from 0 to 1"):
        Augmentation(p=2)
