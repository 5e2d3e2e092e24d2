"""The report of a run, in a browser."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import geopandas as gpd
import pytest

from benchmarks.report import benchmark, simulated_run
from darts_xr.products import empty_level1
from pipelines.folder import RunFolder
from pipelines.records import Run, summary
from pipelines.report_data import page_data
from pipelines.reports import report, report_page
from pipelines.results import Results, SceneResult, read_results
from tests.pipelines.browser import Browser, browser
from tests.pipelines.small import Small


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("chromium")) as session:
        yield session


@pytest.fixture(scope="module")
def run(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Scenes of several years, one of which cannot be read."""
    folder = tmp_path_factory.mktemp("report")
    items = [item.clone() for item in small.items[:4]]
    broken = folder / "broken.tif"
    broken.write_bytes(b"II*")
    items[0].assets["image"].href = str(broken)
    return small.detect(folder / "run", items)


def _opened(chromium: Browser, page: Path) -> None:
    """Open a page, which must draw itself, complain of nothing and ask no other host."""
    chromium.open(page.as_uri())
    assert int(chromium.run("return document.body.dataset.ready")) > 0
    asked = [json.loads(entry["message"])["message"] for entry in chromium.log("performance")]
    urls = [one["params"]["request"]["url"] for one in asked if one["method"] == "Network.requestWillBeSent"]
    assert urls
    assert not [url for url in urls if url.startswith(("http", "ws"))]
    assert not [entry for entry in chromium.log("browser") if entry["level"] == "SEVERE"]


def _first(chromium: Browser, column: int) -> str:
    return chromium.run(
        f"return document.querySelector('#scenes tbody tr:nth-child(2) td:nth-child({column})').textContent"
    )


def _do(chromium: Browser, name: str, value: str) -> None:
    chromium.run(
        f"const e = document.getElementById('{name}'); e.value = '{value}'; e.dispatchEvent(new Event('input'))"
    )


def test_the_page_of_a_run_sorts_filters_moves_through_the_years_and_shows_pictures(
    run: Run, chromium: Browser
):
    _opened(chromium, report(run))
    counts = {scene["id"]: scene["counts"]["n_objects"] for scene in run.done}
    assert chromium.run("return document.body.dataset.objects") == str(sum(counts.values()))
    chromium.run("document.querySelector('#scenes th:nth-child(6) button').click()")  # by objects, most first
    assert _first(chromium, 6) == f"{max(counts.values()):,}"
    chromium.run("document.querySelector('#scenes th:nth-child(6) button').click()")
    assert _first(chromium, 6) == "0"  # the failed one has none
    _do(chromium, "filter", "FAILED")
    assert chromium.run("return document.getElementById('shown').textContent") == "1 of 4 scenes"
    assert _first(chromium, 1) == run.failed[0]["id"]
    _do(chromium, "filter", "")

    by_year = read_results(run).level1.groupby("year").size().to_dict()
    years = sorted({int(scene["date"][:4]) for scene in run.done})
    assert len(years) > 1, "the world of the tests must hold several years"
    for place, year in enumerate(years, 1):
        _do(chromium, "year", str(place))
        assert chromium.run("return document.body.dataset.objects") == str(by_year.get(year, 0))
        assert str(year) in chromium.run("return document.getElementById('told').textContent")

    chromium.run("document.querySelector('#gallery button').click()")
    widths = chromium.run(
        "return Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth)))"
    )
    assert len(widths) == len(run.done) + 1  # small ones, and a large one from the run folder
    assert all(width <= 160 for width in sorted(widths)[:-1])
    assert max(widths) > 300
    assert not [entry for entry in chromium.log("browser") if entry["level"] == "SEVERE"]


def test_the_map_draws_what_the_legend_says(run: Run, chromium: Browser):
    _opened(chromium, report(run))
    colours = """
        paint();
        const c = document.getElementById('map'), d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
        let orange = 0;
        for (let i = 0; i < d.length; i += 4)
          if (d[i] > 180 && d[i + 1] > 60 && d[i + 1] < 130 && d[i + 2] < 60) orange++;
        return orange;"""
    assert chromium.run(colours) > 20  # the box of the failed scene
    chromium.run("document.querySelector('#states label:nth-child(2) input').click()")
    assert chromium.run(colours) == 0
    data = page_data(run, read_results(run))
    failed = data["scenes"]["id"].index(run.failed[0]["id"])
    assert failed in data["rings"]["scene"]


