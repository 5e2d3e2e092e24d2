"""Level 1: one row per object and image, in the columns of the paper's Table 5."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from darts_xr.cube.metadata import metadata_of, time_text
from darts_xr.errors import ProductError
from darts_xr.globe import require_crs
from darts_xr.objects.polygons import STATISTICS
from darts_xr.products.geometry import area_columns, geohashes, stable_ids, valid_polygons

VERSION_COLUMNS = (
    "DARTS_dataset_version",
    "DARTS_dataset_information",
    "DARTS_processing_level",
    "DARTS_AI_model_version",
    "DARTS_AI_model_threshold",
)
LEVEL1_COLUMNS = (
    "id", "id_geohash", "date", "year", "area_m2", "area_ha", "area_km2", "image_source", "image_id",
    *STATISTICS, *VERSION_COLUMNS, "geometry",
)  # fmt: skip

#: What the features are, and of what a level's features are.
INFORMATION, LEVEL1_INFORMATION = "RTS footprint", "individual image (level1)"
LEVEL2_INFORMATION = "annually aggregated (level2)"

_SOURCES = {"planetscope": "PlanetScope"}
_DATES = (
    re.compile(r"^(\d{4})(\d{2})(\d{2})_\d{6}_"),  # PSScene: 20160909_213104_0e19
    re.compile(r"_(\d{4})-(\d{2})-(\d{2})(?:_|$)"),  # PSOrthoTile: 4706735_4472312_2021-07-19_1034
)


def image_date(image_id: str) -> str | None:
    """Date (YYYY-MM-DD) that a PlanetScope scene id names, or None if it names none."""
    for pattern in _DATES:
        found = pattern.search(image_id)
        if found:
            return "-".join(found.groups())
    return None


def image_id_and_date(scene: xr.Dataset | xr.DataArray | Mapping[str, Any]) -> tuple[str, str]:
    """Image id and UTC date (YYYY-MM-DD) of a scene; an error if its id names another day."""
    facts = metadata_of(scene)
    lacking = [key for key in ("item_id", "time") if facts.get(key) is None]
    if lacking:
        raise ProductError(
            f"the scene has no {' and no '.join(lacking)}; open it with open_scene, take one step of a cube with "
            ".isel(time=...), or assign them as scalar coordinates"
        )
    image_id = str(facts["item_id"])
    try:
        date = time_text(facts["time"])[:10]
    except ValueError as error:
        raise ProductError(f"scene {image_id}: {facts['time']!r} is no time: {error}") from error
    named = image_date(image_id)
    if named is not None and named != date:
        raise ProductError(
            f"scene {image_id}: its id names the date {named}, its metadata {date}; "
            "correct the item's datetime"
        )
    return image_id, date


def level1(
    feats: gpd.GeoDataFrame,
    scene: xr.Dataset | xr.DataArray | Mapping[str, Any],
    *,
    dataset_version: str = "darts_xr",
    model_version: str | None = None,
    threshold: str | None = None,
    image_source: str | None = None,
) -> gpd.GeoDataFrame:
    """Objects of one image as Level 1.

    Columns, types and texts are those of Nitze et al. 2025 (Sci. Data 12:1512), Table 5. Rows that a filter
    marked as removed are left out.

    Parameters
    ----------
    feats : geopandas.GeoDataFrame
        Objects from :func:`darts_xr.objects.vectorize`, filtered or not.
    scene : xarray.Dataset, xarray.DataArray or mapping
        The scene, its probability, one time step of a cube (``cube.isel(time=3)``), or a mapping: ``item_id`` and
        ``time`` (UTC), optional ``constellation`` and ``synthetic``, as scalar coordinates or attributes. Nothing is
        computed.
    dataset_version : str
        Text of ``DARTS_dataset_version``.
    model_version : str, optional
        Text of ``DARTS_AI_model_version``; by default the attribute ``model_version`` that a prediction carries: names
        and digests of the checkpoints.
    threshold : str, optional
        Text of ``DARTS_AI_model_threshold``; by default the attribute ``threshold`` that labels carry.
    image_source : str, optional
        Text of ``image_source``; by default from the scene's constellation, ``PlanetScope``. A synthetic
        scene is named ``PlanetScope (synthetic)``.

    Returns
    -------
    geopandas.GeoDataFrame
        One row per object, EPSG:4326: ``id`` (int64, from 1), ``id_geohash`` (geohash of the centroid, 12
        characters), ``date`` (YYYY-MM-DD), ``year`` (int64), ``area_m2`` (int64), ``area_ha``, ``area_km2``
        (float64, from ``area_m2``), ``image_source``, ``image_id``, seven ``pval_`` columns (float64), five
        ``DARTS_`` columns (str), ``geometry``. ``attrs["repaired"]`` lists geometries that were invalid.

    Raises
    ------
    ProductError
        If the scene lacks its id or date, its id names another day, or ``feats`` lack columns or area.
    CRSError
        If ``feats`` have no CRS.

    Examples
    --------
    >>> import geopandas as gpd, shapely
    >>> feats = gpd.GeoDataFrame(
    ...     {f"pval_{s}": [0.5] for s in ("mean", "std", "min", "max", "p25", "p50", "p75")},
    ...     geometry=[shapely.box(-139, 69, -138.998, 69.001)], crs=4326)
    >>> rows = level1(feats, {"item_id": "20210719_201500_1034", "time": "2021-07-19T20:15:00Z"})
    >>> rows[["id_geohash", "date", "area_m2"]].values.tolist()
    [['bum0t10j093r', '2021-07-19', 8926]]
    """
    require_crs(feats, "feats")
    image_id, date = image_id_and_date(scene)
    facts = metadata_of(scene)
    lacking = [name for name in STATISTICS if name not in feats]
    if lacking:
        raise ProductError(
            f"scene {image_id}: feats lack {', '.join(lacking)}; vectorize the labels with their probability"
        )
    if "removed_by" in feats:
        feats = feats[feats["removed_by"] == ""]
    feats = feats.reset_index(drop=True).to_crs("EPSG:4326")
    feats, repaired = valid_polygons(feats, lambda i: f"{image_id} row {i}")
    if image_source is None:
        given = str(facts.get("constellation") or "planetscope")
        image_source = _SOURCES.get(given.lower(), given)
        if facts.get("synthetic"):
            image_source += " (synthetic)"
    if model_version is None:
        known = {**facts, **feats.attrs}
        model_version = str(known.get("model_version", known.get("ensemble", "unknown")))
    if threshold is None:
        threshold = str(feats.attrs.get("threshold", facts.get("threshold", "unknown")))
    n = len(feats)
    columns: dict[str, Any] = {
        "id": np.arange(1, n + 1, dtype=np.int64),
        "id_geohash": as_text(geohashes(feats.geometry.to_numpy())),
        "date": as_text([date] * n),
        "year": np.full(n, int(date[:4]), np.int64),
        **area_columns(feats),
        "image_source": as_text([image_source] * n),
        "image_id": as_text([image_id] * n),
        **{name: feats[name].to_numpy(np.float64) for name in STATISTICS},
        **version_columns(LEVEL1_INFORMATION, "level1", n, dataset_version, model_version, threshold),
    }
    out = gpd.GeoDataFrame(columns, geometry=feats.geometry.to_numpy(), crs="EPSG:4326")
    out.attrs = {**feats.attrs, "repaired": repaired}
    return out


def merge_level1(frames: Iterable[gpd.GeoDataFrame]) -> gpd.GeoDataFrame:
    """Level 1 of many images as one frame, each row with an id that it keeps.

    Parameters
    ----------
    frames : iterable of geopandas.GeoDataFrame
        Level 1 of one or more images each.

    Returns
    -------
    geopandas.GeoDataFrame
        All rows, sorted by date, image and geohash, whatever the order of the frames. ``id`` is made from image and
        place alone, so that it is unique and stays when images are added or removed. ``attrs["removed"]`` and
        ``attrs["repaired"]`` are summed up.

    Raises
    ------
    ProductError
        If an id occurs twice in one image, or a frame lacks columns.

    Examples
    --------
    >>> len(merge_level1([]))
    0
    """
    frames = list(frames)
    for frame in frames:
        require(frame, LEVEL1_COLUMNS, "Level 1")
    if not frames:
        frames = [empty_level1()]
    removed: dict[str, int] = {}
    for frame in frames:
        for rule, count in frame.attrs.get("removed", {}).items():
            removed[rule] = removed.get(rule, 0) + count
    repaired = [name for frame in frames for name in frame.attrs.get("repaired", [])]
    filled = [frame for frame in frames if len(frame)] or frames[:1]
    out = pd.concat([frame[list(LEVEL1_COLUMNS)] for frame in filled], ignore_index=True)
    check_ids(out)
    ids = row_ids(out)
    if len(np.unique(ids)) < len(ids):
        raise ProductError(
            "two Level 1 rows of different places got one id by chance, which is very rare; "
            "aggregate fewer years at a time"
        )
    out["id"] = ids
    out = out.sort_values(["date", "image_id", "id_geohash", "id"], kind="stable", ignore_index=True)
    out.attrs = {"removed": removed, "repaired": sorted(repaired)}
    return out


def row_ids(level1: gpd.GeoDataFrame, wanted: NDArray[np.integer] | None = None) -> NDArray[np.int64]:
    """Ids of Level 1 rows that depend on image and place alone; of some rows, by their places, or of all."""
    owners, places = level1["image_id"].tolist(), level1["id_geohash"].tolist()
    return stable_ids(owners, places, level1.geometry.to_numpy(), wanted)


def describe_dataset(level1: gpd.GeoDataFrame, *, version: str, information: str) -> gpd.GeoDataFrame:
    """Level 1 with the texts of one data set.

    Parameters
    ----------
    level1 : geopandas.GeoDataFrame
        Level 1; not changed.
    version : str
        Text of ``DARTS_dataset_version``, such as ``v1.2``.
    information : str
        What the features are, the part of ``DARTS_dataset_information`` before the dash.

    Returns
    -------
    geopandas.GeoDataFrame
        The same rows; Level 2 of them takes both texts over.

    Examples
    --------
    >>> describe_dataset(empty_level1(), version="v1.2", information="RTS footprint").shape[0]
    0
    """
    columns = version_columns(LEVEL1_INFORMATION, "level1", len(level1), version, "", "", information)
    out = level1.assign(**{name: columns[name] for name in VERSION_COLUMNS[:2]})
    out.attrs = dict(level1.attrs)
    return out


def empty_level1() -> gpd.GeoDataFrame:
    """Level 1 without rows, with all columns in their types.

    Returns
    -------
    geopandas.GeoDataFrame
        As of :func:`level1`.

    Examples
    --------
    >>> empty_level1().columns[:3].tolist()
    ['id', 'id_geohash', 'date']
    """
    feats = gpd.GeoDataFrame({name: np.empty(0) for name in STATISTICS}, geometry=[], crs="EPSG:4326")
    return level1(feats, {"item_id": "none", "time": "1970-01-01"})


def check_ids(level1: pd.DataFrame) -> None:
    """Refuse an id that occurs twice in one image; geohashes may, since objects can share a centroid."""
    twice = level1.duplicated(["image_id", "id"])
    if twice.any():
        row = level1.iloc[int(np.argmax(twice))]
        raise ProductError(
            f"Level 1 holds the id {row['id']} of image {row['image_id']} more than once; "
            "the same image was added twice: keep one of its tables"
        )


def require(frame: pd.DataFrame, columns: Iterable[str], what: str) -> None:
    """Refuse a frame that lacks columns."""
    lacking = [name for name in columns if name not in frame]
    if lacking:
        raise ProductError(f"{what} lacks the columns {', '.join(lacking)}; make it with darts_xr.products")


def version_columns(
    kind: str, level: str, n: int, dataset: str, model: str, threshold: str, information: str = INFORMATION
) -> dict[str, Any]:
    """Make the five DARTS_ columns."""
    texts = (dataset, f"{information} - {kind}", level, model, threshold)
    return {name: as_text([text] * n) for name, text in zip(VERSION_COLUMNS, texts, strict=True)}


def as_text(values: Any) -> Any:
    """Texts as a column holds them."""
    return pd.Series(values, dtype="str").array  # pd.array takes a detour by way of texts of one length
