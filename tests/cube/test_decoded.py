from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.windows import Window

from darts_xr.cube.decoded import read_window
from darts_xr.cube.mosaic import RasterSource
from darts_xr.cube.warp import warp_onto
from tests.cube.rasters import scene_at, source_grid, write


class Counted:
    """A dataset that tells which windows were decoded, and fails as often as asked."""

    def __init__(self, file: Any, fails: int = 0) -> None:
        self.file, self.fails = file, fails
        self.windows: list[tuple[int, int]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def read(self, bands: list[int], window: Window) -> Any:
        if self.fails:
            self.fails -= 1
            raise rasterio.errors.RasterioIOError("cut short")
        self.windows.append((window.row_off, window.col_off))
        return self.file.read(bands, window=window)


@pytest.fixture
def values(tmp_path: Path) -> tuple[Path, Any]:
    grid = scene_at(-124.0, 72.0, (1300, 1100))
    values = np.random.default_rng(0).integers(0, 255, (2, *grid.shape)).astype("uint8")
    return write(tmp_path / "two.tif", values, grid), values


def test_windows_are_those_of_the_file_and_no_block_is_decoded_twice(values: tuple[Path, Any]) -> None:
    path, pixels = values
    windows = [
        Window(*c, *s) for c in ((0, 0), (30, 500), (511, 1), (600, 700)) for s in ((3, 5), (500, 600))
    ]

    def decoded_for(window: Window) -> list[tuple[int, int]]:
        rows, cols = window.toslices()
        with rasterio.open(path) as file:
            counted = Counted(file)
            assert np.array_equal(read_window(counted, (2,), window)[0], pixels[1, rows, cols])
        return counted.windows

    with ThreadPoolExecutor(4) as pool:
        decoded = [corner for found in pool.map(decoded_for, windows) for corner in found]
    assert sorted(decoded) == sorted(set(decoded))


def test_a_block_that_could_not_be_decoded_is_tried_again(values: tuple[Path, Any]) -> None:
    path, pixels = values
    with rasterio.open(path) as file:
        counted = Counted(file, fails=1)
        with pytest.raises(rasterio.errors.RasterioIOError):
            read_window(counted, (1, 2), Window(0, 0, 9, 9))
        assert np.array_equal(read_window(counted, (1, 2), Window(0, 0, 9, 9)), pixels[:, :9, :9])


def test_a_file_that_was_written_anew_is_read_anew(tmp_path: Path) -> None:
    scene = scene_at(-124.0, 72.0)
    grid = source_grid(scene, "EPSG:3413", 30.0)
    for value in (1, 2):
        path = write(tmp_path / "layer.tif", np.full(grid.shape, value, "float32"), grid)
        assert (warp_onto(RasterSource(str(path), "layer"), scene).values == value).all()
