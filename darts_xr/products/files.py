"""Products as files: GeoParquet and GeoPackage, whole or not at all, the same bytes every time."""

from __future__ import annotations

import logging
import re
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Literal

import geopandas as gpd
import numpy as np
import pyogrio

from darts_xr.atomic import write_atomic
from darts_xr.errors import ProductError
from darts_xr.globe import require_crs
from darts_xr.products.dated import add_dated_view
from darts_xr.products.styles import add_style, coloured_by

log = logging.getLogger(__name__)

Kind = Literal["features", "coverage"]
Level = Literal["level1", "level2", "union", "intersect"]

_MOMENT = (
    "2000-01-01T00:00:00.000Z"  # a GeoPackage states when it was changed last; a fixed moment keeps its bytes
)
_ROW_GROUP = 20_000


def product_name(name: str, kind: Kind, years: Iterable[int], level: Level) -> str:
    """File stem of a product, as in the paper's Table 4.

    Parameters
    ----------
    name : str
        Base name of the data set.
    kind : {"features", "coverage"}
        Objects or footprints.
    years : iterable of int
        Years in the product; first and last are named, a single one alone.
    level : {"level1", "level2", "union", "intersect"}
        Level of the features or kind of the coverage.

    Returns
    -------
    str
        ``<name>_<kind>_<years>_<level>``.

    Raises
    ------
    ProductError
        If there is no year or the name is not fit for a file.

    Examples
    --------
    >>> product_name("DARTS_NitzeEtAl_v1-2", "features", range(2018, 2024), "level1")
    'DARTS_NitzeEtAl_v1-2_features_2018-2023_level1'
    """
    span = sorted({int(year) for year in years})
    if not span:
        raise ProductError(f"{name} {kind} {level}: a product's name needs at least one year")
    if not re.fullmatch(r"[\w.-]+", name) or name.startswith("."):
        raise ProductError(f"{name!r} is not fit for a file name; use letters, digits, '-', '_' and '.'")
    when = str(span[0]) if len(span) == 1 else f"{span[0]}-{span[-1]}"
    return f"{name}_{kind}_{when}_{level}"


def write_vectors(
    gdf: gpd.GeoDataFrame,
    stem: str | Path,
    *,
    formats: Iterable[str] = ("parquet", "gpkg"),
    metadata: Mapping[str, str] | None = None,
) -> list[Path]:
    """Write a product as GeoParquet 1.1 (with bbox covering) and GeoPackage.

    Rows are sorted along a Hilbert curve, so that a window is read from few row groups. A file appears under
    its name only when it is whole: on a failure the file of before stays. Equal frames give equal bytes. A GeoPackage
    of objects also holds a style for QGIS (table ``layer_styles``), which colours them by mean probability, and a view
    ``<layer>_dated`` of the same features with their dates as dates.

    Parameters
    ----------
    gdf : geopandas.GeoDataFrame
        The product; may be empty.
    stem : str or path
        Path without suffix; the GeoPackage's layer has the same name as the file.
    formats : iterable of {"parquet", "gpkg"}
        What to write.
    metadata : mapping of str to str, optional
        What made the product: in the GeoPackage's metadata tables, in the GeoParquet as the frame's
        ``attrs``.

    Returns
    -------
    list of pathlib.Path
        The files.

    Raises
    ------
    ProductError
        If a file cannot be written, a format is unknown or columns have no portable type.
    CRSError
        If the frame has no CRS.

    Examples
    --------
    >>> import geopandas as gpd, shapely, tempfile
    >>> frame = gpd.GeoDataFrame({"year": [2021]}, geometry=[shapely.box(0, 70, 1, 71)], crs=4326)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     [path.name for path in write_vectors(frame, folder + "/cover")]
    ['cover.parquet', 'cover.gpkg']
    """
    require_crs(gdf, "the product")
    stem = Path(stem)
    frame = hilbert_sorted(gdf)
    frame.attrs = dict(metadata or {})
    writers: dict[str, Callable[[Path], None]] = {
        "parquet": lambda path: _write_parquet(frame, path),
        "gpkg": lambda path: _write_geopackage(frame, path, stem.name, dict(metadata or {})),
    }
    written = []
    for fmt in formats:
        if fmt not in writers:
            raise ProductError(f"format must be one of {', '.join(writers)}, got {fmt!r}")
        path = stem.with_name(f"{stem.name}.{fmt}")
        write_product(path, writers[fmt])
        written.append(path)
    return written


def hilbert_sorted(gdf: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """Sort rows along a Hilbert curve over the whole globe; rows without geometry come first."""
    filled = ~(gdf.geometry.is_empty | gdf.geometry.isna()).to_numpy()
    key = np.zeros(len(gdf), np.int64)
    if filled.any():
        whole = (-180, -90, 180, 90) if gdf.crs.is_geographic else None
        key[filled] = gdf.geometry[filled].hilbert_distance(total_bounds=whole).to_numpy()
    out = gdf.iloc[np.argsort(key, kind="stable")].reset_index(drop=True)
    out.attrs = {}  # a file describes its columns; what happened on the way is in the run's record
    return out


def write_product(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file whole or not at all; what goes wrong is told with its name.

    Raises
    ------
    ProductError
    """
    try:
        write_atomic(path, write)
    except (OSError, sqlite3.Error, pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as error:
        raise ProductError(
            f"{path.name} could not be written ({error}); the file of before, if any, is unchanged. "
            "Check free space and permissions of its folder, then write again"
        ) from error
    log.info("wrote %s", path.name)


def _write_parquet(frame: gpd.GeoDataFrame, path: Path) -> None:
    frame.to_parquet(
        path, index=False, compression="zstd", schema_version="1.1.0", write_covering_bbox=True,
        row_group_size=_ROW_GROUP,
    )  # fmt: skip


def _write_geopackage(frame: gpd.GeoDataFrame, path: Path, layer: str, metadata: dict[str, str]) -> None:
    before = pyogrio.get_gdal_config_option("OGR_CURRENT_DATE")
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": _MOMENT})
    try:
        pyogrio.write_dataframe(
            frame,
            path,
            layer=layer,
            driver="GPKG",
            geometry_type="MultiPolygon",
            promote_to_multi=True,
            dataset_metadata=metadata or None,
        )
    finally:
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": before})
    if column := coloured_by(frame.columns):
        dated = add_dated_view(path, layer, frame.columns, _MOMENT)
        add_style(path, [layer, *([dated] if dated else [])], column, _MOMENT)
