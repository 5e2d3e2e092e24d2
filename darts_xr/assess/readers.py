"""Inventories as their authors publish them, read into one form; what was repaired and assumed is told."""

from __future__ import annotations

import logging
import os
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import shapely

from darts_xr.assess.periods import UNDATED, ReferenceTime
from darts_xr.assess.schemas import SCHEMAS
from darts_xr.errors import AssessmentError, CRSError
from darts_xr.products.dated import DATED

log = logging.getLogger(__name__)

_LON, _LAT = ("lon", "longitude", "long"), ("lat", "latitude")
_TABLES = {".csv": ",", ".tsv": "\t", ".txt": None, ".xlsx": None}


@dataclass(frozen=True)
class Inventory:
    """An inventory and how it was read.

    Parameters
    ----------
    features : geopandas.GeoDataFrame
        Valid, non-empty shapes with all columns of the file.
    schema : str
        The published schema it was recognised as, or ``"plain"``.
    time : ReferenceTime
        The columns that date it, as that schema declares them; undated for a plain file, whatever its columns are
        called.
    notes : list of str
        What was repaired, left out or assumed.

    Examples
    --------
    >>> import geopandas as gpd
    >>> Inventory(gpd.GeoDataFrame(geometry=[], crs=4326), "plain").time.declared
    False
    """

    features: gpd.GeoDataFrame
    schema: str
    time: ReferenceTime = UNDATED
    notes: list[str] = field(default_factory=list)


# --- files -------------------------------------------------------------------------------------------------


def _read_file(path: Path, layer: str | None) -> gpd.GeoDataFrame:
    """Read any file that GDAL knows; all folders of a KML, the one shapefile of a zip, the one layer of the others."""
    target = str(path)
    if path.suffix.lower() == ".zip":
        target = _in_zip(path)
    try:
        listed = pyogrio.list_layers(target)
        # Tables without geometry, such as the styles of QGIS, are no layers to choose from.
        layers = [str(name) for name, kind in listed if kind is not None] or [
            str(name) for name in listed[:, 0]
        ]
        if layer is not None and layer not in layers:
            raise AssessmentError(f"{path.name} has no layer {layer!r}, but {', '.join(layers)}")
        if layer is None:  # a product's view shows the features of its layer again
            views = [name for name in layers if name.removesuffix(DATED) in {*layers} - {name}]
            if views:
                log.info("%s: %s, a view of another layer, is not read", path.name, ", ".join(views))
            layers = [name for name in layers if name not in views]
        if layer is None and len(layers) > 1 and path.suffix.lower() not in (".kml", ".kmz"):
            raise AssessmentError(f"{path.name} has the layers {', '.join(layers)}; say which one to read")
        names = layers if layer is None else [layer]
        parts = [gpd.GeoDataFrame(pyogrio.read_dataframe(target, layer=name)) for name in names]
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as error:
        raise AssessmentError(f"{path.name} cannot be read as vectors: {error}") from error
    filled = [part for part in parts if len(part)] or parts[:1]
    frame = filled[0] if len(filled) == 1 else gpd.GeoDataFrame(pd.concat(filled, ignore_index=True))
    if "geometry" not in frame:
        raise AssessmentError(f"{path.name} has no geometry; give a file of points or polygons")
    info = pyogrio.read_info(target, layer=names[0])
    frame.attrs = {str(k): v for k, v in (info["dataset_metadata"] or {}).items()}
    return frame


def _in_zip(path: Path) -> str:
    with zipfile.ZipFile(path) as archive:
        vectors = [
            n for n in archive.namelist() if Path(n).suffix.lower() in (".shp", ".gpkg", ".geojson", ".kml")
        ]
    if len(vectors) != 1:
        found = ", ".join(vectors) or "none"
        raise AssessmentError(
            f"{path.name} must hold one shapefile (or gpkg, geojson, kml); it holds {found}"
        )
    return f"/vsizip/{path.absolute()}/{vectors[0]}"


def _read_table(path: Path, lon: str | None, lat: str | None, crs: Any, notes: list[str]) -> gpd.GeoDataFrame:
    """Read rows with longitude and latitude."""
    if path.suffix.lower() == ".xlsx":
        table = pd.DataFrame(pyogrio.read_dataframe(path, read_geometry=False))
    else:
        table = pd.read_csv(path, sep=_TABLES[path.suffix.lower()], engine="python")
    by_name = {str(name).strip().lower(): name for name in table}
    columns = []
    for given, known, what in ((lon, _LON, "longitude"), (lat, _LAT, "latitude")):
        name = given or next((by_name[k] for k in known if k in by_name), None)
        if name is None or name not in table:
            raise AssessmentError(
                f"{path.name} has no column of {what} among {', '.join(map(str, table))}; name it"
            )
        columns.append(pd.to_numeric(table[name], errors="coerce").to_numpy(np.float64))
    x, y = columns
    if crs is None:
        bad = np.flatnonzero((np.abs(x) > 360) | (np.abs(y) > 90))
        if len(bad):
            raise AssessmentError(
                f"{path.name}: row {bad[0] + 1} has longitude {x[bad[0]]:g} and latitude {y[bad[0]]:g}, which are no "
                "degrees; give the coordinate reference system of the columns"
            )
        notes.append("columns of longitude and latitude, taken as EPSG:4326")
    shapes = np.array(shapely.points(x, y), object)
    shapes[np.isnan(x) | np.isnan(y)] = None
    return gpd.GeoDataFrame(table, geometry=gpd.GeoSeries(shapes, crs=crs or "EPSG:4326"))


