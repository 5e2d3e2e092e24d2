from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import time
import warnings
from pathlib import Path
from xml.etree import ElementTree

import geopandas as gpd
import pyarrow.parquet as pq
import pyogrio
import pytest
import shapely

from darts_xr.assess import read_inventory
from darts_xr.errors import CRSError, ProductError
from darts_xr.products import coverage, empty_level1, level2, product_name, write_vectors
from tests.products.rows import box, image, random_level1


@pytest.fixture(scope="module")
def rows() -> gpd.GeoDataFrame:
    return random_level1(3, 40, ("2021-07-01", "2022-07-01"))


def digest(paths: list[Path]) -> list[str]:
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


@pytest.mark.parametrize(
    ("kind", "years", "level", "expected"),
    [
        ("features", range(2018, 2024), "level1", "DARTS_NitzeEtAl_v1-2_features_2018-2023_level1"),
        ("features", range(2018, 2024), "level2", "DARTS_NitzeEtAl_v1-2_features_2018-2023_level2"),
        ("coverage", range(2018, 2024), "level1", "DARTS_NitzeEtAl_v1-2_coverage_2018-2023_level1"),
        ("coverage", range(2018, 2024), "level2", "DARTS_NitzeEtAl_v1-2_coverage_2018-2023_level2"),
        ("coverage", range(2018, 2024), "union", "DARTS_NitzeEtAl_v1-2_coverage_2018-2023_union"),
        ("coverage", [2023, 2021, 2022], "intersect", "DARTS_NitzeEtAl_v1-2_coverage_2021-2023_intersect"),
        ("features", [2021], "level2", "DARTS_NitzeEtAl_v1-2_features_2021_level2"),
    ],
)
def test_file_names_of_table_4(kind: str, years: list[int], level: str, expected: str) -> None:
    assert product_name("DARTS_NitzeEtAl_v1-2", kind, years, level) == expected  # type: ignore[arg-type]


def test_name_that_leaves_the_folder_is_refused() -> None:
    with pytest.raises(ProductError, match="not fit for a file name"):
        product_name("../x", "features", [2021], "level1")


def test_name_without_a_year_is_refused() -> None:
    with pytest.raises(ProductError, match="at least one year"):
        product_name("x", "features", [], "level1")


def test_files_hold_what_was_written(rows: gpd.GeoDataFrame, tmp_path: Path) -> None:
    paths = write_vectors(rows, tmp_path / "x_level1")
    assert [p.name for p in paths] == ["x_level1.parquet", "x_level1.gpkg"]
    for path, read in zip(paths, (gpd.read_parquet, gpd.read_file), strict=True):
        back = read(path).sort_values("id", ignore_index=True)
        assert list(back.columns) == list(rows.columns)
        assert [str(t) for t in back.dtypes] == [str(t) for t in rows.dtypes]
        wanted = rows.sort_values("id", ignore_index=True)
        assert back.drop(columns="geometry").equals(wanted.drop(columns="geometry"))
        assert back.geom_equals(wanted.geometry).all()
        assert back.crs == "EPSG:4326"
    assert {p.name for p in tmp_path.iterdir()} == {p.name for p in paths}


def test_two_runs_give_the_same_bytes(rows: gpd.GeoDataFrame, tmp_path: Path) -> None:
    first = digest(write_vectors(rows, tmp_path / "a" / "x", metadata={"run": "1"}))
    time.sleep(1.1)  # a GeoPackage's time stamps have whole seconds
    again = random_level1(3, 40, ("2021-07-01", "2022-07-01"))
    assert digest(write_vectors(again, tmp_path / "b" / "x", metadata={"run": "1"})) == first


def test_parquet_is_1_1_with_covering_and_a_window_is_read(rows: gpd.GeoDataFrame, tmp_path: Path) -> None:
    path = write_vectors(rows, tmp_path / "x", formats=["parquet"])[0]
    geo = pq.read_schema(path).metadata[b"geo"].decode()
    assert '"version": "1.1.0"' in geo
    assert '"covering"' in geo
    west, south, east, north = rows.total_bounds
    window = (west, south, (west + east) / 2, (south + north) / 2)
    # Covering boxes select; at least what meets the window is there, and not everything.
    part = gpd.read_parquet(path, bbox=window)
    assert rows.intersects(shapely.box(*window)).sum() <= len(part) < len(rows)


def test_metadata_is_in_the_files(rows: gpd.GeoDataFrame, tmp_path: Path) -> None:
    parquet, gpkg = write_vectors(rows, tmp_path / "x", metadata={"checkpoints": "abc"})
    assert gpd.read_parquet(parquet).attrs["checkpoints"] == "abc"
    assert pyogrio.read_info(gpkg)["dataset_metadata"]["checkpoints"] == "abc"


