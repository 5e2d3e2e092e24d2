"""Which auxiliary layer a raster file holds: by its name, its bands' names, its pixels, or because somebody says so."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.windows import Window

from darts_xr.cube.landcover import ESRI_CLASSES
from darts_xr.cube.layers import TRENDS
from darts_xr.cube.plausible import ELEVATION, TREND, Expected, check_header, void_no_data
from darts_xr.errors import CRSError, LayerError
from darts_xr.rasters import layer_drivers, naming_read_errors, open_raster

Kind = Literal["elevation", "trends", "landcover", "relative_elevation", "slope"]

_SAMPLES, _SIDE = 5, 64  # windows along each axis that are looked at, and their side in pixels
_ALL = "give the file with --kind if its name misleads"

# An ArcticDEM delivery: mosaic tiles (49_08_2_2_2m_v4.1_dem.tif), strips (SETSM_…_20160410_…_dem.tif).
_ARCTICDEM = re.compile(r"^(SETSM_|(utm\d\d[ns]_)?\d\d_\d\d_)", re.IGNORECASE)
_COMPANION = re.compile(
    r"_(matchtag|bitmask|countmt|count|mad|mindate|maxdate|datamask|ortho|browse|shade|shade_masked)$",
    re.IGNORECASE,
)
# A tile of the ESRI annual land cover: grid zone and period, such as 08W_20220101-20230101.tif.
_ESRI_TILE = re.compile(
    r"^(?P<zone>\d\d)(?P<row>[C-HJ-NP-X])_(?P<year>20\d\d)(\d{4}-\d{8})?(?!\d)", re.IGNORECASE
)
_NAMES: tuple[tuple[Kind, re.Pattern[str]], ...] = tuple(
    (kind, re.compile(pattern, re.IGNORECASE))  # type: ignore[misc]
    for kind, pattern in (
        ("landcover", r"land.?cover|lulc"),
        ("trends", r"tcvis|tc.?trend|landsat.?trend"),
        ("relative_elevation", r"rel(ative)?.?el(ev)?"),
        ("slope", r"slope"),
        ("elevation", r"(?<![a-z])(arcticdem|dem|dtm|dsm|dhm|srtm)(?![a-z])|elevation|height"),
    )
)
_DERIVED = re.compile(
    r"hill.?shade|(?<![a-z])(shade|aspect|tpi|tri|roughness|curvature)(?![a-z])", re.IGNORECASE
)
_TREND_BANDS = {
    "tc_brightness": re.compile(r"^tcb|bright", re.IGNORECASE),
    "tc_greenness": re.compile(r"^tcg|green", re.IGNORECASE),
    "tc_wetness": re.compile(r"^tcw|wet", re.IGNORECASE),
}
_WORLDCOVER = {10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 100}


@dataclass(frozen=True)
class Facts:
    """What a raster file says of itself, and some of its pixels.

    Attributes
    ----------
    path
        The file.
    grid
        Its pixel grid.
    types
        Type of each band.
    names
        Description of each band, "" where there is none.
    nodata
        Declared value of missing pixels.
    datum
        Vertical datum, as far as the file names one.
    pixels
        Pixels of windows spread over the file, (band, n) float64, as stored.
    """

    path: Path
    grid: GeoBox
    types: tuple[str, ...]
    names: tuple[str, ...]
    nodata: float | None
    datum: str | None
    pixels: NDArray[np.float64]

    @property
    def metres(self) -> float:
        """Side of a pixel in metres, about."""
        degrees = self.grid.crs is not None and self.grid.crs.geographic
        return abs(float(self.grid.resolution.y)) * (111_195.0 if degrees else 1.0)

    @property
    def seen(self) -> NDArray[np.float64]:
        """Pixels of the first band that are not declared missing."""
        first = self.pixels[0]
        return first[np.isfinite(first) & (first != (np.nan if self.nodata is None else self.nodata))]


def read_facts(path: Path) -> Facts:
    """Read a raster's header and a sample of its pixels: 25 windows of 64 pixels a side at most.

    Raises
    ------
    MissingFileError, DamagedFileError
        If the file is not there or no raster.
    CRSError
        If it has no coordinate reference system.
    """
    href = str(path)
    with open_raster(href, layer_drivers(href)) as file, naming_read_errors(href):
        if file.crs is None:
            raise CRSError(
                f"{path.name} has no coordinate reference system; write it into the file (gdal_edit -a_srs)"
            )
        tops, lefts = (
            sorted({int(n) for n in np.linspace(0, max(0, side - _SIDE), _SAMPLES)}) for side in file.shape
        )
        windows = [Window(left, top, _SIDE, _SIDE) for top in tops for left in lefts]
        parts = [file.read(window=window).reshape(file.count, -1) for window in windows]
        return Facts(
            path=path,
            grid=GeoBox(file.shape, file.transform, file.crs.to_wkt()),
            types=tuple(file.dtypes),
            names=tuple(name or "" for name in file.descriptions),
            nodata=file.nodata,
            datum=_datum(path, file.crs),
            pixels=np.concatenate(parts, axis=1).astype(np.float64),
        )


def _datum(path: Path, crs: Any) -> str | None:
    if is_arcticdem(path):
        return "WGS84 ellipsoid"
    found = re.search(r'VERT(?:CRS|_CS)\["([^"]+)"', crs.to_wkt())
    return found[1] if found else None


def is_arcticdem(path: Path) -> bool:
    """Whether a file is named as those of an ArcticDEM delivery."""
    return _ARCTICDEM.match(path.stem) is not None


def is_companion(path: Path) -> bool:
    """Whether a file only comes along with an ArcticDEM: counts, masks, shadings, no heights."""
    return is_arcticdem(path) and _COMPANION.search(path.stem) is not None


def esri_tile(path: Path) -> re.Match[str] | None:
    """Grid zone, latitude band and year (groups ``zone``, ``row``, ``year``) in the name of an ESRI land-cover tile."""
    return _ESRI_TILE.match(path.stem)


def trend_bands(facts: Facts) -> list[str]:
    """Names of a trend file's bands in their order; without descriptions brightness, greenness, wetness come first."""
    named = [next((n for n, p in _TREND_BANDS.items() if p.search(text)), "unused") for text in facts.names]
    if set(TRENDS) <= set(named):
        return named
    return [*TRENDS, *["unused"] * (len(facts.types) - len(TRENDS))]


