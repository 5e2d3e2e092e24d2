from __future__ import annotations

import geohash
import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from hypothesis import example, given, settings
from hypothesis import strategies as st

from darts_xr.errors import CRSError, ProductError
from darts_xr.globe import area_m2
from darts_xr.objects.runs import components
from darts_xr.products import (
    empty_level1,
    geometry,
    level2,
    merge_level1,
    site_table,
    update_level2,
)
from darts_xr.products.geometry import geohashes
from darts_xr.products.level_two import overlap_groups
from tests.helpers import real_data
from tests.products.rows import box, image, random_level1

# "str" with pandas 3, "object" before
TEXT = str(pd.Series(["x"]).dtype)

TABLE_6 = {
    "id": "int64",
    "id_geohash": TEXT,
    "year": "int64",
    "area_m2": "int64",
    "area_ha": "float64",
    "area_km2": "float64",
    "image_source": TEXT,
    "n_features_level1": "int64",
    "id_geohash_level1": TEXT,
    "earliest_date": TEXT,
    "latest_date": TEXT,
    "n_unique_dates": "int64",
    "pval_mean_of_mean_level1": "float64",
    "pval_mean_of_max_level1": "float64",
    "DARTS_dataset_version": TEXT,
    "DARTS_dataset_information": TEXT,
    "DARTS_processing_level": TEXT,
    "DARTS_AI_model_version": TEXT,
    "DARTS_AI_model_threshold": TEXT,
    "geometry": "geometry",
}


def test_columns_types_and_order_are_those_of_table_6() -> None:
    for rows in (image("2021-07-19", [box(0)]), empty_level1()):
        got = level2(rows)
        assert {name: str(dtype) for name, dtype in got.dtypes.items()} == TABLE_6
        assert list(got.columns) == list(TABLE_6)


def test_overlapping_polygons_of_a_year_become_one() -> None:
    rows = merge_level1(
        [
            image("2021-07-19", [box(0), box(9)], mean=0.5),
            image("2021-08-02", [box(0.5)], mean=0.6),
            image("2021-08-02", [box(1.2)], mean=0.7, tail="2211"),
            image("2022-07-01", [box(0)]),
        ]
    )
    got = level2(rows)
    assert got.year.tolist() == [2021, 2021, 2022]
    chain = got[got.n_features_level1 == 3].iloc[0]
    assert shapely.equals(chain.geometry, shapely.union_all([box(0), box(0.5), box(1.2)]))
    assert (chain.earliest_date, chain.latest_date, chain.n_unique_dates) == ("2021-07-19", "2021-08-02", 2)
    assert chain.pval_mean_of_mean_level1 == pytest.approx(0.6)
    assert chain.pval_mean_of_max_level1 == pytest.approx(0.8)
    assert chain.id_geohash_level1 == ",".join(sorted(geohashes(np.array([box(0), box(0.5), box(1.2)]))))
    assert chain.DARTS_dataset_information == "RTS footprint - annually aggregated (level2)"
    assert chain.DARTS_processing_level == "level2"


def test_single_observation_keeps_its_geometry_untouched() -> None:
    shape = shapely.Polygon(
        [(-139, 69), (-138.9995, 69), (-138.999, 69), (-138.999, 69.001)]
    )  # a spare vertex
    got = level2(image("2021-07-19", [shape]))
    assert got.geometry.to_wkb()[0] == gpd.GeoSeries([shape]).to_wkb()[0]


def test_an_outline_edited_after_level1_gets_the_geohash_and_area_of_what_it_is_now() -> None:
    rows = image("2021-07-19", [box(0)])
    moved = rows.set_geometry(rows.geometry.translate(0.01))
    got = level2(moved)
    assert got.id_geohash.tolist() == geohashes(moved.geometry.to_numpy()) != rows.id_geohash.tolist()
    assert got.area_m2.tolist() == area_m2(moved).round().astype(int).tolist()


def test_touching_counts_only_when_asked_for() -> None:
    rows = merge_level1([image("2021-07-19", [box(0)]), image("2021-08-02", [box(1), box(-1, -1)])])
    assert level2(rows).n_features_level1.tolist() == [1, 1, 1]
    assert level2(rows, touching=True).n_features_level1.tolist() == [3]


