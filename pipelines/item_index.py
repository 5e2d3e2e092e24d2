"""STAC items as a plan keeps them: small, found by place, known by what they and their files hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import shapely

from darts_xr.catalog.checksums import local_file
from darts_xr.digests import sha256_of
from darts_xr.globe import bounds_of, box_polygons, grown
from pipelines.digests import canonical, digest

NEAR = 0.1  # degrees of latitude around a scene: what kernels and warps look at beyond it, and far more


class ItemIndex:
    """STAC items by place.

    Parameters
    ----------
    items : iterable of pystac.Item
        Items; those without a box count as everywhere.
    """

    def __init__(self, items: Iterable[pystac.Item]) -> None:
        self._texts: list[str] = []
        self._digests: list[str] = []
        boxes, owners, everywhere = [], [], []
        for number, item in enumerate(items):
            text, identity = packed_item(item)
            self._texts.append(text)
            self._digests.append(identity)
            if item.bbox is None:
                everywhere.append(number)
            for box in boxes_around(item.bbox, 0.0):
                boxes.append(box)
                owners.append(number)
        self._tree, self._owners, self._everywhere = shapely.STRtree(boxes), np.array(owners, int), everywhere

    def near(self, bbox: Sequence[float] | None) -> list[int]:
        """Numbers of the items that meet a box or come close, in their own order."""
        if bbox is None:
            return list(range(len(self._texts)))
        found = [self._tree.query(box) for box in boxes_around(bbox, NEAR)]
        return sorted({*self._everywhere, *self._owners[np.concatenate(found)].tolist()} if found else [])

    def texts(self, numbers: Iterable[int]) -> list[str]:
        """Items as JSON."""
        return [self._texts[k] for k in numbers]

    def digests(self, numbers: Iterable[int]) -> list[str]:
        """Tell what the items and their local files hold, wherever these lie and in whatever order they were given."""
        return sorted(self._digests[k] for k in numbers)


def boxes_around(bbox: Sequence[float] | None, margin: float) -> list[Any]:
    """Boxes in degrees around an item, two where one crosses 180°; none where the item has no box."""
    if bbox is None:
        return []
    bounds = bounds_of(bbox)
    return box_polygons(grown(bounds, margin) if margin else bounds)


def local_files(item: pystac.Item) -> dict[str, Path]:
    """Assets that are files of this machine, by key."""
    found = {key: local_file(asset) for key, asset in sorted(item.assets.items())}
    return {key: path for key, path in found.items() if path is not None}


def packed_item(item: pystac.Item) -> tuple[str, str]:
    """Return an item as JSON without its links, and a digest of what it and its files hold.

    A local file is known by its checksum where the item states one, else by name, size and time: not by the folder that
    it lies in, so that a delivery that was moved is the same input, and one that was replaced is another.
    """
    document = item.to_dict(include_self_link=False, transform_hrefs=False) | {"links": []}
    for key, asset in item.assets.items():
        document["assets"][key]["href"] = asset.get_absolute_href() or asset.href
    text = canonical(document)
    for key, path in local_files(item).items():
        asset = document["assets"][key]
        asset["href"] = path.name
        if (
            "metadata" not in asset.get("roles", ())
            and sha256_of(str(asset.get("file:checksum", ""))) is None
        ):
            try:
                about = path.stat()
            except OSError:
                asset["file"] = "missing"
            else:
                asset["file"] = [about.st_size, about.st_mtime_ns]
    return text, digest(document)