def _read(
    path: Path, layer: str | None, lon: str | None, lat: str | None, crs: Any, notes: list[str]
) -> gpd.GeoDataFrame:
    suffix = path.suffix.lower()
    if suffix in _TABLES:
        return _read_table(path, lon, lat, crs, notes)
    if suffix in (".parquet", ".geoparquet"):
        try:
            return gpd.read_parquet(path)
        except (ValueError, OSError) as error:
            raise AssessmentError(f"{path.name} cannot be read as GeoParquet: {error}") from error
    return _read_file(path, layer)


# --- repair ------------------------------------------------------------------------------------------------


def _repaired(frame: gpd.GeoDataFrame, notes: list[str]) -> gpd.GeoDataFrame:
    """Keep shapes that are there, flat and valid; note what had to be done."""
    shapes = np.array(frame.geometry.to_numpy(), object)
    there = ~(pd.isna(shapes) | shapely.is_empty(shapes))
    if not there.all():
        notes.append(f"{int((~there).sum())} row(s) without a shape left out")
    frame, shapes = frame[there], shapes[there]
    if (solid := shapely.has_z(shapes)).any():
        notes.append(f"heights of {int(solid.sum())} shape(s) dropped")
        shapes = shapely.force_2d(shapes)
    broken = np.flatnonzero(~shapely.is_valid(shapes))
    if len(broken):
        notes.append(f"{len(broken)} invalid shape(s) repaired: rows {', '.join(map(str, broken[:5] + 1))}")
        for place in broken:
            fixed = shapely.get_parts(shapely.make_valid(shapes[place]))
            size = shapely.get_dimensions(fixed)
            shapes[place] = shapely.union_all(fixed[size == size.max()])
    twice = int(pd.Series(shapely.to_wkb(shapes)).duplicated().sum())
    if twice:
        notes.append(f"{twice} shape(s) occur more than once and are kept")
    out = frame.reset_index(drop=True)
    return out.set_geometry(gpd.GeoSeries(shapes, crs=frame.crs))


def _located(
    path: Path, crs: Any, layer: str | None, lon: str | None, lat: str | None, notes: list[str]
) -> gpd.GeoDataFrame:
    """Read a file and say where it is."""
    if not path.exists():
        raise AssessmentError(f"inventory not found: {path}")
    frame = _read(path, layer, lon, lat, crs, notes)
    if frame.crs is None:
        if crs is None:
            raise CRSError(f"{path.name} does not say its coordinate reference system; give it")
        frame = frame.set_crs(crs)
        notes.append(f"states no coordinate reference system; {frame.crs.to_string()[:40]} as given")
    elif crs is not None and not frame.crs.equals(crs, ignore_axis_order=True):
        raise CRSError(
            f"{path.name} states {frame.crs.to_string()[:40]}, not {crs}; leave it out or correct the file"
        )
    return frame


# --- labelled public function ------------------------------------------------------------------------------


def read_inventory(
    path: str | os.PathLike[str],
    *,
    crs: Any = None,
    layer: str | None = None,
    lon: str | None = None,
    lat: str | None = None,
) -> Inventory:
    r"""Read an inventory of thaw slumps in whatever form it is published.

    Any vector file that GDAL knows (GeoPackage, shapefile also in a zip, GeoJSON, KML), GeoParquet, and tables with
    longitude and latitude (CSV, xlsx). Published schemas are recognised by their whole set of columns: Lewkowicz and
    Way 2019, Segal 2015, Huang 2022, ARTS, DARTS Level 1 and 2, the truth of a sample world.

    Parameters
    ----------
    path : path
        The file.
    crs : optional
        Coordinate reference system of a file that states none; one that states another is an error.
    layer : str, optional
        Layer of a file with several.
    lon, lat : str, optional
        Columns of a table, where they are not called longitude and latitude, or short for these.

    Returns
    -------
    Inventory
        Features, schema, the columns that date them, and notes. Read at once.

    Raises
    ------
    AssessmentError
        If the file is missing, cannot be read, or holds no shapes.
    CRSError
        If neither the file nor ``crs`` says where it is.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> table = pathlib.Path(tempfile.mkdtemp()) / "points.csv"
    >>> _ = table.write_text("Longitude,Latitude,year\n-122.8,71.1,2016\n")
    >>> read = read_inventory(table)
    >>> len(read.features), read.schema, read.time.declared
    (1, 'plain', False)
    """
    path, notes = Path(path), list[str]()
    frame = _located(path, crs, layer, lon, lat, notes)
    schema, time = "plain", UNDATED
    for candidate in SCHEMAS:
        if candidate.fits(frame):
            schema, time = candidate.name, candidate.time
            frame = candidate.prepare(frame, notes)
            break
    metadata = frame.attrs
    frame = _repaired(frame, notes)
    if frame.empty:
        raise AssessmentError(
            f"{path.name} holds no shape that can be used: {'; '.join(notes) or 'it is empty'}"
        )
    frame.attrs = metadata
    log.info("%s: %d objects, schema %s. %s", path.name, len(frame), schema, "; ".join(notes))
    return Inventory(frame, schema, time, notes)


def read_layer(path: str | os.PathLike[str]) -> gpd.GeoDataFrame:
    """Read detections, a coverage or regions: as :func:`read_inventory` does, with no schema, and also an empty file.

    Parameters
    ----------
    path : path
        The file.

    Returns
    -------
    geopandas.GeoDataFrame
        Valid, non-empty shapes with all columns of the file; no rows where nothing was detected. Read at once.

    Raises
    ------
    AssessmentError
        If the file is missing or cannot be read.
    CRSError
        If it does not say where it is.

    Examples
    --------
    >>> read_layer("level2.parquet")  # doctest: +SKIP
    """
    path, notes = Path(path), list[str]()
    frame = _located(path, None, None, None, None, notes)
    out = _repaired(frame, notes)
    if notes:
        log.warning("%s: %d objects. %s", path.name, len(out), "; ".join(notes))
    return out