def find_kind(facts: Facts, said: Kind | None = None) -> tuple[Kind, str]:
    """Tell which layer a file holds, and by what that was seen; a file that cannot hold it is refused.

    Parameters
    ----------
    facts
        What is known of the file.
    said
        The layer that somebody says it holds.

    Returns
    -------
    kind, str
        The layer, and "option", "name", "band names" or "values".

    Raises
    ------
    LayerError
        If the file holds no such layer, or none that is known.
    """
    kind, by = (said, "option") if said else _by_name(facts) or _by_values(facts) or (None, "")
    if kind is None:
        bands = ", ".join(
            f"{name or 'unnamed'} {dtype}" for name, dtype in zip(facts.names, facts.types, strict=True)
        )
        raise LayerError(
            f"{facts.path.name}: neither its name nor its bands ({bands}) nor its values tell which layer it holds; "
            f"say it with --kind {'|'.join(get_args(Kind))}"
        )
    {"trends": _check_trends, "landcover": _check_classes}.get(kind, _check_numbers)(facts, kind)
    return kind, by


def _by_name(facts: Facts) -> tuple[Kind, str] | None:
    stem = facts.path.stem
    if esri_tile(facts.path):
        return "landcover", "name"
    if all(any(p.search(name) for name in facts.names) for p in _TREND_BANDS.values()):
        return "trends", "band names"
    if _DERIVED.search(stem):
        raise LayerError(
            f"{facts.path.name}: by its name it holds none of the layers but a picture of relief; {_ALL}"
        )
    if is_arcticdem(facts.path):
        return "elevation", "name"
    return next(((kind, "name") for kind, pattern in _NAMES if pattern.search(stem)), None)


def _by_values(facts: Facts) -> tuple[Kind, str] | None:
    first, seen = facts.types[0], facts.seen
    if len(facts.types) in (3, 4) and set(facts.types) == {"uint8"}:
        shown = facts.pixels[:3, (facts.pixels[:3] > 0).any(axis=0)]
        # Most of the land did not change: the middle of all three trends is near 127, at Landsat's pixels.
        still = shown.size > 0 and bool((np.abs(np.median(shown, axis=1) - 127) < 30).all())
        return ("trends", "values") if still and 20 < facts.metres < 60 else None
    if len(facts.types) != 1 or seen.size == 0:
        return None
    if first == "uint8":
        classes = set(np.unique(seen).tolist())
        # Masks have few values and small ones.
        is_map = classes <= {0, *ESRI_CLASSES} and len(classes) >= 3 and max(classes) >= 7
        return ("landcover", "values") if is_map else None
    return ("elevation", "values") if first in ELEVATION.types and float(np.ptp(seen)) > 0 else None


def _check_trends(facts: Facts, kind: str) -> None:
    if len(facts.types) < len(TRENDS):
        raise LayerError(
            f"{facts.path.name}: {len(facts.types)} band(s) are no Landsat trends, which have brightness, greenness "
            f"and wetness; {TREND.remedy} in one file"
        )
    bands = tuple(trend_bands(facts).index(name) + 1 for name in TRENDS)
    _check_header(facts, bands, TREND)


def _check_numbers(facts: Facts, kind: str) -> None:
    if len(facts.types) != 1:
        raise LayerError(
            f"{facts.path.name}: {len(facts.types)} bands are no {kind.replace('_', ' ')}; give one band"
        )
    if kind != "elevation":
        return  # encoded in several ways: judged when it is read
    _check_header(facts, (1,), ELEVATION)
    void_no_data(
        facts.seen.astype(np.float32)[None], ELEVATION, facts.path.name, declared=facts.nodata is not None
    )


def _check_header(facts: Facts, bands: tuple[int, ...], expected: Expected) -> None:
    href = str(facts.path)
    with open_raster(href, layer_drivers(href)) as file:
        check_header(file, bands, expected, facts.path.name)


def _check_classes(facts: Facts, kind: str) -> None:
    found = {int(value) for value in np.unique(facts.seen)}
    if unknown := sorted(found - {0, *ESRI_CLASSES}):
        scheme = "; they look like those of ESA WorldCover" if set(unknown) <= _WORLDCOVER else ""
        raise LayerError(
            f"{facts.path.name}: classes {unknown[:8]} are not of the ESRI annual land cover ({sorted(ESRI_CLASSES)})"
            f"{scheme}; give the ESRI map"
        )
