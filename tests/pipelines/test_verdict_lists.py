"""What reviewers rejected is removed by the next detection, counted, and named where it is not found."""

from __future__ import annotations

import json
from pathlib import Path

import geopandas as gpd
import pandas as pd
import pytest
from click.testing import CliRunner

from darts_xr.assess.verdicts import FORMAT
from darts_xr.errors import PipelineError
from pipelines import Layers, aggregate, open_run, plan, report, rethreshold
from pipelines.cli import main
from pipelines.records import Run
from pipelines.verdict_lists import read_verdict_list
from tests.pipelines.small import Small

KEYS = ["image_id", "id_geohash", "area_m2"]


@pytest.fixture
def found(small: Small, tmp_path: Path) -> Run:
    return small.detect(tmp_path / "run", small.items[:2])


def _page(path: Path, reviewer: str, rows: pd.DataFrame) -> Path:
    """A file as the review page exports it."""
    shown = [
        {"showing": k, "repeat_of": -1, "weight": 1.0, "probability_class": 0, "size_class": 0, **row}
        for k, row in enumerate(rows.to_dict("records"))
    ]
    path.write_text(json.dumps({"format": FORMAT, "reviewer": reviewer, "verdicts": shown}))
    return path


def test_a_rejected_detection_is_in_no_product_and_counted(found: Run, small: Small, tmp_path: Path):
    rows = found.level1
    image = rows["image_id"].iloc[0]
    of_image = rows[rows["image_id"] == image]
    judged = of_image[KEYS].assign(verdict=["false"] + ["true"] * (len(of_image) - 1))
    page = _page(tmp_path / "verdicts-ada.json", "ada", judged)
    settings = small.settings(found.folder, verdicts=[page])
    steps = {step["id"]: step["todo"] for step in plan(small.items[:2], settings).steps}
    assert [name for name, todo in steps.items() if todo] == [image]  # the other scene stays as it is
    again = small.detect(found.folder, small.items[:2], verdicts=[page])
    gone = tuple(judged[KEYS].iloc[0])
    assert gone not in set(again.level1[KEYS].itertuples(index=False, name=None))
    assert len(again.level1) == len(rows) - 1 == len(aggregate(again, name="test_synthetic").level1)
    counts = again.record["counts"]
    assert counts["n_removed_reviewer"] == 1
    assert counts["n_detected"] == counts["n_objects"] + sum(
        count for name, count in counts.items() if name.startswith("n_removed_")
    )
    removed = gpd.read_parquet(again.home.scene(image) / "removed.parquet")
    assert removed.loc[removed["removed_by"] == "reviewer", "id_geohash"].tolist() == [gone[1]]
    said = open_run(again.folder).record["verdicts"]
    assert (said["rejected"], said["accepted"]) == ([list(gone)], len(judged) - 1)
    assert said["digest"] == read_verdict_list([page]).digest
    assert said["files"] == ["verdicts-ada.json"]
    assert "rejected by reviewer" in Path(report(again.folder)).read_text()
    # Other rules from the stored probability go by the same list, unless told otherwise.
    assert rethreshold(again, tmp_path / "same").record["counts"]["n_removed_reviewer"] == 1
    whole = rethreshold(again, tmp_path / "whole", layers=Layers(dropped=("reviewer",)))
    assert len(whole.level1) == len(rows)


def test_what_reviewers_do_not_agree_on_stays_and_lists_by_hand_are_taken(found: Run, tmp_path: Path):
    two = found.level1[KEYS].iloc[:2]
    ada = _page(tmp_path / "ada.json", "ada", two.assign(verdict="false"))
    bob = _page(tmp_path / "bob.json", "bob", two.assign(verdict=["false", "uncertain"]))
    agreed = read_verdict_list([ada, bob])
    assert (sum(map(len, agreed.rejected.values())), agreed.accepted) == (1, 1)
    by_hand = found.level1.assign(verdict=["reject", "Accept", *[None] * (len(found.level1) - 2)])
    by_hand[[*KEYS, "verdict"]].to_csv(tmp_path / "list.csv", index=False)
    assert read_verdict_list([tmp_path / "list.csv"]).digest == agreed.digest
    by_hand.assign(verdict="maybe")[[*KEYS, "verdict"]].to_csv(tmp_path / "list.csv", index=False)
    with pytest.raises(PipelineError, match="got maybe"):
        read_verdict_list([tmp_path / "list.csv"])
    by_hand[KEYS].to_csv(tmp_path / "list.csv", index=False)
    with pytest.raises(PipelineError, match="lacks the columns verdict"):
        read_verdict_list([tmp_path / "list.csv"])


def test_rejections_that_match_nothing_are_named(found: Run, small: Small, tmp_path: Path):
    image = found.done[0]["id"]
    rows = pd.DataFrame(
        {
            "image_id": [image, "20190101_000000_1034"],
            "id_geohash": ["c2b2m3n4p5q6"] * 2,
            "area_m2": [900, 900],
        }
    )
    rows.assign(verdict="reject").to_csv(tmp_path / "list.csv", index=False)
    command = [*small.command(found.folder), "--verdicts", str(tmp_path / "list.csv"), "--json"]
    answer = CliRunner().invoke(main, command)
    assert answer.exit_code == 0, answer.output
    cautions = json.loads(answer.stdout)["cautions"]
    assert any(f"c2b2m3n4p5q6 in {image}" in line for line in cautions)
    assert any("not in this run: 20190101_000000_1034" in line for line in cautions)
    assert open_run(found.folder).record["counts"]["n_removed_reviewer"] == 0
