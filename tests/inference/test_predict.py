from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import torch
import xarray as xr
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords
from torch import nn

from darts_xr.catalog import load_items
from darts_xr.cube import open_scene
from darts_xr.errors import CheckpointError, DeviceError, MissingBandsError, PredictionError, TilingError
from darts_xr.inference import (
    Ensemble,
    batches,
    forward,
    load_ensemble,
    network_input,
    predict,
    predict_members,
)
from darts_xr.inference.core_network import WholeNetwork
from darts_xr.inference.ensemble import network_of
from darts_xr.inference.reach import reach
from darts_xr.objects import label_objects, vectorize
from darts_xr.sample import SampleWorld
from tests.helpers import raise_if_dask_computes
from tests.inference.worlds import scene_of, small_checkpoint, small_ensemble


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("members")


@pytest.fixture(scope="module")
def ensemble(folder: Path) -> Ensemble:
    return small_ensemble(folder)


@contextmanager
def watched(ensemble: Ensemble) -> Iterator[list[tuple[int, ...]]]:
    """Shapes of all batches that the first member is given."""
    network, _ = network_of(ensemble.members[0], ensemble.device, ensemble.batch_norm)
    shapes: list[tuple[int, ...]] = []
    hook = network.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape)))
    try:
        yield shapes
    finally:
        hook.remove()


@contextmanager
def replaced(monkeypatch: pytest.MonkeyPatch, network: nn.Module) -> Iterator[None]:
    """Let every member be the given network."""
    with monkeypatch.context() as patch:
        patch.setattr(
            "darts_xr.inference.forward.network_of",
            lambda *_, **__: (WholeNetwork(network), torch.device("cpu")),
        )
        yield


