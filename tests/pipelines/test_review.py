"""Review by people: the page in a browser, its verdicts merged and scored."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from darts_xr.assess import (
    Review,
    SamplePlan,
    assign_tiers,
    calibrate_tiers,
    consistency,
    read_verdicts,
    review_sample,
    reviewed_precision,
    wilson,
)
from darts_xr.assess.verdicts import FORMAT
from darts_xr.errors import AssessmentError, PipelineError
from pipelines.aggregation import read_level1
from pipelines.cli import main
from pipelines.records import Run
from pipelines.review import make_review, merge_review
from pipelines.settings import Rules
from tests.pipelines.browser import browser
from tests.pipelines.small import Small

ENTER, RIGHT, LEFT, DELETE = "\ue007", "\ue014", "\ue012", "\ue017"


def level(n: int = 400) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "image_id": rng.choice(["a", "b"], n), "id_geohash": [f"hash{i:04d}" for i in range(n)],
            "area_m2": rng.integers(300, 90_000, n), "pval_mean": rng.uniform(0.5, 1, n), "id": np.arange(1, n + 1),
        }
    )  # fmt: skip


# --- the sample --------------------------------------------------------------------------------------------


def test_a_stratified_sample_takes_as_many_of_each_class_and_weighs_them() -> None:
    frame = level()
    sample = review_sample(frame, SamplePlan(n=90))
    once = sample[sample.repeat_of < 0]
    assert len(once) == 90
    assert once.row.is_unique
    assert once.groupby(["probability_class", "size_class"]).size().eq(10).all()
    assert once.weight.sum() == pytest.approx(len(frame))


def test_repeats_come_later_and_are_of_the_same_detection() -> None:
    sample = review_sample(level(), SamplePlan(n=50, repeats=0.2)).reset_index(names="showing")
    again = sample[sample.repeat_of >= 0]
    assert len(again) == 10
    first = sample.set_index("showing").loc[again.repeat_of]
    assert (first.row.to_numpy() == again.row.to_numpy()).all()
    assert (again.showing > again.repeat_of).all()


def test_small_products_give_all_they_have_and_the_seed_decides() -> None:
    frame = level(7)
    assert sorted(review_sample(frame, SamplePlan(n=50, repeats=0)).row) == list(range(7))
    big = level()
    one, two, other = (review_sample(big, SamplePlan(n=20, seed=seed)) for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(one, two)
    assert one.row.tolist() != other.row.tolist()
    with pytest.raises(AssessmentError, match="no detections"):
        review_sample(frame.iloc[:0])


# --- the page ----------------------------------------------------------------------------------------------


def test_twenty_verdicts_by_keyboard_are_exported_merged_and_scored(small: Small, tmp_path: Path) -> None:
    run = small.detect(tmp_path / "run")
    page = make_review(
        run, tmp_path / "review", images=small.world.catalog, plan=SamplePlan(n=20, repeats=0.25, seed=5)
    )
    shown = json.loads(re.search(r'id="data">(.*?)</script>', page.read_text(), re.S)[1])["items"]
    assert len(shown) >= 20, "the world of the tests must hold enough detections"
    with browser(tmp_path) as chromium:
        chromium.open(page.as_uri())
        chromium.press("1")
        chromium.press(LEFT, DELETE)  # taken back
        assert chromium.run("return document.body.dataset.done") == "0"
        chromium.run("document.getElementById('reviewer').focus()")
        chromium.press(*"Ada", ENTER)
        for number in range(20):
            if number % 4 == 3:
                chromium.press("2", "a")  # false: a river
            elif number == 2:
                chromium.press("3")
            else:
                chromium.press("1")
        chromium.press(LEFT, "c", *"clear", ENTER)
        assert chromium.run("return document.body.dataset.done") == "20"
        chromium.open(page.as_uri())  # a reload keeps the verdicts
        assert chromium.run("return document.body.dataset.done") == "20"
        pictures = "return [...document.images].every(i => i.complete && i.naturalWidth > 0)"
        assert chromium.run(pictures)
        chromium.press("x")
        exported = tmp_path / "downloads" / "verdicts-Ada.json"
        for _ in range(100):
            if exported.exists():
                break
            time.sleep(0.1)
        asked = [json.loads(entry["message"])["message"] for entry in chromium.log("performance")]
        addresses = [
            one["params"]["request"]["url"] for one in asked if one["method"] == "Network.requestWillBeSent"
        ]
        assert addresses
        assert not [address for address in addresses if address.startswith(("http", "ws"))]
        assert not [entry for entry in chromium.log("browser") if entry["level"] == "SEVERE"]
    result = merge_review(run, [exported], tmp_path / "out")
    said = json.loads(exported.read_text())["verdicts"]
    assert len(said) == 20
    first = [one for one in said if one["repeat_of"] < 0]
    count = result.confirmation.iloc[-1]
    assert count["detections"] == len(first) == len(result.layer)
    assert count["false"] == sum(one["verdict"] == "false" for one in first) == len(result.negatives)
    assert result.negatives["error_class"].eq("river").all()
    assert "clear" in set(result.layer["comment"])
    total = result.precision.iloc[-1]
    assert total["right"] == count["true"]
    assert gpd.read_parquet(tmp_path / "out" / "verified.parquet").attrs["synthetic"].startswith("Synthetic")
    assert len(result.consistency) == 1


def test_the_page_holds_everything_and_asks_for_nothing(run: Run, tmp_path: Path) -> None:
    text = make_review(run, tmp_path, plan=SamplePlan(n=2)).read_text()
    assert "default-src 'none'" in text
    assert not re.search(r"(src|href)\s*=\s*[\"']?https?:", text)
    assert "Without the scenes" in text
    assert "Synthetic scenes" in text


def test_scenes_that_the_images_lack_are_named_on_the_page_and_in_the_log(
    small: Small, run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen = set(read_level1(run)["image_id"])
    lacking = sorted(seen)[0]
    kept = [item for item in small.items if item.id != lacking]
    text = make_review(run, tmp_path, images=kept, plan=SamplePlan(n=40, repeats=0)).read_text()
    assert "scenes are not in the images given" in text
    assert lacking in caplog.text
    assert "not in the images given" not in make_review(run, tmp_path, images=small.items).read_text()


def test_a_run_without_detections_has_nothing_to_review(small: Small, tmp_path: Path) -> None:
    empty = small.detect(tmp_path / "run", small.items[:1], rules=Rules(threshold=1.0, min_pixels=10_000))
    with pytest.raises(PipelineError, match="no detections"):
        make_review(empty, tmp_path / "review")


# --- verdicts ----------------------------------------------------------------------------------------------


def verdict_file(run: Run, path: Path, reviewer: str, verdicts: list[str], *, n: int | None = None) -> Path:
    sample = review_sample(read_level1(run), SamplePlan(n=n or len(verdicts), repeats=0, seed=1))
    rows = sample.drop(columns="row").head(len(verdicts)).to_dict("records")
    document = {
        "format": FORMAT, "reviewer": reviewer,
        "verdicts": [
            {**row, "showing": i, "verdict": said, "error_class": "", "comment": ""}
            for i, (row, said) in enumerate(zip(rows, verdicts, strict=False))
        ],
    }  # fmt: skip
    path.write_text(json.dumps(document))
    return path


def test_reviewers_who_disagree_make_a_detection_uncertain_and_kappa_tells(run: Run, tmp_path: Path) -> None:
    one = verdict_file(run, tmp_path / "a.json", "ada", ["true", "true", "false", "true"])
    two = verdict_file(run, tmp_path / "b.json", "bob", ["true", "false", "false", "true"])
    result = merge_review(run, [one, two], tmp_path / "out")
    assert result.layer["verdict"].value_counts().to_dict() == {"true": 2, "false": 1, "uncertain": 1}
    assert result.layer["n_reviewers"].eq(2).all()
    pair = result.consistency.iloc[-1]
    assert (pair["n"], pair["agreement"], pair["kappa"]) == (4, 0.75, 0.5)
    assert result.tiers is None


def test_a_reviewer_is_compared_with_itself_on_the_repeats() -> None:
    rows = pd.DataFrame(
        {
            "reviewer": "ada",
            "showing": range(4),
            "repeat_of": [-1, -1, 0, 1],
            "verdict": ["true", "false", "true", "true"],
        }
    )  # fmt: skip
    own = consistency(Review(rows)).iloc[0]
    assert (own["one"], own["other"], own["n"], own["agreement"]) == ("ada", "ada", 2, 0.5)


def test_weights_carry_the_sample_to_all_detections() -> None:
    rows = pd.DataFrame(
        {
            "probability_class": [0] * 4, "size_class": [0, 0, 1, 1], "weight": [1.0, 1.0, 9.0, 9.0],
            "verdict": ["true", "false", "true", "detachment slide"], "pval_mean": [0.5, 0.6, 0.7, 0.8],
        }
    )  # fmt: skip
    table = reviewed_precision(rows)
    assert table.precision.tolist() == pytest.approx([0.5, 1.0, 19 / 20, 19 / 20])
    effective = 20**2 / (2 + 2 * 81)
    assert table[["low", "high"]].iloc[-1].tolist() == pytest.approx(
        list(wilson(0.95 * effective, effective))
    )


def test_verdict_files_that_cannot_be_used_are_named(run: Run, tmp_path: Path) -> None:
    good = verdict_file(run, tmp_path / "a.json", "ada", ["true"])
    with pytest.raises(AssessmentError, match="both of reviewer 'ada'"):
        read_verdicts([good, verdict_file(run, tmp_path / "b.json", "ada", ["true"])])
    with pytest.raises(AssessmentError, match="cannot be read"):
        read_verdicts([tmp_path / "no.json"])
    document = json.loads(good.read_text())
    for change, word in (
        ({"format": "other"}, "no verdict file"), ({"reviewer": " "}, "names no reviewer"),
        ({"verdicts": []}, "holds no verdict"),
        ({"verdicts": [{"verdict": "true"}]}, "verdicts lack"),
        ({"verdicts": [document["verdicts"][0] | {"verdict": "perhaps"}]}, "perhaps"),
        ({"verdicts": [document["verdicts"][0] | {"id_geohash": "elsewhere"}]}, "not in the products"),
    ):  # fmt: skip
        path = tmp_path / "changed.json"
        path.write_text(json.dumps(document | change))
        with pytest.raises(AssessmentError, match=word):
            merge_review(run, [path], tmp_path / "out")


def test_the_verbs_write_a_page_and_merge_verdicts(run: Run, tmp_path: Path) -> None:
    made = CliRunner().invoke(main, ["review", str(run.folder), "--n", "3", "--out", str(tmp_path), "--json"])
    assert made.exit_code == 0, made.output
    assert Path(json.loads(made.stdout)["page"]).exists()
    path = verdict_file(run, tmp_path / "a.json", "ada", ["true", "false"])
    merged = CliRunner().invoke(
        main, ["verdicts", str(run.folder), str(path), "--out", str(tmp_path), "--json"]
    )
    assert merged.exit_code == 0, merged.output
    assert json.loads(merged.stdout)["tables"]["Confirmation"][0]["detections"] == 2
    assert (tmp_path / "hard_negatives.gpkg").exists()


# --- tiers -------------------------------------------------------------------------------------------------


def test_tiers_hold_on_detections_they_were_not_measured_on() -> None:
    rng = np.random.default_rng(3)

    def drawn(n: int) -> tuple[np.ndarray, np.ndarray]:
        p = rng.uniform(0.5, 1, n)
        return p, rng.random(n) < (2 * p - 1)

    inside = []
    for _ in range(60):
        tiers = calibrate_tiers(*drawn(150))
        p, right = drawn(20_000)
        told = assign_tiers(pd.DataFrame({"id": np.arange(len(p)), "pval_mean": p}), tiers)
        observed = pd.Series(right).groupby(told.tier.to_numpy()).mean()
        inside += [row.low <= observed[row.tier] <= row.high for row in tiers.table.itertuples()]
    assert np.mean(inside) >= 0.92


def test_images_of_one_place_widen_the_interval() -> None:
    p, right = np.full(40, 0.8), np.arange(40) % 4 > 0
    alone = calibrate_tiers(p, right, edges=1).table.iloc[0]
    together = calibrate_tiers(p, right, edges=1, site=np.arange(40) // 4).table.iloc[0]
    assert (alone.independent, together.independent) == (40, 10)
    assert together.low < alone.low < 0.75 < alone.high < together.high


def test_the_side_table_is_keyed_by_id_and_leaves_level1_alone(run: Run) -> None:
    rows = read_level1(run)
    before = rows.copy()
    side = assign_tiers(rows, calibrate_tiers([0.6, 0.9], [False, True], edges=[0.75]))
    assert side["id"].tolist() == rows["id"].tolist()
    assert (side["tier"] == np.where(rows["pval_mean"] >= 0.75, "high", "low")).all()
    pd.testing.assert_frame_equal(rows, before)


@pytest.mark.parametrize(("edges", "word"), [([0.8, 0.6], "rise"), ([1.5], "rise"), (0, "at least one")])
def test_edges_that_are_none_are_refused(edges: object, word: str) -> None:
    with pytest.raises(AssessmentError, match=word):
        calibrate_tiers([0.5], [True], edges=edges)


def test_a_sample_without_verdicts_is_refused() -> None:
    with pytest.raises(AssessmentError, match="at least one"):
        calibrate_tiers([], [])
