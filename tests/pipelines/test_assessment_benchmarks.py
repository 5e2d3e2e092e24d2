from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import inventories, tiers, worlds
from tests.helpers import real_data


def test_tiers_are_measured_and_checked_at_toy_size(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    tiers.main(["--measure", "11", "--check", "12", "--scenes", "1", "--size", "512", "--json", str(out)])
    rows = json.loads(out.read_text())["rows"]
    assert sum(row["n"] for row in rows) > 0
    assert all(row["low"] <= row["precision"] <= row["high"] for row in rows)


def test_networks_are_scored_on_a_world_at_toy_size(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    worlds.main(["--seeds", "11", "--scenes", "3", "--size", "640", "--json", str(out)])
    (row,) = json.loads(out.read_text())["rows"]
    assert row["level1"]["f1"] > 0.5
    assert row["level2"]["f1"] > 0.5
    assert row["growth"]
    assert all(true > 0 for true, _ in row["growth"])


@pytest.mark.realdata
def test_published_inventories_agree_as_documented(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    inventories.main([str(real_data("rts-inventories").parent), "--json", str(out)])
    tables = json.loads(out.read_text())
    at_200 = {title: rows[2] for title, rows in tables.items() if "all points" in title}
    assert round(at_200["Huang 2022, all points"]["f1"], 3) == 0.743
    assert round(at_200["Segal 2015, all points"]["f1"], 3) == 0.666
    matrix = tables["Peel, matrix"]
    assert len(matrix) == 13
    rule = matrix[-1]
    assert rule["who"] == "NDVI rule"
    assert all(row["mean"] > rule["mean"] for row in matrix[:-1])