def test_identical_polygons_merge() -> None:
    rows = merge_level1([image("2021-07-19", [box(0), box(0)]), image("2021-08-02", [box(0)])])
    got = level2(rows)
    assert got.n_features_level1.tolist() == [3]
    assert shapely.equals(got.geometry[0], box(0))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.booleans())
def test_members_and_areas_equal_plain_dissolve(seed: int, n: int, touching: bool) -> None:
    rows = random_level1(seed, n, ("2021-07-01", "2021-08-01", "2021-08-01", "2022-07-01"))
    got = level2(rows, touching=touching)
    for year, members in rows.groupby("year"):
        plain = gpd.GeoSeries([shapely.union_all(members.geometry.to_numpy())], crs=4326).explode()
        mine = got[got.year == year]
        assert len(mine) == len(plain)
        np.testing.assert_allclose(sorted(area_m2(mine)), sorted(area_m2(plain)), rtol=1e-9)
    ids = [i for text in got.id_geohash_level1 for i in text.split(",")]
    assert set(ids) == set(rows.id_geohash)
    assert got.n_features_level1.sum() == len(rows)
    shuffled = rows.sample(frac=1, random_state=seed % 1000)
    assert level2(shuffled, touching=touching).to_wkb().equals(got.to_wkb())


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 60))
def test_groups_are_those_that_the_relations_of_all_outlines_give(seed: int, n: int) -> None:
    shapes = random_shapes(seed, n)
    labels = np.arange(n) % 2
    left, right = np.triu_indices(n, 1)
    same = labels[left] == labels[right]
    left, right = left[same], right[same]
    shared = shapely.area(shapely.intersection(shapes[left], shapes[right]))
    meet = shapely.relate_pattern(shapes[left], shapes[right], "T********") & (
        shared > 1e-11
    )  # not by a hair
    expected = components(n, left[meet], right[meet])
    np.testing.assert_array_equal(overlap_groups(shapes, labels), expected)


def random_shapes(seed: int, n: int) -> np.ndarray:
    """Rings with holes, crescents and squares that touch: boxes that meet say little of what is inside."""
    rng = np.random.default_rng(seed)
    centres = shapely.points(rng.integers(0, 8, (n, 2)) / 1000 + [-139, 69])
    wide = shapely.buffer(centres, rng.uniform(0.5e-3, 3e-3, n), quad_segs=4)
    hole = shapely.buffer(centres, rng.uniform(0.1e-3, 2e-3, n), quad_segs=4)
    ring = shapely.difference(wide, hole)
    square = shapely.box(*shapely.get_coordinates(centres).T, *(shapely.get_coordinates(centres) + 1e-3).T)
    kind = rng.integers(0, 3, n)
    shapes = np.where(kind == 0, wide, np.where(kind == 1, ring, square))
    return np.where(shapely.is_empty(shapes), square, shapes)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_columns_are_those_that_the_members_give(seed: int, n: int) -> None:
    days = ("2021-07-01", "2021-08-01", "2021-08-01", "2022-07-01")
    rows = random_level1(seed, n, days)
    rng = np.random.default_rng(seed)
    rows["image_source"] = rng.choice(["PlanetScope", "a, b", "ä"], len(rows))
    rows["DARTS_dataset_information"] = rng.choice(["x", "y - individual image (level1)"], len(rows))
    got = level2(rows)
    inner = rows.geometry.representative_point()
    for feature in got.itertuples(index=False):
        members = rows[(rows.year == feature.year) & inner.within(feature.geometry)]
        earliest = members.sort_values(["date", "image_id", "id"]).iloc[0]
        assert (feature.id, feature.earliest_date) == (earliest.id, earliest.date)
        assert (feature.n_features_level1, feature.latest_date) == (len(members), members.date.max())
        assert feature.n_unique_dates == members.date.nunique()
        assert feature.id_geohash_level1 == ",".join(sorted(set(members.id_geohash)))
        assert feature.image_source == ",".join(sorted(set(members.image_source)))
        said = {text.split(" - ")[0] for text in members.DARTS_dataset_information}
        assert feature.DARTS_dataset_information == ",".join(
            f"{text} - annually aggregated (level2)" for text in sorted(said)
        )
        assert feature.pval_mean_of_mean_level1 == pytest.approx(members.pval_mean.mean())


