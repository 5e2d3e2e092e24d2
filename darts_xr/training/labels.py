"""Label polygons of any origin, read and repaired: what they show, on which image, and since which iteration.

Made for label sets as they are: the published ones (Nitze, ML_training_labels, Zenodo) name their columns alike but
store them in different types, leave ids and labels out and cut an id short; files from QGIS may hold no more than
geometry, and say by hand which image or day they belong to.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from darts_xr.errors import CRSError, LabelError, UnknownProductError
from darts_xr.globe import EQUAL_AREA
from darts_xr.planet.names import scene_datetime
from darts_xr.training.burn import KINDS

#: What the values of a column ``label`` mean.
CLASSES: Mapping[str, str] = {"1": "slump", "0": "negative"}

COLUMNS = ("image_id", "date", "region", "iteration", "kind", "source", "row", "geometry")
_ID_COLUMNS = ("image_id", "item_id", "scene_id")
_DATE_COLUMNS = ("image_date", "date", "datetime")
_ITERATION = re.compile(r"iteration_?(\d+)", re.IGNORECASE)
_STRICT = {"extra": "forbid", "coerce_numbers_to_str": True}  # YAML reads 1 as a number


@dataclass(frozen=True)
class LabelFile:
    """A vector file of outlines, and what it does not say itself.

    Parameters
    ----------
    path : str
        Any format that GDAL reads, or GeoParquet.
    iteration : str, optional
        Iteration of the label set; by default from the file's name, else ``"unknown"``.
    region : str, optional
        Region of all outlines where the file has no column ``region``.
    image_id, date : str, optional
        Image, or day (YYYY-MM-DD), of all outlines where the file has no such column.
    classes : dict
        Meaning of each value in a column ``label``: ``"slump"``, ``"negative"`` or ``"ignore"``.
    """

    path: str
    iteration: str | None = None
    region: str | None = None
    image_id: str | None = None
    date: str | None = None
    classes: Mapping[str, str] = field(default_factory=lambda: dict(CLASSES), hash=False)

    __pydantic_config__ = _STRICT

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.classes.values()) - set(KINDS)):
            raise LabelError(
                f"{self.path}: classes name {', '.join(unknown)}; a label is one of {', '.join(KINDS)}"
            )


@dataclass(frozen=True)
class Labels:
    """Outlines of a label set and the images that were looked at for it.

    Parameters
    ----------
    outlines : geopandas.GeoDataFrame
        One row an outline, EPSG:4326: ``image_id`` (or None), ``date`` (YYYY-MM-DD or None), ``region``,
        ``iteration``, ``kind`` (``"slump"``, ``"negative"``, ``"ignore"``), ``source`` and ``row`` (file, and place in
        it).
    footprints : geopandas.GeoDataFrame
        Images that were labelled, EPSG:4326: ``image_id``, ``iteration``. One without outlines shows no slump.
    notes : dict
        What reading did: outlines that were repaired, left out, without label, copied.
    """

    outlines: gpd.GeoDataFrame
    footprints: gpd.GeoDataFrame
    notes: dict[str, int] = field(hash=False)

    @property
    def iterations(self) -> tuple[str, ...]:
        """Names of the iterations, in order."""
        return tuple(sorted({*self.outlines["iteration"], *self.footprints["iteration"]}))

    @property
    def version(self) -> str:
        """Last iteration and a digest of all outlines: the same labels, the same version."""
        digest = hashlib.sha256()
        keys = self.outlines[["image_id", "date", "kind"]].astype(str).agg("|".join, axis=1).to_numpy()
        shapes = shapely.to_wkb(shapely.normalize(self.outlines.geometry.to_numpy()))
        for part in sorted(f"{key}|{bytes(shape).hex()}" for key, shape in zip(keys, shapes, strict=True)):
            digest.update(part.encode())
        last = self.iterations[-1] if self.iterations else "empty"
        return f"{last}-{digest.hexdigest()[:8]}"

    def up_to(self, iteration: str) -> Labels:
        """Labels as they stood after an iteration.

        Raises
        ------
        LabelError
            There is no such iteration.
        """
        if iteration not in self.iterations:
            raise LabelError(f"no iteration {iteration!r}; there are {', '.join(self.iterations)}")
        known = self.iterations[: self.iterations.index(iteration) + 1]
        return replace(
            self,
            outlines=self.outlines[self.outlines["iteration"].isin(known)].reset_index(drop=True),
            footprints=self.footprints[self.footprints["iteration"].isin(known)].reset_index(drop=True),
        )


# --- one file ----------------------------------------------------------------------------------------------


def _read_vector(path: str) -> gpd.GeoDataFrame:
    if not Path(path).exists():
        raise LabelError(f"Label file not found: {path}")
    try:
        frame = gpd.read_parquet(path) if path.endswith((".parquet", ".geoparquet")) else gpd.read_file(path)
    except Exception as error:  # whatever driver reads it raises errors of its own
        raise LabelError(f"{path} cannot be read as a vector file: {error}") from error
    if not isinstance(frame, gpd.GeoDataFrame) or frame.geometry.isna().all():
        raise LabelError(f"{path} holds no geometry.")
    if frame.crs is None:
        raise CRSError(
            f"{path} has no coordinate reference system. Set the right one in QGIS, or add the .prj file that belongs "
            "to it; it is never guessed."
        )
    return frame


def _polygons(shapes: NDArray[np.object_]) -> NDArray[np.object_]:
    """Polygonal part of shapes, without heights; None where there is none."""
    flat = shapely.force_2d(shapes)
    valid = shapely.is_valid(flat)
    flat[~valid] = shapely.make_valid(flat[~valid])
    out = np.full(len(flat), None, object)
    for place, shape in enumerate(flat):
        parts = (
            [] if shape is None else [p for p in shapely.get_parts(shape) if p.geom_type.endswith("Polygon")]
        )
        joined = (
            shape if shape is not None and shape.geom_type.endswith("Polygon") else shapely.union_all(parts)
        )
        if joined is not None and not joined.is_empty:
            out[place] = joined
    return out


def _first(frame: pd.DataFrame, names: Sequence[str]) -> pd.Series | None:
    return next((frame[name] for name in names if name in frame), None)


def _kinds(frame: pd.DataFrame, file: LabelFile) -> tuple[NDArray[np.object_], int]:
    """Kind of each outline, and how many had no label and count as slumps."""
    if "label" not in frame:
        return np.full(len(frame), "slump", object), 0
    kinds, unsaid = np.empty(len(frame), object), 0
    for place, value in enumerate(frame["label"]):
        if (
            value is None
            or value is pd.NA
            or (isinstance(value, float) and np.isnan(value))
            or str(value).strip() == ""
        ):
            # A polygon in a file of slumps whose label was left empty; the published iteration 3 has 20 of them.
            kinds[place], unsaid = "slump", unsaid + 1
            continue
        text = (
            str(int(value))
            if isinstance(value, int | float | np.number) and value == int(value)
            else str(value)
        )
        if text not in file.classes:
            raise LabelError(
                f"{file.path}: row {place} has the label {value!r}, whose meaning is unknown; known are "
                f"{', '.join(f'{k} ({v})' for k, v in file.classes.items())}. Say with classes what it means: slump, "
                "negative (no slump), or ignore (not sure)."
            )
        kinds[place] = file.classes[text]
    return kinds, unsaid


def date_of(image_id: Any, stated: Any) -> str | None:
    """Day of an image: from its id, which is never mangled, else as stated; None where neither is a date."""
    if isinstance(image_id, str) and image_id:
        try:
            return f"{scene_datetime(image_id):%Y-%m-%d}"
        except UnknownProductError:
            found = re.search(r"(?<!\d)(\d{4})-?(\d{2})-?(\d{2})(?!\d)", image_id)
            if found and not pd.isna(pd.to_datetime("-".join(found.groups()), errors="coerce")):
                return "-".join(found.groups())
    moment = pd.to_datetime(stated, errors="coerce", utc=True)
    return None if pd.isna(moment) else f"{moment:%Y-%m-%d}"


def _read_one(file: LabelFile) -> tuple[gpd.GeoDataFrame, dict[str, int]]:
    frame = _read_vector(file.path)
    ids, dates = _first(frame, _ID_COLUMNS), _first(frame, _DATE_COLUMNS)
    if ids is None and dates is None and file.image_id is None and file.date is None:
        raise LabelError(
            f"{file.path} has neither image ids ({', '.join(_ID_COLUMNS)}) nor dates ({', '.join(_DATE_COLUMNS)}), so "
            "no one can tell which image its outlines were drawn on. Add such a column, or state image_id or date."
        )
    kinds, unsaid = _kinds(frame, file)
    named = [None if pd.isna(v) else str(v) for v in ids] if ids is not None else [file.image_id] * len(frame)
    stated = list(dates) if dates is not None else [file.date] * len(frame)
    numbered = _ITERATION.search(Path(file.path).stem)
    regions = frame["region"] if "region" in frame else pd.Series([file.region] * len(frame))
    before = np.array(frame.geometry.to_numpy(), object)
    shapes = _polygons(before)
    out = gpd.GeoDataFrame(
        {
            "image_id": pd.Series(named, dtype=object),
            "date": pd.Series([date_of(i, d) for i, d in zip(named, stated, strict=True)], dtype=object),
            "region": [str(r) if isinstance(r, str) else file.region or "unknown" for r in regions],
            "iteration": file.iteration or (f"iteration{int(numbered[1]):03d}" if numbered else "unknown"),
            "kind": kinds,
            "source": Path(file.path).name,
            "row": np.arange(len(frame)),
        },
        geometry=gpd.GeoSeries(list(shapes), crs=frame.crs),
    ).to_crs("EPSG:4326")
    empty = out.geometry.isna().to_numpy()
    notes = {
        "repaired": int((~shapely.is_valid(before) & ~empty).sum()),
        "without_polygon": int(empty.sum()),
        "without_label": unsaid,
    }
    return out[~empty], notes


# --- labelled public functions -----------------------------------------------------------------------------


def read_labels(
    files: Sequence[LabelFile | str], *, footprints: Sequence[str] = (), negatives: Sequence[str] = ()
) -> Labels:
    """Read a label set.

    Parameters
    ----------
    files : sequence of LabelFile or str
        Files of outlines.
    footprints : sequence of str
        Files of the images that were looked at, with a column ``image_id``; the iteration is in the name or in a
        column. Outside of an image's footprint nothing is known, and an image without outlines shows no slump.
    negatives : sequence of str
        Ids of further images that were looked at and show no slump.

    Returns
    -------
    Labels
        Repaired, in EPSG:4326; outlines that stand twice are counted in ``notes``. Computed at once.

    Raises
    ------
    LabelError
        A file is missing, holds neither ids nor dates, or a label whose meaning is unknown.
    CRSError
        A file has no CRS.

    Notes
    -----
    The label set of Nitze et al. 2025 (Sci. Data 12:1512), Table 3.

    Examples
    --------
    >>> labels = read_labels(["TrainingLabel_iteration002.gpkg"])  # doctest: +SKIP
    """
    given = [file if isinstance(file, LabelFile) else LabelFile(file) for file in files]
    if not given:
        raise LabelError("No label file given.")
    frames, notes = [], {"outlines": 0, "repaired": 0, "without_polygon": 0, "without_label": 0}
    for file in given:
        frame, noted = _read_one(file)
        frames.append(frame)
        for key, count in noted.items():
            notes[key] += count
    outlines = gpd.GeoDataFrame(pd.concat(frames, ignore_index=True), geometry="geometry", crs="EPSG:4326")
    notes["outlines"] = len(outlines)
    shapes = shapely.to_wkb(shapely.normalize(outlines.geometry.to_numpy()))
    centres = shapely.centroid(outlines.geometry.to_numpy())
    places = pd.MultiIndex.from_arrays(
        [np.round(shapely.get_x(centres), 9), np.round(shapely.get_y(centres), 9)]
    )
    # Mostly one outline copied to each of several overlapping images, which is as it should be.
    notes["equal_centroids"] = int((places.duplicated() & (outlines["kind"] == "slump").to_numpy()).sum())
    twice = pd.DataFrame(
        {"i": outlines["image_id"], "d": outlines["date"], "s": shapes, "k": outlines["kind"]}
    ).duplicated()
    notes["twice_on_one_image"] = int(twice.sum())
    seen = [_read_footprints(path) for path in footprints]
    if negatives:
        seen.append(
            gpd.GeoDataFrame(
                {"image_id": list(negatives), "iteration": "unknown"},
                geometry=[None] * len(negatives),
                crs="EPSG:4326",
            )
        )
    empty = gpd.GeoDataFrame({"image_id": [], "iteration": []}, geometry=[], crs="EPSG:4326")
    looked_at = pd.concat(seen, ignore_index=True) if seen else empty
    return Labels(outlines, gpd.GeoDataFrame(looked_at, geometry="geometry", crs="EPSG:4326"), notes)


def _read_footprints(path: str) -> gpd.GeoDataFrame:
    frame = _read_vector(path)
    if (ids := _first(frame, _ID_COLUMNS)) is None:
        raise LabelError(f"{path} has no column image_id, so its footprints belong to no image.")
    numbered = _ITERATION.search(Path(path).stem)
    name = f"iteration{int(numbered[1]):03d}" if numbered else "unknown"
    iteration = frame["iteration"].astype(str) if "iteration" in frame else name
    out = gpd.GeoDataFrame(
        {"image_id": ids.astype(str), "iteration": iteration}, geometry=frame.geometry, crs=frame.crs
    )
    return out.to_crs("EPSG:4326")


def label_statistics(labels: Labels) -> pd.DataFrame:
    """Images, outlines, area and days of each iteration, as in the paper's Table 3.

    Parameters
    ----------
    labels : Labels
        From :func:`read_labels`.

    Returns
    -------
    pandas.DataFrame
        By ``iteration``: ``images``, ``features``, ``images_with_slumps``, ``images_without_slumps``, ``first``,
        ``last`` (YYYY-MM-DD), ``area_km2`` (in a pole-centred equal-area projection). An image counts once.

    Notes
    -----
    Nitze et al. 2025, Table 3, counts 5 images without slumps in iteration 5, because its outlines name their images
    with the last character missing; here such ids are completed from the footprints.

    Examples
    --------
    >>> label_statistics(labels)  # doctest: +SKIP
    """
    rows = []
    area = shapely.area(labels.outlines.geometry.to_crs(EQUAL_AREA).to_numpy()) / 1e6
    for iteration in labels.iterations:
        chosen = (labels.outlines["iteration"] == iteration).to_numpy()
        outlines = labels.outlines[chosen]
        looked_at = set(labels.footprints.loc[labels.footprints["iteration"] == iteration, "image_id"])
        slumps = outlines[outlines["kind"] == "slump"]
        named = {complete_id(i, looked_at) or i for i in slumps["image_id"].dropna()}
        images = named | looked_at
        dates = sorted(d for d in {*outlines["date"], *(date_of(i, None) for i in looked_at)} if d)
        rows.append(
            {
                "iteration": iteration,
                "images": len(images),
                "features": len(slumps),
                "images_with_slumps": len(named),
                "images_without_slumps": len(images - named),
                "first": dates[0] if dates else None,
                "last": dates[-1] if dates else None,
                "area_km2": float(area[chosen].sum()),
            }
        )
    return pd.DataFrame(rows).set_index("iteration")


def complete_id(image_id: str, known: set[str]) -> str | None:
    """Id among the known ones that an id means: itself, itself with zeros, or the only one it is the beginning of."""
    if image_id in known:
        return image_id
    plain = {re.sub(r"_0*(\d{1,2})_(?=[0-9a-f]{4}$)", r"_\1_", name): name for name in known}
    bare = re.sub(r"_0*(\d{1,2})_(?=[0-9a-f]{4}$)", r"_\1_", image_id)
    if bare in plain:
        return plain[bare]
    longer = [name for name in known if name[:-1] == image_id]
    return longer[0] if len(longer) == 1 else None
