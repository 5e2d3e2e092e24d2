from __future__ import annotations

import subprocess
import sys

import geopandas as gpd
import h3
import pytest
import shapely

from darts_xr.assess import h3_density, plot_density
from darts_xr.errors import CRSError, ProductError
from darts_xr.globe import area_m2

SEEN = gpd.GeoSeries([shapely.box(-140, 69, -138, 70)], crs=4326)


def slumps(*boxes: tuple[float, float, float, float]) -> gpd.GeoDataFrame:
    return gpd.GeoDataFrame(geometry=[shapely.box(*b) for b in boxes], crs=4326)


def test_areas_are_shared_out_to_the_cells() -> None:
    found = slumps((-139.5, 69.2, -139.4, 69.25), (-138.7, 69.7, -138.6, 69.75))
    cells = h3_density(found, SEEN)
    assert list(cells.columns) == ["h3", "rts_area_m2", "covered_area_m2", "share", "n_features", "geometry"]
    assert cells.h3.is_monotonic_increasing
    assert cells.rts_area_m2.sum() == pytest.approx(area_m2(found).sum(), rel=1e-3)
    covered = area_m2(SEEN.segmentize(0.01))[0]
    assert cells.covered_area_m2.sum() == pytest.approx(covered, rel=1e-5)
    assert (cells.share == cells.rts_area_m2 / cells.covered_area_m2).all()
    assert cells.n_features.sum() == 2


def test_a_slump_of_several_years_counts_once() -> None:
    box = (-139.5, 69.2, -139.4, 69.25)
    once, twice = h3_density(slumps(box), SEEN), h3_density(slumps(box, box), SEEN)
    assert twice.rts_area_m2.sum() == pytest.approx(once.rts_area_m2.sum())


def test_coverage_without_slumps_has_share_zero() -> None:
    cells = h3_density(slumps(), SEEN, resolution=3)
    assert len(cells) > 0
    assert (cells.share == 0).all()
    assert cells.h3.map(h3.get_resolution).eq(3).all()


def test_cells_are_split_at_the_antimeridian() -> None:
    seen = gpd.GeoSeries([shapely.box(179, 68, 180, 69), shapely.box(-180, 68, -179, 69)], crs=4326)
    cells = h3_density(slumps((179.9, 68.4, 180, 68.5)), seen)
    assert cells.is_valid.all()
    widths = cells.geometry.explode().bounds
    assert (widths.maxx - widths.minx).max() < 5
    assert cells.covered_area_m2.sum() == pytest.approx(area_m2(seen.segmentize(0.01)).sum(), rel=1e-5)
    assert cells.rts_area_m2.sum() > 0


def test_no_crs_is_refused() -> None:
    with pytest.raises(CRSError, match="coverage"):
        h3_density(slumps(), SEEN.set_crs(None, allow_override=True))


def test_unknown_resolution_is_refused() -> None:
    with pytest.raises(ProductError, match="resolution"):
        h3_density(slumps(), SEEN, resolution=16)


def test_map_is_drawn() -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    axes = plot_density(h3_density(slumps((-139.5, 69.2, -139.4, 69.25)), SEEN))
    assert axes.collections


def test_room_imports_neither_torch_nor_matplotlib() -> None:
    code = "import sys, darts_xr.assess; print([m for m in ('torch', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