def test_small_pictures_are_small_and_the_page_says_what_it_must(run: Run):
    page = report(run).read_text()
    assert "Synthetic scenes: no real observation" in page
    assert run.record["checkpoints"][0]["sha256"] in page
    assert run.failed[0]["reason"].partition(":")[0] in page
    thumbs = re.findall(r"data:image/jpeg;base64,([A-Za-z0-9+/=]+)", page)
    assert len(thumbs) == len(run.done)
    assert all(len(thumb) * 3 / 4 <= 6000 for thumb in thumbs)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return benchmark(tmp_path_factory.mktemp("many"), scenes=1500, objects=4000)


def test_of_many_scenes_only_the_rows_in_sight_are_in_the_page(many: dict[str, Any], chromium: Browser):
    _opened(chromium, Path(many["page"]))
    rows = "return document.querySelectorAll('#scenes tbody tr').length"
    assert chromium.run(rows) < 60
    chromium.run("document.getElementById('scroll').scrollTop = 1e9; fill()")
    assert chromium.run(rows) < 60
    assert chromium.run(
        "return [...document.querySelectorAll('#scenes tbody button')].at(-1).textContent"
    ).startswith("2023")
    assert many["megabytes"] < 2
    assert chromium.run("return document.images.length") == 0


def test_a_scene_across_180_degrees_is_small_on_the_map(many: dict[str, Any], chromium: Browser):
    chromium.open(Path(many["page"]).as_uri())
    widest = "return Math.max(...outlines.rings.map(r => Math.max(r.east - r.west, r.north - r.south)))"
    assert chromium.run(widest) < 60_000
    cut = chromium.run("return outlines.rings.length - new Set(data.rings.scene).size")
    assert cut > 3  # footprints that are cut at 180°, in two parts


def test_places_on_the_page_are_those_of_the_equal_area_projection(many: dict[str, Any], chromium: Browser):
    chromium.open(Path(many["page"]).as_uri())
    points = gpd.GeoSeries.from_xy([-170.0, 12.5, 140.25], [61.0, 72.25, 81.5], crs=4326)
    pole = chromium.run("return data.pole")
    there = points.to_crs(f"+proj=laea +lat_0=90 +lon_0={pole} +datum=WGS84")
    for point, (x, y) in zip(
        there,
        chromium.run("return [[-170, 61], [12.5, 72.25], [140.25, 81.5]].map(p => project(...p))"),
        strict=True,
    ):
        assert (x, y) == pytest.approx((point.x, point.y), abs=0.01)


def _run(folder: Path, scenes: list[dict[str, Any]]) -> Run:
    settings = {
        "darts_xr": "0", "ensemble": "none", "checkpoints": [], "rules": {"threshold": 0.5}, "water_filter": False,
        "infrastructure_filter": None, "auxiliary": "neutral", "state": "complete", "seconds": None,
    }  # fmt: skip
    return Run(RunFolder(folder), {**settings, **summary({scene["id"]: scene for scene in scenes})})


@pytest.mark.parametrize("case", ["no scene", "all failed", "no object"])
def test_a_run_without_results_has_a_page(case: str, tmp_path: Path, chromium: Browser):
    source, found = simulated_run(tmp_path, scenes=6, objects=6)
    scenes = {"no scene": [], "all failed": source.failed, "no object": source.done}[case]
    empty = [SceneResult(scene.record, scene.footprint, empty_level1()) for scene in found.scenes]
    results = Results(empty if case == "no object" else [], {}, {})
    run = _run(tmp_path, scenes)
    page = tmp_path / "report.html"
    page.write_text(report_page(run, results))
    _opened(chromium, page)
    assert chromium.run("return document.body.dataset.objects") == "0"
    shown = chromium.run("return document.getElementById('shown').textContent")
    assert shown == f"{len(scenes)} of {len(scenes)} scenes"
    chromium.run("document.querySelector('[value=cells]').click()")
    assert not [entry for entry in chromium.log("browser") if entry["level"] == "SEVERE"]


def test_texts_of_a_record_are_no_part_of_the_page(tmp_path: Path, chromium: Browser):
    evil = "</script><img src=x onerror=\"document.title='taken'\">__DATA__"
    record = {
        "id": evil, "state": "failed", "reason": evil, "inputs": {}, "tries": 1, "earlier_reasons": [evil],
        "bbox": [10.0, 70.0, 10.5, 70.2],
    }  # fmt: skip
    page = tmp_path / "report.html"
    page.write_text(report_page(_run(tmp_path, [record]), Results([], {}, {})))
    _opened(chromium, page)
    chromium.run("document.querySelector('#scenes tbody button').click()")
    assert chromium.run("return document.title").startswith("Run ")
    assert chromium.run("return document.querySelector('#detail h3').textContent") == evil
    assert chromium.run("return document.images.length") == 0
