"""Augmentation: geometry moves bands and labels alike, light stays within its range and leaves labels alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from darts_xr.errors import SettingsError
from darts_xr.training import Augmentation, Crop
from darts_xr.training.augmentation import Augment, random_crop

OFF = {
    "flips": False,
    "turns": False,
    "blur": (),
    "brightness": 0.0,
    "contrast": 0.0,
    "noise": 0.0,
    "colour": 0.0,
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


def test_colour_is_a_factor_of_each_band_by_itself_and_the_index_follows():
    planes, labels = _planes(2)
    planes["valid"] = torch.ones_like(planes["valid"])
    torch.manual_seed(0)
    changed, same, _ = Augment(Augmentation(**OFF | {"colour": 0.05}, p=1.0))(planes, labels)
    factors = torch.stack([(changed[name] / planes[name]).flatten(1) for name in ("red", "nir")])
    assert float(factors.std(dim=2).max()) < 1e-5  # one for the whole band of a patch
    drawn = factors.mean(dim=2)
    assert float((drawn[0] - drawn[1]).abs().min()) > 1e-4
    assert 0.01 < float(drawn.std()) < 0.1
    assert torch.equal(same, labels)
    total = changed["nir"] + changed["red"]
    torch.testing.assert_close(changed["ndvi"], (changed["nir"] - changed["red"]) / total)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), side=st.integers(1, 32))
def test_a_crop_takes_bands_and_labels_of_the_same_place_and_shows_a_slump(seed: int, side: int):
    planes, labels = _planes(seed)
    labels[0], labels[1] = 0, 0
    labels[1, 5, 30] = 1  # one slump pixel, near an edge
    place = torch.arange(32 * 32, dtype=torch.float32).reshape(32, 32).expand(len(labels), -1, -1)
    torch.manual_seed(seed)
    cut, known = random_crop(planes | {"place": place}, labels, Crop(side))
    assert known.shape == (len(labels), side, side)
    assert all(plane.shape == known.shape for plane in cut.values())
    assert bool((known[1] == 1).any())
    for number in range(len(labels)):
        top, left = divmod(int(cut["place"][number, 0, 0]), 32)
        where = number, slice(top, top + side), slice(left, left + side)
        assert torch.equal(known[number], labels[where])
        assert torch.equal(cut["red"][number], planes["red"][where])
        assert torch.equal(cut["place"][number], place[where])


def test_crops_lie_around_slumps_hard_ground_and_anywhere_in_the_shares_asked_for():
    labels = torch.zeros(200, 64, 64, dtype=torch.uint8)
    labels[:, 4, 4] = 1
    hard = torch.zeros(200, 8, 8, dtype=torch.bool)
    hard[:100, 7, 0] = True
    torch.manual_seed(0)
    row = torch.arange(64.0)[:, None].expand(200, 64, 64)
    cut, known = random_crop({"row": row}, labels, Crop(8, hard=0.5, anywhere=0.2), hard)
    around_slump = (known == 1).flatten(1).any(1)
    around_hard = cut["row"][:, -1, 0] > 53
    assert 0.15 < around_slump[:100].float().mean() < 0.45
    assert 0.4 < around_hard[:100].float().mean() < 0.7
    assert 0.7 < around_slump[100:].float().mean() < 0.95
    assert not (around_slump & around_hard).any()
    no_slump, _ = random_crop({"row": row}, labels * 0, Crop(8, hard=0.5), None)
    assert len(set(no_slump["row"][:, 0, 0].tolist())) > 40


def test_crops_of_a_patch_are_drawn_anew():
    _, labels = _planes(3)
    labels[:] = 0
    torch.manual_seed(0)
    place = {"place": torch.arange(32 * 32, dtype=torch.float32).reshape(32, 32).expand(len(labels), -1, -1)}
    corners = {float(random_crop(place, labels, Crop(8))[0]["place"][0, 0, 0]) for _ in range(20)}
    assert len(corners) > 10
