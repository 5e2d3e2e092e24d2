from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from torch import nn

from darts_xr.cube.bands import BANDS, LEGACY_BANDS, bands_to_dicts, scale_band
from darts_xr.errors import BandDefinitionError, CheckpointError, DartsError, PredictionError, TilingError
from darts_xr.inference import Architecture, load_ensemble, network_input, predict, read_checkpoint
from tests.inference.worlds import SEVEN, lively, scene_of, small_checkpoint

TEN = tuple(BANDS)
LIGHT = "tu-regnetx_002"


@pytest.fixture(scope="module")
def published() -> dict[int, nn.Module]:
    """UNet++ with resnet34 of depth 5, as the published weights are, for ten and for seven bands."""
    networks = {}
    for bands in (10, 7):
        torch.manual_seed(bands)
        networks[bands] = lively(Architecture(in_channels=bands).build().eval(), bands)
    return networks


@pytest.fixture(scope="module")
def light() -> nn.Module:
    """Seven bands in the published architecture, with an encoder that loads fast."""
    torch.manual_seed(0)
    return lively(Architecture(encoder=LIGHT, in_channels=7).build().eval(), 0)


@pytest.fixture(scope="module")
def small() -> tuple[Architecture, nn.Module]:
    architecture = Architecture(encoder="tu-regnetx_002", depth=3, decoder_channels=(8, 8, 8), in_channels=10)
    torch.manual_seed(0)
    return architecture, lively(architecture.build().eval(), 0)


def run_folder(folder: Path, weights: Any, bands: int, *, name: str = "07.pt", **model: Any) -> Path:
    (folder / "checkpoints").mkdir(parents=True)
    sources = [
        "planet",
        "ndvi",
        "tcvis",
        "relative_elevation",
        "slope",
    ]  # the order of the published configuration
    if bands == 7:
        sources.remove("tcvis")
    config = {
        "model": {"architecture": "UnetPlusPlus", "encoder": "resnet34", "input_channels": bands, **model},
        "data_sources": sources,
    }
    (folder / "config.yml").write_text(yaml.safe_dump(config))
    torch.save(weights, folder / "checkpoints" / name)
    return folder


def outputs(network: nn.Module, bands: int, side: int = 64) -> torch.Tensor:
    pixels = torch.rand(1, bands, side, side, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        result: torch.Tensor = network.eval()(pixels)
    return result


@pytest.mark.parametrize(("bands", "prefix"), [(10, "module."), (7, "_orig_mod.module.")])
def test_published_layout_gives_the_networks_own_outputs(
    published: dict[int, nn.Module], tmp_path: Path, bands: int, prefix: str
) -> None:
    weights = {f"{prefix}{key}": value for key, value in published[bands].state_dict().items()}
    checkpoint = read_checkpoint(run_folder(tmp_path / "RTS_v6", weights, bands))
    assert checkpoint.name == "RTS_v6"
    assert checkpoint.format == "thaw-slump-segmentation"
    assert (checkpoint.tile, checkpoint.margin, checkpoint.architecture.depth) == (1024, 64, 5)
    assert checkpoint.band_names == (TEN if bands == 10 else SEVEN)
    assert checkpoint.bands == tuple(LEGACY_BANDS[name] for name in checkpoint.band_names)
    torch.testing.assert_close(
        outputs(checkpoint.load_network(), bands), outputs(published[bands], bands), rtol=0, atol=0
    )


@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "module._orig_mod.", "_orig_mod.module._orig_mod."])
def test_whatever_wrapped_a_network_in_training_is_taken_off(
    light: nn.Module, tmp_path: Path, prefix: str
) -> None:
    weights = {f"{prefix}{key}": value for key, value in light.state_dict().items()}
    checkpoint = read_checkpoint(run_folder(tmp_path / "run", weights, 7, encoder=LIGHT))
    torch.testing.assert_close(outputs(checkpoint.load_network(), 7), outputs(light, 7), rtol=0, atol=0)


