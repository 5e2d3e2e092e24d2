"""Writing items: static catalogues and stac-geoparquet, the same bytes from run to run."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pystac
import rustac

from darts_xr.catalog.names import safe_name
from darts_xr.catalog.rasters import is_url
from darts_xr.errors import CatalogError

_GEOJSON = "application/geo+json"


def write_catalog(
    items: Iterable[pystac.Item],
    path: str | os.PathLike[str],
    *,
    title: str,
    description: str,
    layout: str = "items/{id}.json",
) -> Path:
    """Write items as a static, self-contained STAC catalogue.

    ``catalog.json`` links to one ``collections/<id>.json`` for each collection, which links to
    ``items/<id>.json``. Each file appears whole or not at all, the catalogue last. Assets below the
    catalogue's folder get relative addresses, others absolute ones.

    Parameters
    ----------
    items : iterable of pystac.Item
        Their ids must be distinct; they are not changed.
    path : path
        The catalogue's file, or the folder that its ``catalog.json`` goes to; folders are made.
    title, description : str
        Of the catalogue.
    layout : str, optional
        Where an item's file goes below the catalogue's folder; ``{id}`` stands for the item's id, made safe.

    Returns
    -------
    pathlib.Path
        The catalogue's file.

    Raises
    ------
    CatalogError
        Two items have the same id.

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
    root = target.parent
    ordered = _distinct(items)
    members: dict[str | None, list[pystac.Item]] = defaultdict(list)
    for item in ordered:
        members[item.collection_id].append(item)

    links = [_link("root", f"./{target.name}", title=title)]
    for collection_id, own in sorted(members.items(), key=lambda pair: pair[0] or ""):
        parent = target.name
        if collection_id is not None:
            name = f"collections/{safe_name(collection_id)}.json"
            parent = name
            _write_json(root / name, _collection(collection_id, own, target.name, layout))
            links.append(_link("child", f"./{name}", title=collection_id))
        else:
            links.extend(_link("item", f"./{_place(item, layout)}", kind=_GEOJSON) for item in own)
        for item in own:
            place = _place(item, layout)
            up = "/".join([".."] * place.count("/")) or "."
            _write_json(root / place, _document(item, root, f"{up}/{target.name}", f"{up}/{parent}", up))
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
        _atomically(target, lambda temporary: rustac.write_sync(temporary, documents, format="parquet"))
    except rustac.RustacError as error:
        raise CatalogError(
            f"the items cannot be written to {target}: {error}; write_catalog may do"
        ) from error
    return target


def _distinct(items: Iterable[pystac.Item]) -> list[pystac.Item]:
    ordered = sorted(items, key=lambda item: item.id)
    for first, second in pairwise(ordered):
        if first.id == second.id:
            raise CatalogError(f"two items have the id {first.id}; keep one, or write two catalogues")
    return ordered


def _place(item: pystac.Item, layout: str) -> str:
    return layout.format(id=safe_name(item.id))


def _document(item: pystac.Item, root: Path, catalog: str, parent: str, up: str) -> dict[str, Any]:
    document = _relative(item.to_dict(include_self_link=False, transform_hrefs=False), root, up)
    kept = [link for link in document["links"] if link["rel"] not in ("self", "root", "parent", "collection")]
    links = [_link("root", catalog), _link("parent", parent)]
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


def _collection(collection_id: str, items: list[pystac.Item], catalog: str, layout: str) -> dict[str, Any]:
    moments = [moment for item in items for moment in _moments(item)]
    platforms = sorted({item.properties["platform"] for item in items if item.properties.get("platform")})
    return {
        "type": "Collection",
        "id": collection_id,
        "stac_version": pystac.get_stac_version(),
        "description": f"{len(items)} item(s) of {collection_id}",
        "license": "other",
        "extent": {
            "spatial": {"bbox": [_union_bbox(items)]},
            "temporal": {"interval": [[min(moments), max(moments)] if moments else [None, None]]},
        },
        **({"summaries": {"platform": platforms}} if platforms else {}),
        "links": [
            _link("root", f"../{catalog}"),
            _link("parent", f"../{catalog}"),
            *(_link("item", f"../{_place(item, layout)}", kind=_GEOJSON) for item in items),
        ],
    }


def _moments(item: pystac.Item) -> list[str]:
    stated = (item.datetime, item.common_metadata.start_datetime, item.common_metadata.end_datetime)
    return [pystac.utils.datetime_to_str(moment) for moment in stated if moment is not None]


def _union_bbox(items: list[pystac.Item]) -> list[float]:
    """Box around all items; the full circle of longitudes where one of them crosses 180°."""
    boxes = [item.bbox for item in items if item.bbox]
    if not boxes:
        return [-180.0, -90.0, 180.0, 90.0]
    south, north = min(box[1] for box in boxes), max(box[3] for box in boxes)
    if any(box[0] > box[2] for box in boxes):
        return [-180.0, south, 180.0, north]
    return [min(box[0] for box in boxes), south, max(box[2] for box in boxes), north]


def _link(rel: str, href: str, *, kind: str = "application/json", title: str | None = None) -> dict[str, str]:
    return {"rel": rel, "href": href, "type": kind, **({"title": title} if title else {})}


def _write_json(target: Path, document: dict[str, Any]) -> None:
    text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    _atomically(target, lambda temporary: Path(temporary).write_text(text, encoding="utf-8"))


def _atomically(target: Path, write: Callable[[str], Any]) -> None:
    """Write beside the target under another name, then replace it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.stem}.{os.getpid()}{target.suffix}")
    try:
        write(str(temporary))
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
