"""From the scenes of a run to its products: Level 1 of all images, Level 2 a year, and the coverage files."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray
from pyproj import CRS
from upath import UPath

import darts_xr as dx
from darts_xr.errors import PipelineError
from darts_xr.products import LEVEL1_COLUMNS, merge_level1, product_name, update_level2, write_vectors
from darts_xr.products.files import Kind
from pipelines.records import Record, Run, open_run

_READERS = 16  # of small files in an object store
_T = TypeVar("_T")
_WGS84 = CRS.from_epsg(4326)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Products:
    """The products of a run, in memory and on disk.

    Parameters
    ----------
    level1, level2 : geopandas.GeoDataFrame
        Objects per image and per year, columns of the paper's Tables 5 and 6.
    coverage : dict of geopandas.GeoDataFrame
        ``level1``, ``level2``, ``union``, ``intersect``.
    files : list of path
        What was written.
    """

    level1: gpd.GeoDataFrame
    level2: gpd.GeoDataFrame
    coverage: dict[str, gpd.GeoDataFrame]
    files: list[Path | UPath] = field(default_factory=list)


def read_footprints(run: Run) -> gpd.GeoDataFrame:
    """Outlines of the valid pixels of a run's scenes: ``image_id``, ``date``, ``year``, ``geometry``."""
    rows, shapes = [], []
    texts = _of_each(lambda path: (path / "item.json").read_text(encoding="utf-8"), run, run.done)
    for scene, text in zip(run.done, texts, strict=True):
        item = json.loads(text)
        rows.append({"image_id": scene["id"], "date": scene["date"], "year": int(scene["date"][:4])})
        shapes.append(
            shapely.geometry.shape(item["geometry"]) if item["geometry"] else shapely.MultiPolygon()
        )
    frame = pd.DataFrame(rows, columns=["image_id", "date", "year"]).astype({"year": "int64"})
    return gpd.GeoDataFrame(frame, geometry=gpd.GeoSeries(shapes, crs="EPSG:4326"), crs="EPSG:4326")


def read_level1(run: Run, *, years: Iterable[int] | None = None) -> gpd.GeoDataFrame:
    """Level 1 of all finished scenes of a run, with running ids."""
    wanted = None if years is None else set(years)
    scenes = [scene for scene in run.done if wanted is None or int(scene["date"][:4]) in wanted]
    return merge_level1(_of_each(_read_scene, run, scenes))


def _of_each(read: Callable[[Path | UPath], _T], run: Run, scenes: list[Record]) -> list[_T]:
    """Read a file of each scene's folder; several at once, since an object store takes its time for each."""
    with ThreadPoolExecutor(1 if run.home.local else _READERS) as pool:
        return list(pool.map(lambda scene: read(run.home.scene(scene["id"])), scenes))


def _read_scene(place: Path | UPath) -> gpd.GeoDataFrame:
    """Level 1 of a scene; GeoPandas would parse the CRS of each file, which takes longer than all the rest."""
    with (place / "level1.parquet").open("rb") as file:
        rows = pq.ParquetFile(file).read(columns=list(LEVEL1_COLUMNS)).to_pandas()
    return gpd.GeoDataFrame(rows.assign(geometry=gpd.GeoSeries.from_wkb(rows["geometry"], crs=_WGS84)))


def _read_parquet(path: Path | UPath) -> gpd.GeoDataFrame:
    with path.open("rb") as file:  # wherever it lies
        return gpd.read_parquet(file)


def _read_product(path: Path | UPath) -> gpd.GeoDataFrame | None:
    """Read a product that an earlier call wrote; None where there is none, or none that can be read."""
    if not path.exists():
        return None
    try:
        return _read_parquet(path)
    except (OSError, ValueError) as error:
        log.warning("%s cannot be read and is made anew: %s", path, error)
        return None


def aggregate(
    run: str | os.PathLike[str] | Run,
    *,
    years: Iterable[int] | None = None,
    name: str = "darts_xr",
    by_year: bool = False,
) -> Products:
    """Write Level 1, Level 2 and coverage of a run to ``RUN/products``.

    After new scenes only what they touch is dissolved anew, and only products that changed are written.

    Parameters
    ----------
    run : path or Run
        A run of :func:`pipelines.detect`.
    years : iterable of int, optional
        Calendar years to take; by default all.
    name : str, optional
        Base name of the products.
    by_year : bool, optional
        One set of products a calendar year instead of one of all years, so that new scenes leave the files of other
        years as they are.

    Returns
    -------
    Products
        Frames and files.

    Raises
    ------
    PipelineError
        When the run has no finished scene in these years.

    Examples
    --------
    >>> products = aggregate("run", years=range(2021, 2024))  # doctest: +SKIP
    """
    run = run if isinstance(run, Run) else open_run(run)
    footprints = _footprints(run, years)
    if not by_year:
        return _products(run, footprints, name)
    parts = [_products(run, seen, name) for _, seen in footprints.groupby("year")]
    cover = dx.coverage(footprints)
    level2 = pd.concat([part.level2 for part in parts], ignore_index=True)
    level2["id"] = np.arange(1, len(level2) + 1, dtype=np.int64)
    files = [file for part in parts for file in part.files]
    return Products(merge_level1(part.level1 for part in parts), level2, cover, files)


