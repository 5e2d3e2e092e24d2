"""What a run's scenes found, read back with a look at every file: whole, and as it was written."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import geopandas as gpd
import pandas as pd
import pyarrow.parquet as pq
import shapely
from pyproj import CRS
from shapely.geometry.base import BaseGeometry

from darts_xr.products import LEVEL1_COLUMNS, merge_level1
from pipelines.digests import bytes_differ
from pipelines.records import NOT_IN_SOURCE, Record, Run

log = logging.getLogger(__name__)

_READERS = 16  # of small files in an object store
_WGS84 = CRS.from_epsg(4326)
_READ = ("item.json", "level1.parquet")


@dataclass(frozen=True)
class SceneResult:
    """What one scene gives to the products.

    Parameters
    ----------
    record : dict
        Its record.
    footprint : shapely geometry
        Outline of its valid pixels, EPSG:4326.
    level1 : geopandas.GeoDataFrame
        Its objects.
    """

    record: Record
    footprint: BaseGeometry
    level1: gpd.GeoDataFrame

    @property
    def year(self) -> int:
        """Calendar year of the scene."""
        return int(self.record["date"][:4])


@dataclass(frozen=True)
class Results:
    """What the scenes of a run give to the products, and what they lack.

    Parameters
    ----------
    scenes : list of SceneResult
        Finished scenes whose files are those that were written, by id.
    left_out : dict of str
        Scenes of the source without a result, each with the reason.
    foreign : dict of str
        Scenes of the folder that are not in the source.
    """

    scenes: list[SceneResult]
    left_out: dict[str, str]
    foreign: dict[str, str]

    @property
    def footprints(self) -> gpd.GeoDataFrame:
        """Outlines of the valid pixels: ``image_id``, ``date``, ``year``, ``geometry``."""
        rows = [(s.record["id"], s.record["date"], s.year) for s in self.scenes]
        frame = pd.DataFrame(rows, columns=["image_id", "date", "year"]).astype({"year": "int64"})
        shapes = gpd.GeoSeries([s.footprint for s in self.scenes], crs=_WGS84)
        return gpd.GeoDataFrame(frame, geometry=shapes, crs=_WGS84)

    @property
    def level1(self) -> gpd.GeoDataFrame:
        """Objects of all scenes."""
        return merge_level1(scene.level1 for scene in self.scenes)

    @property
    def years(self) -> list[int]:
        """Calendar years that have a scene."""
        return sorted({scene.year for scene in self.scenes})

    def of_years(self, years: Iterable[int]) -> Results:
        """Scenes of some years."""
        wanted = set(years)
        return Results([s for s in self.scenes if s.year in wanted], self.left_out, self.foreign)


def read_results(run: Run, *, years: Iterable[int] | None = None) -> Results:
    """Read the results of a run's finished scenes.

    Footprints and Level 1 are compared with the digests of the record to the byte, the other files by size and time.

    Parameters
    ----------
    run : Run
        The run.
    years : iterable of int, optional
        Only scenes of these years.

    Returns
    -------
    Results
        A scene with a file that is gone or is not what was written stands in ``left_out``, and in the log.
    """
    wanted = None if years is None else set(years)
    asked = [scene for scene in run.done if wanted is None or int(scene["date"][:4]) in wanted]
    with ThreadPoolExecutor(1 if run.home.local else _READERS) as pool:
        found = list(pool.map(lambda scene: _read(run, scene), asked))
    # The kind of failure only: reasons name folders, and products are the same wherever they are made.
    left_out = {scene["id"]: f"failed: {scene['reason'].partition(':')[0]}" for scene in run.failed}
    foreign: dict[str, str] = {}
    absent = {scene["id"] for scene in run.record.get("left_out", []) if scene["left_out"] == NOT_IN_SOURCE}
    for scene_id, reason in run.left_out.items():
        (foreign if scene_id in absent else left_out)[scene_id] = reason
    for scene, result in zip(asked, found, strict=True):
        if isinstance(result, str):
            left_out[scene["id"]] = result
            log.warning(
                "%s is left out: %s. darts-xr detect with the same settings does it again",
                scene["id"],
                result,
            )
    return Results([r for r in found if isinstance(r, SceneResult)], left_out, foreign)


def _read(run: Run, scene: Record) -> SceneResult | str:
    """Results of one scene, or what is wrong with them."""
    outputs, contents = scene["outputs"], dict[str, bytes]()
    for name in _READ:
        try:
            contents[name] = (run.home.scene(scene["id"]) / name).read_bytes()
        except OSError as error:
            return f"its {name} cannot be read ({type(error).__name__})"
        if name not in outputs or bytes_differ(contents[name], outputs[name]):
            return f"its {name} is not what was written"
    rest = {name: facts for name, facts in outputs.items() if name not in _READ}
    if damaged := run.home.differing(scene["id"], rest):
        return f"files are gone or not what was written: {', '.join(damaged)}"
    item: dict[str, Any] = json.loads(contents["item.json"])
    outline = shapely.geometry.shape(item["geometry"]) if item["geometry"] else shapely.MultiPolygon()
    return SceneResult(scene, outline, _level1(contents["level1.parquet"]))


def _level1(content: bytes) -> gpd.GeoDataFrame:
    """Level 1 of a scene; GeoPandas would parse the CRS of each file, which takes longer than all the rest."""
    rows = pq.ParquetFile(io.BytesIO(content)).read(columns=list(LEVEL1_COLUMNS)).to_pandas()
    return gpd.GeoDataFrame(rows.assign(geometry=gpd.GeoSeries.from_wkb(rows["geometry"], crs=_WGS84)))
