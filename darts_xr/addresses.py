"""Addresses of documents and files: told apart, joined, refused where they are hostile, shown without secrets.

Also the file names that ids of items become.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
import sys
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from darts_xr.errors import CatalogError

_PARQUET = (".parquet", ".geoparquet")
_LINES = (".ndjson", ".jsonl")
# Schemes that a document of the web may name without reaching into this machine's files. GDAL has many more
# that do, such as file://, vrt:// and NETCDF:.
_REMOTE = {
    *(
        "http",
        "https",
        "ftp",
        "ftps",
        "sftp",
        "s3",
        "s3a",
        "gs",
        "gcs",
        "az",
        "azure",
        "abfs",
        "abfss",
        "adl",
    ),
    *("oss", "swift", "dods", "ipfs", "data", "doi", "urn", "mailto"),
}

# Those of them that fsspec opens, as far as its package for them is installed.
_STORES = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"}

# Lower case only, as some file systems take A and a for one name; no dot at the end, which some drop.
_SAFE = re.compile(r"(?!.*\.$)[a-z0-9_-][a-z0-9._-]{0,119}")
_USER = re.compile(r"(?<=://)[^/?#\s]*@")
# Names of parameters that say nothing secret; the value of any other may be a key, a token or a signature.
_HARMLESS = "page|limit|offset|bbox|datetime|ids|collections|f|format"
_VALUE = re.compile(rf"([?&;#](?!(?:{_HARMLESS})=)[^=?&;#\s\"<>]+=)[^&\s\"<>]*", re.IGNORECASE)
_BARE = re.compile(r"(\?)[^=&\s\"<>]+(?=$|[&\s\"<>])")


def redact(text: object) -> str:
    """Text without the secrets of the addresses in it, for messages and logs.

    User names and passwords of addresses and the values of their parameters are replaced by ``…``, but for
    parameters that are known to be harmless, such as ``page`` and ``bbox``.

    Parameters
    ----------
    text : object
        An address, a message that holds some, or an exception.

    Returns
    -------
    str

    Examples
    --------
    >>> redact("https://me:secret@server/a.tif?page=2&sig=abc cannot be read")
    'https://…@server/a.tif?page=2&sig=… cannot be read'
    """
    hidden = _USER.sub("…@", str(text))
    return _BARE.sub(r"\1…", _VALUE.sub(r"\1…", hidden))


def cause(error: BaseException) -> BaseException | None:
    """Cause to raise an error from: the one given, or None where its text or that of its causes holds a secret."""
    link: BaseException | None = error
    while link is not None:
        if redact(link) != str(link):
            return None
        link = link.__cause__ or link.__context__
    return error


def is_url(href: str) -> bool:
    """Whether an address is read over HTTP."""
    return href.lower().startswith(("http://", "https://"))


def in_store(href: str) -> bool:
    """Whether an address is that of an object in a store, such as ``s3://bucket/catalog.json``."""
    scheme, mark, _ = href.partition("://")
    return bool(mark) and scheme.lower() in _STORES


def is_remote(href: str) -> bool:
    """Whether an address is that of something outside of this machine."""
    return is_url(href) or in_store(href)


def store_errors(*others: type[Exception]) -> tuple[type[Exception], ...]:
    """Give what reading from and writing to a store may raise, and others; S3's own errors are no ``OSError``."""
    botocore = sys.modules.get("botocore.exceptions")
    return (OSError, ImportError, *others, *(() if botocore is None else (botocore.BotoCoreError,)))


def file_name(href: str) -> str:
    """Last part of an address, without parameters."""
    return (re.split(r"[?#]", href, maxsplit=1)[0] if is_url(href) else href).rsplit("/", 1)[-1]


def is_geoparquet(href: str) -> bool:
    """Whether a source is stac-geoparquet, by its extension."""
    return file_name(href).lower().endswith(_PARQUET)


def is_lines(href: str) -> bool:
    """Whether a source holds one JSON item a line, by its extension."""
    return file_name(href).lower().endswith(_LINES)


