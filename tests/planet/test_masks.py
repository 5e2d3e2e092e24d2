from __future__ import annotations

import itertools

import dask.array as da
import numpy as np
import pytest
import rasterio

from darts_xr.errors import MaskError
from darts_xr.planet.masks import MASK_CLASSES, MASK_RULES, default_rule, mask_class, valid_mask
from tests.helpers import raise_if_dask_computes, real_data


def udm2_pixel(**bands: int) -> np.ndarray:
    """One clear pixel, changed as asked: keys b1 to b8."""
    mask = np.zeros((8, 1, 1), "uint8")
    mask[0] = 1
    for name, value in bands.items():
        mask[int(name[1]) - 1] = value
    return mask


@pytest.mark.parametrize(
    ("bands", "valid"),
    [
        ({}, True),
        ({"b1": 0}, False),
        ({"b2": 1}, False),
        ({"b3": 1}, False),
        ({"b1": 0, "b4": 1}, False),  # light haze is never clear
        ({"b5": 1}, False),
        ({"b6": 1}, False),
        ({"b7": 3}, True),  # confidence is not read
        ({"b8": 0b1}, False),  # blackfill
        ({"b8": 0b10}, True),  # the old cloud test alone
        ({"b8": 0b11}, False),  # blackfill with another bit, which a comparison with 1 would miss
        ({"b8": 0b100}, False),  # blue missing
        ({"b8": 0b1000}, False),  # green
        ({"b8": 0b10000}, False),  # red
        ({"b8": 0b100000}, True),  # red edge
        ({"b8": 0b1000000}, False),  # near infrared
        ({"b8": 0b10000000}, True),  # unused
    ],
)
def test_udm2_rule_by_its_table(bands: dict[str, int], valid: bool) -> None:
    assert valid_mask(udm2_pixel(**bands)).tolist() == [[valid]]
    assert valid_mask(udm2_pixel(**bands), "udm2").tolist() == [[valid]]


def test_udm1_rule_takes_no_bit() -> None:
    values = np.array([[[0, 1, 2, 3, 64, 128]]], "uint8")
    assert valid_mask(values, "udm1").tolist() == [[True, False, False, False, False, False]]


def test_rule_of_2021_agrees_with_its_formula() -> None:
    choices = itertools.product((0, 1), (0, 1), (0, 1), (0, 1), (0, 1), (0, 1), (0, 77), (0, 1, 2))
    mask = np.array(list(choices), "uint8").T[:, None, :]
    published = np.maximum(mask[7] >= 1, mask[[1, 2, 4, 5]].max(axis=0)) == 0
    np.testing.assert_array_equal(valid_mask(mask, "udm2-2021"), published)


def test_light_haze_counts_as_valid_in_2021_only() -> None:
    hazy = udm2_pixel(b1=0, b4=1)
    assert valid_mask(hazy, "udm2-2021").item()
    assert not valid_mask(hazy, "udm2").item()


@pytest.mark.parametrize("rule", sorted(MASK_RULES))
def test_dask_gives_what_numpy_gives(rule: str) -> None:
    rng = np.random.default_rng(1)
    mask = rng.integers(0, 3, (MASK_RULES[rule].bands, 50, 70)).astype("uint8")
    with raise_if_dask_computes():
        lazy = valid_mask(da.from_array(mask, chunks=(3, 16, 32)), rule)
    assert isinstance(lazy, da.Array)
    assert (lazy.shape, lazy.dtype, lazy.chunks[0]) == ((50, 70), np.dtype(bool), (16, 16, 16, 2))
    np.testing.assert_array_equal(lazy.compute(), valid_mask(mask, rule))


@pytest.mark.parametrize("rule", ["udm2", "udm2-2021"])
@pytest.mark.parametrize("count", [1, 7])
def test_an_udm2_of_fewer_bands_is_refused(rule: str, count: int) -> None:
    with pytest.raises(MaskError, match=rf"has {count} band\(s\).*reads the 8"):
        valid_mask(np.zeros((count, 2, 2), "uint8"), rule)


def test_an_udm2_is_no_udm1() -> None:
    with pytest.raises(MaskError, match="rule 'udm2'"):
        valid_mask(np.zeros((8, 2, 2), "uint8"), "udm1")


def test_an_unknown_rule_is_named_with_the_known_ones() -> None:
    with pytest.raises(MaskError, match=r"'udm3'.*udm1, udm2, udm2-2021"):
        valid_mask(np.zeros((8, 2, 2), "uint8"), "udm3")


def test_other_shapes_and_types_are_refused() -> None:
    with pytest.raises(MaskError, match=r"band, y, x"):
        valid_mask(np.zeros((2, 2), "uint8"), "udm1")
    with pytest.raises(MaskError, match="float32"):
        valid_mask(np.zeros((1, 2, 2), "float32"), "udm1")


def test_fallback_order_of_the_rules() -> None:
    assert default_rule(True, True) == "udm2"
    assert default_rule(True, False) == "udm2"
    assert default_rule(False, True) == "udm1"
    with pytest.raises(MaskError, match="analytic_sr_udm2"):
        default_rule(False, False)


@pytest.mark.realdata
def test_real_udm2() -> None:
    folder = real_data("planetscope-udm2-myanmar")
    with rasterio.open(folder / "20151119_025740_0c74_3B_udm2_clip.tif") as source:
        mask = source.read()
    # 37,381 pixels are blackfill and 11,930 light haze.
    assert np.count_nonzero(valid_mask(mask, "udm2")) == 2_084_145
    assert np.count_nonzero(valid_mask(mask, "udm2-2021")) == 2_084_145 + 11_930


def test_each_pixel_has_one_class_whatever_the_rule():
    udm2 = np.zeros((8, 1, 8), "uint8")
    udm2[0, 0, 0] = 1
    for place, band in enumerate((1, 2, 3, 4, 5), start=1):
        udm2[band, 0, place] = 1
    udm2[1, 0, 5] = 1  # snow below a cloud is not seen
    udm2[7, 0, 6:] = 4, 5  # green missing; blackfill with it
    names = [MASK_CLASSES[number] for number in mask_class(udm2)[0].tolist()]
    assert names == [
        "clear", "snow", "shadow", "light haze", "heavy haze", "cloud", "band missing or suspect", "no data"
    ]  # fmt: skip
    udm1 = np.array([[[0, 1, 2, 8]]], "uint8")
    assert [MASK_CLASSES[number] for number in mask_class(udm1)[0].tolist()] == [
        "clear", "no data", "cloud", "band missing or suspect"
    ]  # fmt: skip
