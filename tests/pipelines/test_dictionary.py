"""The data dictionary of the documentation names each column and entry that really leaves the program."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import geopandas as gpd
import pandas as pd
import pytest

from pipelines.aggregation import aggregate
from pipelines.filter_layers import Layers
from pipelines.following import histories
from pipelines.records import Run
from pipelines.rethresholding import rethreshold
from pipelines.settings import Rules
from tests.environments import ROOT
from tests.pipelines.small import Small

pytestmark = pytest.mark.xdist_group("dictionary")  # one run for all


@pytest.fixture(scope="module")
def dictionary() -> Iterator[Any]:
    sys.path.insert(0, str(ROOT / "docs"))
    import _dictionary

    yield _dictionary
    sys.path.remove(str(ROOT / "docs"))


@pytest.fixture(scope="module")
def done(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of two scenes with everything that can be asked for, and its products."""
    folder = tmp_path_factory.mktemp("dictionary") / "run"
    run = small.detect(
        folder, small.items[:2], members=True, infrastructure=small.world.infrastructure,
        rules=Rules(border=1, min_pixels=64),
    )  # fmt: skip
    aggregate(run, name="all")
    return run


def _table(path: Path) -> pd.DataFrame:
    return pd.read_csv(path) if path.suffix == ".csv" else gpd.read_parquet(path)


def test_columns_of_every_product_are_those_of_the_dictionary(done: Run, dictionary: Any):
    products = done.folder / "products"
    files = {
        "level1": [
            *products.glob("*_features_*_level1.parquet"),
            *done.folder.glob("scenes/*/level1.parquet"),
        ],
        "level2": products.glob("*_features_*_level2.parquet"),
        "coverage_level1": products.glob("*_coverage_*_level1.parquet"),
        "coverage_level2": products.glob("*_coverage_*_level2.parquet"),
        "coverage_union": [*products.glob("*_union.parquet"), *products.glob("*_intersect.parquet")],
        "table1": products.glob("*_table1_*.csv"),
        "removed": done.folder.glob("scenes/*/removed.parquet"),
        "members": done.folder.glob("scenes/*/members.parquet"),
        "spread": done.folder.glob("scenes/*/spread.parquet"),
    }
    seen = set()
    for name, paths in files.items():
        for path in paths:
            told = {column: kind for column, kind, _ in dictionary.TABLES[name].rows()}
            numbers = {column: kind for column, kind in told.items() if kind in ("int64", "float64")}
            table = _table(path)
            assert list(table.columns) == list(told), path
            if path.suffix == ".parquet":
                assert {column: str(table[column].dtype) for column in numbers} == numbers, path
            seen.add(path)
    assert {*done.folder.rglob("*.parquet"), *done.folder.rglob("*.csv")} == seen
    followed = [column for column, _, _ in dictionary.TABLES["histories"].rows()]
    assert list(histories(done).columns) == followed


def test_entries_of_every_document_are_those_of_the_dictionary(done: Run, dictionary: Any, tmp_path: Path):
    other = rethreshold(
        done, tmp_path / "run", threshold=0.6, layers=Layers(dropped=("water", "infrastructure"))
    )
    counts = set(dictionary.TABLES["counts"].meanings)
    for run in (done, other):
        document = json.loads((run.folder / "run.json").read_text())
        assert set(document) <= set(dictionary.RUN)
        assert set(document["counts"]) - {"scenes", "done", "failed", "pixels", "valid_pixels"} <= counts
        for record in document["scenes"]:
            assert set(record) <= set(dictionary.RECORD)
        for path in run.folder.glob("scenes/*/item.json"):
            own = {key for key in json.loads(path.read_text())["properties"] if key.startswith("darts:")}
            assert own <= {f"darts:{key}" for key in (*dictionary.ITEM, *counts)}, path
