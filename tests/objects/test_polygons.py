from __future__ import annotations

import pickle
from typing import Any

import dask
import dask.array as da
import geopandas as gpd
import numpy as np
import pytest
import rasterio.features
import shapely
import xarray as xr
from affine import Affine
from dask.distributed import Client, LocalCluster
from dask.task_spec import Task
from hypothesis import given, settings
from odc.geo.geobox import GeoBox
from odc.geo.xr import wrap_xr

from darts_xr.errors import GridMismatchError, ObjectError
from darts_xr.objects import label, label_objects, polygons, vectorize
from darts_xr.objects.label import candidates_of, with_candidates
from darts_xr.products import binary_objects, probability_percent
from tests.objects.fields import Case, cases, labelled, reference


def same_bytes(a: gpd.GeoDataFrame, b: gpd.GeoDataFrame) -> bool:
    return bool(a.to_wkb().equals(b.to_wkb()))


@settings(max_examples=60, deadline=None)
@given(cases())
def test_polygons_and_statistics_equal_plain_reference(case: Case) -> None:
    expected = reference(case).labels
    prob = labelled(case.probability, case.chunks)
    labels = label_objects(
        prob, border=case.border, min_pixels=case.min_pixels, connectivity=case.connectivity
    )
    feats = vectorize(labels, prob, crs=None)
    assert feats.object.tolist() == list(range(1, expected.max(initial=0) + 1))
    assert feats.is_valid.all()
    np.testing.assert_array_equal(feats.area, 9 * feats.n_pixels)
    for row in feats.itertuples():
        mask = expected == row.object
        values = case.probability[mask].astype(np.float64)
        assert row.n_pixels == values.size
        np.testing.assert_allclose(
            [
                row.pval_mean,
                row.pval_std,
                row.pval_min,
                row.pval_max,
                row.pval_p25,
                row.pval_p50,
                row.pval_p75,
            ],
            [values.mean(), values.std(), values.min(), values.max(), *np.percentile(values, [25, 50, 75])],
            rtol=1e-12,
            atol=1e-15,
        )
        parts = rasterio.features.shapes(
            mask.astype(np.uint8), mask=mask, transform=prob.odc.geobox.affine, connectivity=4
        )
        gdal = shapely.union_all([shapely.geometry.shape(part) for part, _ in parts])
        assert shapely.equals(row.geometry, gdal)

    # In memory, in other chunks, from painted labels: the same bytes.
    whole = labelled(case.probability)
    again = label_objects(
        whole, border=case.border, min_pixels=case.min_pixels, connectivity=case.connectivity
    )
    assert same_bytes(feats, vectorize(again, whole, crs=None))
    assert same_bytes(feats, vectorize(labels.compute(), prob, crs=None))
    assert vectorize(labels, prob).is_valid.all()


def test_with_persisted_candidates_the_probability_is_computed_once_and_let_go(blobs: np.ndarray) -> None:
    seen = []

    def noted(block: np.ndarray) -> np.ndarray:
        seen.append(block.shape)
        return block

    prob = labelled(blobs, 64)
    prob = prob.copy(data=prob.data.map_blocks(noted, meta=np.empty((0, 0), np.float32)))
    labels = label_objects(prob, border=3, min_pixels=5)
    expected, painted = vectorize(labels, prob, keep_removed=True), labels.compute()
    seen.clear()
    held, percent = dask.persist(candidates_of(labels), probability_percent(prob))
    assert len(seen) == prob.data.npartitions
    light = with_candidates(labels, held)
    assert not set(light.data.dask) & set(prob.data.dask)
    feats = vectorize(light, prob, keep_removed=True)
    assert same_bytes(feats, expected)
    assert feats.attrs == expected.attrs
    xr.testing.assert_identical(light.compute(), painted)
    xr.testing.assert_equal(binary_objects(light, percent), binary_objects(labels, prob))
    assert len(seen) == 2 * prob.data.npartitions  # the last line's own


@pytest.fixture
def blobs() -> np.ndarray:
    rng = np.random.default_rng(7)
    y, x = np.mgrid[:300, :400]
    p = np.zeros((300, 400), np.float32)
    for _ in range(40):
        r, c, a = rng.uniform(20, 280), rng.uniform(20, 380), rng.uniform(3, 12)
        p = np.maximum(p, 0.95 - ((y - r) ** 2 + (x - c) ** 2) / a**2 * 0.4)
    p[:30, :50] = np.nan
    return p.astype(np.float32)