def test_many_rows_in_threads_give_what_one_thread_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = random_level1(5, 300, ("2021-07-01", "2021-08-01", "2022-07-01"))
    plain = level2(rows)
    monkeypatch.setattr(geometry, "_FEW", 8)
    shapely.prepare(rows.geometry.to_numpy())  # two threads that share a prepared polygon can end the process
    split = level2(rows)
    assert split.to_wkb().equals(plain.to_wkb())


def _beyond_a_hair(degrees: float) -> bool:
    """Nearer to the equator and the first meridian python-geohash shifts by more bits than a number has."""
    return degrees == 0 or abs(degrees) >= 1e-12


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(
                st.floats(-540, 540, exclude_max=True).filter(_beyond_a_hair),
                st.floats(-90, 90).filter(_beyond_a_hair),
            ),
            # rims of cells, and what lies next to them
            st.tuples(
                st.integers(-(2**29), 2**29 - 1).map(lambda i: i / 2**29 * 180),
                st.integers(-(2**29), 2**29 - 1).map(lambda i: i / 2**29 * 90),
            ),
            st.tuples(
                st.integers(1, 2**29 - 1).map(lambda i: float(np.nextafter(i / 2**29 * 180, -999))),
                st.integers(1 - 2**29, -1).map(lambda i: float(np.nextafter(i / 2**29 * 90, -999))),
            ),
        ),
        min_size=1,
    )
)
@example(
    [(0.0, 90.0), (180.0, -90.0), (-180.0, 0.0), (179.99999999999997, 89.99999999999999), (-0.0, -1e-320)]
)
@pytest.mark.filterwarnings("ignore:.*latitude.*")
def test_geohashes_are_those_of_python_geohash(points: list[tuple[float, float]]) -> None:
    expected = [geohash.encode(float(lat), float(lon), 12) for lon, lat in points]
    assert geometry.encode_geohashes(np.array(points)) == expected


def test_a_centroid_beyond_the_pole_is_refused() -> None:
    with pytest.raises(ProductError, match="latitude"):
        geometry.encode_geohashes(np.array([[0.0, 90.1]]))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 10), st.booleans())
def test_update_equals_a_new_dissolve(seed: int, n: int, touching: bool) -> None:
    rows = random_level1(seed, n, ("2021-07-01", "2021-08-01", "2022-07-01", "2022-08-01"))
    is_new = rows.image_id.str.endswith("0001")
    old, new = rows[~is_new], rows[is_new]
    updated = update_level2(level2(old, touching=touching), old, new, touching=touching)
    assert updated.to_wkb().equals(level2(rows, touching=touching).to_wkb())


def test_update_refuses_an_image_that_is_there_already() -> None:
    rows = image("2021-07-19", [box(0)])
    with pytest.raises(ProductError, match="in Level 1 already"):
        update_level2(level2(rows), rows, rows)


def test_equal_geohashes_are_allowed_but_a_repeated_id_is_not() -> None:
    rows = image("2021-07-19", [box(0), box(0.25, 0.25, 0.5)])
    assert rows.id_geohash.nunique() == 1
    assert len(level2(rows)) == 1
    rows["id"] = 1
    with pytest.raises(ProductError, match="more than once"):
        level2(rows)


def test_date_outside_its_year_is_refused() -> None:
    rows = image("2021-07-19", [box(0)]).assign(year=2022)
    with pytest.raises(ProductError, match="is not in the year 2022"):
        level2(rows)


def test_date_outside_the_scene_id_is_refused() -> None:
    rows = image("2021-07-19", [box(0)]).assign(date="2021-07-20")
    with pytest.raises(ProductError, match="its id names the date 2021-07-19"):
        level2(rows)


def test_missing_columns_are_named() -> None:
    with pytest.raises(ProductError, match="pval_max"):
        level2(image("2021-07-19", [box(0)]).drop(columns="pval_max"))


def test_no_crs_is_refused() -> None:
    with pytest.raises(CRSError, match="level1"):
        level2(image("2021-07-19", [box(0)]).set_crs(None, allow_override=True))


def test_self_crossing_ring_is_repaired_and_reported() -> None:
    crossing = shapely.Polygon([(-139, 69), (-138.999, 69.001), (-138.999, 69), (-139, 69.001)])
    rows = image("2021-07-19", [box(9), box(0)])
    rows.loc[1, "geometry"] = crossing
    got = level2(rows)
    assert got.is_valid.all()
    assert got.attrs["repaired"] == ["20210719_201500_1034 id 2"]