def href_of(source: str | os.PathLike[str]) -> str:
    """Address or absolute path of a source; a folder, also of a store, stands for the catalog.json in it.

    Raises
    ------
    CatalogError
    """
    text = os.fspath(source)
    if is_url(text):
        return text
    if in_store(text):
        is_document = text.lower().endswith((".json", ".geojson", *_PARQUET, *_LINES))
        return text if is_document else f"{text.rstrip('/')}/catalog.json"
    if "://" in text and not text.startswith("file://"):
        raise CatalogError(
            f"{redact(text)}: only files, http(s) addresses and object stores ({', '.join(sorted(_STORES))}) can be "
            "read; download it first"
        )
    path = Path(text.removeprefix("file://")).absolute()
    if path.is_dir():
        if not (path / "catalog.json").exists():
            raise CatalogError(
                f"the folder {path} holds no catalog.json; for a Planet delivery use planet_items(folder) or "
                "`darts-xr catalog` first"
            )
        path = path / "catalog.json"
    if not path.exists():
        raise CatalogError(
            f"{path} does not exist; give a catalogue, an ItemCollection or a stac-geoparquet file"
        )
    return str(path)


def join(base: str, href: str) -> str:
    """Absolute form of an address found in a document at ``base``.

    Raises
    ------
    CatalogError
        It is empty, or a document of the web names a file of this machine.
    """
    if not href:
        raise CatalogError(f"{redact(base)} holds a link or asset without address; build the catalogue again")
    if is_remote(base):
        try:
            target = urljoin(base, href) if is_url(base) else _join_in_store(base, href)
            scheme = urlsplit(target).scheme
        except ValueError as error:
            raise CatalogError(
                f"{redact(base)} names {redact(href)}, which is no address: {redact(error)}; "
                "build the catalogue again"
            ) from cause(error)
        if scheme not in _REMOTE:
            raise CatalogError(
                f"{redact(base)} names {redact(target)}, a file of this computer, which a document of the web "
                "may not; download the catalogue if you trust it"
            )
        return target
    if "://" in href or href.startswith("/vsi"):
        return href.removeprefix("file://")
    return os.path.normpath(os.path.join(os.path.dirname(base), href))


def _join_in_store(base: str, href: str) -> str:
    if "://" in href or href.startswith("/"):
        return href  # a path is that of a file here: keys of objects do not begin with a stroke
    store, key = base.split("://", 1)
    bucket, _, place = key.partition("/")
    target = posixpath.normpath(posixpath.join(posixpath.dirname(place), href))
    return href if target.startswith("..") else f"{store}://{bucket}/{target}"


def next_page(page: str, href: str, *, search: str) -> str:
    """Address of the page that follows ``page`` of the search of ``search``, on the same server.

    Raises
    ------
    CatalogError
        It is on another server, or no address of the web.
    """
    target = join(page, href)
    if not is_url(target) or urlsplit(target).hostname != urlsplit(page).hostname:
        raise CatalogError(
            f"the search of {redact(search)} goes on at {redact(target)}, which is not the same server; it is "
            "not followed: search there directly if you trust it"
        )
    return target


def safe_name(item_id: str) -> str:
    """File name for an item id: itself where that is safe, else escaped with a hash.

    Scene ids stay as they are. Any other id (path separators, leading dots, spaces, control characters,
    capitals, more than 120 characters) loses its unsafe characters and gains ``~`` and a hash of the whole
    id, so that distinct ids always give distinct names, also where a file system ignores capitals,
    and no name leaves its folder.

    Parameters
    ----------
    item_id : str
        Id of an item or a collection; not empty.

    Returns
    -------
    str
        A single path component of at most 120 characters.

    Raises
    ------
    CatalogError
        The id is empty.

    Examples
    --------
    >>> safe_name("20160909_213104_0e19")
    '20160909_213104_0e19'
    >>> safe_name("../../etc/passwd")
    'etc-passwd~3754d6cb3a38e118'
    """
    if not item_id:
        raise CatalogError("an item has an empty id; give it one before it is written")
    if _SAFE.fullmatch(item_id):
        return item_id
    readable = re.sub(r"[^A-Za-z0-9_]+", "-", item_id).strip("-")[:100]
    return f"{readable}~{hashlib.sha256(item_id.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"