def test_each_chunk_of_the_probability_is_read_once(blobs: np.ndarray) -> None:
    reads: list[int] = []

    def read(block: np.ndarray) -> np.ndarray:
        reads.append(1)
        return block

    prob = labelled(blobs, 64)
    source = prob.data.map_blocks(read, dtype=np.float32, meta=np.empty((0, 0), np.float32))
    prob = prob.copy(data=da.clip(source + np.float32(0), 0, 1))
    labels = label_objects(prob)
    for made in (labels, labels * 1):  # straight from the probability, and changed on the way
        reads.clear()
        vectorize(made, prob)
        assert len(reads) == prob.data.npartitions


def test_result_is_the_same_for_every_scheduler(blobs: np.ndarray) -> None:
    prob = labelled(blobs, (70, 90))
    labels = label_objects(prob)
    expected = vectorize(labels, prob)
    assert len(expected) > 5
    with dask.config.set(scheduler="threads"):
        assert same_bytes(expected, vectorize(labels, prob))
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        assert same_bytes(expected, vectorize(labels, prob))
        assert same_bytes(expected, vectorize(client.persist(labels), prob))


def test_labels_of_another_probability_are_not_short_cut(blobs: np.ndarray) -> None:
    prob = labelled(blobs, 100)
    other = (prob * np.float32(0.5)).assign_attrs(prob.attrs)
    feats = vectorize(label_objects(prob), prob)
    half = vectorize(label_objects(prob), other)
    np.testing.assert_allclose(half.pval_mean, feats.pval_mean / 2, rtol=1e-6)


