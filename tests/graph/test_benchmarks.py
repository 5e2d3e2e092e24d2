from __future__ import annotations

from benchmarks import map_overlap


def test_map_overlap_runs_at_toy_size() -> None:
    result = map_overlap.benchmark(64, chunk=16, depth=4, kinds=("structured",), repeats=1)
    rows = {row["way"]: row for row in result["rows"]}
    assert set(rows) == set(map_overlap.WAYS)
    assert rows["darts_xr"]["result"] == rows["dask"]["result"]
    assert rows["darts_xr"]["tasks"] == 3 * 16
    # The day that this fails, docs/decisions.md says that our map_overlap may go.
    assert rows["dask"]["tasks"] > rows["darts_xr"]["tasks"]