def test_geopackage_passes_checks(rows: gpd.GeoDataFrame, tmp_path: Path) -> None:
    path = write_vectors(rows, tmp_path / "x", formats=["gpkg"])[0]
    info = pyogrio.read_info(path)
    assert (info["layer_name"], info["features"], info["geometry_type"]) == ("x", len(rows), "MultiPolygon")
    with sqlite3.connect(path) as db:
        (application,) = db.execute("PRAGMA application_id").fetchone()
        assert application.to_bytes(4, "big") == b"GPKG"
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        (srs,) = db.execute("SELECT srs_id FROM gpkg_contents WHERE data_type='features'").fetchone()
        assert srs == 4326
        required = {-1, 0, 4326}
        assert required <= {row[0] for row in db.execute("SELECT srs_id FROM gpkg_spatial_ref_sys")}
        assert db.execute("SELECT count(*) FROM rtree_x_geom").fetchone() == (len(rows),)
        (moment,) = db.execute("SELECT last_change FROM gpkg_contents").fetchone()
        assert moment.endswith("Z")
        column, kind, srs = db.execute(
            "SELECT column_name, geometry_type_name, srs_id FROM gpkg_geometry_columns"
        ).fetchone()
        assert (column, kind, srs) == ("geom", "MULTIPOLYGON", 4326)
        blobs = [row[0] for row in db.execute("SELECT geom FROM x")]
    assert all(
        blob[:2] == b"GP" and shapely.from_wkb(blob[40:]).geom_type == "MultiPolygon" for blob in blobs
    )


def test_geopackage_is_read_by_ogrinfo(rows: gpd.GeoDataFrame, tmp_path: Path) -> None:
    ogrinfo = shutil.which("ogrinfo")
    if ogrinfo is None:
        pytest.skip("GDAL's ogrinfo is not installed")
    path = write_vectors(rows, tmp_path / "x", formats=["gpkg"])[0]
    with os.popen(f"{ogrinfo} -so {path} x") as out:
        assert f"Feature Count: {len(rows)}" in out.read()


@pytest.mark.parametrize("frame", ["rows", "empty", "nothing"])
def test_geopackage_passes_the_checks_of_gdal(rows: gpd.GeoDataFrame, tmp_path: Path, frame: str) -> None:
    checker = pytest.importorskip(
        "osgeo_utils.samples.validate_gpkg", reason="GDAL's checker of GeoPackages is not installed"
    )
    no_images = gpd.GeoDataFrame({"image_id": [], "date": [], "year": []}, geometry=[], crs="EPSG:4326")
    frames = {"rows": rows, "empty": empty_level1(), "nothing": coverage(no_images)["union"]}
    path = write_vectors(frames[frame], tmp_path / "x", formats=["gpkg"], metadata={"checkpoints": "abc"})[0]
    found = checker.GPKGChecker(str(path), abort_at_first_error=False, extra_checks=True)
    found.check()
    assert found.errors == []


def test_objects_open_coloured_by_their_probability(rows: gpd.GeoDataFrame, tmp_path: Path) -> None:
    for name, frame, column in (
        ("one", rows, "pval_mean"), ("two", level2(rows), "pval_mean_of_mean_level1"),
    ):  # fmt: skip
        (path,) = write_vectors(frame, tmp_path / name, formats=["gpkg"])
        with sqlite3.connect(path) as db:
            style = db.execute(
                "SELECT f_table_name, f_geometry_column, useAsDefault, styleQML FROM layer_styles"
            )
            layers = style.fetchall()
        assert [row[:3] for row in layers] == [(name, "geom", 1), (f"{name}_dated", "geom", 1)]
        text = layers[0][3]
        drawn = ElementTree.fromstring(text).find("renderer-v2")
        assert drawn is not None
        assert drawn.get("attr") == column
        assert [one.get("upper") for one in drawn.iter("range")][-1] == "1.000000"
        assert len(list(drawn.iter("range"))) == len(list(drawn.iter("symbol")))


