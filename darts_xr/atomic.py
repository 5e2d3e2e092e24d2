"""Files and folders that appear whole or not at all, also when the power goes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def write_atomic(path: str | os.PathLike[str], write: Callable[[Path], object]) -> Path:
    """Let ``write`` make a file beside its final place, then give it its name.

    Parameters
    ----------
    path : path
        The file; missing folders are made.
    write : callable
        Takes a path of the same file name in a hidden folder beside ``path``, and makes that file.

    Returns
    -------
    pathlib.Path
        The file, on disk and not only in the system's memory. When anything fails, the file of before stays.

    Raises
    ------
    OSError
        The file cannot be written; and whatever ``write`` raises.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_atomic(folder + "/run.json", lambda part: part.write_text("{}")).read_text()
    '{}'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", suffix=".part", dir=path.parent) as folder:
        part = Path(folder) / path.name
        write(part)
        sync(part)
        os.replace(part, path)
    sync(path.parent)
    return path


def sync(path: Path) -> None:
    """Bring a file, or a folder's list of names, to the disk.

    A name that was changed is safe only once its folder is: after a power cut a file could be there under no name.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
