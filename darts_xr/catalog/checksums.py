"""Checksums of an item's files: written on request, checked where an item states them."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from pathlib import Path

import pystac

from darts_xr.digests import file_digest, multihash, sha256_of
from darts_xr.errors import DamagedFileError, MissingFileError
from darts_xr.stac import FILE_EXTENSION


def local_file(asset: pystac.Asset) -> Path | None:
    """File of this machine that an asset names; None where it lies elsewhere."""
    href = (asset.get_absolute_href() or asset.href).removeprefix("file://")
    return None if "://" in href or href.startswith("/vsi") else Path(href)


def add_checksums(items: Iterable[pystac.Item]) -> Iterator[pystac.Item]:
    """State size and SHA-256 of each item's local files, as the STAC file extension does.

    Parameters
    ----------
    items : iterable of pystac.Item
        Left as they are; every local file is read once, when the item is taken.

    Yields
    ------
    pystac.Item
        A copy with ``file:checksum`` and ``file:size`` in the assets whose files are on this machine.

    Raises
    ------
    MissingFileError
        A file is not there or cannot be read.

    Examples
    --------
    >>> items = list(add_checksums(darts_xr.planet_items("order")))  # doctest: +SKIP
    """
    for item in items:
        stated = item.clone()
        for key, asset in stated.assets.items():
            if (path := local_file(item.assets[key])) is None:
                continue
            try:
                asset.extra_fields |= {
                    "file:checksum": multihash(file_digest(path)),
                    "file:size": path.stat().st_size,
                }
            except OSError as error:
                raise MissingFileError(
                    f"{item.id}: {path} cannot be read for its checksum ({error.strerror or error}); put the file back "
                    "or leave the scene out"
                ) from error
            if FILE_EXTENSION not in stated.stac_extensions:
                stated.stac_extensions.append(FILE_EXTENSION)
        yield stated


def check_files(item: pystac.Item, *, trust_times: bool = False) -> int:
    """Compare an item's local files with the checksums that it states.

    Parameters
    ----------
    item : pystac.Item
        Assets without ``file:checksum`` (SHA-256), files elsewhere and metadata, of which no pixel is made, are passed
        over.
    trust_times : bool
        Take a file that this process compared before, and that has the size and time of then, for the same: for layers
        that many scenes share.

    Returns
    -------
    int
        Number of files that were compared.

    Raises
    ------
    DamagedFileError
        A file is not what the catalogue says.
    MissingFileError
        A file is not there.

    Examples
    --------
    >>> check_files(pystac.Item("a", None, None, datetime.datetime(2021, 7, 15), {}))  # doctest: +SKIP
    0
    """
    compared = 0
    for key, asset in sorted(item.assets.items()):
        stated = sha256_of(str(asset.extra_fields.get("file:checksum", "")))
        path = local_file(asset)
        if stated is None or path is None or "metadata" in (asset.roles or ()):
            continue
        try:
            about = path.stat()
            found = _known(str(path), about.st_size, about.st_mtime_ns) if trust_times else file_digest(path)
        except OSError as error:
            raise MissingFileError(
                f"{item.id}: {key} is not at {path} ({error.strerror or error})"
            ) from error
        if found != stated:
            raise DamagedFileError(
                f"{item.id}: {path.name} ({key}) is not the file that the catalogue describes: its SHA-256 is "
                f"{found[:12]}…, stated is {stated[:12]}…. Copy it again, or build the catalogue again if it was "
                "replaced on purpose"
            )
        compared += 1
    return compared


@functools.lru_cache(maxsize=1024)
def _known(path: str, size: int, mtime_ns: int) -> str:
    return file_digest(path)
