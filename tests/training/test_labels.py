"""Labels: read from any file, repaired, matched to scenes; what is wrong or without partner is told."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pystac
import pytest
import shapely

from darts_xr.errors import CRSError, LabelError
from darts_xr.training import LabelFile, label_mask, label_statistics, match_labels, read_labels
from tests.training.lessons import CRS, labelled_scene

DATA = Path("../shared/data")
PUBLISHED = DATA / "rts-training-labels"


def _item(name: str, west: float, day: str = "2021-07-01") -> pystac.Item:
    footprint = shapely.box(west, 70, west + 1, 71)
    moment = datetime.fromisoformat(day).replace(tzinfo=UTC)
    return pystac.Item(name, shapely.geometry.mapping(footprint), list(footprint.bounds), moment, {})


def _file(folder: Path, name: str = "labels.gpkg", crs: Any = 4326, **columns: Any) -> str:
    count = len(next(iter(columns.values())))
    shapes = [shapely.box(10.1 + 0.1 * k, 70.1, 10.15 + 0.1 * k, 70.2) for k in range(count)]
    frame = gpd.GeoDataFrame(columns, geometry=columns.pop("geometry", shapes), crs=crs)
    frame.to_file(folder / name)
    return str(folder / name)


def test_labels_of_every_type_mean_the_same(tmp_path: Path):
    kinds = []
    for number, values in enumerate(([1, 0], ["1", "0"], [1.0, 0.0], [1.0, None])):
        path = _file(tmp_path, f"{number}.gpkg", image_date=["2021-07-01"] * 2, label=values)
        labels = read_labels([path])
        kinds.append(labels.outlines["kind"].tolist())
    assert kinds == [["slump", "negative"]] * 3 + [["slump", "slump"]]
    assert labels.notes["without_label"] == 1


def test_a_label_of_unknown_meaning_is_an_error_until_it_is_explained(tmp_path: Path):
    path = _file(tmp_path, image_date=["2021-07-01"] * 2, label=[1, 7])
    with pytest.raises(LabelError, match=r"row 1 has the label 7.*1 \(slump\), 0 \(negative\)"):
        read_labels([path])
    explained = read_labels([LabelFile(path, classes={"1": "slump", "7": "ignore"})])
    assert explained.outlines["kind"].tolist() == ["slump", "ignore"]
    with pytest.raises(LabelError, match="classes name rock"):
        LabelFile(path, classes={"1": "rock"})


def test_files_that_say_too_little_are_named(tmp_path: Path):
    path = _file(tmp_path, note=["a"])
    with pytest.raises(LabelError, match="neither image ids"):
        read_labels([path])
    said = read_labels([LabelFile(path, date="2021-07-01", region="here")])
    assert said.outlines[["date", "region"]].to_numpy().tolist() == [["2021-07-01", "here"]]
    with pytest.raises(LabelError, match="not found"):
        read_labels([str(tmp_path / "absent.gpkg")])
    (tmp_path / "text.gpkg").write_text("no file of this kind")
    with pytest.raises(LabelError, match="cannot be read as a vector file"):
        read_labels([str(tmp_path / "text.gpkg")])
    bare = gpd.GeoDataFrame({"image_date": ["2021-07-01"]}, geometry=[shapely.box(0, 0, 1, 1)])
    bare.to_file(tmp_path / "bare.shp")
    with pytest.raises(CRSError, match=r"bare\.shp has no coordinate reference system"):
        read_labels([str(tmp_path / "bare.shp")])


def test_shapes_are_repaired_and_counted(tmp_path: Path):
    bow = shapely.Polygon([(10, 70), (10.1, 70.1), (10.1, 70), (10, 70.1)])
    path = _file(tmp_path, image_date=["2021-07-01"] * 3, geometry=[bow, shapely.Point(10, 70), None])
    labels = read_labels([path])
    assert labels.notes["repaired"] == 1
    assert labels.notes["without_polygon"] == 2
    assert shapely.is_valid(labels.outlines.geometry.to_numpy()).all()


def test_outlines_find_their_scene_by_id_by_a_cut_id_or_by_day_and_place(tmp_path: Path):
    ids = ["20210701_101010_01_105c", "20210701_101010_1_105c", "20210701_101010_01_105", "elsewhere"]
    path = _file(tmp_path, image_id=ids, image_date=["2021-07-01"] * 4)
    items = [_item("20210701_101010_01_105c", 10), _item("other", 20)]
    scenes, report = match_labels(read_labels([path]), items)
    assert [(s.item.id, len(s.outlines)) for s in scenes] == [("20210701_101010_01_105c", 4)]
    assert report.unlabelled == ("other",)
    assert report.area.loc["2021", "unknown"] == pytest.approx(report.scenes["area_km2"].sum())


def test_an_outline_without_a_scene_is_an_error_until_it_is_allowed(tmp_path: Path):
    path = _file(
        tmp_path, image_id=["a", "gone", "far"], image_date=["2021-07-01", "2019-07-01", "2021-07-01"]
    )
    items = [_item("a", 10), _item("far", 40)]
    labels = read_labels([path])
    message = r"2 of 3 outlines meet no scene.*no scene of 2019-07-01 shows its place, and gone is not there"
    with pytest.raises(LabelError, match=message):
        match_labels(labels, items)
    _, report = match_labels(labels, items, allow_unmatched=["labels.gpkg"])
    assert sorted(report.unmatched["why"]) == [
        "lies outside of its scene far",
        "no scene of 2019-07-01 shows its place, and gone is not there",
    ]
    with pytest.raises(LabelError, match="no scene to match"):
        match_labels(labels, [])


def test_scenes_that_were_looked_at_without_finding_anything_are_negative(tmp_path: Path):
    path = _file(tmp_path, image_id=["a"], image_date=["2021-07-01"])
    items = [_item("a", 10), _item("b", 20), _item("c", 30)]
    scenes, report = match_labels(read_labels([path], negatives=["b"]), items)
    assert [(s.item.id, len(s.outlines)) for s in scenes] == [("a", 1), ("b", 0)]
    assert report.unlabelled == ("c",)
    assert report.to_dict()["scenes_without_slumps"] == 1


def test_labels_burn_by_kind_footprint_and_mask():
    labelled = labelled_scene(size=100)
    west, north = 400_000, 7_800_000
    boxes = [shapely.box(west + 30 * k, north - 150, west + 30 * k + 30, north - 120) for k in range(3)]
    outlines = gpd.GeoDataFrame({"kind": ["slump", "negative", "ignore"]}, geometry=boxes, crs=CRS)
    half = gpd.GeoSeries([shapely.box(west, north - 300, west + 150, north)], crs=CRS).to_crs(4326)[0]
    burned = label_mask(labelled.scene, outlines, footprint=half)
    assert np.unique(burned[:5]).tolist() == [255]  # masked
    assert np.unique(burned[:, 51:]).tolist() == [255]  # not looked at
    assert (burned == 1).sum() == 100
    assert burned[45, 15] == 0
    assert burned[45, 25] == 255
    with pytest.raises(CRSError, match="no CRS"):
        label_mask(labelled.scene, outlines.set_crs(None, allow_override=True))


def test_versions_follow_the_outlines(tmp_path: Path):
    one = _file(tmp_path, "set_iteration001.gpkg", image_date=["2021-07-01"])
    two = _file(tmp_path, "set_iteration002.gpkg", image_date=["2021-07-02"] * 2)
    labels = read_labels([one, two])
    assert labels.iterations == ("iteration001", "iteration002")
    assert labels.version == read_labels([two, one]).version
    assert labels.version.startswith("iteration002-")
    first = labels.up_to("iteration001")
    assert first.version == read_labels([one]).version != labels.version
    with pytest.raises(LabelError, match="no iteration 'iteration009'"):
        labels.up_to("iteration009")


@pytest.mark.realdata
@pytest.mark.skipif(not PUBLISHED.is_dir(), reason=f"{PUBLISHED} is not here")
def test_the_published_labels_give_the_papers_table_and_their_known_flaws():
    files = sorted(str(path) for path in PUBLISHED.glob("TrainingLabel_*.gpkg"))
    footprints = sorted(str(path) for path in PUBLISHED.glob("ImageFootprints_*.gpkg"))
    labels = read_labels(files, footprints=footprints)
    table = label_statistics(labels)
    assert table["features"].tolist() == [2182, 743, 410, 204, 141, 69]
    # Iteration 1 has no footprints here; in iteration 5 all five images show slumps, which the paper's join missed.
    assert table["images_with_slumps"].tolist() == [142, 6, 4, 2, 5, 3]
    assert table["images_without_slumps"].tolist() == [0, 0, 0, 0, 0, 9]
    assert table["area_km2"].round(1).tolist() == [61.1, 8.0, 5.4, 1.2, 1.4, 0.4]
    assert (table["first"].min(), table["last"].max()) == ("2018-07-02", "2022-08-13")
    notes = labels.notes
    assert (notes["repaired"], notes["without_label"], notes["equal_centroids"]) == (11, 20, 683)
    items = []
    for row in labels.footprints.itertuples():
        day = datetime(2021, 7, 1, tzinfo=UTC)
        items.append(
            pystac.Item(
                row.image_id, shapely.geometry.mapping(row.geometry), list(row.geometry.bounds), day, {}
            )
        )
    with pytest.raises(LabelError, match="2182 of 3749 outlines meet no scene"):
        match_labels(labels, items)
    _, report = match_labels(labels, items, allow_unmatched=["iteration001"])
    assert report.scenes["how"].value_counts().to_dict() == {"id": 15, "no outline": 9, "completed id": 5}
    assert report.scenes["slumps"].sum() == 1567


@pytest.mark.realdata
@pytest.mark.skipif(not (DATA / "rts-experts-peel").is_dir(), reason="rts-experts-peel is not here")
def test_shapefiles_of_experts_are_read_once_they_say_their_day():
    path = str(DATA / "rts-experts-peel" / "experts" / "01" / "Peel_digitized.shp")
    with pytest.raises(LabelError, match="neither image ids"):
        read_labels([path])
    labels = read_labels([LabelFile(path, date="2021-08-21", region="Peel Plateau")])
    assert len(labels.outlines) == 10
    assert labels.outlines.crs.to_epsg() == 4326
