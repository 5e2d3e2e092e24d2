"""What the page of a run draws and lists, in columns of short numbers."""

from __future__ import annotations

import base64
import io
import json
import logging
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from darts_xr.assess import h3_density, h3_density_by_year
from darts_xr.assess.density import cell_shape
from darts_xr.assess.sensitivity import mean_probability
from darts_xr.globe import EQUAL_AREA, bounds_of, box_polygons, centroids
from pipelines.progress import STAGES
from pipelines.records import Record, Run
from pipelines.results import Results
from pipelines.schema import COUNTS

log = logging.getLogger(__name__)

PICTURE = "quicklook.png"
#: Scenes up to which the page holds a small picture of each; above, pictures are shown from the run folder.
MOST_THUMBNAILS = 200
_SIDE, _MOST_BYTES = 160, 6000  # of a small picture: pixels, bytes
_READERS = 8
_DEGREE = 1e5  # parts of a degree that places are told in: 1 m
_BEND = 1 / 150  # of a footprint's width, that its outline on the map may stray
_STATES = ("done", "failed", "left out")


def page_data(run: Run, results: Results) -> dict[str, Any]:
    """Give all that the page's script needs, ready for JSON.

    Parameters
    ----------
    run : Run
        The run.
    results : Results
        What its finished scenes hold.

    Returns
    -------
    dict
        ``scenes`` (a column each of id, state, date, counts, seconds, note), ``rings`` (outlines), ``objects``,
        ``cells`` (H3 density by year), ``thumbs``. Longitudes and latitudes are in 1e-5 degrees, each the difference
        to the one before.
    """
    rows = _rows(run, results)
    number = {row["id"]: i for i, row in enumerate(rows)}
    outlines = _outlines(run, results, rows)
    level1 = results.level1
    years = results.years
    rings = _rings(outlines, number)
    return {
        "name": run.folder.name,
        "states": _STATES,
        "years": years,
        "pole": _central_longitude(outlines),
        "scenes": _columns(run, rows),
        "rings": rings,
        "objects": _objects(level1, number),
        "cells": _cells(results, level1),
        **_pictures(run, rows),
    }


# --- scenes ------------------------------------------------------------------------------------------------


def _rows(run: Run, results: Results) -> list[Record]:
    """Give the records of all scenes by id, of those in no product with the reason."""
    sound = {result.record["id"] for result in results.scenes}
    reasons = results.left_out | results.foreign
    known = {record["id"]: record for record in [*run.record.get("left_out", []), *run.scenes]}
    rows = []
    for scene_id in sorted({*known, *run.left_out}):
        record = known.get(scene_id, {"id": scene_id, "state": "pending"})
        state = "done" if scene_id in sound else "failed" if record["state"] == "failed" else "left out"
        note = (
            [record["reason"], *record["earlier_reasons"]]
            if state == "failed"
            else record.get("warnings", [])
        )
        if state == "left out":
            note = [reasons.get(scene_id, "in no product"), *note]
        rows.append({**record, "state": state, "note": "; ".join(note)})
    return rows


def _columns(run: Run, rows: Sequence[Record]) -> dict[str, Any]:
    texts: dict[str, int] = {"": 0}
    places = {i: run.home.scene_place(row["id"]) for i, row in enumerate(rows)}
    return {
        "id": [row["id"] for row in rows],
        "state": [_STATES.index(row["state"]) for row in rows],
        "date": [row.get("date", "") for row in rows],
        "valid": [round(row.get("valid_pixels", 0) / 1e6, 2) for row in rows],
        "counts": {name: [row.get("counts", {}).get(name, 0) for row in rows] for name in COUNTS},
        "seconds": {name: [round(row.get("seconds", {}).get(name, 0), 1) for row in rows] for name in STAGES},
        "tries": [row.get("tries", 0) for row in rows],
        "note": [texts.setdefault(row["note"], len(texts)) for row in rows],
        "texts": list(texts),
        "unusual": {
            i: ", ".join(bands)
            for i, row in enumerate(rows)
            if (bands := row.get("drift", {}).get("unusual"))
        },
        "place": {i: place for i, place in places.items() if place != f"scenes/{rows[i]['id']}"},
    }


def _pictures(run: Run, rows: Sequence[Record]) -> dict[str, Any]:
    """Small pictures of few scenes; of many, which have one in the run folder."""
    # What is made again from stored probability has none, for the image was not read.
    shown = [i for i, row in enumerate(rows) if row["state"] == "done" and PICTURE in row.get("outputs", {})]
    if not shown:
        return {"thumbs": {}}
    about = {"picture": PICTURE, "pictured": shown if len(shown) < len(rows) else "all"}
    if len(shown) > MOST_THUMBNAILS:
        return {**about, "thumbs": {}}
    with ThreadPoolExecutor(1 if run.home.local else _READERS) as pool:
        made = list(pool.map(lambda i: _thumbnail(run, rows[i]["id"]), shown))
    return {**about, "thumbs": {i: uri for i, uri in zip(shown, made, strict=True) if uri}}


