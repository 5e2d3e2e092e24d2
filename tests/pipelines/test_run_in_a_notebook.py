"""What a run, its plan, its products and its networks show in a notebook."""

from __future__ import annotations

from pathlib import Path

import pytest

import darts_xr as dx
from darts_xr.sample import read_truth
from pipelines import Limits, aggregate, plan, validate
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
    assert "<td>rules</td>" in page
    assert "mask_rule none" in page
    assert repr(products).startswith(f"<Products: {len(run.level1)} objects per image")
    assert f"<td>{len(run.level1)}</td>" in products._repr_html_()
    planned = plan(small.items[:1], small.settings(tmp_path / "run"), limits=Limits())
    assert "0 of 1" in planned._repr_html_()
    assert repr(planned) == "<Plan: 0 of 1 scene(s) to be done, 0.0 million pixels>"
    scored = validate(run, read_truth(small.world))
    assert repr(scored).startswith("<Validation: Level 1, per image: F1 0.")
    assert len(repr(scored)) < 300
    assert "<th>precision</th>" in scored._repr_html_()
    (member,) = dx.load_ensemble(small.model).members
    assert member._repr_markdown_() is None
    member.training["card"] = "## quick"
    assert member._repr_markdown_() == "## quick"
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
