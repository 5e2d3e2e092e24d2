"""Elevation, trend and land-cover files to STAC items, so that nobody has to write STAC by hand."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import shapely
from odc.geo.geobox import GeoBox

from darts_xr.addresses import is_remote
from darts_xr.catalog import iter_items, search
from darts_xr.cube.kinds import (
    Facts,
    Kind,
    esri_tile,
    find_kind,
    is_arcticdem,
    is_companion,
    read_facts,
    trend_bands,
)
from darts_xr.cube.plausible import SENTINELS
from darts_xr.errors import CatalogError, DartsError, LayerError, MissingFileError, OnError
from darts_xr.globe import grid_bounds, grid_outline
from darts_xr.stac import PROJECTION_EXTENSION, grid_fields, set_collection

log = logging.getLogger(__name__)

#: Where an ItemCollection of :func:`auxiliary_items` says which files it left out, with the reasons.
LEFT_OUT = "darts:left_out"

_RASTERS = (".tif", ".tiff")
_GIVEN = (*_RASTERS, ".vrt")  # also taken when named one by one
_KEYS = {"elevation": "dem"}  # assets that are not called as their layer
_UNKNOWN = (datetime(1900, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))
# Latitude bands of the grid zones, 8° each from 80° south, and the zones of the North that are wider or narrower.
_ROWS = "CDEFGHJKLMNPQRSTUVWX"
_ODD_ZONES = {"31V": (0, 3), "32V": (3, 12), "31X": (0, 9), "33X": (9, 21), "35X": (21, 33), "37X": (33, 42)}

# --- files -------------------------------------------------------------------------------------------------


def _files(paths: Iterable[Path]) -> list[Path]:
    """Give the raster files that are named, and those below the folders that are."""
    found: dict[Path, None] = {}
    for path in paths:
        if not path.exists():
            raise MissingFileError(f"{path} does not exist; give GeoTIFFs or folders of them")
        if path.is_dir():
            below = sorted(p for p in path.rglob("*") if p.suffix.lower() in _RASTERS and p.is_file())
            if not below:
                raise CatalogError(f"the folder {path} holds no GeoTIFF ({', '.join(_RASTERS)})")
            found |= dict.fromkeys(below)
        else:
            found[path] = None
    return list(found)


def _ids(files: Sequence[Path]) -> dict[Path, str]:
    """Id of each file: its name, with that of its folder where two are called the same."""
    names = Counter(path.stem for path in files)
    return {path: path.stem if names[path.stem] == 1 else f"{path.parent.name}-{path.stem}" for path in files}


# --- one file to an item -----------------------------------------------------------------------------------


def _period(facts: Facts, kind: Kind, year: int | None) -> tuple[datetime, datetime | None, bool]:
    """Date or period of a layer, and whether it is known."""
    stem = facts.path.stem
    if year is not None:
        return datetime(year, 1, 1, tzinfo=UTC), None, True
    if kind == "landcover":
        named = esri_tile(facts.path)
        found = named["year"] if named else next(iter(re.findall(r"(?<!\d)(20[1-4]\d)(?!\d)", stem)), None)
        if found is None:
            raise LayerError(
                f"{facts.path.name}: its name tells no year, and the land cover nearest to a scene's year is taken; "
                "say it with --year"
            )
        return datetime(int(found), 1, 1, tzinfo=UTC), None, True
    if day := re.search(r"(?<!\d)((?:19|20)\d\d)(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(?!\d)", stem):
        try:
            return datetime(*map(int, day.groups()), tzinfo=UTC), None, True  # type: ignore[arg-type,misc]
        except ValueError:
            pass  # 31 February: digits that are no date
    if span := re.search(r"(?<!\d)((?:19|20)\d\d)[-_]((?:19|20)\d\d)(?!\d)", stem):
        first, last = int(span[1]), int(span[2])
        if first <= last:
            return datetime(first, 1, 1, tzinfo=UTC), datetime(last, 12, 31, tzinfo=UTC), True
    if single := re.search(r"(?<!\d)((?:19|20)\d\d)(?!\d)", stem):
        return datetime(int(single[1]), 1, 1, tzinfo=UTC), None, True
    return *_UNKNOWN, False


def _zone_polygon(path: Path) -> Any:
    """Ground of an ESRI tile, which holds only its own grid zone; beyond it the file has no data that means sea."""
    named = esri_tile(path)
    if named is None:
        return None
    zone, row = int(named["zone"]), named["row"].upper()
    south = -80 + 8 * _ROWS.index(row)
    west, east = _ODD_ZONES.get(f"{zone:02d}{row}", (6 * zone - 186, 6 * zone - 180))
    return shapely.box(west, south, east, 84 if row == "X" else south + 8)


def _bands(facts: Facts, kind: Kind) -> list[dict[str, Any]]:
    names = trend_bands(facts) if kind == "trends" else [_KEYS.get(kind, kind)]
    unit = {"elevation": "m", "slope": "degree"}.get(kind)
    nodata = facts.nodata
    if nodata is None and kind == "elevation":
        nodata = next((value for value in SENTINELS if (facts.pixels[0] == value).any()), None)
    about: dict[str, Any] = {"data_type": facts.types[0]}
    if nodata is not None:
        about["nodata"] = "nan" if np.isnan(nodata) else nodata
    if unit is not None:
        about["unit"] = unit
    return [{"name": name, **about} for name in names]


def _item(facts: Facts, item_id: str, kind: Kind, by: str, year: int | None) -> pystac.Item:
    start, end, known = _period(facts, kind, year)
    outline = grid_outline(facts.grid)
    zone = _zone_polygon(facts.path) if kind == "landcover" else None
    if zone is not None and not (inner := shapely.intersection(outline, zone)).is_empty:
        outline = inner
    # Of the whole file: what lies in it is found by the box.
    bbox = [round(float(value), 7) for value in grid_bounds(facts.grid)]
    about: dict[str, Any] = {"darts:layer": kind, "darts:layer_known_by": by, "gsd": round(facts.metres, 3)}
    if kind == "elevation":
        about["darts:vertical_datum"] = facts.datum or "unknown"
    if not known:
        about["darts:date"] = "unknown"
    item = pystac.Item(
        id=item_id,
        geometry=shapely.geometry.mapping(outline),
        bbox=bbox,
        datetime=start if end is None else None,
        start_datetime=None if end is None else start,
        end_datetime=end,
        properties={**about, **_place(facts.grid)},
        stac_extensions=[PROJECTION_EXTENSION],
    )
    set_collection(item, "arcticdem" if is_arcticdem(facts.path) and kind == "elevation" else kind)
    asset = pystac.Asset(
        str(facts.path.absolute()),
        media_type=pystac.MediaType.GEOTIFF,
        roles=["data"],
        extra_fields={"bands": _bands(facts, kind)},
    )
    item.add_asset(_KEYS.get(kind, kind), asset)
    return item


def _place(grid: GeoBox) -> dict[str, Any]:
    epsg = None if grid.crs is None else grid.crs.epsg
    fields = grid_fields(f"EPSG:{epsg}", grid.shape, grid.transform)
    return fields if epsg else {**fields, "proj:code": None, "proj:wkt2": str(grid.crs.to_wkt())}  # type: ignore[union-attr]


# --- public functions --------------------------------------------------------------------------------------


def auxiliary_items(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    kind: Kind | None = None,
    year: int | None = None,
) -> pystac.ItemCollection:
    """Make STAC items of elevation, Landsat-trend and land-cover files.

    Parameters
    ----------
    paths
        GeoTIFFs, or folders that are searched for them: ArcticDEM strips and mosaic tiles, any other DEM in metres,
        exports of the Landsat trends (TCVIS; bytes, bands of brightness, greenness, wetness), tiles of the ESRI annual
        land cover.
    kind
        What all these files hold: "elevation", "trends", "landcover", or a ready-made "relative_elevation" or "slope".
        By default each file is judged by its name, the names of its bands, and its pixels.
    year
        Year of all these files, where their names do not tell it; needed for land cover only.

    Returns
    -------
    pystac.ItemCollection
        One item a file, sorted by id, with the asset ``dem``, ``trends`` or ``landcover``, for
        :func:`darts_xr.open_scene` and :func:`darts_xr.catalog.write_catalog`. ``darts:layer`` and
        ``darts:layer_known_by`` say what was taken for what, and why. Files that are no such layer are left out:
        ``extra_fields["darts:left_out"]`` has the reasons by path. Headers and a sample of the pixels are read.

    Raises
    ------
    CatalogError
        If no file is left, with the reasons.
    MissingFileError
        If a path does not exist.

    Examples
    --------
    >>> items = auxiliary_items(["dem.tif", "tcvis/"])  # doctest: +SKIP
    >>> scene = darts_xr.open_scene(item, auxiliary=items)  # doctest: +SKIP
    """
    listed = [Path(paths)] if isinstance(paths, (str, os.PathLike)) else [Path(path) for path in paths]
    files = _files(listed)
    layers = [path for path in files if not is_companion(path)]
    left_out: dict[str, str] = {}
    items: list[pystac.Item] = []
    for path, item_id in _ids(layers).items():
        try:
            facts = read_facts(path)
            items.append(_item(facts, item_id, *find_kind(facts, kind), year))
        except DartsError as error:
            log.warning("left out: %s", error)
            left_out[str(path)] = str(error)
    if not items:
        reasons = (
            "; ".join(list(left_out.values())[:5]) or "all are masks and pictures that come with an ArcticDEM"
        )
        raise CatalogError(f"none of {len(files)} file(s) is an auxiliary layer: {reasons}")
    if twice := [item_id for item_id, count in Counter(item.id for item in items).items() if count > 1]:
        raise CatalogError(
            f"several files are called {', '.join(twice[:3])}; rename them, or give one of each"
        )
    items.sort(key=lambda item: item.id)
    return pystac.ItemCollection(items, clone_items=False, extra_fields={LEFT_OUT: left_out})


def load_auxiliary(source: Any, *, on_error: OnError = "raise") -> list[pystac.Item]:
    """Load auxiliary items from catalogues, files and folders, or several of these.

    Parameters
    ----------
    source
        Anything that :func:`darts_xr.search` takes, a GeoTIFF, a folder of GeoTIFFs, or a sequence of these.
    on_error : {"raise", "skip"} or callable
        What an item that is no valid STAC does; see :func:`darts_xr.search`.

    Returns
    -------
    list of pystac.Item
        Of all sources, in their order; an item that several give counts once.

    Raises
    ------
    CatalogError
        If a source cannot be read or holds no auxiliary layer.

    Examples
    --------
    >>> load_auxiliary(["arcticdem/catalog.json", "tcvis.tif"])  # doctest: +SKIP
    """
    if isinstance(source, (str, os.PathLike)):
        return list(_load_path(os.fspath(source), on_error))
    given = [source] if isinstance(source, pystac.Item) else list(source)
    found: dict[Any, pystac.Item] = {}
    for part in given:
        items = iter_items([part], on_error=on_error) if isinstance(part, pystac.Item) else None
        for item in load_auxiliary(part, on_error=on_error) if items is None else items:
            found.setdefault((item.id, tuple(asset.href for asset in item.assets.values())), item)
    return list(found.values())


def _load_path(source: str, on_error: OnError) -> Iterable[pystac.Item]:
    if source == "neutral":
        raise CatalogError(
            "neutral stands beside other auxiliary sources; name the layers that are to be neutral instead "
            "(--neutral elevation, --neutral trends)"
        )
    path = Path(source.removeprefix("file://"))
    is_folder = not is_remote(source) and path.is_dir() and not (path / "catalog.json").exists()
    is_raster = not is_remote(source) and path.suffix.lower() in _GIVEN
    return auxiliary_items(path) if is_folder or is_raster else search(source, on_error=on_error)
