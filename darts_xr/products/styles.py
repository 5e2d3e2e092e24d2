"""How products look where they are opened: colour tables of rasters, a style in a GeoPackage."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from darts_xr.percent import NO_DATA

# Matplotlib's "magma"; Matplotlib loads slowly, and only notebooks need the rest of it.
_MAGMA = (
    "00000401010602020b03030f05041606051a0907200b09240e0b2b120d31140e36180f3d1a10421e114921114e25125529115a"
    "2d116133106736106b3b0f703f0f72440f764710784c117a51127c54137d59157e5c167f601880641a80681c816b1d81701f81"
    "7521817822817c23828025828426818827818c2981902a81942c80992d809c2e7fa1307ea5317eaa337dad347cb2357bb73779"
    "ba3878bf3a77c23b75c73d73ca3e72cf4070d2426fd6456cdb476ade4968e24d66e44f64e85362ea5661ed5a5fef5d5ef2625d"
    "f4675cf56b5cf7705cf8745cf9795dfa7d5efb835ffc8961fc8c63fd9266fd9668fd9b6bfe9f6dfea571fea973feae77feb47b"
    "feb77efebd82fec185fec68afeca8dfecf92fed395fed89afddea0fde2a3fde7a9fdebacfcf0b2fcf4b6fcf9bbfcfdbf"
)
#: Colours of a probability of 0 to 100 %, (101, 3) uint8.
HEAT_COLOURS = np.frombuffer(bytes.fromhex(_MAGMA), np.uint8).reshape(101, 3)
_CLEAR: dict[int, tuple[int, ...]] = {NO_DATA: (0, 0, 0, 0)}
#: Colour table (red, green, blue, alpha) of the rasters of a scene, by name; no data are clear.
PALETTES: dict[str, dict[int, tuple[int, ...]]] = {
    "probability": {percent: (*colour, 255) for percent, colour in enumerate(HEAT_COLOURS.tolist())} | _CLEAR,
    "binary": {0: (235, 235, 235, 255), 1: (213, 94, 0, 255)} | _CLEAR,
}

#: Column of Level 1 and of Level 2 that features are coloured by.
_COLOURED_BY = ("pval_mean", "pval_mean_of_mean_level1")
# Matplotlib's viridis from the light end: little is pale, much is dark.
_CLASSES = (
    (0.5, "94,201,98"),
    (0.6, "33,145,140"),
    (0.7, "44,114,142"),
    (0.8, "59,82,139"),
    (0.9, "68,1,84"),
)
_BELOW = "253,231,37"  # thresholds of less than 0.5
_TABLE = """CREATE TABLE layer_styles (id INTEGER PRIMARY KEY NOT NULL, f_table_catalog TEXT, f_table_schema TEXT,
    f_table_name TEXT, f_geometry_column TEXT, styleName TEXT, styleQML TEXT, styleSLD TEXT, useAsDefault BOOLEAN,
    description TEXT, owner TEXT, ui TEXT, update_time DATETIME)"""


def coloured_by(columns: object) -> str | None:
    """Name of the column that features are coloured by; None where they are no objects."""
    return next((name for name in _COLOURED_BY if name in columns), None)  # type: ignore[operator]


def add_style(path: Path, layers: Sequence[str], column: str, moment: str) -> None:
    """Put a default style into a GeoPackage, in the table that QGIS looks for: classes of mean probability.

    Parameters
    ----------
    path : path
        The GeoPackage.
    layers : sequence of str
        The layers that it is for.
    column : str
        The column that decides the colour.
    moment : str
        When it was made, as the file says it; a fixed one keeps the file's bytes.

    Raises
    ------
    sqlite3.Error
        When the file cannot be written.
    """
    rows = [
        (number, "", "", layer, "geom", "mean probability", _qml(column), "", 1, "", "", None, moment)
        for number, layer in enumerate(layers, start=1)
    ]
    about = ("layer_styles", "attributes", "layer_styles", "styles of QGIS", moment, 0)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(_TABLE)
        db.executemany(f"INSERT INTO layer_styles VALUES ({', '.join('?' * len(rows[0]))})", rows)
        db.execute(
            "INSERT INTO gpkg_contents (table_name, data_type, identifier, description, last_change, srs_id) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            about,
        )


def _qml(column: str) -> str:
    """Graduated colours in the language of QGIS."""
    lows = [0.0, *(low for low, _ in _CLASSES)]
    colours = [_BELOW, *(colour for _, colour in _CLASSES)]
    ranges, symbols = [], []
    for number, (low, high, colour) in enumerate(zip(lows, [*lows[1:], 1.0], colours, strict=True)):
        ranges.append(
            f'<range symbol="{number}" lower="{low:.6f}" upper="{high:.6f}" label="{low:g} to {high:g}" render="true"/>'
        )
        symbols.append(
            f'<symbol type="fill" name="{number}" alpha="1"><layer class="SimpleFill" enabled="1" locked="0" pass="0">'
            f'<prop k="color" v="{colour},110"/><prop k="outline_color" v="{colour},255"/>'
            '<prop k="outline_width" v="0.4"/><prop k="style" v="solid"/></layer></symbol>'
        )
    return (
        '<!DOCTYPE qgis><qgis version="3.16.0" styleCategories="Symbology">'
        f'<renderer-v2 type="graduatedSymbol" attr="{column}" graduatedMethod="GraduatedColor" symbollevels="0">'
        f"<ranges>{''.join(ranges)}</ranges><symbols>{''.join(symbols)}</symbols></renderer-v2></qgis>"
    )