def test_latest_checkpoint_of_a_run_is_that_of_the_highest_number(light: nn.Module, tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", {"broken": torch.zeros(1)}, 7, name="9.pt", encoder=LIGHT)
    torch.save(light.state_dict(), run / "checkpoints" / "10.pt")
    (run / "checkpoints" / "best.pt").write_bytes(b"")
    assert read_checkpoint(run).path.endswith("10.pt")


def test_weights_beside_their_configuration_are_enough(light: nn.Module, tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", light.state_dict(), 7, encoder=LIGHT)
    (run / "checkpoints" / "07.pt").rename(run / "RTS_v6_notcvis.pt")
    checkpoint = read_checkpoint(run / "RTS_v6_notcvis.pt")
    assert (checkpoint.name, len(checkpoint.bands)) == ("RTS_v6_notcvis", 7)
    (run / "config.yml").unlink()
    with pytest.raises(CheckpointError, match=r"weights alone.*these take 7.*config\.yml beside it"):
        read_checkpoint(run / "RTS_v6_notcvis.pt")


@pytest.mark.parametrize("bands", [10, 7])
def test_published_files_are_known_without_a_configuration(
    published: dict[int, nn.Module], tmp_path: Path, bands: int
) -> None:
    file = tmp_path / f"thaw_slump_segmentation_RTS_v6_{bands}_UnetPP_resnet34_1024px.pt"
    torch.save({f"module.{key}": value for key, value in published[bands].state_dict().items()}, file)
    checkpoint = read_checkpoint(file)
    assert checkpoint.bands == tuple(LEGACY_BANDS[name] for name in (TEN if bands == 10 else SEVEN))
    assert (checkpoint.architecture.encoder, checkpoint.architecture.depth) == ("resnet34", 5)
    assert "recognised" in checkpoint.training
    torch.testing.assert_close(
        outputs(checkpoint.load_network(), bands), outputs(published[bands], bands), rtol=0, atol=0
    )
    without_head = {k: v for k, v in published[bands].state_dict().items() if "segmentation_head" not in k}
    torch.save(without_head, file)
    with pytest.raises(CheckpointError, match="laid out unlike the published networks"):
        read_checkpoint(file)


def test_published_members_make_an_ensemble(published: dict[int, nn.Module], tmp_path: Path) -> None:
    runs = [run_folder(tmp_path / f"v6_{n}", published[n].state_dict(), n) for n in (10, 7)]
    ensemble = load_ensemble(*runs)
    assert ensemble.bands == TEN
    assert next(b for b in ensemble.definitions if b.name == "relative_elevation").radius == 100
    assert ensemble.name == "v6_10+v6_7"


@pytest.mark.parametrize("lightning", [False, True])
@pytest.mark.parametrize("key", ["bands", "input_combination"])
def test_both_layouts_of_darts_nextgen(
    small: tuple[Architecture, nn.Module], tmp_path: Path, lightning: bool, key: str
) -> None:
    _, network = small
    order = ["red", "green", "blue", *[name for name in TEN if name not in ("red", "green", "blue")]]
    path = save_nextgen(tmp_path / "nextgen.ckpt", network, order, lightning=lightning, key=key)
    checkpoint = read_checkpoint(path)
    assert checkpoint.format == "darts-nextgen"
    assert checkpoint.band_names == tuple(order)
    assert checkpoint.architecture.name == "UnetPlusPlus"
    torch.testing.assert_close(outputs(checkpoint.load_network(), 10), outputs(network, 10), rtol=0, atol=0)
    assert predict(scene_of(np.ones((40, 40), bool)), load_ensemble(path, device="cpu")).notnull().all()


def save_nextgen(
    path: Path, network: nn.Module, bands: list[str], *, lightning: bool, key: str = "bands", **model: Any
) -> Path:
    config = {
        key: bands,
        "model": {
            "arch": "unetplusplus",
            "encoder_name": "tu-regnetx_002",
            "encoder_weights": "imagenet",
            "encoder_depth": 3,
            "decoder_channels": [8, 8, 8],
            "in_channels": len(bands),
            "classes": 1,
            **model,
        },
    }
    weights = network.state_dict()
    content: dict[str, Any] = {"config": config, "statedict": weights}
    if lightning:
        content = {
            "epoch": 12,
            "hyper_parameters": {"config": config, "learning_rate": 1e-3},
            "state_dict": {f"model.{name}": value for name, value in weights.items()}
            | {"loss_fn.a": torch.ones(1)},
        }
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    ("name", "values", "scaled"),
    [
        # what darts-nextgen gives its networks: (value - min) / (max - min), cut to 0..1, missing values 0
        ("red", [0, 2000, 5000, 9000], [1 / 6, 0.5, 1, 1]),
        ("ndvi", [-1, 0.5, 1, np.nan], [0, 0.75, 1, 0]),
        ("relative_elevation", [-80, -50, 25, np.nan], [0, 0, 0.75, 0]),
        ("slope", [0, 45, 120, np.nan], [0, 0.5, 1, 0]),
        ("tc_wetness", [0, 51, 255, 255], [0, 0.2, 1, 1]),
    ],
)
def test_nextgen_bands_are_scaled_as_there(
    small: tuple[Architecture, nn.Module], tmp_path: Path, name: str, values: list[float], scaled: list[float]
) -> None:
    checkpoint = read_checkpoint(save_nextgen(tmp_path / "a.pt", small[1], list(TEN), lightning=False))
    band = next(band for band in checkpoint.bands if band.name == name)
    np.testing.assert_allclose(scale_band(band, np.array(values, "float32")), scaled, atol=1e-6)


def test_masked_pixels_are_zero_in_every_band(tmp_path: Path) -> None:
    checkpoint = small_checkpoint(tmp_path / "ten.safetensors")
    stack = torch.full((10, 2, 2), 100.0)
    scaled = network_input(stack, TEN, torch.tensor([[True, False], [True, True]]), checkpoint)
    assert (scaled[:, 0, 1] == 0).all()
    assert (scaled[:, 0, 0] != 0).all()


@pytest.mark.parametrize("band", ["hillshade", "aspect", "curvature"])
def test_bands_that_scenes_lack_are_named(
    small: tuple[Architecture, nn.Module], tmp_path: Path, band: str
) -> None:
    path = save_nextgen(tmp_path / "a.pt", small[1], [*TEN[:9], band], lightning=True)
    with pytest.raises(CheckpointError, match=f"wants the band {band}, which scenes do not have"):
        read_checkpoint(path)


def test_wrong_band_counts(small: tuple[Architecture, nn.Module], tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", small[1].state_dict(), 7)
    with pytest.raises(CheckpointError, match=r"names 7 bands .*but the network takes 10"):
        load_ensemble(run)
    path = save_nextgen(tmp_path / "a.pt", small[1], list(SEVEN), lightning=False)
    with pytest.raises(CheckpointError, match=r"names 7 bands .*but the network takes 10"):
        load_ensemble(path)
    path = save_nextgen(tmp_path / "b.pt", small[1], list(TEN), lightning=False, in_channels=9)
    with pytest.raises(CheckpointError, match="names 10 bands but says that the network takes 9"):
        load_ensemble(path)
    header = _header(small_checkpoint(tmp_path / "c.safetensors").path)
    header["bands"].pop()
    with pytest.raises(CheckpointError, match=r"lists 9 bands .*but the network takes 10"):
        load_ensemble(_with_header(tmp_path / "c.safetensors", header))


def _header(path: str | Path) -> Any:
    with safetensors.safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["darts_xr"])


def _with_header(path: Path, header: Any) -> Path:
    weights = safetensors.torch.load_file(path)
    safetensors.torch.save_file(weights, path, metadata={"darts_xr": json.dumps(header)})
    return path


def test_missing_weights(light: nn.Module, tmp_path: Path) -> None:
    weights = dict(light.state_dict())
    del weights["segmentation_head.0.bias"]
    checkpoint = read_checkpoint(run_folder(tmp_path / "run", weights, 7, encoder=LIGHT))
    with pytest.raises(CheckpointError, match=r"1 missing \(first: \['segmentation_head.0.bias'\]\)"):
        checkpoint.load_network()


def test_missing_entries_of_configurations(small: tuple[Architecture, nn.Module], tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", small[1].state_dict(), 10)
    (run / "config.yml").write_text("model: {architecture: Unet}\n")
    with pytest.raises(CheckpointError, match=r"config\.yml lacks 'data_sources'"):
        read_checkpoint(run)
    path = tmp_path / "a.pt"
    torch.save({"config": {"model": {}}, "statedict": small[1].state_dict()}, path)
    with pytest.raises(CheckpointError, match="lacks 'input_combination'"):
        read_checkpoint(path)
    header = _header(small_checkpoint(tmp_path / "b.safetensors").path)
    del header["margin"]
    with pytest.raises(CheckpointError, match="header lacks margin"):
        read_checkpoint(_with_header(tmp_path / "b.safetensors", header))


def test_unknown_sources_of_a_run_are_named(small: tuple[Architecture, nn.Module], tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", small[1].state_dict(), 10)
    config = yaml.safe_load((run / "config.yml").read_text())
    (run / "config.yml").write_text(yaml.safe_dump({**config, "data_sources": ["planet", "sentinel1"]}))
    with pytest.raises(CheckpointError, match="data_sources names sentinel1"):
        read_checkpoint(run)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_truncated_files(small: tuple[Architecture, nn.Module], tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".pt":
        torch.save(small[1].state_dict(), path)
    else:
        small_checkpoint(path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="truncated or another kind of file"):
        read_checkpoint(path)


class _Code:
    ran = False

    def __reduce__(self) -> Any:
        return (setattr, (_Code, "ran", True))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
@pytest.mark.parametrize("plain", [False, True])
def test_code_in_a_file_is_refused_and_never_run(tmp_path: Path, plain: bool) -> None:
    path = tmp_path / "a.pt"
    if plain:
        path.write_bytes(pickle.dumps({"statedict": _Code()}))
    else:
        torch.save({"config": {}, "statedict": _Code()}, path)
    with pytest.raises(CheckpointError, match="holds code beside weights"):
        read_checkpoint(path)
    assert not _Code.ran


def test_unknown_architectures(light: nn.Module, tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", light.state_dict(), 7, architecture="Unet3Plus")
    with pytest.raises(CheckpointError, match=r"run.*unknown architecture 'Unet3Plus'; known are Unet"):
        load_ensemble(run)
    run = run_folder(tmp_path / "other", light.state_dict(), 7, encoder="resnet35")
    with pytest.raises(CheckpointError, match="cannot build UnetPlusPlus with encoder 'resnet35'"):
        read_checkpoint(run).load_network()


def test_other_refusals(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No checkpoint given"):
        load_ensemble()
    with pytest.raises(CheckpointError, match="not found"):
        load_ensemble(tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match=r"no config\.yml"):
        load_ensemble(tmp_path)
    path = small_checkpoint(tmp_path / "ten.safetensors").path
    with pytest.raises(CheckpointError, match="precision must be one of auto, float32"):
        load_ensemble(path, precision="int8")  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="batch_norm must be one of eval, per-tile"):
        load_ensemble(path, batch_norm="train")  # type: ignore[arg-type]


def test_members_that_need_different_cubes_are_refused(tmp_path: Path) -> None:
    ours = small_checkpoint(tmp_path / "ours.safetensors").path
    header = _header(small_checkpoint(tmp_path / "other.safetensors").path)
    header["bands"] = bands_to_dicts(LEGACY_BANDS.values())
    with pytest.raises(CheckpointError, match="derive relative_elevation differently"):
        load_ensemble(ours, _with_header(tmp_path / "other.safetensors", header))


def test_headers_written_before_clipping_existed_still_load(tmp_path: Path) -> None:
    path = Path(small_checkpoint(tmp_path / "ten.safetensors").path)
    header = _header(path)
    for band in header["bands"]:
        del band["clip"]
    assert read_checkpoint(_with_header(path, header)).bands == tuple(BANDS.values())
    with pytest.raises(BandDefinitionError, match="clip must be true or false"):
        replace(BANDS["red"], clip=1)  # type: ignore[arg-type]


def test_the_shipped_members_load() -> None:
    ensemble = load_ensemble("demo")
    assert ensemble.bands == TEN
    assert [len(member.bands) for member in ensemble.members] == [10, 7]
    assert "synthetic" in ensemble.members[0].licence


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("tile", 0), ("tile", -512), ("tile", 512.0), ("tile", "512"), ("tile", None), ("tile", True),
        ("margin", -32), ("margin", 5), ("bands", "all"), ("bands", [7]), ("architecture", None), ("training", []),
        ("licence", 3), ("name", None),
    ],
)  # fmt: skip
def test_headers_of_nonsense_are_refused_by_entry(tmp_path: Path, entry: str, value: Any) -> None:
    path = small_checkpoint(tmp_path / "a.safetensors").path
    header = {**_header(path), entry: value}
    with pytest.raises(DartsError, match=entry.removesuffix("s")):
        read_checkpoint(_with_header(tmp_path / "a.safetensors", header))


@pytest.mark.parametrize("header", [[], 7, None, "text"])
def test_a_header_that_is_no_object_is_refused(tmp_path: Path, header: Any) -> None:
    small_checkpoint(tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="no JSON object"):
        read_checkpoint(_with_header(tmp_path / "a.safetensors", header))


@pytest.mark.parametrize(
    ("entry", "value"), [("depth", 0), ("encoder", 7), ("in_channels", "ten"), ("depth", None)]
)
def test_architectures_of_nonsense_are_refused(tmp_path: Path, entry: str, value: Any) -> None:
    path = small_checkpoint(tmp_path / "a.safetensors").path
    header = _header(path)
    header["architecture"][entry] = value
    with pytest.raises(CheckpointError, match=entry):
        read_checkpoint(_with_header(tmp_path / "a.safetensors", header))


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    path = Path(small_checkpoint(tmp_path / "a.safetensors").path)
    header, weights = _header(path), safetensors.torch.load_file(path)
    first = next(key for key, value in weights.items() if value.is_floating_point())
    weights[first].view(-1)[0] = float("nan")
    safetensors.torch.save_file(weights, path, metadata={"darts_xr": json.dumps(header)})
    with pytest.raises(PredictionError, match=first):
        read_checkpoint(path).load_network()


def test_a_checkpoint_can_be_read_by_whom_any_new_file_can(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    saved = small_checkpoint(tmp_path / "own.safetensors").path
    assert Path(saved).stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_tile_and_margin_can_be_given_in_place_of_the_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "ten.safetensors"
    small_checkpoint(path, tile=64, margin=16)
    given = load_ensemble(path, device="cpu", tile=128, margin=32)
    assert (given.tile, given.margin) == (128, 32)
    scene = scene_of(np.ones((128, 128), bool))
    prob = predict(scene, given)
    assert prob.attrs["tiling"] == "lattice, tile 128 px, margin 32 px"
    expected = predict(scene, load_ensemble(path, device="cpu"), tile=128, margin=32)
    np.testing.assert_array_equal(prob.compute(), expected.compute())
    with pytest.raises(TilingError, match="margin must be a multiple of 8 px, the stride of ten"):
        load_ensemble(path, margin=12)
