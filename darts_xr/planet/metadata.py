"""What the metadata files of a delivery say: welcome where present, never needed."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

logger = logging.getLogger(__name__)

# Local names of the XML, whose namespaces change with product and version, and our names for them.
_XML_FIELDS = {
    "acquisitionDateTime": "acquired",
    "illuminationAzimuthAngle": "sun_azimuth",
    "illuminationElevationAngle": "sun_elevation",
    "spaceCraftViewAngle": "view_angle",
    "serialIdentifier": "satellite_id",
    "resolution": "gsd",
}


def scene_metadata(json_file: Path | None, xml_file: Path | None) -> dict[str, Any]:
    """STAC properties from a scene's metadata files; the JSON wins over the XML.

    A file that cannot be understood is named in a warning and left aside.
    """
    fields: dict[str, Any] = {}
    for file, read in ((xml_file, _read_xml), (json_file, _read_json)):
        if file is not None:
            try:
                fields |= {key: value for key, value in read(file).items() if value is not None}
            except (OSError, ValueError, ElementTree.ParseError) as error:
                logger.warning("metadata file %s is not used, it cannot be read: %s", file, error)
    return _properties(fields)


def _read_json(file: Path) -> dict[str, Any]:
    document = json.loads(file.read_text(encoding="utf-8"))
    properties = document.get("properties") if isinstance(document, dict) else None
    if not isinstance(properties, dict):
        raise ValueError("it holds no GeoJSON feature with properties")
    return properties


def _read_xml(file: Path) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for element in ElementTree.parse(file).iter():
        local = element.tag.rpartition("}")[2]
        if local == "Instrument":
            fields["instrument"] = next(
                (child.text for child in element if child.tag.endswith("shortName")), None
            )
        elif local in _XML_FIELDS and element.text:
            fields.setdefault(_XML_FIELDS[local], element.text.strip())
    return fields


def _properties(fields: dict[str, Any]) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    conversions: dict[str, tuple[str, Callable[[Any], Any]]] = {
        "acquired": ("datetime", _moment),
        "gsd": ("gsd", float),
        "satellite_id": ("platform", str),
        "instrument": ("instruments", lambda value: [str(value)]),
        "view_angle": ("view:off_nadir", lambda value: abs(float(value))),
        "satellite_azimuth": ("view:azimuth", lambda value: float(value) % 360),
        "sun_azimuth": ("view:sun_azimuth", lambda value: float(value) % 360),
        "sun_elevation": ("view:sun_elevation", float),
    }
    for field, (name, convert) in conversions.items():
        if field in fields:
            try:
                properties[name] = convert(fields[field])
            except (TypeError, ValueError) as error:
                logger.warning("metadata field %s is not used: %s", field, error)
    # As darts_xr.sample writes: such a delivery must never pass as a real one.
    if str(fields.get("notice", "")).startswith("synthetic"):
        properties |= {"darts:synthetic": True, "description": str(fields["notice"])}
    return properties


def _moment(text: str) -> datetime:
    # Planet writes up to six digits of a second, and sometimes "Z"; fractions of three or six digits parse.
    padded = re.sub(r"\.(\d+)", lambda found: "." + found[1][:6].ljust(6, "0"), text)
    moment = datetime.fromisoformat(padded)
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