def _thumbnail(run: Run, scene_id: str) -> str:
    """Quick-look as a small JPEG in a data URI; empty where it cannot be read."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO((run.home.scene(scene_id) / PICTURE).read_bytes())) as picture:
            small = picture.convert("RGB")
    except OSError as error:
        log.warning("%s: no small picture of it: %s", scene_id, error)
        return ""
    small.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    for quality in (80, 65, 50, 35, 20):
        held = io.BytesIO()
        small.save(held, format="JPEG", quality=quality, optimize=True)
        if held.tell() <= _MOST_BYTES:
            break
    return "data:image/jpeg;base64," + base64.b64encode(held.getvalue()).decode()


# --- places ------------------------------------------------------------------------------------------------


def _outlines(run: Run, results: Results, rows: Sequence[Record]) -> dict[str, BaseGeometry]:
    """Footprint of each scene whose place is known: of failed ones the box of the item."""
    found = {result.record["id"]: result.footprint for result in results.scenes}
    for row in rows:
        if row["id"] in found:
            continue
        if row["state"] == "left out" and "item.json" in row.get("outputs", {}):
            try:
                item = json.loads((run.home.scene(row["id"]) / "item.json").read_bytes())
                if item["geometry"]:
                    found[row["id"]] = shapely.geometry.shape(item["geometry"])
            except (OSError, ValueError, KeyError) as error:
                log.info("%s is not on the map: %s", row["id"], error)
        elif row.get("bbox"):
            found[row["id"]] = shapely.MultiPolygon(box_polygons(bounds_of(row["bbox"])))
    return {scene_id: shape for scene_id, shape in found.items() if not shape.is_empty}


def _rings(outlines: Mapping[str, BaseGeometry], number: Mapping[str, int]) -> dict[str, list[int]]:
    """Outer rings of the footprints, coarsened to what a map can show."""
    shapes = np.array(list(outlines.values()), object)
    of = np.array([number[scene_id] for scene_id in outlines], int)
    parts, owner = shapely.get_parts(shapes, return_index=True)
    outer = shapely.get_exterior_ring(parts)
    west, south, east, north = shapely.bounds(outer).T
    outer = shapely.simplify(outer, np.maximum(east - west, north - south) * _BEND)
    sizes = shapely.get_num_coordinates(outer) - 1  # the last point is the first
    points, ring = shapely.get_coordinates(outer, return_index=True)
    last = np.append(ring[1:] != ring[:-1], True)[: len(ring)]
    return {"scene": of[owner].tolist(), "size": sizes.tolist(), **_coded(points[~last])}


def _coded(lonlat: NDArray[np.float64]) -> dict[str, list[int]]:
    """Places as differences of whole numbers, which take fewer digits."""
    whole = np.rint(lonlat.reshape(-1, 2) * _DEGREE).astype(np.int64)
    steps = np.diff(whole, axis=0, prepend=np.zeros((1, 2), np.int64))
    return {"lon": steps[:, 0].tolist(), "lat": steps[:, 1].tolist()}


def _objects(level1: gpd.GeoDataFrame, number: Mapping[str, int]) -> dict[str, Any]:
    """Middles, mean probability in per cent and area of all objects, those of a scene together."""
    of = level1["image_id"].map(number).to_numpy(int)
    order = np.argsort(of, kind="stable")
    middles = (
        centroids(np.array(level1.geometry.to_numpy()[order], object)) if len(level1) else np.empty((0, 2))
    )
    chance = level1[mean_probability(level1)].to_numpy(np.float64)[order]
    return {
        "size": np.bincount(of, minlength=len(number)).tolist(),
        **_coded(middles),
        "chance": np.rint(chance * 100).astype(int).tolist(),
        "area": level1["area_m2"].to_numpy(np.float64)[order].round().astype(int).tolist(),
    }


def _central_longitude(outlines: Mapping[str, BaseGeometry]) -> float:
    """Meridian that points down on the map: the middle of the footprints, 180° where they lie all around the pole."""
    if not outlines:
        return 180.0
    lon = np.radians(centroids(np.array(list(outlines.values()), object))[:, 0])
    east, north = float(np.cos(lon).mean()), float(np.sin(lon).mean())
    return round(math.degrees(math.atan2(north, east)), 2) if math.hypot(east, north) > 0.4 else 180.0


def _cells(results: Results, level1: gpd.GeoDataFrame) -> dict[str, Any]:
    """Area of the objects as a share of the ground seen, in hexagons, of all years (0) and of each."""
    seen = results.footprints
    seen = seen[~seen.is_empty]
    if seen.empty or level1.empty:
        return {"resolution": None}
    west, south, east, north = seen.to_crs(EQUAL_AREA).total_bounds
    kilometres = max(east - west, north - south, 1.0) / 1000
    # Some twenty hexagons across; level 4 has sides of 23 km, and each further level 0.38 of that.
    resolution = int(np.clip(4 + round(math.log(22.6 * 20 / kilometres) / math.log(2.65)), 4, 8))
    every = h3_density(level1, seen, resolution=resolution).assign(year=0)
    cells = pd.concat([every, h3_density_by_year(level1, seen, resolution=resolution)], ignore_index=True)
    cells = cells[cells["share"] > 0]
    names, which = np.unique(cells["h3"].to_numpy(str), return_inverse=True)
    shapes = np.array([cell_shape(name) for name in names], object)
    points, ring = shapely.get_coordinates(shapes, return_index=True)
    return {
        "resolution": resolution,
        "size": np.bincount(ring, minlength=len(names)).tolist(),
        **_coded(points),
        "cell": which.tolist(),
        "year": cells["year"].tolist(),
        "share": (cells["share"] * 1e6).round().astype(int).tolist(),  # m² a km²
        "objects": cells["n_features"].tolist(),
    }
