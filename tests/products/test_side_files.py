"""Table 1, removed objects, and probability as it is stored."""

from __future__ import annotations

from pathlib import Path

import dask
import numpy as np
import pandas as pd
import pytest
import rasterio
import rioxarray
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rasterio.enums import ColorInterp

import darts_xr as dx
from darts_xr.errors import ObjectError
from darts_xr.percent import to_percent, to_probability
from darts_xr.products import (
    PALETTES,
    TABLE1_COLUMNS,
    binary_objects,
    coverage,
    level2,
    merge_level1,
    probability_percent,
    removed_objects,
    table1,
    write_raster,
)
from darts_xr.products.cog import packed, unpacked
from tests.objects.fields import labelled
from tests.products.rows import box, image

SCENE = {"item_id": "20210719_201500_1034", "time": "2021-07-19T20:15:00Z"}


# --- stored probability ---------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(st.integers(0, 100).map(lambda k: k / 100), st.floats(0, 1)),
    arrays(np.float32, 24, elements=st.floats(0, 1, width=32)),
)
def test_a_stored_pixel_reaches_the_threshold_where_the_probability_does(threshold: float, p: np.ndarray):
    near = np.nextafter(np.full(2, threshold, np.float32), np.array([0, 1], np.float32))
    p = np.concatenate([p, near, np.float32([threshold, np.nan])]).astype(np.float32)
    stored = to_percent(p, threshold)
    np.testing.assert_array_equal(to_probability(stored) >= threshold, p >= threshold)
    np.testing.assert_array_equal(stored == 255, np.isnan(p))
    # 1 % at most from the value; elsewhere than beside the threshold the nearest per cent.
    seen = ~np.isnan(p)
    assert (np.abs(stored[seen] - p[seen] * 100) <= 1.0001).all()
    far = seen & (np.abs(p - threshold) > 0.0101)
    np.testing.assert_array_equal(stored[far], np.rint(p[far] * 100))


def _noise(seed: int = 1) -> xr.DataArray:
    rng = np.random.default_rng(seed)
    rough = rng.normal(size=(160, 160)).astype(np.float32)
    for axis in (0, 1):  # blobs of some ten pixels
        rough = np.apply_along_axis(lambda line: np.convolve(line, np.ones(9) / 3, "same"), axis, rough)
    p = (1 / (1 + np.exp(-rough / 8))).astype(np.float32)
    p[:12, :40] = np.nan
    return labelled(p, (64, 48))


@pytest.mark.parametrize("threshold", [0.5, 0.55, 0.503])
def test_objects_of_the_stored_file_are_those_of_the_run(tmp_path: Path, threshold: float):
    prob = _noise()
    rules = {"threshold": threshold, "border": 3, "min_pixels": 12}
    run = dx.label_objects(prob, **rules)
    path = write_raster(probability_percent(prob, threshold=threshold).compute(), tmp_path / "p.tif")
    stored = rioxarray.open_rasterio(path, chunks=64).squeeze("band", drop=True)
    again = dx.label_objects(stored, **rules)
    assert int(run.max()) > 3
    np.testing.assert_array_equal(again.values, run.values)
    for name in ("n_detected", "n_removed_border", "n_removed_small"):
        assert int(again[name]) == int(run[name])
    feats, back = dx.vectorize(run, prob), dx.vectorize(again, stored)
    assert (back.geometry.to_wkb() == feats.geometry.to_wkb()).all()
    np.testing.assert_allclose(back["pval_mean"], feats["pval_mean"], atol=0.011)


def test_rasters_open_in_colours_with_no_data_clear_and_the_numbers_as_they_were(tmp_path: Path):
    prob = _noise()
    percent = probability_percent(prob).compute()
    binary = binary_objects(dx.label_objects(prob, border=3, min_pixels=12), prob).compute()
    for raster in (percent, binary):
        path = write_raster(raster, tmp_path / f"{raster.name}.tif", metadata={"rules": "of a test"})
        with rasterio.open(path) as file:
            assert file.colorinterp == (ColorInterp.palette,)
            colours = file.colormap(1)
            assert {value: colours[value] for value in PALETTES[str(raster.name)]} == PALETTES[
                str(raster.name)
            ]
            assert colours[255][3] == 0
            assert file.nodata == 255
            assert file.tags()["rules"] == "of a test"
            assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
            np.testing.assert_array_equal(file.read(1), raster.values)
        again = write_raster(raster, tmp_path / "again.tif", metadata={"rules": "of a test"})
        assert again.read_bytes() == path.read_bytes()
    light = [sum(PALETTES["probability"][value][:3]) for value in range(101)]
    assert (np.diff(light) >= 0).all()  # more is lighter
    plain = write_raster(percent.rename("another"), tmp_path / "another.tif")
    with rasterio.open(plain) as file:
        assert file.colorinterp == (ColorInterp.gray,)


def test_rounding_alone_would_find_other_pixels():
    prob = _noise()
    assert (np.rint(prob.values * 100) >= 50).sum() > (prob.values >= 0.5).sum()


