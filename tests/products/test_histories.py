"""Sites over the years: three states, growth, and retreat along the direction of advance."""

from __future__ import annotations

import geopandas as gpd
import matplotlib
import numpy as np
import pytest
import shapely
from odc.geo.geobox import GeoBox
from odc.geo.xr import wrap_xr
from rasterio.transform import from_origin

import darts_xr as dx
from darts_xr.errors import ParameterError, ProductError
from darts_xr.looking import plot_history
from darts_xr.products import merge_level1, site_histories
from darts_xr.sample.landscape import GROUNDS, Landscape
from darts_xr.training.burn import burn

matplotlib.use("Agg")
UTM = "EPSG:32608"


def _level2(boxes: dict[int, list[tuple[float, float, float, float]]]) -> gpd.GeoDataFrame:
    rows = [(year, shapely.box(*box)) for year, several in boxes.items() for box in several]
    frame = gpd.GeoDataFrame({"year": [r[0] for r in rows]}, geometry=[r[1] for r in rows], crs=UTM)
    return frame.assign(area_m2=frame.area.round().astype("int64"))


def _seen(boxes: dict[int, tuple[float, float, float, float]]) -> gpd.GeoDataFrame:
    shapes = [shapely.box(*box) for box in boxes.values()]
    return gpd.GeoDataFrame({"year": list(boxes)}, geometry=shapes, crs=UTM)


WIDE = (499000, 7699000, 502000, 7702000)
SLUMP = {
    2020: [(500000, 7700000, 500100, 7700060)],
    2022: [(500000, 7700000, 500130, 7700060)],
    2023: [(500000, 7700000, 500140, 7700060)],
}


def test_three_states_and_rates_of_a_slump_that_advances_east():
    seen = {2019: WIDE, 2020: WIDE, 2021: (499000, 7699000, 500050, 7702000), 2022: WIDE, 2023: WIDE}
    table = site_histories(_level2(SLUMP), _seen(seen)).set_index("year")
    assert table["state"].to_dict() == {
        2019: "covered, not detected", 2020: "detected", 2021: "not covered", 2022: "detected", 2023: "detected",
    }  # fmt: skip
    assert table.loc[2021, "covered_share"] == pytest.approx(50 / 140, abs=0.01)
    assert table.loc[2022, ["growth_m2", "growth_m2_per_year"]].tolist() == [1800, 900]
    assert table.loc[2022, "retreat_m"] == pytest.approx(30, rel=0.02)
    assert table.loc[2022, "retreat_m_per_year"] == pytest.approx(15, rel=0.02)
    assert table.loc[2023, "retreat_m"] == pytest.approx(10, rel=0.02)
    # East on the map; grid north and true north differ by some degrees here.
    assert table["advance_azimuth_deg"].iloc[0] == pytest.approx(90, abs=8)
    assert np.isnan(table.loc[2020, "growth_m2"])
    assert table["change"].tolist() == ["", "", "", "grew", "grew"]
    assert table.loc[2021].geometry.is_empty


def test_rates_go_by_the_days_between_the_images_where_these_are_known():
    rows = _level2(SLUMP)
    rows["earliest_date"] = ["2020-07-01", "2022-08-20", "2023-07-01"]
    rows["latest_date"] = ["2020-07-31", "2022-08-30", "2023-07-31"]
    table = site_histories(rows, _seen(dict.fromkeys((2020, 2021, 2022, 2023), WIDE))).set_index("year")
    days = (np.datetime64("2022-08-25") - np.datetime64("2020-07-16")).astype(int)
    assert table.loc[2022, "growth_m2_per_year"] == pytest.approx(1800 / (days / 365.25), rel=0.005)
    assert table.loc[2022, "growth_m2"] == 1800
    assert np.isnan(table.loc[2021, "growth_m2_per_year"])


def test_sites_are_apart_and_a_site_that_gains_nothing_has_no_direction():
    boxes = {
        2020: [*SLUMP[2020], (501000, 7701000, 501050, 7701050)],
        2022: [(501000, 7701000, 501050, 7701050)],
    }
    table = site_histories(_level2(boxes), _seen({2020: WIDE, 2022: WIDE}))
    assert table["site"].tolist() == [1, 1, 2, 2]
    assert table["advance_azimuth_deg"].isna().all()
    assert sorted(table["state"]) == ["covered, not detected", "detected", "detected", "detected"]


