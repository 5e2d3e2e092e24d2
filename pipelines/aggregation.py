"""From the scenes of a run to its products: Level 1, Level 2, coverage and Table 1, with a manifest of them all."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from upath import UPath

import darts_xr as dx
from darts_xr.errors import PipelineError
from darts_xr.markup import html_table
from darts_xr.products import (
    describe_dataset,
    merge_level1,
    product_name,
    table1,
    table_text,
    update_level2,
    write_table,
    write_vectors,
)
from pipelines.cautions import auxiliary_coverage, cautions
from pipelines.digests import digest
from pipelines.manifest import Manifest, facts_of, manifest_name, manifests, read_manifest
from pipelines.records import Run, open_run
from pipelines.results import Results, read_results

log = logging.getLogger(__name__)

_SHOWN = 5  # scenes that a message names


@dataclass(frozen=True)
class Dataset:
    """What the products say they are.

    Parameters
    ----------
    version : str
        Text of ``DARTS_dataset_version``.
    information : str
        Part of ``DARTS_dataset_information`` before the dash.
    """

    version: str = "darts_xr"
    information: str = "RTS footprint"


@dataclass(frozen=True, repr=False)
class Products:
    """The products of a run, in memory and on disk.

    Parameters
    ----------
    level1, level2 : geopandas.GeoDataFrame
        Objects per image and per year, columns of the paper's Tables 5 and 6.
    coverage : dict of geopandas.GeoDataFrame
        ``level1``, ``level2``, ``union``, ``intersect``.
    table1 : pandas.DataFrame
        Sums of all that, as the paper's Table 1.
    files : list of path
        What was written; the manifests come last.
    left_out : dict of str
        Scenes that are in no product, each with the reason.
    """

    level1: gpd.GeoDataFrame
    level2: gpd.GeoDataFrame
    coverage: dict[str, gpd.GeoDataFrame]
    table1: pd.DataFrame
    files: list[Path | UPath] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        text = f"<Products: {len(self.level1)} objects per image, {len(self.level2)} per year, {len(self.files)} files"
        return text + (f", {len(self.left_out)} scene(s) left out>" if self.left_out else ">")

    def _repr_html_(self) -> str:
        rows: list[tuple[str, object]] = [
            ("Level 1, objects per image", len(self.level1)),
            ("Level 2, objects per year", len(self.level2)),
        ]
        rows += [(f"coverage, {level}", f"{len(frame)} row(s)") for level, frame in self.coverage.items()]
        rows += [("files", ", ".join(path.name for path in self.files)), *self.left_out.items()]
        return html_table("Products", rows)


def read_footprints(run: Run) -> gpd.GeoDataFrame:
    """Outlines of the valid pixels of a run's scenes: ``image_id``, ``date``, ``year``, ``geometry``."""
    return read_results(run).footprints


def read_level1(run: Run) -> gpd.GeoDataFrame:
    """Level 1 of a run's scenes, those that :func:`aggregate` takes."""
    return read_results(run).level1


def aggregate(
    run: str | os.PathLike[str] | Run,
    *,
    years: Iterable[int] | None = None,
    intersect_years: Iterable[int] | None = None,
    name: str = "darts_xr",
    dataset: Dataset | None = None,
    by_year: bool = False,
    strict: bool = False,
) -> Products:
    """Write Level 1, Level 2, coverage and Table 1 of a run to ``RUN/products``.

    The products hold the finished scenes of the run's last source that were made with its last settings and whose files
    are those that were written, and no other; what is left out is named, in the log and in the products' metadata.
    After new scenes only what they touch is dissolved anew, and only products that changed are written.

    Parameters
    ----------
    run : path or Run
        A run of :func:`pipelines.detect`.
    years : iterable of int, optional
        Calendar years to take; by default all.
    intersect_years : iterable of int, optional
        Years of the coverage ``intersect``; by default all that are taken.
    name : str, optional
        Base name of the products.
    dataset : Dataset, optional
        What the products say they are.
    by_year : bool, optional
        One set of products a calendar year instead of one of all years, so that new scenes leave the files of other
        years as they are.
    strict : bool, optional
        Refuse when any scene would be left out.

    Returns
    -------
    Products
        Frames and files.

    Raises
    ------
    PipelineError
        When the run has no finished scene in these years, or ``strict`` and a scene would be left out.

    Examples
    --------
    >>> products = aggregate("run", years=range(2021, 2024))  # doctest: +SKIP
    """
    run = run if isinstance(run, Run) else open_run(run)
    dataset = dataset or Dataset()
    wanted = None if intersect_years is None else sorted(set(intersect_years))
    results = _results(run, years, strict)
    if not by_year:
        return _ProductSet(run, results, name, dataset, wanted).write()
    if wanted is not None:
        raise PipelineError(
            "years of the intersect coverage go with products of all years; leave out by_year"
        )
    sets = [_ProductSet(run, results.of_years([year]), name, dataset, None) for year in results.years]
    parts = [each.write() for each in sets]
    cover = dx.coverage(results.footprints)
    level1 = merge_level1(part.level1 for part in parts)
    level2 = pd.concat([part.level2 for part in parts], ignore_index=True)
    files = [file for part in parts for file in part.files]
    left_out = results.left_out | results.foreign
    return Products(level1, level2, cover, table1(level1, level2, cover), files, left_out)


