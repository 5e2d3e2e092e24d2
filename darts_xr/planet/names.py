"""Scene ids and file names of Planet deliveries."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import NamedTuple

from darts_xr.errors import UnknownProductError

# 20190618_201847_1035, 20230807_195407_62_248c and, with an unpadded third part, 20190727_160820_1_1020.
_SCENE = re.compile(r"(\d{8})_(\d{6})(?:_(\d{1,2}))?_[0-9a-f]{4}", re.IGNORECASE)
# 4975180_2361421_2021-08-01_2414: order or strip id, 7-digit tile id, date, satellite.
_TILE = re.compile(r"\d+_\d{7}_(\d{4}-\d{2}-\d{2})_[0-9a-f]{4}", re.IGNORECASE)

# What a file holds, by the words between the scene id and the extension, once the words of delivery
# tools (clip, harmonized, COG conversion) are taken away.
_TOOL_WORDS = re.compile(r"_(clip|harmonized|file_format)(?=_|$)")
_KINDS = {
    "PSScene": (
        ("image", re.compile(r"_3B_AnalyticMS_SR(_8b)?")),
        ("udm2", re.compile(r"(_3B)?_udm2")),
        ("udm1", re.compile(r"(_3B)?(_AnalyticMS)?(_8b)?(_DN)?_udm")),
        (
            "refused",
            re.compile(r"_[13]B_(AnalyticMS|Analytic|Visual|DN|Panchromatic)(_8b|_DN)?", re.IGNORECASE),
        ),
    ),
    "PSOrthoTile": (
        ("image", re.compile(r"_BGRN_SR")),
        ("udm2", re.compile(r"(_BGRN)?_udm2")),
        ("udm1", re.compile(r"(_BGRN)?(_DN)?_udm")),
        ("refused", re.compile(r"_(BGRN|RGB|BGREN)_(Analytic|DN|Visual)", re.IGNORECASE)),
    ),
}


class DeliveredFile(NamedTuple):
    """What a file name of a Planet delivery says."""

    scene_id: str
    product: str  # "PSScene" or "PSOrthoTile"
    kind: str  # image, udm2, udm1, json, xml, refused (no surface reflectance), unknown
    eight_bands: bool


def product_type(scene_id: str) -> str:
    """Planet product that a scene id belongs to.

    Parameters
    ----------
    scene_id : str
        Id of a scene, such as a delivery's folder name.

    Returns
    -------
    str
        ``"PSScene"`` or ``"PSOrthoTile"``.

    Raises
    ------
    UnknownProductError
        The id has neither form.

    Examples
    --------
    >>> product_type("20230807_195407_62_248c"), product_type("4975180_2361421_2021-08-01_2414")
    ('PSScene', 'PSOrthoTile')
    """
    if _SCENE.fullmatch(scene_id):
        return "PSScene"
    if _TILE.fullmatch(scene_id):
        return "PSOrthoTile"
    raise UnknownProductError(
        f"{scene_id!r} is not the id of a PlanetScope scene: expected YYYYMMDD_HHMMSS_XXXX, "
        "YYYYMMDD_HHMMSS_NN_XXXX or <strip>_<7-digit tile>_YYYY-MM-DD_XXXX"
    )


def scene_datetime(scene_id: str) -> datetime:
    """Acquisition time that a scene id states, in UTC.

    A PSScene id states the second, and hundredths where it has a third part; a PSOrthoTile id states the
    day only, which gives midnight.

    Parameters
    ----------
    scene_id : str
        Id of a scene.

    Returns
    -------
    datetime.datetime
        Time zone UTC.

    Raises
    ------
    UnknownProductError
        The id has no known form or states no possible date.

    Examples
    --------
    >>> scene_datetime("20230807_195407_62_248c").isoformat()
    '2023-08-07T19:54:07.620000+00:00'
    """
    try:
        if product_type(scene_id) == "PSOrthoTile":
            tile = _TILE.fullmatch(scene_id)
            assert tile is not None  # product_type matched it
            return datetime.fromisoformat(tile[1]).replace(tzinfo=UTC)
        scene = _SCENE.fullmatch(scene_id)
        assert scene is not None
        moment = datetime.strptime(scene[1] + scene[2], "%Y%m%d%H%M%S")
    except ValueError as error:
        raise UnknownProductError(
            f"{scene_id!r} looks like a scene id but states no date: {error}"
        ) from error
    return moment.replace(microsecond=int(scene[3] or 0) * 10_000, tzinfo=UTC)


def classify(file_name: str) -> DeliveredFile | None:
    """Read a file's name; None for a file that belongs to no scene or is neither raster nor metadata.

    Examples
    --------
    >>> classify("20160909_213104_0e19_3B_AnalyticMS_SR_8b_harmonized_clip.tif")
    DeliveredFile(scene_id='20160909_213104_0e19', product='PSScene', kind='image', eight_bands=True)
    """
    stem, _, extension = file_name.rpartition(".")
    found = _SCENE.match(stem) or _TILE.match(stem)
    if found is None:
        return None
    scene_id, words = found[0], stem[found.end() :]
    product = product_type(scene_id)
    extension = extension.lower()
    if extension in ("json", "xml") and "metadata" in words:
        kind = extension
    elif extension in ("tif", "tiff"):
        bare = _TOOL_WORDS.sub("", words)
        kind = next((name for name, form in _KINDS[product] if form.fullmatch(bare)), "unknown")
    else:
        return None
    return DeliveredFile(scene_id, product, kind, "_8b" in words)