def _products(run: Run, footprints: gpd.GeoDataFrame, name: str) -> Products:
    """Build and write one set of products."""
    cover, span = dx.coverage(footprints.reset_index(drop=True)), _span(footprints)
    level1 = read_level1(run, years=span)
    level2 = _level2(level1, run.folder / "products", name)
    files = _write(run, "features", {"level1": level1, "level2": level2}, name, span)
    return Products(level1, level2, cover, files + _write(run, "coverage", cover, name, span))


def _level2(level1: gpd.GeoDataFrame, folder: Path | UPath, name: str) -> gpd.GeoDataFrame:
    """Level 2 of all rows; where products of a part of them are at hand, only what the new rows touch is dissolved."""
    best: tuple[gpd.GeoDataFrame, gpd.GeoDataFrame, gpd.GeoDataFrame] | None = None
    rows = _row_hashes(level1)
    for found in sorted(str(path.name) for path in folder.glob(f"{name}_features_*_level1.parquet")):
        path, dissolved = folder / found, folder / found.replace("_level1.parquet", "_level2.parquet")
        before, features = _read_product(path), _read_product(dissolved)
        if before is None or features is None:
            continue
        known = level1["image_id"].isin(before["image_id"])
        if sorted(_row_hashes(before)) == sorted(rows[known]) and (
            best is None or len(before) > len(best[1])
        ):
            best = features, level1[known], level1[~known]
    return dx.level2(level1) if best is None else update_level2(*best)


def _row_hashes(frame: gpd.GeoDataFrame) -> NDArray[np.integer]:
    """One number a row that changes with any of its values but the running id."""
    plain = pd.DataFrame(frame.drop(columns=["id", "geometry"], errors="ignore"))
    wkb = frame.geometry.to_wkb(hex=True)
    return pd.util.hash_pandas_object(plain.assign(wkb=wkb), index=False).to_numpy()


def coverage(
    run: str | os.PathLike[str] | Run,
    *,
    years: Iterable[int] | None = None,
    name: str = "darts_xr",
) -> Products:
    """Write only the coverage files of a run; see :func:`aggregate`."""
    run = run if isinstance(run, Run) else open_run(run)
    footprints = _footprints(run, years)
    cover = dx.coverage(footprints)
    files = _write(run, "coverage", cover, name, _span(footprints))
    empty = merge_level1([])
    return Products(empty, dx.level2(empty), cover, files)


def _footprints(run: Run, years: Iterable[int] | None) -> gpd.GeoDataFrame:
    """Outlines of the finished scenes of these years, of which there must be one."""
    footprints = read_footprints(run)
    if years is not None:
        footprints = footprints[footprints["year"].isin(list(years))].reset_index(drop=True)
    if footprints.empty:
        raise PipelineError(
            f"{run.folder} has no finished scene{'' if years is None else ' in these years'}; "
            f"of {len(run.scenes)} scenes {len(run.failed)} failed. See darts-xr report for the reasons."
        )
    return footprints


def _span(footprints: gpd.GeoDataFrame) -> list[int]:
    return sorted({int(year) for year in footprints["year"]})


def _write(
    run: Run, kind: Kind, frames: dict[str, gpd.GeoDataFrame], name: str, span: list[int]
) -> list[Path | UPath]:
    """Write the products of one kind, by level, as GeoParquet and GeoPackage."""
    files: list[Path | UPath] = []
    with run.home.staging("products") as folder:
        for level, frame in frames.items():
            stem = product_name(name, kind, span, level)  # type: ignore[arg-type]
            places = [run.folder / "products" / f"{stem}.{suffix}" for suffix in ("parquet", "gpkg")]
            made_by = {**_made_by(run, span), "content": _content(frame)}
            before = _read_product(places[0]) if places[1].exists() else None
            if before is None or before.attrs != made_by:
                write_vectors(frame, folder / stem, metadata=made_by)
            files += places
    return files


def _content(frame: gpd.GeoDataFrame) -> str:
    """Digest of a frame's rows, whatever their order."""
    return hashlib.sha256(np.sort(_row_hashes(frame)).tobytes()).hexdigest()[:16]


def _made_by(run: Run, years: list[int]) -> dict[str, str]:
    record = run.record
    made_by = {
        "darts_xr": dx.__version__,
        "checkpoints": ", ".join(f"{c['name']}:{c['sha256']}" for c in record["checkpoints"]),
        "batch_norm": record["batch_norm"],
        "rules": json.dumps(record["rules"], sort_keys=True),
        "auxiliary": record["auxiliary"],
        "items": ", ".join(scene["id"] for scene in run.done if int(scene["date"][:4]) in years),
    }
    if record["synthetic"]:
        made_by["synthetic"] = "made from synthetic scenes, no real observation"
    return made_by
