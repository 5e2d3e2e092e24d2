"""One scene from its item to the files of its folder."""

from __future__ import annotations

import logging
import math
import os
import shutil
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dask
import geopandas as gpd
import pystac
import shapely
import xarray as xr

import darts_xr as dx
from darts_xr.catalog import safe_name
from darts_xr.cube import landcover_for
from darts_xr.errors import MissingBandsError
from darts_xr.inference import Ensemble
from darts_xr.objects import member_objects
from darts_xr.products import (
    binary_objects,
    footprint,
    probability_percent,
    write_quicklook,
    write_raster,
    write_vectors,
)
from pipelines.settings import Rules, provenance

log = logging.getLogger(__name__)

_QUICKLOOK_SIDE = 900  # px


@dataclass(frozen=True)
class Sources:
    """Where the layers beside the images come from, loaded once for all scenes.

    Parameters
    ----------
    auxiliary : list of pystac.Item or "neutral"
        Elevation and trends.
    landcover : list of pystac.Item
        Land cover for the water filter; empty: no water filter.
    infrastructure : geopandas.GeoDataFrame, optional
        Polygons for the infrastructure filter; None: no such filter.
    """

    auxiliary: Any
    landcover: list[pystac.Item]
    infrastructure: gpd.GeoDataFrame | None


def scene_folder(run: Path, scene_id: str) -> Path:
    """Folder of a scene in a run, whatever its id holds."""
    return run / "scenes" / safe_name(scene_id)


def clean_objects(
    labels: xr.DataArray, prob: xr.DataArray, scene: xr.Dataset, rules: Rules, sources: Sources
) -> tuple[gpd.GeoDataFrame, dict[str, int]]:
    """Vectorize labels and filter the polygons; also counts what each rule removed."""
    feats = dx.vectorize(labels, prob)
    n_detected = int(feats.attrs["n_detected"])
    if sources.landcover:
        year = int(str(scene.attrs["datetime"])[:4])
        cover = landcover_for(sources.landcover, scene["valid"].odc.geobox, year)
        feats = dx.filter_water(feats, cover, max_fraction=rules.max_water)
    if sources.infrastructure is not None:
        feats = dx.filter_infrastructure(feats, sources.infrastructure)
    removed = feats.attrs["removed"]
    rules_applied = ("border", "small", "water", "infrastructure")
    counts = {f"n_removed_{rule}": int(removed.get(rule, 0)) for rule in rules_applied}
    return feats, {"n_detected": n_detected, **counts, "n_objects": len(feats)}