@st.composite
def scenes(draw: Any) -> tuple[np.ndarray, tuple[Any, Any], tuple[Any, Any]]:
    """A mask, of any size and form, and two chunkings of it."""
    shape = tuple(draw(st.one_of(st.just(1), st.integers(2, 63), st.integers(64, 180))) for _ in range(2))
    form = draw(st.sampled_from(["full", "swath", "noise", "corner"]))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    y, x = np.mgrid[: shape[0], : shape[1]]
    masks = {
        "full": np.ones(shape, bool),
        "swath": (y + x > 0.4 * max(shape)) & (y + x < 1.4 * max(shape)),
        "noise": rng.random(shape) > 0.7,
        "corner": (y >= shape[0] - 9) & (x >= shape[1] - 9),
    }
    chunkings = tuple(
        tuple(draw(st.integers(max(1, n // 6), n + 5).map(lambda c, n=n: _sizes(n, c))) for n in shape)
        for _ in range(2)
    )
    return masks[form], chunkings[0], chunkings[1]


def _sizes(length: int, chunk: int) -> tuple[int, ...]:
    whole, rest = divmod(length, chunk)
    return (chunk,) * whole + ((rest,) if rest else ())


def _outlines(prob: xr.DataArray) -> list[bytes]:
    """Polygons of all objects of a probability that lies somewhere."""
    grid = GeoBox(prob.shape, Affine(3, 0, 5e5, 0, -3, 7.9e6), "EPSG:32610")
    placed = prob.assign_coords(xr_coords(grid, dims=("y", "x")))
    return vectorize(label_objects(placed, border=0, min_pixels=1), placed).geometry.to_wkb().tolist()


@settings(max_examples=40, deadline=None)
@given(scenes())
def test_probabilities_do_not_depend_on_the_chunks(
    ensemble: Ensemble, case: tuple[np.ndarray, tuple[Any, Any], tuple[Any, Any]]
) -> None:
    valid, first, second = case
    whole = predict(scene_of(valid), ensemble).compute()
    np.testing.assert_array_equal(whole.isnull(), ~valid)
    objects = _outlines(whole)
    for chunks in (first, second):
        prob = predict(scene_of(valid, chunks=chunks), ensemble)
        assert prob.chunks == chunks
        np.testing.assert_allclose(prob.compute(), whole, atol=1e-5)
        assert _outlines(prob) == objects


def test_one_tile_is_what_the_networks_themselves_say(ensemble: Ensemble) -> None:
    scene = scene_of(np.ones((64, 64), bool))
    prob = predict(scene, ensemble, margin=0).compute()
    stack = torch.from_numpy(np.stack([scene[name].values.astype("float32") for name in ensemble.bands]))
    with torch.inference_mode():
        votes = [
            torch.sigmoid(
                m.load_network()(
                    network_input(stack, ensemble.bands, torch.ones(64, 64, dtype=bool), m)[None]
                )
            )
            for m in ensemble.members
        ]
    np.testing.assert_allclose(prob, torch.stack(votes).mean(0)[0, 0], atol=1e-5)
    assert float(prob.std()) > 0.01


def test_edges_are_mirrored(ensemble: Ensemble) -> None:
    scene = scene_of(np.ones((64, 64), bool))
    around = scene.pad({"y": 16, "x": 16}, mode="reflect")
    inner = predict(around, replace_tile(ensemble, 96), margin=0).compute()[16:-16, 16:-16]
    np.testing.assert_allclose(predict(scene, ensemble).compute(), inner, atol=1e-5)


def replace_tile(ensemble: Ensemble, tile: int) -> Ensemble:
    return replace(ensemble, members=tuple(replace(m, tile=tile) for m in ensemble.members))


def test_masked_pixels_say_nothing_whatever_they_hold(ensemble: Ensemble) -> None:
    valid = np.ones((100, 90), bool)
    valid[30:70, 20:60] = False
    scene = scene_of(valid)
    other = scene.copy(deep=True)
    other["red"].values[~valid] = 65535
    other["slope"].values[~valid] = np.nan
    xr.testing.assert_identical(predict(scene, ensemble).compute(), predict(other, ensemble).compute())


def test_tiles_without_a_valid_pixel_are_not_predicted_and_others_are_cut(ensemble: Ensemble) -> None:
    valid = np.zeros((192, 192), bool)
    valid[0:64, 0:64] = True  # a whole tile
    valid[130:140, 150:192] = True  # a part of another
    with watched(ensemble) as shapes:
        prob = predict(scene_of(valid, chunks=(64, 64)), ensemble).compute()
    assert sum(shape[0] for shape in shapes) == 2
    assert int(prob.notnull().sum()) == int(valid.sum())
    with watched(ensemble) as shapes:
        assert predict(scene_of(np.zeros((64, 64), bool)), ensemble).compute().isnull().all()
    assert shapes == []


def test_half_valid_tiles_are_predicted(ensemble: Ensemble) -> None:
    valid = np.arange(64)[:, None] + np.arange(64)[None] < 63
    assert int(predict(scene_of(valid), ensemble).compute().notnull().sum()) == int(valid.sum())


def test_nothing_is_computed_until_asked(ensemble: Ensemble) -> None:
    scene = scene_of(np.ones((130, 70), bool), chunks=(50, 50))
    with raise_if_dask_computes():
        predict(scene, ensemble)
        predict(scene, ensemble, augment=True)
        predict_members(scene, ensemble)


def test_each_pixel_is_read_once(ensemble: Ensemble) -> None:
    valid = np.ones((128, 128), bool)
    scene = scene_of(valid, chunks=(64, 64))
    reads = []

    def counting(block: np.ndarray) -> np.ndarray:
        reads.append(block.size)
        return block

    scene["red"] = scene["red"].copy(
        data=da.map_blocks(counting, scene["red"].data, meta=np.empty((0, 0), "uint16"))
    )
    dask.compute(predict_members(scene, ensemble))
    assert sum(reads) == valid.size


def test_members_and_their_spread(ensemble: Ensemble) -> None:
    valid = np.ones((80, 80), bool)
    valid[:20] = False
    scene = scene_of(valid, chunks=(40, 40))
    both = predict_members(scene, ensemble).compute()
    assert list(both["member"].values) == ["ten", "seven"]
    np.testing.assert_allclose(both["probability"], predict(scene, ensemble).compute(), atol=1e-6)
    np.testing.assert_allclose(
        both["member_probability"].mean("member", skipna=False), both["probability"], atol=1e-6
    )
    expected = abs(both["member_probability"][0] - both["member_probability"][1])
    np.testing.assert_allclose(both["spread"], expected, atol=1e-6)
    assert both["probability"].attrs["checkpoints"].startswith("ten:")


def test_flips_are_averaged(ensemble: Ensemble) -> None:
    scene = scene_of(np.ones((64, 64), bool))
    views = [scene, scene.isel(y=slice(None, None, -1)), scene.isel(x=slice(None, None, -1))]
    views.append(views[1].isel(x=slice(None, None, -1)))
    each = [predict(view, ensemble).compute().sortby("y", ascending=False).sortby("x") for view in views]
    augmented = predict(scene, ensemble, augment=True).compute()
    np.testing.assert_allclose(augmented, sum(each) / 4, atol=1e-5)
    assert "flips" in augmented.attrs["tiling"]


def test_statistics_per_tile_are_those_of_the_legacy_workflow(folder: Path) -> None:
    ensemble = small_ensemble(folder, batch_norm="per-tile")
    valid = np.ones((128, 64), bool)
    valid[100:] = False
    scene = scene_of(valid, chunks=(64, 64))
    with watched(ensemble) as shapes:
        prob = predict_members(scene, ensemble, margin=0).compute()
    assert shapes == [(1, 10, 64, 64)] * 2  # one whole tile a batch, its masked pixels with it
    member = ensemble.members[0]
    stack = torch.from_numpy(np.stack([scene[name].values.astype("float32")[64:] for name in ensemble.bands]))
    with torch.no_grad():
        inputs = network_input(stack, ensemble.bands, torch.from_numpy(valid[64:]), member)[None]
        expected = torch.sigmoid(member.load_network().train()(inputs))[0, 0].numpy()
    np.testing.assert_allclose(prob["member_probability"][0, 64:100], expected[:36], atol=1e-4)
    assert prob.attrs["batch_norm"] == "per-tile"


@pytest.mark.parametrize(
    "options",
    [
        {"precision": "bfloat16"},
        {"precision": "float16"},
        pytest.param({"compiled": True}, marks=pytest.mark.slow),
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_objects_of_the_sample_world_are_the_same_in_half_precision_and_compiled(
    world: SampleWorld, options: dict[str, Any]
) -> None:
    exact = load_ensemble("demo", device="cpu")
    if "compiled" in options:  # which takes half a minute for each network, and both are of one architecture
        exact = load_ensemble(exact.members[1].path, device="cpu")
    fast = load_ensemble(*(member.path for member in exact.members), device="cpu", **options)
    scene = open_scene(
        load_items(world.catalog)[0], auxiliary=world.auxiliary, bands=exact.definitions
    ).load()
    found = []
    for ensemble in (exact, fast):
        prob = predict(scene, ensemble).compute()
        found.append(vectorize(label_objects(prob), prob, crs=None).geometry)
    assert len(found[0]) == len(found[1]) > 0
    # In bfloat16 probability moves by up to 0.013: pixels at the threshold, two of an object of 34 here.
    some = 2 * 3.0**2 if options.get("precision") == "bfloat16" else 0.0  # m²
    for one, other in zip(*found, strict=True):
        assert one.symmetric_difference(other).area <= max(0.02 * one.union(other).area, some)


def test_numbers_too_large_for_half_precision_are_computed_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Large(nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.conv2d(pixels[:, :1], torch.full((1, 1, 1, 1), 1e6)) - 4e5

    scene = scene_of(np.ones((64, 64), bool))
    ensemble = small_ensemble(folder, precision="float16")
    with replaced(monkeypatch, Large()):
        prob = predict(scene, ensemble).compute()
    assert np.isfinite(prob).all()
    assert "too large for float16" in caplog.text


def test_a_file_that_was_replaced_is_not_loaded(tmp_path: Path) -> None:
    ensemble = load_ensemble(small_checkpoint(tmp_path / "one.safetensors", seed=5).path, device="cpu")
    small_checkpoint(tmp_path / "one.safetensors", seed=6)
    with pytest.raises(CheckpointError, match="was replaced"):
        predict(scene_of(np.ones((64, 64), bool)), ensemble).compute()


def test_half_precision_is_close(folder: Path) -> None:
    scene = scene_of(np.ones((64, 64), bool))
    exact = predict(scene, small_ensemble(folder)).compute()
    rough = predict(scene, small_ensemble(folder, precision="bfloat16")).compute()
    assert 0 < float(abs(exact - rough).max()) < 0.02
    assert rough.dtype == np.float32


class _Small(nn.Module):
    """A network that fits only some tiles into memory at a time."""

    def __init__(self, fits: int) -> None:
        super().__init__()
        self.fits, self.batches = fits, []  # type: ignore[var-annotated]

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        if len(pixels) > self.fits:
            raise torch.OutOfMemoryError("the device is full")
        self.batches.append(len(pixels))
        return pixels[:, 1:2]


def test_batches_are_halved_when_memory_runs_out(ensemble: Ensemble, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = scene_of(np.ones((64, 320), bool))
    roomy, narrow = _Small(99), _Small(2)
    monkeypatch.setattr(batches, "batch_pixels", lambda *_: 2**20)  # as where there is a GPU
    with replaced(monkeypatch, roomy):
        expected = predict(scene, ensemble).compute()
    with replaced(monkeypatch, narrow):
        xr.testing.assert_identical(predict(scene, ensemble).compute(), expected)
    assert max(roomy.batches) == 5
    assert max(narrow.batches) == 2
    with (
        replaced(monkeypatch, _Small(0)),
        pytest.raises(PredictionError, match="give predict a smaller tile"),
    ):
        predict(scene, ensemble).compute()


class _Fragile(nn.Module):
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        if (pixels[:, 1] > 19).any():  # 60000 / 3000 is 20
            raise ValueError("cannot look at this")
        return pixels[:, :1]


def test_a_failing_member_says_where(ensemble: Ensemble, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = scene_of(np.ones((192, 192), bool))
    scene["blue"].values[150, 80] = 60000
    expected = (
        "20210701_noise: member ten failed .* begins at row 128, column 64 .*ValueError: cannot look at this"
    )
    with replaced(monkeypatch, _Fragile()):
        for chunks in ((192, 192), (64, 64)):
            prob = predict(scene.chunk(dict(zip("yx", chunks, strict=True))), replace_margin(ensemble, 0))
            with pytest.raises(PredictionError, match=expected) as failure:
                prob.compute()
            assert str(pickle.loads(pickle.dumps(failure.value))) == str(failure.value)


class _Broken(nn.Module):
    """A network on a GPU whose state is spoilt, or that fails in another way."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error, self.passes = error, 0

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        raise self.error


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"),
    ],
    ids=["accelerator", "cudnn", "cublas"],
)
def test_a_spoilt_device_is_told_from_a_failing_tile_and_not_asked_again(
    ensemble: Ensemble, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = _Broken(error)
    with (
        replaced(monkeypatch, network),
        pytest.raises(
            DeviceError, match=r"20210701_noise: cpu failed under member ten .* starts anew"
        ) as failure,
    ):
        predict(scene_of(np.ones((64, 64), bool)), ensemble).compute(scheduler="synchronous")
    assert network.passes == 1
    assert str(pickle.loads(pickle.dumps(failure.value))) == str(failure.value)


def test_other_errors_of_a_network_are_no_fault_of_the_device(
    ensemble: Ensemble, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error in (RuntimeError("shapes do not match"), torch.OutOfMemoryError("CUDA error: out of memory")):
        with (
            replaced(monkeypatch, _Broken(error)),
            pytest.raises(PredictionError, match="begins at row 0, column 0") as failure,
        ):
            predict(scene_of(np.ones((64, 64), bool)), ensemble).compute()
        assert not isinstance(failure.value, DeviceError)


def test_a_pass_in_half_precision_does_not_wait_for_the_device(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What makes the host wait is a number that it asks for: none may come between the passes of a block."""
    events: list[str] = []
    to_bool = torch.Tensor.__bool__

    class Noting(nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            events.append("pass")
            return pixels[:, 1:2]

    def asked(tensor: torch.Tensor) -> bool:
        events.append("host asks")
        return to_bool(tensor)

    monkeypatch.setattr(torch.Tensor, "__bool__", asked)
    with replaced(monkeypatch, Noting()):
        predict(scene_of(np.ones((128, 128), bool)), small_ensemble(folder, precision="float16")).compute(
            scheduler="synchronous"
        )
    assert events.count("pass") > 1
    assert "host asks" not in events[: len(events) - events[::-1].index("pass")]
    assert events.count("host asks") == 1


@pytest.mark.parametrize(
    ("precision", "rounded"), [("float32", False), ("tf32", True), ("auto", False), ("float16", False)]
)
def test_a_gpu_rounds_products_of_float32_only_where_tf32_is_asked_for(precision: str, rounded: bool) -> None:
    settings = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [setting.allow_tf32 for setting in settings]
    with forward.products(precision, torch.device("cuda:0")):
        assert [setting.allow_tf32 for setting in settings] == [rounded] * 2
        assert forward.compute_dtype("tf32", torch.device("cuda:0")) is torch.float32
    assert [setting.allow_tf32 for setting in settings] == before


def test_tf32_on_a_processor_is_float32(folder: Path) -> None:
    scene = scene_of(np.ones((64, 64), bool))
    exact, named = (
        predict(scene, small_ensemble(folder, precision=name)).compute() for name in ("float32", "tf32")
    )
    np.testing.assert_array_equal(exact, named)


def test_the_encoder_is_in_bfloat16_only_where_all_is_asked_for(folder: Path) -> None:
    scene = scene_of(np.ones((64, 64), bool))
    exact, decoder, everything = (
        predict(scene, small_ensemble(folder, precision=name)).compute()
        for name in ("float32", "bfloat16", "bfloat16-all")
    )
    assert 0 < float(abs(exact - decoder).mean()) < float(abs(exact - everything).mean())
    assert float(abs(exact - everything).max()) < 0.1


def replace_margin(ensemble: Ensemble, margin: int) -> Ensemble:
    return replace(ensemble, members=tuple(replace(m, margin=margin) for m in ensemble.members))


def test_what_does_not_suit_the_lattice_is_refused(ensemble: Ensemble) -> None:
    scene = scene_of(np.ones((64, 64), bool))
    for options, message in (
        ({"tile": 60}, "tile must be a multiple of 8"),
        ({"tile": 0}, "tile must be"),
        ({"margin": 4}, "margin must be a multiple of 8"),
        ({"tile": 16, "margin": 32}, "margin must not exceed the tile"),
        ({"tiling": "legacy", "margin": 8}, "windows of its own"),
    ):
        with pytest.raises(TilingError, match=message):
            predict(scene, ensemble, **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="tiling must be one of lattice, legacy"):
        predict(scene, ensemble, tiling="hexagons")  # type: ignore[arg-type]
    with pytest.raises(MissingBandsError, match=r'20210701_noise lacks slope, .*auxiliary="neutral"'):
        predict(scene.drop_vars("slope"), ensemble)


@pytest.mark.parametrize("options", [{}, {"tiling": "legacy"}])
def test_the_graph_has_no_legacy_tasks(ensemble: Ensemble, options: dict[str, Any]) -> None:
    scene = scene_of(np.ones((1024, 1024), bool), chunks=(512, 512))
    prob = predict(scene, ensemble, **options)
    assert not any(isinstance(task, tuple) for task in dict(prob.__dask_graph__()).values())


def test_the_graph_is_small_and_holds_no_weights(ensemble: Ensemble) -> None:
    shape = (8000, 8000)
    plane = da.zeros(shape, chunks=1024, dtype="uint16")
    scene = xr.Dataset(dict.fromkeys((*ensemble.bands, "valid"), (("y", "x"), plane)))
    large = replace(ensemble, members=tuple(replace(m, tile=1024, margin=64) for m in ensemble.members))
    prob = predict(scene, large)
    (optimized,) = dask.optimize(prob)
    assert len(optimized.__dask_graph__()) / 64 <= 40
    assert len(pickle.dumps(optimized.__dask_graph__())) < 2e6


def _counting(scene: xr.Dataset, name: str) -> list[int]:
    """Let a band tell how many pixels of each of its chunks are read."""
    reads: list[int] = []

    def count(block: np.ndarray) -> np.ndarray:
        reads.append(block.size)
        return block

    scene[name] = scene[name].copy(
        data=da.map_blocks(count, scene[name].data, dtype=scene[name].dtype, meta=np.empty((0, 0)))
    )
    return reads


@pytest.mark.parametrize(
    ("window", "pixels"),
    [
        ((slice(70, 100), slice(130, 150)), 96 * 96),  # one tile and its margin on each side
        ((slice(0, 10), slice(0, 10)), 80 * 80),  # at the scene's corner the margin is mirrored
        ((slice(60, 70), slice(-20, None)), 144 * 64),  # two tiles, of which the scene's edge cuts one
        ((slice(None), slice(None)), 272 * 240),
    ],
)
def test_a_window_is_that_part_of_the_whole_at_the_cost_of_its_tiles_and_margin(
    ensemble: Ensemble, window: tuple[slice, slice], pixels: int
) -> None:
    y, x = np.mgrid[:272, :240]
    valid = (y + x > 60) & ((y - 90) ** 2 + (x - 140) ** 2 > 50)
    scene = scene_of(valid, chunks=(16, 16))
    whole = predict(scene, ensemble).compute()[window]
    reads = _counting(scene, "red")
    part = predict(scene, ensemble, window=window)
    assert reads == []
    np.testing.assert_allclose(part.compute(), whole, atol=1e-5)
    xr.testing.assert_equal(part["x"], whole["x"])
    assert sum(reads) == pixels
    both = predict_members(scene, ensemble, window=window)
    np.testing.assert_allclose(both["probability"].compute(), whole, atol=1e-5)


@pytest.mark.parametrize(
    ("width", "columns", "margin"),
    [
        (81, slice(0, 1), 16),
        (81, slice(30, 64), 16),
        (160, slice(64, 70), 56),
        (200, slice(130, 140), 56),
        (199, slice(195, 199), 64),
        (199, slice(196, 198), 16),
    ],
)
def test_a_window_whose_margin_ends_near_the_edge_of_the_scene(
    ensemble: Ensemble, width: int, columns: slice, margin: int
) -> None:
    scene = scene_of(np.ones((1, width), bool), chunks=(1, width))
    part = predict(scene, ensemble, margin=margin, window=(slice(0, 1), columns)).compute()
    whole = predict(scene, ensemble, margin=margin).compute()
    np.testing.assert_allclose(part, whole[:, columns], atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(scenes(), st.data())
def test_any_window_is_that_part_of_the_whole(
    ensemble: Ensemble, case: tuple[np.ndarray, tuple[Any, Any], tuple[Any, Any]], data: st.DataObject
) -> None:
    valid, chunks, _ = case
    window = []
    for length in valid.shape:
        start = data.draw(st.integers(0, length - 1))
        window.append(slice(start, data.draw(st.integers(start + 1, length))))
    scene = scene_of(valid, chunks=chunks)
    margin = data.draw(st.sampled_from([8, 16, 56]))
    part = predict(scene, ensemble, margin=margin, window=(window[0], window[1])).compute()
    whole = predict(scene, ensemble, margin=margin).compute()
    np.testing.assert_allclose(part, whole[tuple(window)], atol=1e-5)


def test_networks_see_of_a_large_tile_the_window_and_their_reach(folder: Path, ensemble: Ensemble) -> None:
    y, x = np.mgrid[:512, :500]
    scene = scene_of((y + x > 150) & ((y - 250) ** 2 + (x - 260) ** 2 > 50), chunks=(256, 256))
    large = replace_tile(ensemble, 512)
    window = (slice(240, 270), slice(240, 280))
    with watched(large) as shapes:
        whole = predict(scene, large).compute()
    with watched(large) as few:
        part = predict(scene, large, window=window).compute()
    np.testing.assert_allclose(part, whole[window], atol=1e-5)
    far = reach(large)
    assert far is not None
    pixels = [sum(n * h * w for n, _, h, w in each) for each in (shapes, few)]
    assert pixels[1] <= (30 + 2 * far + 32) * (40 + 2 * far + 32)
    assert pixels[1] < pixels[0] / 4
    # Cutting the scene itself gives another result: beyond the cut the networks see a mirror.
    near = scene.isel(y=slice(240, 272), x=slice(240, 288))
    assert float(abs(predict(near, large).compute()[:30, :40] - whole[window]).max()) > 1e-4


def test_statistics_of_a_tile_need_the_whole_tile(folder: Path) -> None:
    per_tile = small_ensemble(folder, batch_norm="per-tile")
    scene = scene_of(np.ones((128, 128), bool))
    whole = predict(scene, per_tile, margin=0).compute()
    part = predict(scene, per_tile, margin=0, window=(slice(10, 30), slice(70, 90))).compute()
    np.testing.assert_allclose(part, whole[10:30, 70:90], atol=1e-5)
