"""What a run, its plan, its products and its networks show in a notebook."""

from __future__ import annotations

from pathlib import Path

import pytest

import darts_xr as dx
from pipelines import Limits, aggregate, plan
from tests.pipelines.small import Small


def test_a_run_shows_itself_and_gives_its_objects_and_its_cube(small: Small, tmp_path: Path):
    run = small.detect(tmp_path / "run", small.items[:1])
    page = run._repr_html_()
    assert "Run of synthetic scenes" in page
    assert page.count("data:image/jpeg;base64,") == 1
    assert len(run.level1) == run.record["counts"]["n_objects"] > 0
    assert run.footprints["image_id"].tolist() == [run.done[0]["id"]]
    assert run.cube()["probability"].sizes["time"] == 1
    products = aggregate(run, name="test_synthetic")
    assert f"<td>{len(run.level1)}</td>" in products._repr_html_()
    planned = plan(small.items[:1], small.settings(tmp_path / "run"), limits=Limits())
    assert "0 of 1" in planned._repr_html_()
    assert "quick" in dx.load_ensemble(small.model)._repr_html_()


def test_a_run_is_a_map(small: Small, tmp_path: Path):
    pytest.importorskip("lonboard")
    run = small.detect(tmp_path / "run", small.items[:1])
    footprints, objects = run.map().layers
    assert footprints.filled is False
    assert objects.table.num_rows == len(run.level1)


def test_what_others_wrote_is_escaped(small: Small, tmp_path: Path):
    run = small.detect(tmp_path / "run", small.items[:1])
    run.record["scenes"][0] |= {"state": "failed", "reason": "<script>alert(1)</script>"}
    assert "<script>" not in run._repr_html_()
