"""Scores of a run, or of any file of detections, against a reference; the coverage and the years are the run's own."""

from __future__ import annotations

import json
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import pandas as pd
from upath import UPath

import darts_xr as dx
from darts_xr.assess import Comparison, Inventory, ReferenceTime, Scores, read_inventory
from darts_xr.assess import score_all as all_scores
from darts_xr.assess import score_images as image_scores
from darts_xr.assess import score_years as year_scores
from darts_xr.assess.match import score_counts
from darts_xr.assess.readers import read_layer
from darts_xr.errors import PipelineError
from darts_xr.markup import html_table
from pipelines.aggregation import Products, read_footprints, read_level1
from pipelines.records import Run, open_run

log = logging.getLogger(__name__)

_READERS = 16  # of small files in an object store
_PLAIN = Comparison()
_DAY = ReferenceTime(date="date")  # of the truth that a sample world comes with

PER_IMAGE, PER_YEAR, ALL = "Level 1, per image", "Level 2, per year", "All objects"


@dataclass(frozen=True)
class Detections:
    """Detections and what was seen, ready to be compared.

    Parameters
    ----------
    per_year : geopandas.GeoDataFrame
        Objects of each year: Level 2, or whatever the file holds.
    coverage : geopandas.GeoDataFrame, optional
        What was seen, by ``year`` where that is known.
    per_image : geopandas.GeoDataFrame, optional
        Level 1; None where only a file was given.
    footprints : geopandas.GeoDataFrame, optional
        What was seen in each image.
    run : Run, optional
        The run they are of.
    notes : list of str
        What was assumed about the coverage.
    """

    per_year: gpd.GeoDataFrame
    coverage: gpd.GeoDataFrame | None = None
    per_image: gpd.GeoDataFrame | None = None
    footprints: gpd.GeoDataFrame | None = None
    run: Run | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, repr=False)
class Validation:
    """Scores, with what they rest on.

    Parameters
    ----------
    tables : dict of pandas.DataFrame
        By kind: scores per image (one row an image), per year, or of all objects.
    notes : list of str
        How the inputs were read.
    warnings : list of str
        What they lack; these went to the log, too.
    detections : Detections
        What was scored.
    reference : Inventory
        What it was scored against.
    comparison : Comparison
        How.
    """

    tables: dict[str, pd.DataFrame]
    notes: list[str]
    warnings: list[str]
    detections: Detections
    reference: Inventory
    comparison: Comparison

    def __repr__(self) -> str:
        parts = []
        for kind, table in self.tables.items():
            row = table[table["scope"] == "all"] if "scope" in table else table.iloc[:0]
            said = f": F1 {float(row['f1'].iloc[0]):.3f}" if len(row) else ""
            parts.append(f"{kind}{said}")
        warned = f", {len(self.warnings)} warning(s)" if self.warnings else ""
        return f"<Validation: {'; '.join(parts)}, {len(self.reference.features)} reference objects{warned}>"

    def _repr_html_(self) -> str:
        parts = [
            html_table(kind, table.round(3).to_numpy().tolist(), head=[str(name) for name in table])
            for kind, table in self.tables.items()
        ]
        said = [["note", note] for note in self.notes] + [["warning", note] for note in self.warnings]
        return "".join(parts) + (html_table("What it rests on", said) if said else "")


# --- what was detected, and what was seen ------------------------------------------------------------------


def read_vectors(path: str | os.PathLike[str]) -> gpd.GeoDataFrame:
    """Read a GeoParquet or any vector file that GDAL knows."""
    if not Path(path).exists():
        raise PipelineError(f"Vector file not found: {path}")
    return read_layer(path)


