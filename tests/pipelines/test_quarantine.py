"""What may enter: a bad item or raster fails by name, the good ones beside it finish."""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import rasterio
from click.testing import CliRunner, Result
from rasterio.transform import Affine

import darts_xr as dx
from darts_xr import errors
from darts_xr.rasters import RasterLimits
from pipelines.cli import main
from pipelines.detection import plan
from pipelines.settings import Rules
from tests.helpers import real_data
from tests.pipelines.small import Small


def _call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def _collection(items: list[pystac.Item]) -> dict[str, Any]:
    return pystac.ItemCollection(items).to_dict()


@pytest.fixture
def three(small: Small) -> dict[str, Any]:
    """An ItemCollection of three scenes, the middle one to be spoiled."""
    return _collection(small.items[:3])


# --- items -------------------------------------------------------------------------------------------------------

_SPOILED: list[tuple[str, dict[str, Any]]] = [
    ("bbox null", {"bbox": None}),
    ("bbox short", {"bbox": [1.0, 2.0]}),
    ("bbox text", {"bbox": "everywhere"}),
    ("bbox not finite", {"bbox": [float("nan"), 1, 2, 3]}),
    ("shape text", {"properties.proj:shape": "large"}),
    ("shape NaN", {"properties.proj:shape": [float("nan"), 256]}),
    ("shape true", {"properties.proj:shape": [True, 256]}),
    ("href with NUL", {"assets.image.href": "a\0b.tif"}),
    ("href of 1 MB", {"assets.image.href": "a" * 1_000_000}),
    ("garbage datetime", {"properties.datetime": "last summer"}),
    ("no datetime", {"properties.datetime": None}),
    ("a number as extension", {"stac_extensions": [7]}),
    ("no links", {"links": None}),
]


