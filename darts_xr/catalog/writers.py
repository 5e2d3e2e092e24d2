"""Writing items: static catalogues and stac-geoparquet, the same bytes from run to run."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pystac
import rustac

from darts_xr.addresses import is_url, safe_name
from darts_xr.atomic import write_atomic
from darts_xr.errors import CatalogError

_GEOJSON = "application/geo+json"


def write_catalog(
    items: Iterable[pystac.Item],
    path: str | os.PathLike[str],
    *,
    title: str,
    description: str,
) -> Path:
    """Write items as a static, self-contained STAC catalogue.

    ``catalog.json`` links to one ``collections/<id>.json`` for each collection, which links to
    ``items/<id>.json``. A catalogue of another name, such as ``summer.json``, has ``collections/summer/<id>.json``
    and ``items/summer/<id>.json``, so that several in one folder leave each other alone. Each file appears whole or
    not at all, the catalogue last. Assets below the catalogue's folder get relative addresses, others absolute
    ones. Items are written as they come and only their ids are kept, so that an iterator may give more of them
    than memory holds.

    Parameters
    ----------
    items : iterable of pystac.Item
        Their ids must be distinct; they are not changed.
    path : path
        The catalogue's file, or the folder that its ``catalog.json`` goes to; folders are made.
    title, description : str
        Of the catalogue.

    Returns
    -------
    pathlib.Path
        The catalogue's file.

    Raises
    ------
    CatalogError
        Two items have the same id; those before it are on disk then, but no catalogue that names them.

    Examples
    --------
    >>> import datetime, pystac, tempfile
    >>> item = pystac.Item("july", None, None, datetime.datetime(2021, 7, 15), {})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_catalog([item], folder, title="Scenes", description="One scene.").name
    'catalog.json'
    """
    target = Path(path).absolute()
    if target.suffix != ".json":
        target = target / "catalog.json"
    root, layout = target.parent, _Layout(target.name)
    members: dict[str | None, _Members] = defaultdict(_Members)
    written: set[str] = set()
    for item in items:
        if item.id in written:
            raise CatalogError(f"two items have the id {item.id}; keep one, or write two catalogues")
        written.add(item.id)
        members[item.collection_id].add(item)
        _write_json(root / layout.item(item.id), _document(item, root, layout))

    links = [_link("root", f"./{target.name}", title=title)]
    for collection_id, own in sorted(members.items(), key=lambda pair: pair[0] or ""):
        if collection_id is not None:
            name = layout.collection(collection_id)
            _write_json(root / name, _collection(collection_id, own, layout))
            links.append(_link("child", f"./{name}", title=collection_id))
        else:
            links.extend(_item_links(own, ".", layout))
    catalog = {
        "type": "Catalog",
        "id": safe_name(title),
        "stac_version": pystac.get_stac_version(),
        "title": title,
        "description": description,
        "links": links,
    }
    _write_json(target, catalog)
    return target


def write_stac_geoparquet(items: Iterable[pystac.Item], path: str | os.PathLike[str]) -> Path:
    """Write items as one stac-geoparquet file, which :func:`search` filters without building every item.

    Times keep milliseconds. Assets below the file's folder get relative addresses.

    Parameters
    ----------
    items : iterable of pystac.Item
        Their ids must be distinct.
    path : path
        A file name that ends in ``.parquet``; folders are made.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    CatalogError
        There is no item, two have the same id, one has no geometry, or the extension is another.

    Examples
    --------
    >>> import datetime, pystac, tempfile
    >>> place = {"type": "Point", "coordinates": [-163.0, 66.1]}
    >>> item = pystac.Item("july", place, [-163, 66.1, -163, 66.1], datetime.datetime(2021, 7, 15), {})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_stac_geoparquet([item], folder + "/scenes.parquet").name
    'scenes.parquet'
    """
    target = Path(path).absolute()
    if target.suffix not in (".parquet", ".geoparquet"):
        raise CatalogError(
            f"{target.name} should end in .parquet, by which it is told from a catalogue later"
        )
    documents = [
        _relative(item.to_dict(include_self_link=False, transform_hrefs=False), target.parent, ".")
        for item in _distinct(items)
    ]
    if not documents:
        raise CatalogError(
            f"there is no item to write to {target}; a table needs at least one to know its columns"
        )
    nowhere = [document["id"] for document in documents if document["geometry"] is None]
    if nowhere:
        raise CatalogError(
            f"item(s) {', '.join(nowhere[:5])} have no geometry, which a table needs; leave them out"
        )
    try:
        write_atomic(target, lambda part: rustac.write_sync(str(part), documents, format="parquet"))
    except rustac.RustacError as error:
        raise CatalogError(
            f"the items cannot be written to {target}: {error}; write_catalog may do"
        ) from error
    return target


class _Members:
    """What a collection says of its items, gathered while they pass."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.platforms: set[str] = set()
        self._moments: list[str] = []  # the first and the last
        self._box: list[float] | None = None
        self._crosses_180 = False

    def add(self, item: pystac.Item) -> None:
        self.ids.append(item.id)
        if item.properties.get("platform"):
            self.platforms.add(item.properties["platform"])
        moments = sorted([*self._moments, *_moments(item)])
        self._moments = moments[:1] + moments[-1:]
        if item.bbox:
            half = len(item.bbox) // 2  # heights come third and sixth, where they are stated
            west, south, east, north = *item.bbox[:2], *item.bbox[half : half + 2]
            self._crosses_180 |= west > east
            known = self._box or [west, south, east, north]
            self._box = [*map(min, known, (west, south)), *map(max, known[2:], (east, north))]

    @property
    def box(self) -> list[float]:
        """Box around all items; the full circle of longitudes where one of them crosses 180°."""
        if self._box is None:
            return [-180.0, -90.0, 180.0, 90.0]
        west, south, east, north = self._box
        return [-180.0, south, 180.0, north] if self._crosses_180 else [west, south, east, north]

    @property
    def interval(self) -> list[str | None]:
        """First and last moment."""
        return [self._moments[0], self._moments[-1]] if self._moments else [None, None]