def is_run(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a run folder."""
    return (UPath(path) / "run.json").exists()


def inner_footprints(run: Run) -> gpd.GeoDataFrame:
    """Footprints without the border zone, in which every object is removed by rule and none can be asked for.

    Parameters
    ----------
    run : Run
        Whose rule of the border applies; its width is counted in pixels of each scene, in the scene's own CRS.

    Returns
    -------
    geopandas.GeoDataFrame
        ``image_id``, ``date``, ``year``, ``geometry`` (EPSG:4326; empty where the zone leaves nothing).
    """
    footprints = read_footprints(run)
    grids = _grids(run)
    inner = footprints.geometry.copy()
    for crs, rows in grids.groupby("crs").indices.items():
        width = run.record["rules"]["border"] * grids["pixel"].to_numpy()[rows]
        shrunk = footprints.geometry.iloc[rows].to_crs(crs).buffer(-width).to_crs("EPSG:4326")
        inner.iloc[rows] = shrunk.to_numpy()
    return footprints.set_geometry(inner)


def _grids(run: Run) -> pd.DataFrame:
    """CRS and pixel side of each finished scene."""

    def read(scene: dict[str, Any]) -> tuple[str, float]:
        item = json.loads((run.home.scene(scene["id"]) / "item.json").read_text(encoding="utf-8"))
        return item["properties"]["proj:code"], abs(item["properties"]["proj:transform"][0])

    with ThreadPoolExecutor(1 if run.home.local else _READERS) as pool:
        return pd.DataFrame(list(pool.map(read, run.done)), columns=["crs", "pixel"])


def of_run(run: Run, *, whole: bool = False) -> Detections:
    """Level 1, Level 2 and coverage of a run, from its scenes; no products need to have been written.

    Parameters
    ----------
    run : Run
        A run of :func:`pipelines.detect`.
    whole : bool, optional
        Take the footprints with their border zone, in which no object can have been left.

    Returns
    -------
    Detections
        Ready to be scored.

    Raises
    ------
    PipelineError
        When no scene is finished.
    """
    if not run.done:
        raise PipelineError(
            f"{run.folder} has no finished scene, so there is nothing to score. Run darts-xr detect."
        )
    footprints = read_footprints(run) if whole else inner_footprints(run)
    level1 = read_level1(run)
    return Detections(dx.level2(level1), footprints, level1, footprints, run)


def read_detections(
    detected: str | os.PathLike[str] | gpd.GeoDataFrame | Run,
    coverage: str | os.PathLike[str] | gpd.GeoDataFrame | None = None,
    *,
    whole: bool = False,
) -> Detections:
    """Read a run folder or a file of detections with its coverage.

    Parameters
    ----------
    detected : path, Run or geopandas.GeoDataFrame
        A run folder, Level 1, Level 2, or polygons of anybody.
    coverage : path or geopandas.GeoDataFrame, optional
        What was seen. By default the run's own; of a product in a run's folder, that of the run; of a file named as the
        published products are, the coverage file beside it.
    whole : bool, optional
        See :func:`of_run`.

    Returns
    -------
    Detections
        Ready to be scored.

    Raises
    ------
    PipelineError
        When a file is missing.
    AssessmentError
        When one cannot be read.
    """
    if isinstance(detected, Run) or (not isinstance(detected, gpd.GeoDataFrame) and is_run(detected)):
        found = of_run(detected if isinstance(detected, Run) else open_run(detected), whole=whole)
        if coverage is None:
            return found
        limits = _frame(coverage)
        return replace(found, coverage=limits, per_image=None, footprints=None)
    frame = _frame(detected)
    if coverage is not None:
        return Detections(frame, _frame(coverage))
    if isinstance(detected, gpd.GeoDataFrame):
        return Detections(frame)
    return _beside(Path(detected), frame, whole)


def _beside(path: Path, frame: gpd.GeoDataFrame, whole: bool) -> Detections:
    """Give the detections of a file the coverage that its place or its name leads to."""
    folder = path.absolute().parent.parent
    if path.absolute().parent.name == "products" and is_run(folder):
        found = of_run(open_run(folder), whole=whole)
        assert found.footprints is not None
        years = frame["year"].unique() if "year" in frame else []
        seen = found.footprints
        seen = seen[seen["year"].isin(range(min(years), max(years) + 1))] if len(years) else seen
        if "image_id" in frame:
            return Detections(frame, seen, frame, seen, found.run, [f"coverage: the scenes of {folder}"])
        return Detections(frame, seen, run=found.run, notes=[f"coverage: the scenes of {folder}"])
    beside = path.with_name(path.name.replace("_features_", "_coverage_"))
    if beside != path and beside.exists():
        note = f"coverage: {beside.name}, with its border zone, in which objects were removed by rule"
        return Detections(frame, _frame(beside), notes=[note])
    return Detections(frame, notes=["no coverage: reference objects that were never seen count as missed"])


def _frame(layer: str | os.PathLike[str] | gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    if isinstance(layer, gpd.GeoDataFrame):
        return layer
    return read_vectors(layer)


# --- scores ------------------------------------------------------------------------------------------------


def validate(
    detected: str | os.PathLike[str] | gpd.GeoDataFrame | Run,
    reference: str | os.PathLike[str] | gpd.GeoDataFrame | Inventory,
    *,
    coverage: str | os.PathLike[str] | gpd.GeoDataFrame | None = None,
    regions: gpd.GeoSeries | None = None,
    comparison: Comparison = _PLAIN,
    time: ReferenceTime | None = None,
) -> Validation:
    """Score a run, or a file of detections, against a reference, within what was seen in each year and image.

    Parameters
    ----------
    detected : path, Run or geopandas.GeoDataFrame
        A run folder, or polygons.
    reference : path, Inventory or geopandas.GeoDataFrame
        Anything that :func:`darts_xr.assess.read_inventory` reads.
    coverage : path or geopandas.GeoDataFrame, optional
        What was seen; by default the run's own, without its border zone unless ``comparison.rule.cut`` is ``"count"``.
    regions : geopandas.GeoSeries, optional
        One polygon a region, its name in the index.
    comparison : Comparison, optional
        Buffer, matching, intervals.
    time : ReferenceTime, optional
        Columns that date the reference; by default those that its published schema declares, none for a plain file.
        ``ReferenceTime()`` takes it for valid in every year.

    Returns
    -------
    Validation
        Tables by kind, and notes.

    Raises
    ------
    PipelineError
        When a file is missing or a run is empty.
    AssessmentError
        When a file cannot be read or a declared column is missing.

    Examples
    --------
    >>> validate("run", "truth.gpkg").tables  # doctest: +SKIP
    """
    found = read_detections(detected, coverage, whole=comparison.rule.cut == "count")
    if isinstance(reference, gpd.GeoDataFrame):
        reference = Inventory(reference, "plain")
    elif not isinstance(reference, Inventory):
        if not Path(reference).exists():
            raise PipelineError(f"Vector file not found: {reference}")
        reference = read_inventory(reference)
    comparison = replace(comparison, time=reference.time if time is None else time)
    tables: dict[str, pd.DataFrame] = {}
    if found.per_image is not None and found.footprints is not None and regions is None:
        tables[PER_IMAGE] = image_scores(
            found.per_image, reference.features, found.footprints, comparison=comparison
        )
    seen = found.coverage
    dated = "year" in found.per_year or (
        seen is not None and {"year", "years", "coverage_period"} & set(seen)
    )
    if dated:
        tables[PER_YEAR] = year_scores(
            found.per_year, reference.features, seen, regions=regions, comparison=comparison
        )
    else:
        tables[ALL] = all_scores(found.per_year, reference.features, seen, comparison=comparison)
    said = [note for table in tables.values() for note in table.attrs["notes"]]
    notes = [_dated_by(reference, comparison.time), *found.notes, *reference.notes]
    return Validation(tables, notes, list(dict.fromkeys(said)), found, reference, comparison)


def _dated_by(reference: Inventory, time: ReferenceTime) -> str:
    columns = ", ".join(name for name in (time.date, time.start, time.end) if name)
    by = f"dated by {columns}" if columns else "valid in every year"
    return f"reference: {len(reference.features)} objects, schema {reference.schema}, {by}"


def reference_time(date: str | None, years: str | None, always: bool) -> ReferenceTime | None:
    """Read what options say of the reference's dates; None where they say nothing, so that its schema decides.

    Raises
    ------
    PipelineError
        When they contradict each other.
    """
    if sum((date is not None, years is not None, always)) > 1:
        raise PipelineError("Of --reference-date, --reference-years and --reference-always give one.")
    if years is not None:
        start, comma, end = years.partition(",")
        if not (comma and start.strip() and end.strip()):
            raise PipelineError(f"--reference-years needs two columns, START,END; got {years!r}")
        return ReferenceTime(start=start.strip(), end=end.strip())
    if date is not None:
        return ReferenceTime(date=date)
    return ReferenceTime() if always else None


def read_regions(path: str | os.PathLike[str], name: str | None) -> gpd.GeoSeries:
    """Polygons of regions, joined by the name that a column holds.

    Raises
    ------
    PipelineError
        When the file or the column is missing.
    """
    frame = read_vectors(path)
    if name is None or name not in frame:
        raise PipelineError(
            f"{path}: name the column of the regions' names with --region-name; it has "
            f"{', '.join(str(column) for column in frame if column != 'geometry')}"
        )
    return frame.dissolve(frame[name].astype(str)).geometry


def score_images(seen: gpd.GeoDataFrame, level1: gpd.GeoDataFrame, truth: gpd.GeoDataFrame) -> Scores:
    """Score Level 1 against outlines of each image's date, all images of :func:`inner_footprints` pooled."""
    return pooled(image_scores(level1, truth, seen, comparison=Comparison(time=_DAY)))


def pooled(table: pd.DataFrame) -> Scores:
    """Scores of the row ``all`` of a table."""
    row = table[table["scope"] == "all"].iloc[0]
    return score_counts(int(row["true"]), int(row["detected"]), int(row["found"]), int(row["references"]))


def score_run(run: Run, products: Products, truth: gpd.GeoDataFrame) -> dict[str, dict[str, Any]]:
    """Score Level 1 and Level 2 of a run against a sample world's truth and note it in ``run.json``."""
    seen, comparison = inner_footprints(run), Comparison(time=_DAY)
    per_year = year_scores(products.level2, truth, seen, comparison=comparison)
    scores = {
        "level1": asdict(score_images(seen, products.level1, truth)), "level2": asdict(pooled(per_year)),
    }  # fmt: skip
    run.record["scores"] = scores
    run.save()
    return scores