def test_a_view_has_dates_as_dates_and_the_published_layer_stays_the_first(
    rows: gpd.GeoDataFrame, tmp_path: Path
) -> None:
    cases = {
        "one": (rows, {"date": "day"}),
        "two": (level2(rows), {"earliest_date": "earliest_day", "latest_date": "latest_day"}),
    }
    for name, (frame, days) in cases.items():
        (path,) = write_vectors(frame, tmp_path / name, formats=["gpkg"])
        layers = [str(layer) for layer, kind in pyogrio.list_layers(path) if kind is not None]
        assert layers == [name, f"{name}_dated"]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            published = gpd.read_file(path, layer=name)
            dated = gpd.read_file(path, layer=f"{name}_dated")
        with pytest.warns(UserWarning, match=f"'{name}' \\(default\\)"):
            plain = gpd.read_file(path)  # as before there was a view: the styles are a layer, too
        assert plain.equals(published)
        assert list(published.columns) == list(frame.columns)
        assert published.equals(dated[published.columns])
        for text, day in days.items():
            assert dated[day].dtype.kind == "M"
            assert dated[day].dt.strftime("%Y-%m-%d").tolist() == published[text].tolist()
        july = pyogrio.read_dataframe(path, layer=f"{name}_dated", where=f"{day} < '2022-01-01'")
        assert july["year"].eq(2021).all()
        assert len(july) == (frame["year"] == 2021).sum()
    (path,) = write_vectors(coverage(_footprints())["level1"], tmp_path / "cover", formats=["gpkg"])
    assert [str(layer) for layer in pyogrio.list_layers(path)[:, 0]] == ["cover"]


def _footprints() -> gpd.GeoDataFrame:
    return gpd.GeoDataFrame(
        {"image_id": ["a"], "date": ["2021-07-01"], "year": [2021]}, geometry=[box(0)], crs="EPSG:4326"
    )


def test_an_inventory_reader_takes_a_product_for_one_layer(rows: gpd.GeoDataFrame, tmp_path: Path) -> None:
    (path,) = write_vectors(rows, tmp_path / "x", formats=["gpkg"])
    assert len(read_inventory(path).features) == len(rows)


def test_duckdb_reads_the_parquet(rows: gpd.GeoDataFrame, tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb", reason="DuckDB is not installed")
    path = write_vectors(rows, tmp_path / "x", formats=["parquet"])[0]
    query = f"SELECT count(*), sum(area_m2), min(bbox.xmin) FROM '{path}'"
    n, area, west = duckdb.sql(query).fetchall()[0]
    assert (n, area) == (len(rows), rows.area_m2.sum())
    assert west == pytest.approx(rows.total_bounds[0])


def test_empty_frames_give_valid_files_with_the_schema(tmp_path: Path) -> None:
    frames = {"l1": empty_level1(), "l2": level2(empty_level1())}
    frames |= {f"cover_{kind}": frame for kind, frame in coverage(empty_level1()).items()}
    for name, frame in frames.items():
        for path in write_vectors(frame, tmp_path / name):
            back = gpd.read_parquet(path) if path.suffix == ".parquet" else gpd.read_file(path)
            assert list(back.columns) == list(frame.columns)
            assert len(back) == len(frame)
            assert back.crs == "EPSG:4326"


def test_no_crs_is_refused(rows: gpd.GeoDataFrame, tmp_path: Path) -> None:
    with pytest.raises(CRSError, match="product"):
        write_vectors(rows.set_crs(None, allow_override=True), tmp_path / "x")


def test_unknown_format_is_refused(rows: gpd.GeoDataFrame, tmp_path: Path) -> None:
    with pytest.raises(ProductError, match="'shp'"):
        write_vectors(rows, tmp_path / "x", formats=["shp"])


@pytest.mark.parametrize("suffix", ["parquet", "gpkg"])
def test_old_file_survives_a_full_disk(
    rows: gpd.GeoDataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    (old,) = write_vectors(image("2021-07-01", [box(0)]), tmp_path / "x", formats=[suffix])
    before = old.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ProductError, match="No space left on device"):
        write_vectors(rows, tmp_path / "x", formats=[suffix])
    assert old.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [old.name]


@pytest.mark.parametrize("suffix", ["parquet", "gpkg"])
def test_really_full_disk_is_named_and_leaves_nothing(
    rows: gpd.GeoDataFrame, tmp_path: Path, suffix: str
) -> None:
    resource = pytest.importorskip("resource", reason="limits on file size need a Unix")
    import signal

    write_vectors(image("2021-07-01", [box(0)]), tmp_path / "x", formats=[suffix])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        with pytest.raises(ProductError, match="could not be written"):
            write_vectors(rows, tmp_path / "x", formats=[suffix])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert [path.name for path in tmp_path.iterdir()] == [f"x.{suffix}"]
    read = gpd.read_parquet if suffix == "parquet" else gpd.read_file
    assert len(read(tmp_path / f"x.{suffix}")) == 1


def test_folder_that_cannot_be_made_is_named(rows: gpd.GeoDataFrame, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ProductError, match="could not be written"):
        write_vectors(rows, tmp_path / "file" / "x")