def test_no_detection_gives_an_empty_table_and_missing_columns_are_named():
    empty = site_histories(_level2(SLUMP).iloc[:0], _seen({2020: WIDE}))
    assert len(empty) == 0
    assert empty["year"].dtype == np.int64
    with pytest.raises(ProductError, match="area_m2"):
        site_histories(_level2(SLUMP).drop(columns="area_m2"), _seen({2020: WIDE}))


def test_the_figure_marks_each_state():
    table = site_histories(_level2(SLUMP), _seen({2019: WIDE, **dict.fromkeys(SLUMP, WIDE)}))
    axes = plot_history(table, 1)
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == ["detected", "covered, not detected"]
    assert "(synthetic)" not in axes.get_title()
    with pytest.raises(ParameterError, match="no site 9"):
        plot_history(table, 9)


def test_a_site_that_shrank_and_synthetic_ones_are_called_so():
    shrinking = {2020: SLUMP[2022], 2022: SLUMP[2020], 2023: SLUMP[2020]}
    rows = _level2(shrinking).assign(image_source="PlanetScope (synthetic)")
    table = site_histories(rows, _seen(dict.fromkeys(shrinking, WIDE)))
    assert table["change"].tolist() == ["", "shrank", "same"]
    axes = plot_history(table.assign(doubt=["", "snow", ""]), 1)
    assert "(synthetic)" in axes.get_title()
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == ["detected", "shrank", "offset or snow"]


def test_histories_of_a_synthetic_land_have_its_growth_and_its_states():
    """From outlines burned into 3 m pixels, as perfect networks would mark them, through objects and both levels."""
    west, south, side = 500_000.0, 7_700_000.0, 800
    middle = west + 1.5 * side
    land = Landscape(5, (west, south, west + 3 * side, south + 3 * side), GROUNDS["young_tundra"])
    grid = GeoBox((side, side), from_origin(west, south + 3 * side, 3, 3), UTM)
    years = {2021: 2021.62, 2022: 2022.62, 2023: 2023.62}  # the middle of August
    images = []
    for year, when in years.items():
        outlines = gpd.GeoDataFrame(geometry=land.truth(when), crs=UTM)
        marked = wrap_xr(burn(grid, outlines, None).astype("float32"), grid)
        marked.attrs = {"item_id": f"{year}0815_201500_1034", "time": f"{year}-08-15T20:15:00Z"}
        objects = dx.vectorize(dx.label_objects(marked, border=0, min_pixels=32), marked)
        images.append(dx.level1(objects, marked))
    rows = dx.level2(merge_level1(images))
    # The first summer saw the western half only.
    rows = rows[(rows["year"] > 2021) | (rows.to_crs(UTM).bounds["maxx"] < middle)]
    east = {2021: middle, 2022: west + 3 * side, 2023: west + 3 * side}
    seen = _seen({year: (west, south, edge, south + 3 * side) for year, edge in east.items()})
    table = site_histories(rows, seen)

    errors, states = [], []
    for slump in land.slumps:
        blobs = {year: slump.at(when) for year, when in years.items()}
        last = blobs[2023].polygon()
        if last.bounds[0] < middle < last.bounds[2]:
            continue  # neither in the half that was seen nor out of it
        place = gpd.GeoSeries([last], crs=UTM).to_crs(4326)[0].representative_point()
        site = table.loc[(table["year"] == 2023) & table.covers(place), "site"].iloc[0]
        history = table[table["site"] == site].set_index("year")
        for year, blob in blobs.items():
            expected = "covered, not detected" if blob is None else "detected"
            assert history.loc[year, "state"] == ("not covered" if last.bounds[0] > east[year] else expected)
        states += history["state"].tolist()
        if blobs[2022] is not None:
            grown = blobs[2023].polygon().area - blobs[2022].polygon().area
            errors.append(history.loc[2023, "growth_m2"] / grown - 1)
    assert set(states) == {"not covered", "covered, not detected", "detected"}
    assert len(errors) >= 8
    assert np.abs(errors).max() < 0.15