def test_site_follows_its_years() -> None:
    rows = merge_level1(
        [
            image("2021-07-19", [box(0), box(9)]),
            image("2022-07-19", [box(0, side=1.5)]),
            image("2023-07-19", [box(0, side=2)]),
        ]
    )
    sites = site_table(level2(rows))
    grown = sites[sites.n_years == 3].iloc[0]
    single = sites[sites.n_years == 1].iloc[0]
    assert (grown.first_seen, grown.last_seen) == ("2021-07-19", "2023-07-19")
    assert grown.growth_m2 == grown.area_m2_2023 - grown.area_m2_2021
    expected = np.polyfit(
        [2021, 2022, 2023], grown[["area_m2_2021", "area_m2_2022", "area_m2_2023"]].astype(float), 1
    )
    assert grown.growth_m2_per_year == pytest.approx(expected[0])
    assert np.isnan(single.area_m2_2022)
    assert np.isnan(single.growth_m2)
    assert len(site_table(level2(empty_level1()))) == 0


# --- real shapes ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def labels() -> gpd.GeoDataFrame:
    """The published training labels as Level 1."""
    folder = real_data("rts-training-labels")
    frames = [
        gpd.read_file(path)[["image_id", "image_date", "label", "geometry"]].assign(iteration=path.stem[-3:])
        for path in sorted(folder.glob("TrainingLabel_*.gpkg"))
    ]
    rows = pd.concat(frames, ignore_index=True).rename(columns={"image_date": "date"})
    return rows.assign(
        id=np.arange(1, len(rows) + 1),
        id_geohash=geohashes(rows.geometry.to_numpy()),
        year=rows["date"].str[:4].astype("int64"),
        image_source="PlanetScope",
        pval_mean=1.0,
        pval_max=1.0,
        DARTS_dataset_version="labels",
        DARTS_AI_model_version="manual",
        DARTS_AI_model_threshold="none",
    )


@pytest.mark.realdata
def test_real_labels_become_level2_with_nothing_lost(labels: gpd.GeoDataFrame) -> None:
    assert len(labels) == 3749
    got = level2(labels)
    assert got.n_features_level1.sum() == 3749
    for year, members in labels.groupby("year"):
        mine = got[got.year == year]
        listed = [text.split(",") for text in mine.id_geohash_level1]
        assert {i for ids in listed for i in ids} == set(members.id_geohash)
        assert all(len(set(ids)) == len(ids) for ids in listed)
        whole = shapely.union_all(shapely.make_valid(members.geometry.to_numpy()))
        expected = area_m2(gpd.GeoSeries([whole], crs=4326))[0]
        assert area_m2(mine).sum() == pytest.approx(expected, rel=1e-6)
    assert got.is_valid.all()


@pytest.mark.realdata
def test_real_traps_invalid_geometries_are_repaired_and_reported(labels: gpd.GeoDataFrame) -> None:
    assert (~labels.is_valid).sum() == 11
    assert len(level2(labels).attrs["repaired"]) == 11


@pytest.mark.realdata
def test_real_traps_copies_on_overlapping_scenes_merge(labels: gpd.GeoDataFrame) -> None:
    first = labels[labels.iteration == "001"]
    distinct = first.geometry.to_wkb().nunique()
    assert distinct == 1574
    got = level2(first)
    assert got.n_features_level1.sum() == 2182
    assert len(got) <= len(first.drop_duplicates(["year", "id_geohash"]))


@pytest.mark.realdata
def test_real_traps_null_labels_and_short_ids_pass(labels: gpd.GeoDataFrame) -> None:
    without_label = labels[labels.label.isna()]
    assert len(without_label) == 20
    assert level2(without_label).n_features_level1.sum() == 20
    # Ids that lost their last character still name their date.
    cut = labels[labels.iteration == "005"]
    assert cut.image_id.str.fullmatch(r"\d+_\d+_\d{4}-\d\d-\d\d_\w{3}").all()
    assert level2(cut).n_features_level1.sum() == 141


@pytest.mark.realdata
def test_real_traps_mangled_footprint_dates_are_refused(labels: gpd.GeoDataFrame) -> None:
    rows = labels[labels.iteration == "002"].assign(date="202-00-722")
    with pytest.raises(ProductError, match="202-00-722"):
        level2(rows)
