"""The layers of the filters of a finished run: where they lay, and whether they still lie there."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import pystac

import darts_xr as dx
from darts_xr.addresses import redact
from darts_xr.digests import file_digest
from darts_xr.errors import DartsError, PipelineError
from pipelines.digests import digest
from pipelines.item_index import packed_item

#: Filters of layers, each with the setting that gives its layer.
FILTERS = {"water": "landcover", "infrastructure": "infrastructure"}


@dataclass(frozen=True)
class Layers:
    """The layers of the filters, where a finished run is filtered anew.

    Parameters
    ----------
    landcover : source or None
        Land cover of the water filter, as for :func:`pipelines.detect`. None: that of the run, where it is unchanged.
    infrastructure : path, geopandas.GeoDataFrame or None
        Polygons of the infrastructure filter. None: likewise.
    verdicts : sequence of path
        What reviewers said, as for :func:`pipelines.detect`; by default what the run was made with.
    dropped : tuple of str
        Filters of the run that are left out on purpose, of "water", "infrastructure" and "reviewer".
    """

    landcover: Any = None
    infrastructure: str | os.PathLike[str] | gpd.GeoDataFrame | None = None
    verdicts: Sequence[str | os.PathLike[str]] = ()
    dropped: tuple[str, ...] = ()


def _addresses(source: Any) -> list[str] | None:
    """Paths and addresses of a source, in full; None where it lies in memory or its address holds a secret."""
    given = source if isinstance(source, list | tuple) else [source]
    if not given or not all(isinstance(part, str | os.PathLike) for part in given):
        return None
    texts = [os.fspath(part) for part in given]
    full = [text if "://" in text else str(Path(text).absolute()) for text in texts]
    return full if all(redact(text) == text for text in full) else None


def _content(items: Sequence[pystac.Item]) -> str:
    return digest(sorted(packed_item(item)[1] for item in items))


def remembered(
    landcover: Any, cover: Sequence[pystac.Item] | None, infrastructure: Any
) -> dict[str, dict[str, Any]]:
    """Note where the layers of the filters lie and what they hold, for ``run.json``.

    Parameters
    ----------
    landcover : source
        Where land cover comes from.
    cover : sequence of pystac.Item, optional
        Its items; None without a water filter.
    infrastructure : path, optional
        Polygons of infrastructure.

    Returns
    -------
    dict
        By filter ``source`` (list of paths and addresses) and ``digest``. Layers in memory, and addresses with a secret
        in them, are not in it.
    """
    found: dict[str, dict[str, Any]] = {}
    if cover is not None and (places := _addresses(landcover)):
        found["water"] = {"source": places, "digest": _content(cover)}
    if infrastructure is not None and (places := _addresses(infrastructure)):
        found["infrastructure"] = {"source": places, "digest": file_digest(Path(places[0]))}
    return found


def _is_there(name: str, note: Mapping[str, Any]) -> bool:
    """Whether a layer lies where it lay, and holds what it held."""
    try:
        if name == "infrastructure":
            return bool(file_digest(Path(note["source"][0])) == note["digest"])
        items = dx.cube.load_auxiliary(note["source"])
        return _content([item for item in items if "landcover" in item.assets]) == note["digest"]
    except (DartsError, OSError):
        return False


def resolve(record: Mapping[str, Any], layers: Layers, folder: object) -> Layers:
    """Complete the layers that a run's filters need by those that it was made with.

    Parameters
    ----------
    record : mapping
        The run's ``run.json``.
    layers : Layers
        Those that are given.
    folder : object
        Name of the run, for messages.

    Returns
    -------
    Layers
        With a layer for each filter of the run that is not left out on purpose.

    Raises
    ------
    PipelineError
        When a layer is not given and does not lie where it lay, or holds something else now.
    """
    had = {"water": record["water_filter"], "infrastructure": record["infrastructure_filter"]}
    for name, setting in FILTERS.items():
        if not had[name] or name in layers.dropped or getattr(layers, setting) is not None:
            continue
        note = record.get("layers", {}).get(name)
        if note is None:
            why = "does not know where its layer lies"
        elif _is_there(name, note):
            source = note["source"]
            layers = replace(layers, **{setting: source[0] if len(source) == 1 else source})
            continue
        else:
            why = f"finds another layer, or none, where it lay ({', '.join(note['source'])})"
        raise PipelineError(
            f"{folder} was made with the {name} filter and {why}: give it, Layers({setting}=…) or --{setting} …, or "
            f'leave the filter out on purpose, Layers(dropped=("{name}",)) or --{setting} none'
        )
    return layers