def coverage(
    run: str | os.PathLike[str] | Run,
    *,
    years: Iterable[int] | None = None,
    intersect_years: Iterable[int] | None = None,
    name: str = "darts_xr",
) -> Products:
    """Write only the coverage files of a run; see :func:`aggregate`."""
    run = run if isinstance(run, Run) else open_run(run)
    wanted = None if intersect_years is None else sorted(set(intersect_years))
    return _ProductSet(run, _results(run, years, False), name, Dataset(), wanted).write(features=False)


def _results(run: Run, years: Iterable[int] | None, strict: bool) -> Results:
    """Results of these years, of which there must be some; what is left out is named."""
    results = read_results(run, years=years)
    left_out = results.left_out | results.foreign
    named = [f"{scene_id} ({reason})" for scene_id, reason in sorted(left_out.items())]
    listing = "; ".join(named[:_SHOWN]) + (f"; and {len(named) - _SHOWN} more" if len(named) > _SHOWN else "")
    if strict and left_out:
        raise PipelineError(
            f"{run.folder}: {len(left_out)} scene(s) would be left out of the products: {listing}. Run darts-xr detect "
            "with the same settings until none is left (--prune for those that are not in the source), or aggregate "
            "without --strict"
        )
    if not results.scenes:
        raise PipelineError(
            f"{run.folder} has no finished scene{'' if years is None else ' in these years'}; "
            f"of {len(run.scenes)} scenes {len(run.failed)} failed"
            f"{f' and are left out: {listing}' if left_out else ''}. See darts-xr report for the reasons."
        )
    if left_out:
        log.warning("%d scene(s) are left out of the products: %s", len(left_out), listing)
    for caution in cautions([result.record for result in results.scenes]):
        log.warning("%s", caution)
    return results


