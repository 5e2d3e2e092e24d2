"""The sites of a run over the years."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
from click.testing import CliRunner

from pipelines import histories
from pipelines.cli import main
from pipelines.settings import Rules
from tests.pipelines.small import Small

OF_IMAGES = ("offset_x_m", "offset_y_m", "snow_share", "doubt")


def test_each_site_of_a_run_has_a_state_a_year_and_an_uncertain_area(small: Small, tmp_path: Path):
    # The first and the third image show one site in two years.
    rules = Rules(border=1, min_pixels=150)  # few sites: the network has seen nothing and finds specks
    run = small.detect(tmp_path / "run", [small.items[0], small.items[2]], rules=rules)
    table = histories(run)
    years = sorted({int(scene["date"][:4]) for scene in run.done})
    assert table.groupby("site")["year"].apply(list).tolist() == [years] * table["site"].nunique()
    found = table[table["state"] == "detected"]
    assert len(found) > 0
    assert found["area_m2"].notna().all()
    assert table.loc[table["state"] != "detected", "area_m2"].isna().all()
    known = found["area_low_m2"].notna()
    assert known.all()
    assert (found["area_low_m2"] <= found["area_high_m2"]).all()
    # Areas of pixels on the map and on the ellipsoid differ by the projection's scale alone.
    assert (found["area_high_m2"] >= found["area_m2"] * 0.99).all()
    assert table["no_data_share"].between(0, 1).all()
    assert table[["offset_x_m", "offset_y_m", "snow_share"]].isna().all(axis=None)  # no image was given
    assert (table["doubt"] == "").all()
    known = histories(run, images=small.world.catalog)
    assert known.drop(columns=list(OF_IMAGES)).equals(table.drop(columns=list(OF_IMAGES)))
    assert known["snow_share"].between(0, 1).any()
    offsets = known[["offset_x_m", "offset_y_m"]].dropna()
    assert len(offsets) > 0
    assert (offsets.abs() <= 3).all(axis=None)  # images of a world lie on each other
    answer = CliRunner().invoke(main, ["sites", str(run.folder), "--out", str(tmp_path / "sites"), "--json"])
    assert answer.exit_code == 0, answer.output
    assert json.loads(answer.stdout)["sites"] == table["site"].nunique()
    written = pd.read_csv(tmp_path / "sites" / "histories.csv")
    assert np.array_equal(written["state"], table["state"])
    assert (tmp_path / "sites" / "histories.png").stat().st_size > 1000
