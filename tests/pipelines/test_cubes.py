"""Cubes in a Zarr store: the same values as from the rasters, added to as scenes come."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pystac
import pytest
import xarray as xr
from click.testing import CliRunner

import darts_xr as dx
from darts_xr.errors import CubeError, EmptySearchError, MissingBandsError, ParameterError
from darts_xr.products import write_raster
from pipelines.cli import main
from pipelines.cubes import store_run
from pipelines.settings import Rules
from tests.pipelines.small import Small

zarr = pytest.importorskip("zarr")


@pytest.fixture(scope="module")
def run(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.detect(tmp_path_factory.mktemp("cubes"), small.items[:4]).folder


@pytest.fixture
def items(run: Path) -> list[pystac.Item]:
    return sorted(dx.search(run / "catalog.json"), key=lambda item: item.properties["datetime"])


def same(stored: Path, cube: xr.Dataset) -> None:
    opened = dx.open_cube(stored)
    xr.testing.assert_identical(opened.load(), cube.load())
    assert opened.rio.crs == cube.rio.crs
    assert opened["probability"].dtype == cube["probability"].dtype


def test_a_store_gives_what_the_rasters_give(items: list[pystac.Item], tmp_path: Path) -> None:
    done = dx.store_cube(items, tmp_path / "c.zarr")
    assert done.added == [item.id for item in items]
    same(tmp_path / "c.zarr", dx.open_cube(items))
    assert dx.open_cube(tmp_path / "c.zarr").isel(time=2).synthetic.item() is True


def test_scenes_are_added_as_they_come_whatever_their_dates(items: list[pystac.Item], tmp_path: Path) -> None:
    store = tmp_path / "c.zarr"
    box = items[0].bbox
    dx.store_cube([items[3], items[1]], store, bbox=box, resolution=6.0)
    again = dx.store_cube(items, store)
    assert (again.added, again.unchanged) == ([items[0].id, items[2].id], [items[1].id, items[3].id])
    same(store, dx.open_cube(items, bbox=box, resolution=6.0))
    assert dx.store_cube(items, store).added == []


def test_a_scene_that_was_made_again_takes_its_old_place(items: list[pystac.Item], tmp_path: Path) -> None:
    store = tmp_path / "c.zarr"
    dx.store_cube(items, store)
    changed = [item.clone() for item in items]
    with dx.open_cube(changed[1:2]) as cube:
        other = (100 - (cube.probability[0] * 100).round().fillna(155)).astype("uint8").compute()
    new = write_raster(other.rio.write_nodata(255), tmp_path / "new.tif", metadata={})
    changed[1].assets["probability"].href = str(new)
    changed[1].assets["probability"].extra_fields["file:checksum"] = "1220" + "0" * 64
    done = dx.store_cube(changed[:3], store)
    assert done.replaced == [changed[1].id]
    assert done.gone == [items[3].id]
    same(store, dx.open_cube([*changed[:3], items[3]]))


def test_steps_that_were_not_finished_are_not_shown_and_are_made_again(
    items: list[pystac.Item], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from darts_xr.cube import store as module

    store = tmp_path / "c.zarr"
    dx.store_cube(items[:2], store)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module.da, "store", killed)
        with pytest.raises(KeyboardInterrupt):
            dx.store_cube(items, store)
    same(store, dx.open_cube(items[:2]))
    assert dx.store_cube(items, store).added == [item.id for item in items[2:]]
    same(store, dx.open_cube(items, like=dx.open_cube(store)))


def test_a_reader_that_knows_nothing_of_darts_xr_sees_probability(
    items: list[pystac.Item], tmp_path: Path
) -> None:
    dx.store_cube(items, tmp_path / "c.zarr")
    plain = xr.open_zarr(tmp_path / "c.zarr", consolidated=False)
    ours = dx.open_cube(tmp_path / "c.zarr")
    np.testing.assert_allclose(plain.probability.sortby("time"), ours.probability, atol=1e-6)
    assert dict(zip(plain.probability.dims, plain.probability.encoding["chunks"], strict=True))["time"] == 16


def test_image_bands_are_stored_too(small: Small, tmp_path: Path) -> None:
    bands = ["red", "ndvi", "valid"]
    dx.store_cube(small.items[:3], tmp_path / "c.zarr", bands=bands)
    ours = dx.open_cube(tmp_path / "c.zarr", bands=bands).load()
    xr.testing.assert_identical(ours, dx.open_cube(small.items[:3], bands=bands).load())


def test_cloud_cover_is_kept_whichever_item_states_it(small: Small, tmp_path: Path) -> None:
    items = [item.clone() for item in small.items[:3]]
    for item, cover in zip(items, (None, 12.5, None), strict=True):
        item.properties.pop("eo:cloud_cover", None)
        if cover is not None:
            item.properties["eo:cloud_cover"] = cover
    store = tmp_path / "c.zarr"
    dx.store_cube(items[:1], store, bands=["red"], bbox=items[0].bbox)
    assert "cloud_cover" not in dx.open_cube(store, bands=["red"]).coords
    dx.store_cube(items, store, bands=["red"])
    cube = dx.open_cube(store, bands=["red"])
    stated = dict(zip(cube.item_id.values.tolist(), cube.cloud_cover.values.tolist(), strict=True))
    assert stated.pop(items[1].id) == 12.5
    assert np.isnan(list(stated.values())).all()


def test_the_verb_adds_what_is_new_and_replaces_what_was_made_again(small: Small, tmp_path: Path) -> None:
    small.detect(tmp_path / "run", small.items[:2])
    command = ["cube", str(tmp_path / "run"), "--out", str(tmp_path / "c.zarr"), "--json"]
    first = json.loads(CliRunner().invoke(main, command).stdout)
    assert len(first["added"]) == 2
    small.detect(tmp_path / "run", small.items[:3], rules=Rules(border=1, min_pixels=20))
    again = json.loads(CliRunner().invoke(main, command).stdout)
    assert (len(again["added"]), len(again["replaced"]), again["unchanged"]) == (1, 2, [])
    assert len(json.loads(CliRunner().invoke(main, command).stdout)["unchanged"]) == 3


def test_scenes_off_the_ground_of_a_store_are_named(
    small: Small, items: list[pystac.Item], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    far = small.detect(tmp_path / "far", small.items[-1:]).folder  # 40 km from the others
    (away,) = dx.search(far / "catalog.json")
    dx.store_cube(items[:1], tmp_path / "c.zarr")
    done = dx.store_cube([*items[:2], away], tmp_path / "c.zarr")
    assert (done.added, done.outside, done.gone) == ([items[1].id], [away.id], [])
    assert f"not on its ground: {away.id}" in caplog.text


def test_damaged_scenes_of_a_run_are_named_and_the_others_stored(
    small: Small, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = small.detect(tmp_path / "run", small.items[:2])
    damaged, whole = (scene["id"] for scene in run.done)
    (tmp_path / "run" / "scenes" / damaged / "probability.tif").write_bytes(b"II*")
    assert store_run(run, tmp_path / "c.zarr").added == [whole]
    assert f"{damaged} is left out" in caplog.text
    catalog = tmp_path / "run" / "catalog.json"
    kept = json.loads(catalog.read_text())
    kept["links"] = [link for link in kept["links"] if whole not in link["href"]]
    catalog.write_text(json.dumps(kept))
    with pytest.raises(EmptySearchError):
        store_run(run, tmp_path / "d.zarr")
    assert f"are not in the catalogue of {run.folder}, so they are left out ({whole})" in caplog.text


def test_what_does_not_fit_a_store_is_named(items: list[pystac.Item], tmp_path: Path) -> None:
    store = tmp_path / "c.zarr"
    with pytest.raises(ParameterError, match=r"ends in \.zarr"):
        dx.store_cube(items, tmp_path / "cube")
    with pytest.raises(CubeError, match="no Zarr store"):
        dx.open_cube(store)
    dx.store_cube(items[:1], store)
    with pytest.raises(ParameterError, match="keeps ground and grid"):
        dx.store_cube(items, store, resolution=12)
    with pytest.raises(CubeError, match="holds probability, not binary"):
        dx.store_cube(items, store, bands=["binary"])
    with pytest.raises(MissingBandsError, match="holds no 'binary'"):
        dx.open_cube(store, bands=["binary"])
    with pytest.raises(ParameterError, match="open it whole"):
        dx.open_cube(store, datetime="2021")
    other = tmp_path / "other.zarr"
    xr.Dataset({"a": ("time", [1])}).to_zarr(other, consolidated=False)
    with pytest.raises(CubeError, match="did not write it"):
        dx.store_cube(items, other)
