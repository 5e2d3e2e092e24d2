"""The data dictionary: columns and types are asked of the code, what they mean is said here.

A column without a meaning, or a meaning without a column, stops the build.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd

from darts_xr.assess.tables import SCORE_COLUMNS
from darts_xr.objects.polygons import STATISTICS
from darts_xr.products import (
    coverage,
    empty_level1,
    level2,
    removed_objects,
    site_histories,
    table1,
)
from pipelines.schema import COUNTS


@dataclass(frozen=True)
class Table:
    """A table that leaves the program: how the code makes it without rows, and what each column means."""

    types: Callable[[], Mapping[str, Any]]
    meanings: dict[str, str]

    def rows(self) -> list[tuple[str, str, str]]:
        """Name, type and meaning of each column, in their order.

        Raises
        ------
        ValueError
            When columns and meanings differ.
        """
        types = dict(self.types())
        if differing := set(types) ^ set(self.meanings):
            raise ValueError(f"columns and their meanings differ: {', '.join(sorted(differing))}")
        return [(name, _word(kind), self.meanings[name]) for name, kind in types.items()]


def _word(kind: Any) -> str:
    """Say a type as a person would."""
    name = str(kind)
    return {"object": "text", "str": "text", "Int64": "int64, may be empty"}.get(name, name)


def _no_cover(kind: str) -> Callable[[], Mapping[str, Any]]:
    return lambda: coverage(empty_level1())[kind].dtypes.to_dict()


def _no_removed() -> Mapping[str, Any]:
    columns: dict[str, Any] = {name: np.empty(0) for name in STATISTICS}
    columns |= {"n_pixels": np.empty(0, np.int64), "removed_by": pd.array([], "str")}
    feats = gpd.GeoDataFrame(columns, geometry=[], crs="EPSG:4326")
    return removed_objects(feats, {"item_id": "none", "time": "1970-01-01"}).dtypes.to_dict()


def _no_histories() -> Mapping[str, Any]:
    nothing = empty_level1()
    found = site_histories(level2(nothing), coverage(nothing)["level2"]).dtypes.to_dict()
    shape = found.pop("geometry")
    numbers = ("area_low_m2", "area_high_m2", "no_data_share", "offset_x_m", "offset_y_m", "snow_share")
    added = dict.fromkeys(numbers, np.dtype("float64"))
    return {**found, **added, "doubt": "str", "geometry": shape}


def _no_table1() -> Mapping[str, Any]:
    nothing = empty_level1()
    return table1(nothing, level2(nothing), coverage(nothing)).dtypes.to_dict()


_AREAS = {
    "area_m2": "area in a pole-centred equal-area projection (EPSG:3571), whole m²",
    "area_ha": "`area_m2` / 10,000",
    "area_km2": "`area_m2` / 1,000,000",
}
_PVALS = {
    "pval_mean": "mean probability of the object's pixels, 0 to 1, of the ensemble before it is stored in per cent",
    "pval_std": "its standard deviation over the pixels (population)",
    "pval_min": "smallest",
    "pval_max": "largest",
    "pval_p25": "25th percentile, linear between pixels",
    "pval_p50": "50th percentile",
    "pval_p75": "75th percentile",
}
_VERSIONS = {
    "DARTS_dataset_version": "what `aggregate --dataset-version` says; `darts_xr` by default",
    "DARTS_dataset_information": "what `--dataset-information` says, a dash, and of what the level is made",
    "DARTS_processing_level": "`level1` or `level2`",
    "DARTS_AI_model_version": "name and first eight digits of the SHA-256 of each network",
    "DARTS_AI_model_threshold": "threshold of the run, as text",
}
_IMAGE = {
    "date": "day of the image, UTC, YYYY-MM-DD",
    "year": "its calendar year",
    "image_source": "`PlanetScope`, or `PlanetScope (synthetic)`",
    "image_id": "id of the scene",
}
_OUTLINE = "outline along the edges of the pixels, EPSG:4326"

TABLES: dict[str, Table] = {
    "level1": Table(
        lambda: empty_level1().dtypes.to_dict(),
        {
            "id": "number made of image and place; counts from 1 in the file of one scene",
            "id_geohash": "geohash of the centroid, 12 characters; not unique",
            **_IMAGE, **_AREAS, **_PVALS, **_VERSIONS, "geometry": _OUTLINE,
        },
    ),
    "level2": Table(
        lambda: level2(empty_level1()).dtypes.to_dict(),
        {
            "id": "`id` of the earliest Level 1 member",
            "id_geohash": "geohash of the feature's centroid, 12 characters",
            "year": "calendar year",
            **_AREAS,
            "image_source": "that of the members; several are joined by commas",
            "n_features_level1": "number of Level 1 members",
            "id_geohash_level1": "their geohashes, each once, sorted, joined by commas",
            "earliest_date": "day of the earliest member, YYYY-MM-DD",
            "latest_date": "day of the latest member",
            "n_unique_dates": "number of different days",
            "pval_mean_of_mean_level1": "mean of the members' `pval_mean`, each member counting once",
            "pval_mean_of_max_level1": "mean of the members' `pval_max`",
            **_VERSIONS, "geometry": "union of the members, EPSG:4326",
        },
    ),
    "coverage_level1": Table(
        _no_cover("level1"),
        {
            **{name: _IMAGE[name] for name in ("image_id", "date", "year")}, **_AREAS,
            "geometry": "outline of the valid pixels, with holes; empty where there is none",
        },
    ),
    "coverage_level2": Table(
        _no_cover("level2"),
        {
            "year": "calendar year", "n_images": "images of the year", **_AREAS,
            "geometry": "ground that was seen at least once in the year",
        },
    ),
    "coverage_union": Table(
        _no_cover("union"),
        {
            "years": "the years, joined by commas", "n_images": "images of these years", **_AREAS,
            "geometry": "in `union` ground that was seen at least once, in `intersect` in every one of the years",
        },
    ),
    "removed": Table(
        _no_removed,
        {
            "removed_by": "the rule: `border`, `small`, `water` or `infrastructure`; or `reviewer`",
            "id_geohash": "geohash of the centroid, 12 characters",
            **_IMAGE, "area_m2": _AREAS["area_m2"],
            "n_pixels": "pixels of the object",
            "water_fraction": "share of its area that is water, 0 to 1; NaN where no water filter ran",
            **_PVALS, "geometry": _OUTLINE,
        },
    ),
    # The code states no schema for it; a test compares with a file.
    "spread": Table(
        lambda: {
            "id": "int64", "id_geohash": "text", "image_id": "text", "spread_mean": "float64",
            "spread_max": "float64", "geometry": "geometry",
        },
        {
            "id": "that of the row in the scene's Level 1", "id_geohash": "likewise", "image_id": "id of the scene",
            "spread_mean": "mean over the object's pixels of the largest minus the smallest probability of a network",
            "spread_max": "the largest such difference", "geometry": _OUTLINE,
        },
    ),
    "members": Table(
        lambda: {
            "member": "text", "object": "int64", "n_pixels": "int64", **dict.fromkeys(STATISTICS, "float64"),
            "geometry": "geometry",
        },
        {
            "member": "name of the network", "object": "number of the object, from 1 for each network",
            "n_pixels": "pixels of the object",
            **_PVALS, "pval_mean": "mean probability of this network over the object's pixels, 0 to 1",
            "geometry": _OUTLINE,
        },
    ),
    "histories": Table(
        _no_histories,
        {
            "site": "number of the site, from 1 in the order of the geohashes",
            "site_geohash": "geohash of the centroid of all its outlines",
            "year": "a year that has images or outlines",
            "state": "`not covered`, `covered, not detected` or `detected`",
            "covered_share": "share of the site that was seen in the year, 0 to 1",
            "area_m2": "area of the year's Level 2 features; NaN where not detected",
            "growth_m2": "that minus the area of the last year in which it was detected",
            "growth_m2_per_year": "the same a year, by the days between the middles of the images of each year",
            "change": "`grew`, `shrank`, `same`, or empty where there is no earlier year",
            "retreat_m": "how much farther the outline reaches along the direction of advance than it did then",
            "retreat_m_per_year": "the same a year, likewise",
            "advance_azimuth_deg": "direction of advance, degrees clockwise from north; NaN below 36 m² of new ground",
            "area_low_m2": "area of pixels at or above threshold + 0.15, on the site and 30 m around it",
            "area_high_m2": "the same at threshold − 0.15",
            "no_data_share": "share of these pixels that no image of the year shows",
            "offset_x_m": "with `--images`: metres by which the image of the year that lies furthest off lies east",
            "offset_y_m": "the same north; NaN where no offset could be estimated",
            "snow_share": "with `--images`: largest share of the site under snow in an image of the year, 0 to 1",
            "doubt": "`offset` (more than a pixel), `snow` (more than 5 %), both, or empty",
            "geometry": "outline of the year; empty where not detected",
        },
    ),
    "table1": Table(
        _no_table1,
        {
            "scope": "a year, `sum`, `union` or `intersect`", "years": "the years, joined by commas",
            "images": "number of images", "level1_km2": "areas of all images added up",
            "level2_km2": "area seen at least once", "level1_rts_km2": "areas of Level 1 added up",
            "level1_features": "rows of Level 1", "level2_rts_km2": "areas of Level 2 added up",
            "level2_features": "rows of Level 2; in `union` and `intersect` each place once",
        },
    ),
    "scores": Table(
        lambda: {
            "scope": "text",
            **{name: "float64" if name in ("precision", "recall", "f1") else "int64" for name in SCORE_COLUMNS},
        },
        {
            "scope": "a year or an image, `all` (pooled), `mean` or `sd`",
            "detected": "detections that were scored", "true": "of these, those that meet the reference",
            "false": "the others", "precision": "`true` / `detected`",
            "references": "reference objects that were asked for", "found": "of these, those that a detection meets",
            "missed": "the others", "recall": "`found` / `references`",
            "f1": "harmonic mean of precision and recall",
        },
    ),
    "counts": Table(
        lambda: dict.fromkeys((*COUNTS, "n_removed_reviewer", "n_unknown_landcover", "n_undecided_pixels"), "int64"),
        {
            "n_detected": "objects at the threshold",
            "n_removed_border": "removed: a pixel in the border zone",
            "n_removed_small": "removed: fewer pixels than `--min-pixels`",
            "n_removed_water": "removed by the water filter",
            "n_removed_infrastructure": "removed by the infrastructure filter",
            "n_objects": "kept; with what was removed it makes `n_detected`",
            "n_removed_reviewer": "removed: rejected by reviewers (`--verdicts`)",
            "n_unknown_landcover": "kept, on ground whose land cover is not known",
            "n_undecided_pixels": "only after `rethreshold`: pixels whose stored per cent does not decide",
        },
    ),
}  # fmt: skip

#: Properties of ``item.json`` that are ours, without their prefix ``darts:``; counts stand beside them.
ITEM: dict[str, str] = {
    "darts_xr": "version",
    "checkpoints": "name and SHA-256 of each network",
    "batch_norm": "`eval` or `per-tile`",
    "rules": "rules in force, as JSON",
    "filters": "filters that ran, each with its layer, as JSON",
    "model_version": "text of `DARTS_AI_model_version`",
    "product": "`PSScene` or `PSOrthoTile`",
    "mask_rule": "rule that made `valid` of the mask",
    "auxiliary": "ids of the auxiliary items that were read",
    "neutral": "layers that were filled and not read",
    "ensemble": "names of the networks",
    "tiling": "how the scene was cut into tiles",
    "auxiliary_coverage": "share of valid pixels that each layer was measured for, as JSON",
    "probability": "only after `rethreshold`: that statistics are of the stored per cent",
    "synthetic": "only on synthetic scenes",
}

#: Entries of ``run.json``.
RUN: dict[str, str] = {
    "state": "`running`, `complete`, `interrupted`, `stopped`, `too many failures` or `rebuilt from its records`",
    "darts_xr": "version",
    "rules": "threshold, border, min_pixels, max_water, mask_rule, connectivity",
    "members": "whether each network's own objects were written",
    "ensemble": "names of the networks",
    "checkpoints": "name, file and SHA-256 of each",
    "batch_norm": "`eval` or `per-tile`",
    "tile": "side of a model tile's core, pixels",
    "margin": "pixels that the networks see beyond it",
    "auxiliary": "`neutral`, or that items were read",
    "neutral": "layers that are filled in every scene",
    "fill_gaps": "whether gaps were filled where nothing covers a scene",
    "layers_left_out": "auxiliary items that could not be used, each with the reason",
    "water_filter": "whether it was on",
    "infrastructure_filter": "name of its file, or nothing",
    "layers": "where the layers of the filters lay, and a digest of each",
    "verdicts": "only with `--verdicts`: files, digest, how many detections are accepted, and which are rejected",
    "rethresholded": "only in a run of `rethreshold`: the run it was made of, and that one's rules",
    "pending": "scenes of the source without a result",
    "seconds": "seconds of the last start",
    "counts": "scenes, pixels and objects in all",
    "synthetic": "whether any scene is synthetic",
    "scenes": "the last record of each scene, see below",
    "left_out": "finished scenes that no product takes, each with the reason",
    "scores": "only where a truth was given: scores of Level 1 and Level 2",
    "check": "checksum of the file itself",
}

#: Entries of a line of ``records/``, and of ``scenes`` in ``run.json``.
RECORD: dict[str, str] = {
    "id": "id of the scene",
    "state": "`done`, `failed` or `pruned`",
    "reason": "only where it failed: the error",
    "transient": "only where it failed: whether it may work later",
    "memory": "only where it failed: whether memory ran out",
    "date": "day of the image",
    "pixels": "pixels of the image",
    "valid_pixels": "those that the mask accepts",
    "counts": "objects found, removed and kept",
    "auxiliary_coverage": "share of valid pixels that each layer was measured for",
    "neutral": "layers that were filled",
    "synthetic": "whether the scene is synthetic",
    "filters": "filters that ran, each with its layer",
    "unknown_rejected": "only where there are any: geohashes of rejected detections that are not found there",
    "auxiliary": "ids of the auxiliary items that were read",
    "drift": "bands compared with those of the training scenes, where the networks state these",
    "demo_networks": "only where networks of synthetic scenes met a scene that is none",
    "seconds": "seconds by stage: open, read_and_predict, objects, write",
    "outputs": "SHA-256, size and time of each file",
    "started": "when the last try began, UTC",
    "worker": "who did it",
    "warnings": "what was said on the way",
    "inputs": "digests of item, parameters, checkpoints, auxiliary layers and filters",
    "tries": "how often it was tried",
    "earlier_reasons": "why earlier tries failed",
    "left_out": "why no product takes it",
}

#: Lists that are no tables.
LISTS = {"item": ITEM, "run": RUN, "record": RECORD}