def detect_scene(
    item: pystac.Item, ensemble: Ensemble, rules: Rules, sources: Sources, run: Path, *, members: bool = False
) -> dict[str, Any]:
    """Detect slumps in one scene and write its folder, whole or not at all.

    Parameters
    ----------
    item : pystac.Item
        The scene.
    ensemble, rules, sources : Ensemble, Rules, Sources
        What to detect with.
    run : pathlib.Path
        The run folder.
    members : bool, optional
        Also write what each network found alone, before cleaning, to ``members.parquet``.

    Returns
    -------
    dict
        Record of the scene: counts by rule, pixels, seconds by stage.
    """
    started = time.perf_counter()
    scene = dx.open_scene(
        item,
        auxiliary=sources.auxiliary,
        bands=ensemble.definitions,
        mask_rule=rules.mask_rule,
    )
    step = math.ceil(max(scene["valid"].shape) / _QUICKLOOK_SIDE)
    every = {"y": slice(None, None, step), "x": slice(None, None, step)}
    # One pass over the pixels: probability, mask and picture come out of the same reads.
    prediction, valid, picture = dask.persist(
        dx.predict(scene, ensemble, members=members),
        scene["valid"],
        scene[["red", "green", "blue", "valid"]].isel(every),
    )
    prob = prediction["probability"] if members else prediction
    labels = dx.label_objects(
        prob, threshold=rules.threshold, border=rules.border, min_pixels=rules.min_pixels
    )
    percent, binary, picture = dask.compute(probability_percent(prob), binary_objects(labels, prob), picture)
    predicted = time.perf_counter()
    feats, counts = clean_objects(labels, prob, scene, rules, sources)
    level1 = dx.level1(feats, prob, threshold=str(rules.threshold))
    seen = footprint(valid)
    cleaned = time.perf_counter()

    made_by = provenance(rules, ensemble, prob.attrs)
    final = scene_folder(run, item.id)
    part = final.with_name(f".{final.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    write_raster(percent, part / "probability.tif", metadata=made_by)
    write_raster(binary, part / "binary.tif", metadata=made_by)
    write_vectors(level1, part / "level1", formats=("parquet",), metadata=made_by)
    if members:
        alone = member_objects(prediction, threshold=rules.threshold)
        write_vectors(alone, part / "members", formats=("parquet",), metadata=made_by)
    shown = percent.isel(every)
    title = item.id + (" (synthetic)" if "synthetic" in prob.attrs else "")
    write_quicklook(picture, (shown / 100.0).where(shown != 255), level1, part / "quicklook.png", title=title)
    if final.exists():
        shutil.rmtree(final)
    os.replace(part, final)
    written = time.perf_counter()
    return {
        "id": item.id,
        "state": "done",
        "date": f"{item.datetime:%Y-%m-%d}",
        "pixels": int(valid.size),
        "valid_pixels": int(valid.sum()),
        "counts": counts,
        "footprint": shapely.geometry.mapping(seen),
        "grid": {
            "proj:code": str(valid.odc.geobox.crs),
            "proj:shape": list(valid.shape),
            "proj:transform": list(valid.odc.geobox.transform)[:6],
        },
        "made_by": made_by,
        "seconds": {
            "read_and_predict": round(predicted - started, 3),
            "objects": round(cleaned - predicted, 3),
            "write": round(written - cleaned, 3),
        },
    }


def result_item(record: dict[str, Any], run: Path) -> pystac.Item:
    """STAC item of a scene's results."""
    seen = shapely.geometry.shape(record["footprint"])
    folder = scene_folder(run, record["id"]).absolute()
    item = pystac.Item(
        id=record["id"],
        geometry=None if seen.is_empty else record["footprint"],
        bbox=None if seen.is_empty else list(seen.bounds),
        datetime=datetime.fromisoformat(record["made_by"]["datetime"]).astimezone(UTC),
        properties={
            **record["grid"],
            **{
                f"darts:{key}": value
                for key, value in record["made_by"].items()
                if key not in ("item_id", "datetime")
            },
            **{f"darts:{key}": value for key, value in record["counts"].items()},
        },
        collection="darts-results",
        stac_extensions=[
            "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
            "https://stac-extensions.github.io/raster/v1.1.0/schema.json",
        ],
    )
    band = {"data_type": "uint8", "nodata": 255}
    for key, unit in (("probability", "percent"), ("binary", "1")):
        fields = {"bands": [{"name": key, "unit": unit, **band}], "raster:bands": [{"unit": unit, **band}]}
        item.add_asset(
            key,
            pystac.Asset(
                str(folder / f"{key}.tif"),
                media_type=pystac.MediaType.COG,
                roles=["data"],
                extra_fields=fields,
            ),
        )
    item.add_asset(
        "level1",
        pystac.Asset(
            str(folder / "level1.parquet"), media_type="application/vnd.apache.parquet", roles=["data"]
        ),
    )
    item.add_asset(
        "quicklook",
        pystac.Asset(str(folder / "quicklook.png"), media_type=pystac.MediaType.PNG, roles=["overview"]),
    )
    return item


def require_auxiliary(ensemble: Ensemble, auxiliary: Any) -> None:
    """Refuse a run whose networks need auxiliary bands that nobody gave."""
    needed = [name for name in ensemble.bands if dx.cube.BANDS[name].source != "planet"]
    if needed and auxiliary is None:
        raise MissingBandsError(
            f"The ensemble {ensemble.name} needs {', '.join(needed)}, and no auxiliary layers were given. Give a STAC "
            "source of elevation and Landsat trends (--auxiliary SOURCE), or --auxiliary neutral to fill level terrain "
            "and no trend, which is written into the output's metadata."
        )
