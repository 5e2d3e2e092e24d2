from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from darts_xr.cube.bands import (
    BANDS,
    LEGACY_BANDS,
    Band,
    bands_from_dicts,
    bands_to_dicts,
    scale_band,
    select_bands,
)
from darts_xr.errors import BandDefinitionError


def test_the_first_ten_are_in_the_order_of_the_published_networks() -> None:
    assert list(BANDS)[:10] == [
        "ndvi", "blue", "green", "red", "nir", "relative_elevation", "slope",
        "tc_brightness", "tc_greenness", "tc_wetness",
    ]  # fmt: skip
    assert all(name == band.name for name, band in BANDS.items())


@pytest.mark.parametrize(
    ("name", "encoded", "value"),
    [
        # legacy rasters: encoded / divisor of the legacy workflow must equal our scale of the physical value
        ("ndvi", 15000 / 20000, 0.5),
        ("red", 1500 / 3000, 1500),
        ("relative_elevation", (12.5 + 50) * 300 / 30000, 12.5),
        ("slope", 30 / 90, 30.0),
        ("tc_wetness", 200 / 255, 200),
    ],
)
def test_scale_agrees_with_the_legacy_encodings(name: str, encoded: float, value: float) -> None:
    assert scale_band(name, np.array([value]))[0] == pytest.approx(encoded, rel=1e-6)


@pytest.mark.parametrize("name", list(BANDS))
def test_numpy_and_torch_scale_alike_and_nan_becomes_neutral(name: str) -> None:
    values = np.array([0.0, 1.0, 77.7, np.nan], dtype="float32")
    before = values.copy()
    scaled = scale_band(name, values)
    assert scaled.dtype == np.float32
    np.testing.assert_array_equal(scaled, scale_band(BANDS[name], torch.from_numpy(values)).numpy())
    assert scaled[3] == scale_band(name, np.array([BANDS[name].neutral]))[0]
    np.testing.assert_array_equal(values, before)


def test_integers_scale_without_overflow() -> None:
    assert scale_band("nir", np.array([65535], "uint16"))[0] == pytest.approx(21.845)
    assert scale_band("nir", torch.tensor([30000], dtype=torch.int32))[0].item() == pytest.approx(10)


def test_definitions_travel_as_json() -> None:
    bands = (replace(BANDS["slope"], divisor=45.0), LEGACY_BANDS["relative_elevation"])
    text = json.dumps(bands_to_dicts(bands))
    assert bands_from_dicts(json.loads(text)) == bands


def test_legacy_definitions_differ_where_the_checkpoints_do() -> None:
    changed = {name for name in BANDS if BANDS[name] != LEGACY_BANDS[name]}
    assert changed == {"relative_elevation", "slope", "tc_brightness", "tc_greenness", "tc_wetness"}
    assert LEGACY_BANDS["slope"].kernel_grid == "dem"
    assert LEGACY_BANDS["relative_elevation"].radius == 100
    assert LEGACY_BANDS["tc_wetness"].resampling == "nearest"


def _definition(**changes: object) -> dict[str, object]:
    return {**bands_to_dicts([BANDS["slope"]])[0], **changes}


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        (_definition(divisor=0), "'slope': divisor must be positive"),
        (_definition(divisor="90"), "'slope': divisor must be a number"),
        (_definition(resampling="lanczos"), "'slope': resampling must be one of"),
        (_definition(radius=-1.0), "'slope': radius must be"),
        (_definition(source="moon"), "'slope': source must be one of"),
        (_definition(colour="red"), "'slope': unknown fields"),
        ({"name": "slope"}, "'slope': the definition lacks"),
    ],
)
def test_unusable_definitions_are_named(definition: dict[str, object], message: str) -> None:
    with pytest.raises(BandDefinitionError, match=message):
        bands_from_dicts([definition])


def test_a_band_defined_twice_is_refused() -> None:
    with pytest.raises(BandDefinitionError, match="more than once"):
        bands_from_dicts([_definition(), _definition()])


def test_selection_keeps_canonical_order_and_names_the_unknown() -> None:
    assert [band.name for band in select_bands({"slope", "blue", "ndvi"})] == ["ndvi", "blue", "slope"]
    assert len(select_bands()) == 10
    with pytest.raises(BandDefinitionError, match="tcvis"):
        select_bands(["tcvis"])


def test_bands_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        BANDS["slope"].divisor = 1.0  # type: ignore[misc]
    assert isinstance(BANDS["slope"], Band)
