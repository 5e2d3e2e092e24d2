"""Dates as dates: a view in a GeoPackage, beside the published columns, which hold them as text."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

#: Name of the view of a layer: the layer's, and this.
DATED = "_dated"
#: Published columns of text, and the columns of the view that hold the same as DATE.
DAYS = {"date": "day", "earliest_date": "earliest_day", "latest_date": "latest_day"}


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def add_dated_view(path: Path, layer: str, columns: Iterable[str], moment: str) -> str | None:
    """Add a view of a layer to its GeoPackage: its columns, and its dates as DATE.

    The view is a layer of features, so that QGIS opens it and can filter and animate it by date. A view takes its types
    from the tables that it reads, and an expression has none: so the days stand once in a table of their own.

    Parameters
    ----------
    path : path
        The GeoPackage.
    layer : str
        Its layer.
    columns : iterable of str
        Columns of the layer.
    moment : str
        When it was made, as the file says it; a fixed one keeps the file's bytes.

    Returns
    -------
    str or None
        Name of the view; None where the layer has no dates.

    Raises
    ------
    sqlite3.Error
        When the file cannot be written.
    """
    found = {text: day for text, day in DAYS.items() if text in set(columns)}
    if not found:
        return None
    view, days = layer + DATED, _quoted(layer + "_days")
    table = _quoted(layer)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(f"CREATE TABLE {days} (day DATE PRIMARY KEY NOT NULL)")
        texts = " UNION ".join(
            f"SELECT DISTINCT {text} FROM {table} WHERE {text} IS NOT NULL" for text in found
        )
        db.execute(f"INSERT INTO {days} {texts} ORDER BY 1")
        names = [str(row[1]) for row in db.execute(f"PRAGMA table_info({table})")]
        # GDAL takes a column of this name for the number of the feature.
        shown = ["t.fid AS OGC_FID", *(f"t.{_quoted(name)}" for name in names if name != "fid")]
        shown += [f"{text}_in.day AS {day}" for text, day in found.items()]
        joins = " ".join(f"LEFT JOIN {days} {text}_in ON {text}_in.day = t.{text}" for text in found)
        db.execute(f"CREATE VIEW {_quoted(view)} AS SELECT {', '.join(shown)} FROM {table} t {joins}")
        db.execute(
            "INSERT INTO gpkg_contents SELECT ?, data_type, ?, ?, ?, min_x, min_y, max_x, max_y, srs_id "
            "FROM gpkg_contents WHERE table_name = ?",
            (view, view, f"{layer} with its dates as dates", moment, layer),
        )
        db.execute(
            "INSERT INTO gpkg_geometry_columns SELECT ?, column_name, geometry_type_name, srs_id, z, m "
            "FROM gpkg_geometry_columns WHERE table_name = ?",
            (view, layer),
        )
    return view