def _distinct(items: Iterable[pystac.Item]) -> list[pystac.Item]:
    ordered = sorted(items, key=lambda item: item.id)
    for first, second in pairwise(ordered):
        if first.id == second.id:
            raise CatalogError(f"two items have the id {first.id}; keep one, or write two catalogues")
    return ordered


class _Layout:
    """Where a catalogue's documents lie, as seen from its folder: those of another name have a folder of their own."""

    def __init__(self, catalog: str) -> None:
        self.catalog = catalog
        stem = catalog.removesuffix(".json")
        self._folder = "" if stem == "catalog" else f"{safe_name(stem)}/"
        #: From a document of the catalogue to the catalogue's folder.
        self.up = "../.." if self._folder else ".."

    def item(self, item_id: str) -> str:
        return f"items/{self._folder}{safe_name(item_id)}.json"

    def collection(self, collection_id: str) -> str:
        return f"collections/{self._folder}{safe_name(collection_id)}.json"


def _item_links(members: _Members, up: str, layout: _Layout) -> list[dict[str, str]]:
    return [_link("item", f"{up}/{layout.item(own)}", kind=_GEOJSON) for own in sorted(members.ids)]


def _document(item: pystac.Item, root: Path, layout: _Layout) -> dict[str, Any]:
    document = _relative(item.to_dict(include_self_link=False, transform_hrefs=False), root, layout.up)
    kept = [link for link in document["links"] if link["rel"] not in ("self", "root", "parent", "collection")]
    own = layout.catalog if item.collection_id is None else layout.collection(item.collection_id)
    parent = f"{layout.up}/{own}"
    links = [_link("root", f"{layout.up}/{layout.catalog}"), _link("parent", parent)]
    if item.collection_id is not None:
        links.append(_link("collection", parent))
    document["links"] = [*links, *kept]
    return document


def _relative(document: dict[str, Any], root: Path, up: str) -> dict[str, Any]:
    """Make the addresses of assets below ``root`` relative to a file that lies ``up`` from it."""
    for asset in document["assets"].values():
        href = asset["href"]
        if not is_url(href) and os.path.isabs(href) and Path(href).is_relative_to(root):
            asset["href"] = f"{up}/{Path(href).relative_to(root).as_posix()}"
    return document


def _collection(collection_id: str, members: _Members, layout: _Layout) -> dict[str, Any]:
    platforms = sorted(members.platforms)
    return {
        "type": "Collection",
        "id": collection_id,
        "stac_version": pystac.get_stac_version(),
        "description": f"{len(members.ids)} item(s) of {collection_id}",
        "license": "other",
        "extent": {
            "spatial": {"bbox": [members.box]},
            "temporal": {"interval": [members.interval]},
        },
        **({"summaries": {"platform": platforms}} if platforms else {}),
        "links": [
            _link("root", f"{layout.up}/{layout.catalog}"),
            _link("parent", f"{layout.up}/{layout.catalog}"),
            *_item_links(members, layout.up, layout),
        ],
    }


def _moments(item: pystac.Item) -> list[str]:
    stated = (item.datetime, item.common_metadata.start_datetime, item.common_metadata.end_datetime)
    return [pystac.utils.datetime_to_str(moment) for moment in stated if moment is not None]


def _link(rel: str, href: str, *, kind: str = "application/json", title: str | None = None) -> dict[str, str]:
    return {"rel": rel, "href": href, "type": kind, **({"title": title} if title else {})}


def _write_json(target: Path, document: dict[str, Any]) -> None:
    text = json.dumps(document, indent=1) + "\n"
    write_atomic(target, lambda part: part.write_text(text, encoding="utf-8"))