@pytest.fixture
def painted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each chunk of dense labels that is made."""
    made: list[int] = []
    paint = label.paint

    def counted(*arguments: Any) -> np.ndarray:
        made.append(1)
        return paint(*arguments)

    monkeypatch.setattr(label, "paint", counted)
    return made


@pytest.mark.parametrize(
    "keep",
    [
        lambda labels: labels,
        lambda labels: labels.rename("slumps").assign_attrs(note="renamed"),
        lambda labels: labels.copy(deep=True).drop_vars("n_detected").assign_coords(time=0),
        lambda labels: labels.to_dataset(name="slumps").assign(other=labels * 2)["slumps"],
        lambda labels: labels[:, :].chunk({"y": 70, "x": 90}),
        lambda labels: pickle.loads(pickle.dumps(labels)),
    ],
    ids=["as made", "renamed", "copied", "in a dataset", "whole slice", "sent"],
)
def test_labels_in_other_clothes_are_known(
    blobs: np.ndarray, monkeypatch: pytest.MonkeyPatch, keep: Any
) -> None:
    prob = labelled(blobs, (70, 90))
    expected = vectorize(label_objects(prob).compute(), prob)
    monkeypatch.setattr(polygons, "read_pixels", pytest.fail)  # what reads dense labels
    assert same_bytes(expected, vectorize(keep(label_objects(prob)), prob))


def written_into(labels: xr.DataArray) -> xr.DataArray:
    labels = labels.copy()
    labels[100:140, 100:200] = 7
    return labels


@pytest.mark.parametrize(
    "change",
    [
        lambda labels: labels * 2,
        lambda labels: labels.where(labels != 3, 0),
        lambda labels: labels.where(labels.n_detected > 0, 0),
        lambda labels: labels.chunk({"y": 100, "x": 50}),
        lambda labels: labels.copy(data=labels.data.map_blocks(np.flipud)),
        lambda labels: dask.persist(labels)[0],
        lambda labels: dask.optimize(labels)[0],
        written_into,
    ],
    ids=[
        "doubled",
        "one less",
        "by a count",
        "rechunked",
        "turned",
        "persisted",
        "optimized",
        "written into",
    ],
)
def test_changed_labels_are_read_as_they_are(blobs: np.ndarray, painted: list[int], change: Any) -> None:
    prob = labelled(np.where(np.isnan(blobs), np.float32(0), blobs), (70, 90))
    changed = change(label_objects(prob))
    feats = vectorize(changed, prob)
    assert len(painted) > 0
    assert same_bytes(feats, vectorize(changed.compute(), prob))


def test_a_part_of_the_labels_is_read_as_it_is(blobs: np.ndarray, painted: list[int]) -> None:
    prob = labelled(blobs, (70, 90))
    for part in (np.s_[70:, 90:], np.s_[33:210, 5:390], np.s_[:70, :]):
        labels = label_objects(prob)[part]
        feats = vectorize(labels, prob[part])
        assert len(painted) > 0
        assert same_bytes(feats, vectorize(labels.compute(), prob[part]))
        painted.clear()


def test_graphs_are_made_of_task_objects(blobs: np.ndarray) -> None:
    prob = labelled(blobs, 100)
    labels = label_objects(prob)
    own = [key for key in labels.data.dask.layers if key not in prob.data.dask.layers]
    assert len(own) == 3
    for key in own:
        assert all(isinstance(task, Task) for task in labels.data.dask.layers[key].values())


def test_attributes_and_counts_travel(blobs: np.ndarray) -> None:
    prob = labelled(blobs, 100, ensemble="demo")
    labels = label_objects(prob, threshold=0.6)
    feats = vectorize(labels, prob)
    assert feats.crs == "EPSG:4326"
    assert feats.attrs["ensemble"] == "demo"
    assert feats.attrs["threshold"] == 0.6
    assert feats.attrs["n_detected"] == len(feats) + sum(feats.attrs["removed"].values())


def test_empty_result_has_schema_and_crs() -> None:
    prob = labelled(np.zeros((40, 40), np.float32), 16)
    feats = vectorize(label_objects(prob), prob)
    assert len(feats) == 0
    assert feats.crs == "EPSG:4326"
    assert [str(t) for t in feats.dtypes] == ["int64"] * 2 + ["float64"] * 7 + ["geometry"]


def test_hole_is_kept_and_a_ring_closed_by_a_corner_is_valid() -> None:
    p = np.zeros((30, 30), np.float32)
    p[5:12, 5:12] = 0.9
    p[7:10, 7:10] = 0  # a hole
    p[4, 12] = 0.9  # meets the object at a corner
    p[9, 9] = 0.9  # inside the hole, meets nothing but the rim
    prob = labelled(p, 8)
    feats = vectorize(label_objects(prob, border=0, min_pixels=1), prob, crs=None)
    assert len(feats) == 1
    assert feats.geometry[0].geom_type == "MultiPolygon"
    assert feats.is_valid.all()
    assert feats.area[0] == 9 * int((p > 0.5).sum())
    assert sum(len(part.interiors) for part in feats.geometry[0].geoms) == 1


def test_seam_leaves_no_vertex() -> None:
    p = np.zeros((40, 40), np.float32)
    p[10:30, 10:30] = 0.9
    prob = labelled(p, 7)
    feats = vectorize(label_objects(prob, border=0), prob, crs=None)
    assert shapely.get_num_coordinates(feats.geometry[0]) == 5


def test_antimeridian_is_cut() -> None:
    p = np.zeros((60, 60), np.float32)
    p[20:40, 5:55] = 0.9
    middle = gpd.GeoSeries.from_xy([180.0], [67.5], crs=4326).to_crs(32601)
    box = GeoBox((60, 60), Affine(3, 0, middle.x[0] - 90, 0, -3, middle.y[0] + 90), "EPSG:32601")
    prob = wrap_xr(da.from_array(p, chunks=20), box)
    feats = vectorize(label_objects(prob, border=0), prob)
    assert feats.geometry[0].geom_type == "MultiPolygon"
    assert feats.is_valid.all()
    west, _, east, _ = feats.total_bounds
    assert (west, east) == (-180, 180)
    direct = vectorize(label_objects(prob, border=0), prob, crs="EPSG:3571")
    assert feats.to_crs("EPSG:3571").area[0] == pytest.approx(direct.area[0], rel=1e-4)


def test_other_grid_is_refused(blobs: np.ndarray) -> None:
    prob = labelled(blobs, 100)
    with pytest.raises(GridMismatchError, match="one pixel grid"):
        vectorize(label_objects(prob), prob[1:, :])


def test_floating_labels_are_refused(blobs: np.ndarray) -> None:
    with pytest.raises(ObjectError, match="integers"):
        vectorize(labelled(blobs), labelled(blobs))


def test_negative_labels_are_refused() -> None:
    with pytest.raises(ObjectError, match="numbered from 1"):
        vectorize(labelled(np.full((4, 4), -1, np.int32)))


def test_probability_that_is_invalid_under_an_object_is_refused() -> None:
    labels = labelled(np.ones((4, 4), np.int32))
    with pytest.raises(ObjectError, match="NaN or negative"):
        vectorize(labels, labelled(np.full((4, 4), np.nan, np.float32)))