class _ProductSet:
    """Products of one name and span of years."""

    def __init__(
        self, run: Run, results: Results, name: str, dataset: Dataset, intersect_years: list[int] | None
    ) -> None:
        self.run, self.results, self.name = run, results, name
        self.dataset, self.intersect_years = dataset, intersect_years
        self.folder = run.folder / "products"
        self.made_by = made_by(run, results)
        self.span = results.years
        #: What an earlier call wrote under the same name, as far as it can be relied on.
        self.before = read_manifest(self.folder / manifest_name(name, self.span))
        self.files: dict[str, dict[str, Any]] = {}

    def write(self, *, features: bool = True) -> Products:
        """Build and write them; a file that is there and would be the same stays as it is."""
        cover = dx.coverage(self.results.footprints, intersect_years=self.intersect_years)
        rows = self.results.level1 if features else merge_level1([])
        level1 = describe_dataset(rows, version=self.dataset.version, information=self.dataset.information)
        level2 = self._level2(level1) if features else dx.level2(level1)
        table = table1(level1, level2, cover)
        with self.run.home.staging("products") as folder:
            if features:
                for level, frame in (("level1", level1), ("level2", level2)):
                    self._vectors(folder, product_name(self.name, "features", self.span, level), frame)  # type: ignore[arg-type]
            for level, frame in cover.items():
                years = self.intersect_years if level == "intersect" and self.intersect_years else self.span
                self._vectors(folder, product_name(self.name, "coverage", years, level), frame)  # type: ignore[arg-type]
            if features:
                self._table(folder, table)
        left_out = self.results.left_out | self.results.foreign
        return Products(level1, level2, cover, table, [*self._places(), self._seal(features)], left_out)

    def _level2(self, level1: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
        """Level 2; where products of a part of the rows are at hand, only what the new rows touch is dissolved."""
        best: tuple[gpd.GeoDataFrame, gpd.GeoDataFrame, gpd.GeoDataFrame] | None = None
        rows = _row_hashes(level1)
        for manifest in manifests(self.run.home, self.name):
            stems = [
                name for name in manifest.files if name.endswith("_level1.parquet") and "_features_" in name
            ]
            for stem in stems:
                before = _read_product(manifest, stem)
                features = _read_product(manifest, stem.replace("_level1.parquet", "_level2.parquet"))
                if before is None or features is None:
                    continue
                known = level1["image_id"].isin(before["image_id"])
                if sorted(_row_hashes(before)) == sorted(rows[known]) and (
                    best is None or len(before) > len(best[1])
                ):
                    best = features, level1[known], level1[~known]
        return dx.level2(level1) if best is None else update_level2(*best)

    def _vectors(self, folder: Path, stem: str, frame: gpd.GeoDataFrame) -> None:
        """Write one product as GeoParquet and GeoPackage, unless both are there with the same content."""
        metadata = {**self.made_by, "content": _content(frame)}
        names = [f"{stem}.{suffix}" for suffix in ("parquet", "gpkg")]
        if self.before is not None and self.before.sound(names[1]) is not None:
            kept = _read_product(self.before, names[0])
            if kept is not None and kept.attrs == metadata:
                self.files |= {name: self.before.files[name] for name in names}
                return
        for file in write_vectors(frame, folder / stem, metadata=metadata):
            self.files[file.name] = dict(facts_of(file.read_bytes()))

    def _table(self, folder: Path, table: pd.DataFrame) -> None:
        """Write Table 1, unless it is there with the same content."""
        stem = manifest_name(self.name, self.span).replace("_manifest_", "_table1_")
        name, text = stem.replace(".json", ".csv"), table_text(table)
        if self.before is None or self.before.sound(name) != text.encode():
            write_table(table, folder / name)
        self.files[name] = dict(facts_of(text.encode()))

    def _places(self) -> list[Path | UPath]:
        return [self.folder / name for name in self.files]

    def _seal(self, features: bool) -> Path | UPath:
        """Write the manifest, last."""
        content = {**self.made_by, "scenes": digest(_sources_of(self.results))}
        files = dict(self.files)
        if not features and self.before is not None and self.before.made_by == content:
            files = self.before.files | files  # features of the same scenes belong to the same set
        manifest = Manifest(self.folder / manifest_name(self.name, self.span), content, files)
        if self.before is None or self.before.text() != manifest.text():
            self.run.home.write_text(f"products/{manifest.path.name}", manifest.text())
        return manifest.path


def _sources_of(results: Results) -> dict[str, Any]:
    """Digests of the files that products are made of, by scene."""
    names = ("level1.parquet", "item.json")
    return {s.record["id"]: [s.record["outputs"][name]["sha256"] for name in names] for s in results.scenes}


def is_of(manifest: Manifest, run: Run, results: Results) -> bool:
    """Whether a set of products is what the run's results would give now."""
    items = set(manifest.made_by["items"].split(", "))
    part = results.of_years({result.year for result in results.scenes if result.record["id"] in items})
    return manifest.made_by == {**made_by(run, part), "scenes": digest(_sources_of(part))}


def _read_product(manifest: Manifest, name: str) -> gpd.GeoDataFrame | None:
    """Read a GeoParquet of a set; None where there is none, or another one than the manifest says."""
    content = manifest.sound(name)
    return None if content is None else gpd.read_parquet(io.BytesIO(content))


def _row_hashes(frame: gpd.GeoDataFrame) -> NDArray[np.integer]:
    """One number a row that changes with any of its values but the id, which follows from them."""
    plain = pd.DataFrame(frame.drop(columns=["id", "geometry"], errors="ignore"))
    wkb = frame.geometry.to_wkb(hex=True)
    return pd.util.hash_pandas_object(plain.assign(wkb=wkb), index=False).to_numpy()


def _content(frame: gpd.GeoDataFrame) -> str:
    """Digest of a frame's rows, whatever their order."""
    return hashlib.sha256(np.sort(_row_hashes(frame)).tobytes()).hexdigest()[:16]


def made_by(run: Run, results: Results) -> dict[str, str]:
    """Tell what made the products of some results, as flat text for the metadata of any file format.

    Parameters
    ----------
    run : Run
        The run.
    results : Results
        The scenes of the products.

    Returns
    -------
    dict of str
        Settings, scenes with and without results, filters with their layers and how many scenes each ran on, what the
        auxiliary layers covered, and every caution.
    """
    record, scenes = run.record, [result.record for result in results.scenes]
    filters = _filters(scenes)
    found = {
        "darts_xr": dx.__version__,
        "checkpoints": ", ".join(f"{c['name']}:{c['sha256']}" for c in record["checkpoints"]),
        "batch_norm": record["batch_norm"],
        "rules": json.dumps(_rules(record, filters), sort_keys=True),
        "filters": json.dumps(filters, sort_keys=True) if filters else "none",
        "auxiliary": record["auxiliary"],
        "items": ", ".join(scene["id"] for scene in scenes),
        "left_out": json.dumps(results.left_out, sort_keys=True) if results.left_out else "none",
    }
    if covered := auxiliary_coverage(scenes):
        found["auxiliary_coverage"] = json.dumps(covered, sort_keys=True)
    if warned := cautions(scenes):
        found["cautions"] = "; ".join(warned)
    if any(scene["synthetic"] for scene in scenes):
        found["synthetic"] = "made from synthetic scenes, no real observation"
    return found


def _rules(record: Mapping[str, Any], filters: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value for name, value in record["rules"].items() if name != "max_water" or "water" in filters
    }


def _filters(scenes: list[dict[str, Any]]) -> dict[str, Any]:
    """Name the filters that ran: their layers, and on how many of the scenes."""
    found: dict[str, Any] = {}
    for scene in scenes:
        for name, layer in scene.get("filters", {}).items():
            entry = found.setdefault(name, {"layers": [], "scenes": 0, "of_scenes": len(scenes)})
            entry["layers"] = sorted({*entry["layers"], layer})
            entry["scenes"] += 1
    return found
