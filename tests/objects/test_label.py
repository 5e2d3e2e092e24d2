from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings

from darts_xr.errors import CRSError, ObjectError
from darts_xr.objects import label_objects
from tests.helpers import raise_if_dask_computes
from tests.objects.fields import Case, cases, labelled, reference


@settings(max_examples=150, deadline=None)
@given(cases())
def test_labels_and_counts_equal_plain_reference(case: Case) -> None:
    expected = reference(case)
    prob = labelled(case.probability, case.chunks)
    labels = label_objects(
        prob, border=case.border, min_pixels=case.min_pixels, connectivity=case.connectivity
    )
    assert labels.data.chunks == case.chunks
    got = labels.compute()
    assert got.dtype == np.int32
    # SciPy numbers objects by their first pixel in reading order, and so does label_objects.
    np.testing.assert_array_equal(got.values, expected.labels)
    assert int(got.n_detected) == expected.n_detected
    assert int(got.n_removed_border) == expected.n_removed_border
    assert int(got.n_removed_small) == expected.n_removed_small


def test_building_computes_nothing_and_keeps_the_grid() -> None:
    prob = labelled(np.zeros((50, 60), np.float32), 16, ensemble="demo")
    with raise_if_dask_computes():
        labels = label_objects(prob)
        assert labels.odc.geobox == prob.odc.geobox
    assert isinstance(labels.data, da.Array)
    assert labels.name == "objects"
    assert labels.attrs["ensemble"] == "demo"
    assert labels.attrs["threshold"] == 0.5


def test_graph_grows_linearly_with_chunks() -> None:
    def tasks_beyond_the_source(n: int) -> int:
        data = da.zeros((n * 8, n * 8), chunks=8, dtype=np.float32)
        prob = labelled(np.zeros((n * 8, n * 8), np.float32)).copy(data=data)
        return len(label_objects(prob).data.dask) - len(data.dask)

    assert tasks_beyond_the_source(40) <= 2 * 40**2 + 10


def test_array_in_memory_is_taken_too() -> None:
    p = np.zeros((64, 64), np.float32)
    p[20:30, 20:30] = 0.9
    assert int(label_objects(labelled(p)).max()) == 1


def test_threshold_is_inclusive() -> None:
    p = np.full((30, 30), 0.1, np.float32)
    p[12:18, 12:18] = 0.5
    assert int(label_objects(labelled(p), border=2).max()) == 1


def test_object_within_ten_pixels_of_an_invalid_one_is_removed_whole() -> None:
    p = np.zeros((80, 80), np.float32)
    p[40, 10] = np.nan
    for gap, left in ((10, 0), (11, 1)):
        q = p.copy()
        q[37:44, 10 + gap : 60] = 0.9
        assert int(label_objects(labelled(q, 7)).max()) == left


def test_zone_is_a_disc_not_a_square() -> None:
    p = np.zeros((80, 80), np.float32)
    p[30, 30] = np.nan
    p[38:60, 38:60] = 0.9  # the corner is 8√2 = 11.3 px away
    assert int(label_objects(labelled(p)).max()) == 1


def test_diagonal_halves_are_one_object_by_default_and_vanish_in_legacy() -> None:
    p = np.zeros((60, 60), np.float32)
    p[20:24, 20:24] = p[24:28, 24:28] = 0.9  # two times 16 px that meet at a corner
    prob = labelled(p, 9)
    assert int(label_objects(prob).max()) == 1
    assert int(label_objects(prob, connectivity="legacy").max()) == 0


def test_border_and_size_in_metres() -> None:
    p = np.zeros((80, 80), np.float32)
    p[11:20, 30:40] = 0.9  # 33 m from the frame, 810 m²
    prob = labelled(p)
    assert int(label_objects(prob, border_m=33).max()) == 1
    assert int(label_objects(prob, border_m=36).max()) == 0
    assert int(label_objects(prob, min_area_m2=810).max()) == 1
    assert int(label_objects(prob, min_area_m2=811).max()) == 0


def test_all_invalid_scene_has_no_objects() -> None:
    labels = label_objects(labelled(np.full((40, 40), np.nan, np.float32), 13)).compute()
    assert int(labels.max()) == 0
    assert int(labels.n_detected) == 0


def test_no_crs_is_refused() -> None:
    prob = xr.DataArray(
        np.zeros((4, 4), np.float32), dims=("y", "x"), coords={"y": np.arange(4.0)[::-1], "x": np.arange(4.0)}
    )
    with pytest.raises(CRSError, match="no coordinate reference system"):
        label_objects(prob)


def test_metres_without_metric_crs_are_refused() -> None:
    prob = labelled(np.zeros((4, 4), np.float32), crs="EPSG:4326")
    with pytest.raises(CRSError, match="metres"):
        label_objects(prob, border_m=30)


def test_percent_raster_is_refused() -> None:
    with pytest.raises(ObjectError, match="divide a 0 to 100 raster"):
        label_objects(labelled(np.zeros((4, 4), np.uint8)))


def test_time_axis_is_refused() -> None:
    prob = labelled(np.zeros((4, 4), np.float32)).expand_dims("time")
    with pytest.raises(ObjectError, match="select one time step"):
        label_objects(prob)


@pytest.mark.parametrize("options", [{"connectivity": 6}, {"border": -1}, {"min_pixels": -1}])
def test_senseless_parameters_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ObjectError, match="must be"):
        label_objects(labelled(np.zeros((4, 4), np.float32)), **options)  # type: ignore[arg-type]
