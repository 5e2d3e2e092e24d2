"""Elevation, trend and land-cover files become items without anybody writing STAC; all rasters here are synthetic."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import rasterio
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

import darts_xr as dx
from darts_xr.catalog import load_items, write_catalog
from darts_xr.cube import auxiliary_items, coverage_gaps, load_auxiliary
from darts_xr.cube.auxiliary import TRENDS, auxiliary_layers
from darts_xr.errors import CatalogError, LayerError, MissingFileError
from tests.catalog.deliveries import validate
from tests.cube.rasters import centres, item, scene_at, source_grid, write
from tests.helpers import real_data

SCENE = scene_at(-132.4, 69.1, (150, 130))  # zone 8, by chance also band W of the grid zones
DEM = source_grid(SCENE, "EPSG:3413", 2.0)
COARSE = source_grid(SCENE, "EPSG:3413", 30.0, margin=4)
ESRI = source_grid(SCENE, "EPSG:32608", 10.0, margin=60)


def heights(grid: GeoBox = DEM) -> NDArray[np.float32]:
    x, y = (v - v.mean() for v in centres(grid))
    return (120 + 0.1 * x + 5 * np.sin(y / 60)).astype("float32")


def trends(bands: int = 3) -> NDArray[np.uint8]:
    rng = np.random.default_rng(0)
    return rng.integers(120, 135, (bands, *COARSE.shape)).astype("uint8")


def classes() -> NDArray[np.uint8]:
    cover = np.full(ESRI.shape, 11, "uint8")
    cover[:30], cover[30:40] = 1, 8
    return cover


def described(path: Path, *names: str) -> Path:
    with rasterio.open(path, "r+") as file:
        file.descriptions = names
    return path


@pytest.fixture
def layers(tmp_path: Path) -> Path:
    folder = tmp_path / "layers"
    (folder / "arcticdem").mkdir(parents=True)
    write(folder / "arcticdem" / "31_15_1_1_2m_v4.1_dem.tif", heights(), DEM, -9999)
    write(folder / "arcticdem" / "31_15_1_1_2m_v4.1_count.tif", np.ones(DEM.shape, "uint8"), DEM)
    write(folder / "TCTrend_SR_2000-2019_TCVIS.tif", trends(4), COARSE)
    write(folder / "08W_20210101-20220101.tif", classes(), ESRI, 0)
    return folder


def test_a_folder_of_deliveries_becomes_a_valid_catalogue_that_opens(layers: Path, tmp_path: Path) -> None:
    items = dx.auxiliary_items(layers)
    known = {i.id: (i.properties["darts:layer"], i.properties["darts:layer_known_by"]) for i in items}
    assert known == {
        "31_15_1_1_2m_v4.1_dem": ("elevation", "name"),
        "TCTrend_SR_2000-2019_TCVIS": ("trends", "name"),
        "08W_20210101-20220101": ("landcover", "name"),
    }
    assert items.extra_fields["darts:left_out"] == {}
    again = load_items(write_catalog(items, tmp_path / "auxiliary", title="Layers", description="Synthetic."))
    for found in again:
        validate(found)
    by_id = {found.id: found for found in again}
    assert by_id["08W_20210101-20220101"].datetime == datetime(2021, 1, 1, tzinfo=UTC)
    assert by_id["TCTrend_SR_2000-2019_TCVIS"].common_metadata.end_datetime.year == 2019
    assert by_id["31_15_1_1_2m_v4.1_dem"].properties["darts:vertical_datum"] == "WGS84 ellipsoid"
    made = auxiliary_layers(again, SCENE)
    assert (made["measured"] == 3).all()
    assert float(made["slope"].mean()) > 1


@pytest.mark.parametrize(
    ("name", "date"),
    [
        ("SETSM_s2s041_WV01_20160410_102001004C1DE700_102001004D2E6D00_2m_lsf_seg1_dem", "2016-04-10"),
        ("38_22_2m_v3.0_reg_dem", None),
        ("Longyearbyen_DEM_1995", "1995-01-01"),
        ("some_elevation", None),
    ],
)
def test_elevation_is_known_by_its_name(tmp_path: Path, name: str, date: str | None) -> None:
    (made,) = auxiliary_items(write(tmp_path / f"{name}.tif", heights(), DEM, -9999))
    assert made.assets["dem"].extra_fields["bands"][0]["nodata"] == -9999
    assert made.properties["darts:layer"] == "elevation"
    if date is None:
        assert (made.datetime, made.properties["darts:date"]) == (None, "unknown")
    else:
        assert made.datetime == datetime.fromisoformat(f"{date}T00:00:00+00:00")


def test_what_names_do_not_tell_is_told_by_bands_and_values(tmp_path: Path) -> None:
    files = {
        "a": (write(tmp_path / "a.tif", heights(), DEM, -9999), "elevation", "values"),
        "b": (write(tmp_path / "b.tif", trends(), COARSE), "trends", "values"),
        "c": (described(write(tmp_path / "c.tif", trends(), DEM[: COARSE.shape[0], : COARSE.shape[1]]),
                        "TCW_slope", "TCB_slope", "TCG_slope"), "trends", "band names"),
        "d_2021": (write(tmp_path / "d_2021.tif", classes(), ESRI, 0), "landcover", "values"),
    }  # fmt: skip
    for made in auxiliary_items([path for path, _, _ in files.values()]):
        assert (made.properties["darts:layer"], made.properties["darts:layer_known_by"]) == files[made.id][1:]
        if made.id == "c":
            names = [band["name"] for band in made.assets["trends"].extra_fields["bands"]]
            assert names == ["tc_wetness", "tc_brightness", "tc_greenness"]


@pytest.mark.parametrize(
    ("name", "values", "grid", "said"),
    [
        ("dem_feet", 12_000 + heights(), DEM, "not elevation in metres"),
        ("dem_hillshade", heights(), DEM, "picture of relief"),
        ("dem_bytes", np.full(DEM.shape, 7, "uint8"), DEM, "band 1 is uint8"),
        ("tcvis_raw", trends().astype("float32"), COARSE, "band 1 is float32"),
        ("tcvis_one", trends()[0], COARSE, "1 band"),
        ("landcover_2021", np.full(ESRI.shape, 80, "uint8"), ESRI, "ESA WorldCover"),
        ("landcover", classes(), ESRI, "--year"),
        ("picture", np.full((3, *DEM.shape), 20, "uint8"), DEM, "--kind"),
        ("nowhere_dem", heights(), None, "no coordinate reference system"),
    ],
)
def test_files_that_are_no_layer_are_left_out_by_name(
    tmp_path: Path, name: str, values: NDArray[Any], grid: GeoBox | None, said: str
) -> None:
    bad = write(tmp_path / f"{name}.tif", values, grid)
    good = write(tmp_path / "good_dem.tif", heights(), DEM, -9999)
    items = auxiliary_items([bad, good])
    assert [i.id for i in items] == ["good_dem"]
    (reason,) = items.extra_fields["darts:left_out"].values()
    assert name in reason
    assert said in reason
    with pytest.raises(CatalogError, match=name):
        auxiliary_items(bad)


def test_an_option_says_what_a_file_holds(tmp_path: Path) -> None:
    (made,) = auxiliary_items(write(tmp_path / "x.tif", classes(), ESRI, 0), kind="landcover", year=2019)
    assert made.properties["darts:layer_known_by"] == "option"
    assert made.datetime == datetime(2019, 1, 1, tzinfo=UTC)


def test_paths_that_hold_nothing_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="absent"):
        auxiliary_items(tmp_path / "absent.tif")
    with pytest.raises(CatalogError, match="holds no GeoTIFF"):
        auxiliary_items(tmp_path)


def test_several_sources_of_all_kinds_are_one(layers: Path, tmp_path: Path) -> None:
    catalog = write_catalog(auxiliary_items(layers / "arcticdem"), tmp_path / "c", title="x", description="x")
    parts = [catalog, layers / "TCTrend_SR_2000-2019_TCVIS.tif", layers, auxiliary_items(layers)]
    assert len(load_auxiliary(parts)) == 3
    assert len(load_auxiliary(str(layers))) == 3
    with pytest.raises(CatalogError, match="--neutral trends"):
        load_auxiliary([catalog, "neutral"])


# --- no data and ranges --------------------------------------------------------------------------------------


@pytest.mark.parametrize("void", [-9999.0, -32767.0, np.nan, 3.4e38, -3.4028235e38])
@pytest.mark.parametrize("declared", [True, False])
def test_no_data_is_no_elevation_declared_or_not(tmp_path: Path, void: float, declared: bool) -> None:
    z = heights()
    z[:, : z.shape[1] // 2] = void
    path = write(tmp_path / "dem.tif", z, DEM, void if declared else None)
    made = auxiliary_layers([item("dem", "dem", path, DEM)], SCENE, needed=["relative_elevation", "slope"])
    share = float((made["measured"] == 1).mean())
    assert 0.3 < share < 0.7
    assert float(np.isfinite(made["relative_elevation"]).mean()) == pytest.approx(share, abs=0.05)
    assert np.nanmax(np.abs(made["relative_elevation"])) < 20


def test_masked_pixels_of_an_earth_engine_export_are_no_trend(tmp_path: Path) -> None:
    values = trends()
    values[:, :, : values.shape[2] // 2] = 0
    bands = [{"name": name} for name in TRENDS]
    path = write(tmp_path / "t.tif", values, COARSE)
    made = auxiliary_layers([item("t", "trends", path, COARSE, bands)], SCENE, needed=TRENDS)
    assert 0.2 < float((made["measured"] == 2).mean()) < 0.8
    assert (made["tc_wetness"].values[made["measured"].values == 0] == 127).all()
    assert made["tc_wetness"].min() > 100


@pytest.mark.parametrize(
    ("key", "values", "said"),
    [
        ("dem", np.full(DEM.shape, 12_000, "float32"), r"layer-1: values from 12000.*-500 to 9000"),
        ("dem", np.full(DEM.shape, 12, "uint8"), "layer-1: band 1 is uint8"),
        ("slope", np.full(DEM.shape, 120, "float32"), "layer-1: values from 120"),
        ("trends", np.full((3, *DEM.shape), 0.02, "float32"), "layer-1: band 1 is float32"),
    ],
)
def test_layers_of_another_type_or_range_are_refused(
    tmp_path: Path, key: str, values: NDArray[Any], said: str
) -> None:
    bands = (
        [{"name": name} for name in TRENDS] if key == "trends" else [{"name": key, "data_type": "float32"}]
    )
    made = item("layer-1", key, write(tmp_path / "x.tif", values, DEM), DEM, bands)
    needed = TRENDS if key == "trends" else ["slope"]
    with pytest.raises(LayerError, match=said):
        auxiliary_layers([made], SCENE, needed=needed)[needed[0]].compute()


def test_layers_are_neutral_one_by_one(layers: Path) -> None:
    made = auxiliary_layers(auxiliary_items(layers), SCENE, neutral=["trends"])
    assert (made["tc_wetness"] == 127).all()
    assert made["tc_wetness"].attrs["source"] == "neutral"
    assert float(made["slope"].mean()) > 1
    assert (made["measured"] == 1).all()
    only_dem = auxiliary_layers(auxiliary_items(layers / "arcticdem"), SCENE, fill_gaps=True)
    assert (only_dem["measured"] == 1).all()


# --- gaps ----------------------------------------------------------------------------------------------------


def _footprint(name: str, grid: GeoBox) -> pystac.Item:
    outline = grid.footprint("EPSG:4326", npoints=20)
    return pystac.Item(name, outline.json, list(outline.boundingbox), datetime(2021, 7, 1, tzinfo=UTC), {})


def test_gaps_are_told_before_a_run(layers: Path, tmp_path: Path) -> None:
    half = heights()
    half[:, : half.shape[1] // 2] = -9999
    write(layers / "arcticdem" / "31_15_1_1_2m_v4.1_dem.tif", half, DEM, -9999)
    scenes = [_footprint("here", SCENE), _footprint("far", scene_at(-120.0, 69.1, (150, 130)))]
    gaps = coverage_gaps(scenes, auxiliary_items(layers))
    assert gaps.loc["here", "trends"] == gaps.loc["here", "landcover"] == 1
    assert gaps.loc["here", "elevation"] == pytest.approx(0.5, abs=0.15)
    assert gaps.loc["far"].tolist() == [0, 0, 0]
    assert coverage_gaps(scenes, auxiliary_items(layers / "arcticdem"))["landcover"].isna().all()


@pytest.mark.realdata
def test_a_real_dem_is_taken_as_it_comes() -> None:
    (made,) = auxiliary_items(real_data("dem-svalbard-20m"))
    grid = scene_at(15.7, 78.05, (300, 300), zone=33)
    layers = auxiliary_layers([made], grid, neutral=["trends"])
    assert (layers["measured"] == 1).all()
    assert 1 < float(layers["slope"].mean()) < 60