def test_rasters_that_are_no_probability_are_refused():
    percent = probability_percent(_noise()).compute()
    with pytest.raises(ObjectError, match="no-data value None"):
        dx.label_objects(percent.assign_attrs(nodata=None))
    percent.data[80, 80] = 180
    with pytest.raises(ObjectError, match="holds 180"):
        dx.label_objects(percent).compute()
    with pytest.raises(ObjectError, match="probabilities are 0 to 1"):
        dx.label_objects(_noise() * 100).compute()


# --- removed objects ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("connectivity", [8, 4, "legacy"])
def test_every_object_is_kept_or_removed_for_a_reason(connectivity: object):
    prob = _noise(2)
    labels = dx.label_objects(prob, border=4, min_pixels=20, connectivity=connectivity)  # type: ignore[arg-type]
    kept = dx.vectorize(labels, prob)
    both = dx.vectorize(labels, prob, keep_removed=True)
    counts = both["removed_by"].value_counts()
    assert counts["border"] == int(labels.n_removed_border) > 0
    assert counts["small"] == int(labels.n_removed_small) > 0
    same = both[both["removed_by"] == ""].drop(columns="removed_by")
    assert same.drop(columns="geometry").equals(kept.drop(columns="geometry"))
    assert (same.geometry.to_wkb() == kept.geometry.to_wkb()).all()
    # Together they are all the pixels at or above the threshold.
    assert both["n_pixels"].sum() == int((prob >= 0.5).sum())
    assert (both.loc[both["removed_by"] == "small", "n_pixels"] < 20).all()
    rows = removed_objects(both, SCENE)
    assert len(rows) + len(dx.level1(both, SCENE)) == len(both)
    assert set(rows["removed_by"]) == {"border", "small"}
    assert rows.is_valid.all()


def test_removed_objects_are_not_known_to_other_labels():
    prob = _noise(2)
    computed = dx.label_objects(prob).compute()
    with pytest.raises(ObjectError, match="keep_removed"):
        dx.vectorize(computed, prob, keep_removed=True)


def test_a_filter_goes_on_with_what_was_removed_before():
    import geopandas as gpd
    import shapely

    prob = _noise(2)
    feats = dx.vectorize(dx.label_objects(prob, border=4, min_pixels=20), prob, keep_removed=True)
    everywhere = gpd.GeoDataFrame(geometry=[shapely.box(*feats.total_bounds)], crs=4326)
    left = dx.filter_infrastructure(feats, everywhere, keep_removed=True)
    assert len(left) == len(feats)
    reasons = left["removed_by"].value_counts()
    assert (
        reasons["infrastructure"]
        == (feats["removed_by"] == "").sum()
        == left.attrs["removed"]["infrastructure"]
    )
    assert len(dx.level1(left, SCENE)) == 0


# --- Table 1 --------------------------------------------------------------------------------------------------


def test_table_1_adds_up():
    frames = [
        image("2021-07-19", [box(0), box(5)]),
        image("2021-08-02", [box(0.5)], tail="2211"),
        image("2022-07-01", [box(0.2), box(9)]),
    ]
    level1 = merge_level1(frames)
    rows = [
        ("2021-07-19", 2021, box(-1, -1, 8)),
        ("2021-08-02", 2021, box(0, -1, 8)),
        ("2022-07-01", 2022, box(-1, -1, 11)),
    ]
    import geopandas as gpd

    seen = gpd.GeoDataFrame(
        {"image_id": ["a", "b", "c"], "date": [r[0] for r in rows], "year": [r[1] for r in rows]},
        geometry=[r[2] for r in rows], crs=4326,
    )  # fmt: skip
    cover = coverage(seen)
    annual = level2(level1)
    table = table1(level1, annual, cover).set_index("scope")
    assert list(table.reset_index().columns) == list(TABLE1_COLUMNS)
    assert table.index.tolist() == ["2021", "2022", "sum", "union", "intersect"]
    assert table.loc["2021", "images"] == 2
    assert table.loc["2021", "level1_km2"] == pytest.approx(cover["level1"]["area_km2"][:2].sum())
    assert table.loc["2021", "level2_km2"] < table.loc["2021", "level1_km2"]
    assert table["level1_features"][:3].tolist() == [3, 2, 5]
    assert table["level2_features"].tolist() == [2, 2, 4, 3, 2]  # the one at 9 was seen in 2022 alone
    assert table.loc["sum", "level1_rts_km2"] == pytest.approx(level1["area_km2"].sum())
    assert table.loc["union", "level2_km2"] == pytest.approx(cover["union"]["area_km2"].iloc[0])
    assert table.loc["union", "level2_rts_km2"] < table.loc["sum", "level2_rts_km2"]
    assert table.loc["intersect", "level2_rts_km2"] < table.loc["union", "level2_rts_km2"]
    assert pd.isna(table.loc["union", "level1_features"])


def test_packed_chunks_hold_fewer_bytes_and_the_same_pixels() -> None:
    percent = probability_percent(_noise())
    (held,) = dask.persist(packed(percent))
    sizes = [len(block.content) for block in dask.compute(*held.data.to_delayed().ravel())]
    assert len(sizes) == percent.data.npartitions
    assert sum(sizes) < percent.size / 2
    xr.testing.assert_identical(unpacked(held).compute(), percent.compute())
