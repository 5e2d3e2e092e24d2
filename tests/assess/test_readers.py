"""Inventories in the forms in which they are published."""

from __future__ import annotations

import zipfile
from pathlib import Path

import geopandas as gpd
import pandas as pd
import pytest
import shapely

from darts_xr.assess import ReferenceTime, read_inventory
from darts_xr.errors import AssessmentError, CRSError
from darts_xr.sample import SampleWorld
from tests.helpers import real_data

SQUARE = shapely.box(-122, 71, -121.9, 71.1)


def frame(*shapes: shapely.Geometry, crs: object = 4326, **columns: list) -> gpd.GeoDataFrame:
    return gpd.GeoDataFrame(columns, geometry=list(shapes), crs=crs)


def test_a_table_with_longitude_and_latitude(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    path.write_text("Name,LAT,Lon\na,71.1,-122.8\nb,,\n")
    got = read_inventory(path)
    assert got.features.geometry.iloc[0].coords[0] == (-122.8, 71.1)
    assert any("1 row(s) without a shape" in note for note in got.notes)
    assert any("EPSG:4326" in note for note in got.notes)


def test_a_table_with_other_columns_needs_their_names(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    path.write_text("east;north\n500000;7700000\n".replace(";", ","))
    with pytest.raises(AssessmentError, match="longitude among east, north"):
        read_inventory(path)
    with pytest.raises(AssessmentError, match="no degrees"):
        read_inventory(path, lon="east", lat="north")
    assert read_inventory(path, lon="east", lat="north", crs=32608).features.crs == "EPSG:32608"


def test_a_zipped_shapefile_and_a_kml(tmp_path: Path) -> None:
    frame(SQUARE, name=["a"]).to_file(tmp_path / "slumps.shp")
    with zipfile.ZipFile(tmp_path / "slumps.zip", "w") as archive:
        for part in tmp_path.glob("slumps.*"):
            if part.suffix != ".zip":
                archive.write(part, f"inside/{part.name}")
    assert read_inventory(tmp_path / "slumps.zip").features.geometry.iloc[0].equals(SQUARE)
    kml = "<kml xmlns='http://www.opengis.net/kml/2.2'><Document>{}</Document></kml>".format(
        "".join(
            f"<Folder><name>{name}</name><Placemark><name>{name}</name><Point><coordinates>{x},71,12"
            "</coordinates></Point></Placemark></Folder>"
            for name, x in (("one", -122), ("two", -121))
        )
    )
    (tmp_path / "slumps.kml").write_text(kml)
    got = read_inventory(tmp_path / "slumps.kml")
    assert got.features.geometry.x.tolist() == [-122, -121]
    assert not got.features.has_z.any()


def test_a_zip_must_hold_one_set_of_vectors(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "none.zip", "w") as archive:
        archive.writestr("readme.txt", "no shapes")
    with pytest.raises(AssessmentError, match="holds none"):
        read_inventory(tmp_path / "none.zip")


def test_repairs_are_told(tmp_path: Path) -> None:
    bow = shapely.Polygon([(0, 70), (1, 71), (1, 70), (0, 71)])
    frame(bow, None, SQUARE, SQUARE).to_file(tmp_path / "mixed.gpkg")
    got = read_inventory(tmp_path / "mixed.gpkg")
    assert got.features.is_valid.all()
    assert len(got.features) == 3
    for word in (
        "1 row(s) without a shape",
        "1 invalid shape(s) repaired",
        "1 shape(s) occur more than once",
    ):
        assert any(word in note for note in got.notes)


def test_arts_drops_its_background_and_is_dated_by_its_base_map(tmp_path: Path) -> None:
    # Columns as the published metadata table lists them; the rows are synthetic.
    columns = dict.fromkeys(("RegionName", "CreatorLab", "BaseMapSource"), ["synthetic"] * 2) | {
        "CentroidLat": [71.05] * 2, "CentroidLon": [-121.95] * 2, "BaseMapDate": ["2022-05-01,2022-09-30"] * 2,
        "BaseMapResolution": [4.0] * 2, "TrainClass": ["Positive", "Negative"], "LabelType": ["Polygon"] * 2,
        "UID": ["a", "b"],
    }  # fmt: skip
    frame(SQUARE, SQUARE, **columns).to_file(tmp_path / "arts.geojson")
    got = read_inventory(tmp_path / "arts.geojson")
    assert (got.schema, got.time) == ("ARTS", ReferenceTime(date="BaseMapDate"))
    assert got.features["UID"].tolist() == ["a"]
    assert any("1 polygon(s) of background" in note for note in got.notes)


def test_the_truth_of_a_sample_world_declares_its_dates(world: SampleWorld, tmp_path: Path) -> None:
    got = read_inventory(world.truth)
    assert (got.schema, got.time.date) == ("sample world", "date")
    got.features.to_parquet(tmp_path / "copy.parquet")
    stripped = gpd.read_parquet(tmp_path / "copy.parquet")
    stripped.attrs = {}
    stripped.to_parquet(tmp_path / "stripped.parquet")
    assert not read_inventory(tmp_path / "stripped.parquet").time.declared


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    with pytest.raises(AssessmentError, match="not found"):
        read_inventory(tmp_path / "no.gpkg")
    (tmp_path / "text.gpkg").write_text("no package")
    with pytest.raises(AssessmentError, match=r"text\.gpkg cannot be read"):
        read_inventory(tmp_path / "text.gpkg")
    (tmp_path / "text.parquet").write_text("no parquet")
    with pytest.raises(AssessmentError, match=r"text\.parquet cannot be read"):
        read_inventory(tmp_path / "text.parquet")
    frame(SQUARE, crs=None).to_file(tmp_path / "nowhere.gpkg")
    with pytest.raises(CRSError, match="coordinate reference system"):
        read_inventory(tmp_path / "nowhere.gpkg")
    assert read_inventory(tmp_path / "nowhere.gpkg", crs=4326).features.crs == "EPSG:4326"
    frame(SQUARE).to_file(tmp_path / "there.gpkg")
    with pytest.raises(CRSError, match="states EPSG:4326"):
        read_inventory(tmp_path / "there.gpkg", crs=3413)
    frame(shapely.Polygon()).to_file(tmp_path / "empty.gpkg")
    with pytest.raises(AssessmentError, match="no shape"):
        read_inventory(tmp_path / "empty.gpkg")
    frame(SQUARE).to_file(tmp_path / "two.gpkg", layer="a")
    frame(SQUARE).to_file(tmp_path / "two.gpkg", layer="b")
    with pytest.raises(AssessmentError, match="layers a, b"):
        read_inventory(tmp_path / "two.gpkg")
    assert len(read_inventory(tmp_path / "two.gpkg", layer="b").features) == 1
    with pytest.raises(AssessmentError, match="no layer 'c'"):
        read_inventory(tmp_path / "two.gpkg", layer="c")
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "plain.parquet")
    with pytest.raises(AssessmentError, match="GeoParquet"):
        read_inventory(tmp_path / "plain.parquet")


@pytest.mark.realdata
def test_real_inventories_are_recognised_and_decoded() -> None:
    folder = real_data("rts-inventories")
    points = read_inventory(folder / "Lewkowicz2019_points.xlsx")
    assert (points.schema, len(points.features)) == ("Lewkowicz and Way 2019", 4578)
    assert points.features["last_year"].max() == 2016
    assert int(points.features["active_2016"].sum()) == 3812
    assert set(points.features["setting"].dropna()) == {"C", "L", "R", "S"}
    segal = read_inventory(folder / "Segal2015" / "Banks_Island_Slumps_V2.shp")
    assert (segal.schema, segal.time.declared, len(segal.features)) == ("Segal 2015", False, 832)
    assert segal.features.is_valid.all()
    assert any("4 invalid" in note for note in segal.notes)
    for name, count in (
        ("Banks_Island_slumps", 262), ("HotWeatherCreek_slumps", 162), ("Willow_River_Thaw_Slumps", 197),
    ):  # fmt: skip
        huang = read_inventory(folder / "Huang2022" / f"{name}.shp")
        assert (huang.schema, len(huang.features), huang.time.date) == ("Huang 2022", count, "drawn")