def _spoil(document: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    spoiled = copy.deepcopy(document)
    for path, value in changes.items():
        *above, last = path.split(".")
        place: Any = spoiled["features"][1]
        for part in above:
            place = place[part]
        place[last] = value
    return spoiled


@pytest.mark.parametrize("changes", [change for _, change in _SPOILED], ids=[name for name, _ in _SPOILED])
def test_a_bad_item_is_refused_by_name_and_the_others_are_planned(
    small: Small, three: dict[str, Any], tmp_path: Path, changes: dict[str, Any]
):
    bad = three["features"][1]["id"]
    (tmp_path / "items.json").write_text(json.dumps(_spoil(three, changes)))
    found = plan(tmp_path / "items.json", small.settings(tmp_path / "run"))
    assert list(found.refused) == [bad]
    assert found.scenes == 2
    with pytest.raises(errors.CatalogError, match=bad):
        dx.search(tmp_path / "items.json")
    assert len(dx.search(tmp_path / "items.json", on_error="skip")) == 2


def test_a_bad_item_stands_in_the_record_of_the_run(small: Small, three: dict[str, Any], tmp_path: Path):
    (tmp_path / "items.json").write_text(json.dumps(_spoil(three, {"bbox": "everywhere"})))
    run = small.detect(tmp_path / "run", tmp_path / "items.json")
    assert [scene["id"] for scene in run.failed] == [three["features"][1]["id"]]
    assert "bbox" in run.failed[0]["reason"]
    assert len(run.done) == 2
    (tmp_path / "items.json").write_text(json.dumps(three))
    assert len(small.detect(tmp_path / "run", tmp_path / "items.json").done) == 3


@pytest.mark.parametrize(
    ("written", "utc"),
    [
        ("2022-01-01T05:00:00+14:00", "2021-12-31T15:00:00Z"),
        ("2022-01-01t05:00:00z", "2022-01-01T05:00:00Z"),
        ("2022-01-01T05:00:00.5-03:00", "2022-01-01T08:00:00.500000Z"),
    ],
)
def test_times_are_utc_wherever_they_are_read(three: dict[str, Any], tmp_path: Path, written: str, utc: str):
    (tmp_path / "items.json").write_text(json.dumps(_spoil(three, {"properties.datetime": written})))
    item = dx.search(tmp_path / "items.json", ids=three["features"][1]["id"])[0]
    assert item.properties["datetime"] == utc
    assert item.datetime is not None
    assert item.datetime.isoformat().replace("+00:00", "Z") == utc
    given = pystac.Item.from_dict(_spoil(three, {"properties.datetime": written.upper()})["features"][1])
    assert dx.search([given])[0].datetime == item.datetime


_JUNK: list[Any] = [
    None, True, False, 0, -1, 3.5, 1e308, float("nan"), float("inf"), "", "x", "\0", "a" * 10_000, [], [[]], [None], {},
    {"a": {}}, [1, 2, 3, 4], "2021-13-45T99:99:99Z", "../../etc/passwd", "\ud800",
]  # fmt: skip


def _mutated(value: Any, rng: random.Random) -> Any:
    """The same JSON with one value, somewhere, replaced by junk or taken away."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(sorted(value))
        if rng.random() < 0.1:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: _mutated(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.7:
        at = rng.randrange(len(value))
        return [*value[:at], _mutated(value[at], rng), *value[at + 1 :]]
    return rng.choice(_JUNK)


def test_no_mutation_of_an_item_loses_a_good_scene_or_escapes_as_another_error(
    small: Small, three: dict[str, Any], tmp_path: Path
):
    rng = random.Random(int(os.environ.get("DARTS_XR_MUTATION_SEED", "7")))
    good = {three["features"][k]["id"] for k in (0, 2)}
    for case in range(int(os.environ.get("DARTS_XR_MUTATIONS", "1000"))):
        spoiled = copy.deepcopy(three)
        spoiled["features"][1] = _mutated(spoiled["features"][1], rng)
        source = tmp_path / "items.json"
        source.write_text(json.dumps(spoiled))
        told: dict[str, str] = {}
        seen = {
            item.id
            for item in dx.catalog.iter_items(source, on_error=lambda n, e, t=told: t.update({n: str(e)}))
        }
        assert good <= seen, (case, spoiled["features"][1])
        assert len(seen) + len(told) == 3, (case, spoiled["features"][1])
        if case % 20 == 0:
            found = plan(source, small.settings(tmp_path / "run"))
            assert good <= {step["id"] for step in found.steps if step["todo"]}, (
                case,
                spoiled["features"][1],
            )


# --- rasters -----------------------------------------------------------------------------------------------------


def _rewrite(path: Path, *, pixels: Any = None, scales: Any = None, **changes: Any) -> None:
    with rasterio.open(path) as file:
        profile, values, names = file.profile, file.read(), file.descriptions
    values = values if pixels is None else pixels(values)
    profile.update(driver="GTiff", count=len(values), dtype=values.dtype, **changes)
    with rasterio.open(path, "w", **profile) as file:
        file.write(values)
        file.descriptions = names[: len(values)]
        if scales is not None:
            file.scales = scales


def _grid(change: Any) -> Any:
    return lambda path: _rewrite(path, transform=change(rasterio.open(path).transform))


_RASTERS: dict[str, tuple[Any, str]] = {
    "rotated": (_grid(lambda t: t @ Affine.rotation(10)), "not a north-up"),
    "west up": (_grid(lambda t: Affine(0, 3, t.c, 3, 0, t.f)), "no pixel grid|not a north-up"),
    "10 m": (_grid(lambda t: Affine(10, 0, t.c, 0, -10, t.f)), "10 m, and 2 to 5 m"),
    "not square": (_grid(lambda t: Affine(3, 0, t.c, 0, -4, t.f)), "not square"),
    "elsewhere": (_grid(lambda t: Affine.translation(90_000, 0) @ t), "lies at"),
    "NaN grid": (
        _grid(lambda t: Affine(float("nan"), 0, t.c, 0, -3, t.f)),
        "no pixel grid|not a north-up|pixel",
    ),
    "float reflectance": (lambda p: _rewrite(p, pixels=lambda v: (v / 1e4).astype("float32")), "float32"),
    "8 bit": (lambda p: _rewrite(p, pixels=lambda v: (v // 256).astype("uint8")), "uint8"),
    "three bands": (lambda p: _rewrite(p, pixels=lambda v: v[:3]), "3 band"),
    "scaled": (lambda p: _rewrite(p, scales=(0.5,) * 4), "scale of 0.5"),
    "text": (lambda p: p.write_text("no raster"), "no GeoTIFF"),
    "empty": (lambda p: p.write_bytes(b""), "no GeoTIFF|cut short|damaged"),
}


@pytest.mark.parametrize("case", _RASTERS)
def test_an_image_that_is_none_is_named_when_it_is_opened_and_in_a_dry_run(
    small: Small, tmp_path: Path, case: str
):
    own = small.copy(tmp_path / "world")
    spoil, words = _RASTERS[case]
    item = own.items[0]
    spoil(Path(item.assets["image"].href))
    with pytest.raises(errors.DartsError, match=words):
        dx.open_scene(item)
    found = plan(own.items[:2], own.settings(tmp_path / "run"))
    assert list(found.refused) == [item.id]
    assert found.scenes == 1


@pytest.mark.parametrize(
    ("factor", "words"), [(10, "multiplied by 10"), (0.01, "too dark"), (0, "one value in each band")]
)
def test_numbers_that_are_no_reflectance_are_named_in_catalogue_and_run(
    small: Small, tmp_path: Path, factor: float, words: str
):
    own = small.copy(tmp_path / "world")
    item = own.items[0]
    image = Path(item.assets["image"].href)
    _rewrite(
        image, pixels=lambda v: np.where(v > 0, v * factor + (500 if not factor else 0), 0).astype("uint16")
    )
    run = own.detect(tmp_path / "run", own.items[:2])
    assert words in run.failed[0]["reason"]
    assert len(run.done) == 1
    told: dict[str, str] = {}
    kept = dx.planet_items(
        own.world.root / "scenes", on_error=lambda name, error: told.update({name: str(error)})
    )
    assert len(kept) == len(own.items) - 1
    assert words in told[item.id]


def test_a_file_of_10_to_the_12_pixels_is_refused_before_any_graph(small: Small, tmp_path: Path):
    item = small.items[0].clone()
    huge = tmp_path / "huge.tif"
    with rasterio.open(
        huge,
        "w",
        driver="GTiff",
        count=4,
        dtype="uint16",
        height=10**6,
        width=10**6,
        crs=item.properties["proj:code"],
        transform=rasterio.open(item.assets["image"].href).transform,
        sparse_ok=True,
        tiled=True,
        bigtiff="yes",
        blockxsize=16384,
        blockysize=16384,
    ):
        pass
    item.assets["image"].href = str(huge)
    item.bbox = None
    with pytest.raises(errors.SceneError, match="1,000,000 × 1,000,000 pixels"):
        dx.open_scene(item)


def test_a_mask_inside_the_image_is_used(small: Small, tmp_path: Path):
    own = small.copy(tmp_path / "world")
    item = own.items[0]
    before = dx.open_scene(item)["valid"].values
    image = Path(item.assets["image"].href)
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(image, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as file,
    ):
        flags = np.full(file.shape, 255, "uint8")
        flags[100:140] = 0
        file.write_mask(flags)
    after = dx.open_scene(item)["valid"].values
    assert not after[100:140].any()
    np.testing.assert_array_equal(np.delete(after, np.s_[100:140], 0), np.delete(before, np.s_[100:140], 0))


def test_a_vrt_in_tiff_clothing_reads_nothing_and_a_pipe_does_not_hang(small: Small, tmp_path: Path):
    item = small.items[0].clone()
    vrt = tmp_path / "image.tif"
    vrt.write_text(
        f"<VRTDataset rasterXSize='256' rasterYSize='256'><VRTRasterBand dataType='UInt16' band='1'><SimpleSource>"
        f"<SourceFilename>{item.assets['image'].href}</SourceFilename><SourceBand>1</SourceBand></SimpleSource>"
        "</VRTRasterBand></VRTDataset>"
    )
    item.assets["image"].href = str(vrt)
    with pytest.raises(errors.DamagedFileError, match="no GeoTIFF"):
        dx.open_scene(item)
    with pytest.raises(errors.CRSError, match=r"image\.tif"):  # it is opened, and states no CRS
        dx.open_scene(item, limits=RasterLimits(drivers=("GTiff", "VRT")))
    os.mkfifo(tmp_path / "pipe.tif")
    item.assets["image"].href = str(tmp_path / "pipe.tif")
    with pytest.raises(errors.DamagedFileError, match="no regular file"):
        dx.open_scene(item)


def test_a_scene_without_a_mask_does_not_pass_the_dry_run(small: Small, tmp_path: Path):
    item = small.items[0].clone()
    del item.assets["udm2"]
    found = plan([item, small.items[1]], small.settings(tmp_path / "run"))
    assert list(found.refused) == [item.id]
    assert "MaskError" in found.refused[item.id]


# --- rules and catalogues ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rule",
    [
        {"threshold": float("nan")}, {"threshold": 0}, {"threshold": 1.5}, {"threshold": "half"}, {"border": -1},
        {"border": 2.5}, {"min_pixels": -5}, {"max_water": 7}, {"mask_rule": "udm3"}, {"connectivity": 6},
    ],
)  # fmt: skip
def test_rules_that_make_no_sense_are_refused_before_anything_runs(rule: dict[str, Any]):
    with pytest.raises(errors.ParameterError, match=next(iter(rule))):
        Rules(**rule)


def test_a_folder_with_bad_scenes_is_catalogued_to_the_good_ones(small: Small, tmp_path: Path):
    folder = Path(shutil.copytree(small.world.root / "scenes", tmp_path / "order"))
    first, second, *rest = sorted(folder.iterdir())
    image = next(first.glob("*_SR.tif"))
    image.write_bytes(image.read_bytes()[: image.stat().st_size // 2])
    radiance = second / next(second.glob("*_SR.tif")).name.replace("_SR", "")
    next(second.glob("*_SR.tif")).rename(radiance)
    (folder / "order.zip").write_bytes(b"PK")
    (folder / "thumbnail.png").write_bytes(b"png")
    answer = _call("catalog", folder, "--out", tmp_path / "catalog.json", "--json")
    assert answer.exit_code == 1
    told = json.loads(answer.stdout)
    assert told["items"] == [path.name for path in rest]
    assert set(told["left_out"]) == {first.name, second.name}
    assert f"{len(rest)} kept, 2 left out" in _call("catalog", folder, "--out", tmp_path / "c.json").stderr
    assert len(dx.search(tmp_path / "catalog.json")) == len(rest)


@pytest.mark.realdata
def test_real_deliveries_and_rubbish_in_one_folder(small: Small, tmp_path: Path):
    for name in ("planetscope-deering-ak", "planetscope-toa-tmask", "planetscope-udm2-myanmar"):
        shutil.copytree(real_data(name), tmp_path / "order" / name)
    (tmp_path / "order" / "more.zip").write_bytes(b"PK")
    answer = _call("catalog", tmp_path / "order", "--out", tmp_path / "catalog.json", "--json")
    assert answer.exit_code == 1
    told = json.loads(answer.stdout)
    assert told["items"] == ["20160909_213104_0e19"]
    assert "radiance" in told["left_out"]["20170915_020728_103d"]
