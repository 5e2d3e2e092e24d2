"""What a file holds, in one number: SHA-256, also as the STAC file extension writes it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

_SHA256 = "1220"  # multihash: SHA-256, of 32 bytes


def file_digest(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, as hexadecimal text.

    Parameters
    ----------
    path : path
        A file on this machine's disks; read once, in pieces.

    Returns
    -------
    str
        64 hexadecimal digits.

    Raises
    ------
    OSError
        The file cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     file_digest(file.name)[:12]
    'e3b0c44298fc'
    """
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def multihash(sha256: str) -> str:
    """SHA-256 as ``file:checksum`` of the STAC file extension states it."""
    return _SHA256 + sha256


def sha256_of(checksum: str) -> str | None:
    """SHA-256 that a ``file:checksum`` states, None where it is of another kind."""
    text = checksum.lower()
    return text[4:] if text.startswith(_SHA256) and len(text) == 68 else None
