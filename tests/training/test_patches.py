"""Patches: cut from lazy scenes with bounded memory, written whole, read as they were; splits never leak."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely
import zarr

from darts_xr.errors import CRSError, LeakageError, PatchError, SettingsError
from darts_xr.training import (
    LabelledScene,
    Patching,
    Sampling,
    Split,
    check_leakage,
    label_mask,
    leave_one_out,
    open_patches,
    split_patches,
    write_patches,
)
from darts_xr.training.draws import draw
from darts_xr.training.patches import kind_of, patch_starts
from tests.training.lessons import BANDS, CRS, labelled_scene, small_store


@pytest.mark.parametrize("chunk", [32, 50, 160])
def test_patches_are_the_pixels_of_the_scene_whatever_its_chunks(tmp_path: Path, chunk: int):
    labelled = labelled_scene(3, chunk=chunk)
    store = write_patches([labelled], tmp_path / "p.zarr", patching=Patching(side=64), bands=BANDS)
    scene, burned = labelled.scene.compute(), label_mask(labelled.scene, labelled.outlines)
    arrays = store.arrays()
    assert len(store) == 9
    for number, row in enumerate(store.table.itertuples()):
        window = slice(row.row, row.row + 64), slice(row.col, row.col + 64)
        for kind, names in store.layout.items():
            for place, name in enumerate(names):
                np.testing.assert_array_equal(arrays[kind][number, place], scene[name].values[window])
        np.testing.assert_array_equal(arrays["labels"][number], burned[window])
        assert row.n_positive == (burned[window] == 1).sum()


def test_patches_overlap_by_a_tenth_and_end_with_the_scene():
    assert Patching().step == 922
    assert patch_starts(8000, 1024, 922)[-1] == 8000 - 1024
    assert patch_starts(100, 1024, 922) == [0]


def test_a_small_scene_is_filled_up_with_masked_pixels(tmp_path: Path):
    store = write_patches(
        [labelled_scene(size=50)], tmp_path / "p.zarr", patching=Patching(64, 0.1, 0.1), bands=BANDS
    )
    labels = np.asarray(store.arrays()["labels"][0])
    assert (labels[50:] == 255).all()
    assert (labels[:, 50:] == 255).all()


def test_the_store_is_sharded_zarr_3_and_appears_whole_or_not_at_all(tmp_path: Path):
    store = small_store(tmp_path / "p.zarr")
    array = zarr.open_group(store.path, mode="r")["labels"]
    assert array.metadata.zarr_format == 3
    assert array.shards is not None
    assert array.chunks == (1, 64, 64)
    assert array.metadata.dimension_names == ("patch", "y", "x")
    assert open_patches(store.path).layout == store.layout
    before = zarr.open_group(store.path, mode="r")["labels"][:].sum()

    def failing():
        yield labelled_scene()
        raise RuntimeError("the disk is gone")

    with pytest.raises(RuntimeError):
        write_patches(failing(), store.path, patching=Patching(64), bands=BANDS)
    assert zarr.open_group(store.path, mode="r")["labels"][:].sum() == before
    assert [p.name for p in tmp_path.iterdir()] == ["p.zarr"]


def test_many_patches_fill_several_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("darts_xr.training.patches._SHARD_BYTES", 64 * 64 * 10 * 4)
    several = small_store(tmp_path / "several.zarr", (0, 1))
    assert zarr.open_group(several.path, mode="r")["labels"].shards[0] < len(several)
    monkeypatch.undo()
    one = small_store(tmp_path / "one.zarr", (0, 1))
    for name, array in one.arrays().items():
        np.testing.assert_array_equal(array, several.arrays()[name])


def test_bad_scenes_are_named(tmp_path: Path):
    out = tmp_path / "p.zarr"
    good = labelled_scene(4)
    dark = LabelledScene(good.scene.assign(valid=good.scene["valid"] & False), good.outlines)
    with pytest.raises(PatchError, match="scene_4 is masked all over"):
        write_patches([dark], out, bands=BANDS)
    with pytest.raises(PatchError, match="scene_4 lacks slope"):
        write_patches([good], out, bands=("red", "slope"))
    with pytest.raises(PatchError, match="no scene to cut"):
        write_patches([], out)
    with pytest.raises(PatchError, match="valid to 50%"):
        write_patches([labelled_scene(size=50)], out, bands=BANDS)
    with pytest.raises(CRSError):
        write_patches(
            [LabelledScene(good.scene, gpd.GeoDataFrame(geometry=[shapely.box(0, 0, 1, 1)]))],
            out,
            bands=BANDS,
        )
    with pytest.raises(PatchError, match="no store of patches"):
        open_patches(out)
    with pytest.raises(SettingsError, match="side of 1 px"):
        Patching(side=0)


def test_splits_by_region_and_scene_take_whole_scenes(tmp_path: Path):
    table = small_store(tmp_path / "p.zarr", (0, 1, 2)).table
    parts = split_patches(table, Split("region", ("region 1",)))
    assert set(table["region"].iloc[parts.validation]) == {"region 1"}
    assert set(table["region"].iloc[parts.train]) == {"region 0", "region 2"}
    same = split_patches(table, Split("scenes", ("scene_1",)))
    np.testing.assert_array_equal(same.validation, parts.validation)
    assert [name for name, _ in leave_one_out(table)] == ["region 0", "region 1", "region 2"]
    with pytest.raises(SettingsError, match="no patch of mars"):
        split_patches(table, Split("region", ("mars",)))
    with pytest.raises(SettingsError, match="leaves no patch for train"):
        split_patches(table, Split("region", ("region 0", "region 1", "region 2")))
    with pytest.raises(SettingsError, match="two regions or more"):
        list(leave_one_out(table[table["region"] == "region 0"]))


def test_a_split_that_leaks_is_refused(tmp_path: Path):
    scenes = [labelled_scene(n, at=(400_000 + 60 * n, 7_800_000)) for n in (0, 1)]
    table = write_patches(scenes, tmp_path / "p.zarr", patching=Patching(64), bands=BANDS).table
    with pytest.raises(LeakageError, match=r"9 training patches.*scene_0 and scene_1"):
        split_patches(table, Split("scenes", ("scene_1",)))
    apart = table.assign(geometry=table.geometry.translate(1.0))
    check_leakage(table, apart)


def test_blocks_share_no_ground_and_leave_out_what_reaches_over(tmp_path: Path):
    store = write_patches([labelled_scene(size=320)], tmp_path / "p.zarr", patching=Patching(32), bands=BANDS)
    parts = split_patches(store.table, Split("block", side_km=0.3, share=0.3))
    assert len(parts.left_out)
    assert len(parts.train) + len(parts.validation) + len(parts.left_out) == len(store)
    check_leakage(store.table.iloc[parts.train], store.table.iloc[parts.validation])
    with pytest.raises(LeakageError):
        check_leakage(store.table.iloc[parts.left_out], store.table.iloc[parts.validation])


def test_draws_hold_the_shares_and_show_every_patch(tmp_path: Path):
    kinds = np.array(["positive"] * 3 + ["empty"] * 20 + ["hard"] * 5)
    drawn = draw(kinds, 400, Sampling(0.5, 0.25, 0.25), [1, 2])
    shares = {kind: float((kinds[drawn] == kind).mean()) for kind in ("positive", "empty", "hard")}
    assert shares == {"positive": 0.5, "empty": 0.25, "hard": 0.25}
    assert len(set(drawn.tolist())) == len(kinds)
    np.testing.assert_array_equal(drawn, draw(kinds, 400, Sampling(0.5, 0.25, 0.25), [1, 2]))
    assert (drawn != draw(kinds, 400, Sampling(0.5, 0.25, 0.25), [1, 3])).any()
    none_hard = draw(kinds[:23], 100, Sampling(0.5, 0.25, 0.25), [1, 2])
    assert len(none_hard) == 100
    assert sorted(draw(kinds, 28, None, [0]).tolist()) == list(range(28))
    store = small_store(tmp_path / "p.zarr", (0,))
    assert set(kind_of(store.table, np.ones(len(store), bool))) <= {"positive", "hard"}
    with pytest.raises(SettingsError, match="not all 0"):
        Sampling(0, 0, 0)


def test_patches_of_a_scene_in_another_zone_keep_their_place(tmp_path: Path):
    labelled = labelled_scene(0)
    store = write_patches([labelled], tmp_path / "p.zarr", patching=Patching(64), bands=BANDS)
    whole = gpd.GeoSeries([shapely.union_all(store.table.geometry.to_numpy())], crs=4326).to_crs(CRS)
    assert whole.area[0] == pytest.approx(160 * 160 * 9, rel=1e-4)
