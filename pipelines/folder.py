"""The folder of a run, on a disk or in an object store: whole files only, one run at a time."""

from __future__ import annotations

import errno
import functools
import json
import logging
import os
import shutil
import socket
import stat
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from upath import UPath

from darts_xr.addresses import safe_name, store_errors
from darts_xr.atomic import write_atomic
from darts_xr.digests import file_digest
from darts_xr.errors import OutputError, ProductError, RunLockedError
from pipelines.digests import bytes_differ

log = logging.getLogger(__name__)

_LOCK = ".lock"
_PART = ".part"
#: Seconds after which a run in an object store that gave no sign of life counts as dead.
STALE_AFTER = 180.0


class RunFolder:
    """Where a run writes: a local folder, or any target that fsspec knows (``s3://bucket/run``).

    Parameters
    ----------
    target : path or str
        The folder; made when the first file is written.
    """

    def __init__(self, target: str | os.PathLike[str]) -> None:
        # Other machines write here too: what a folder held a while ago says nothing.
        asked = UPath(target, use_listings_cache=False) if "://" in str(target) else UPath(target)
        #: The folder on this machine's disks; None in an object store.
        self.local = Path(asked.path).absolute() if asked.protocol in ("", "file", "local") else None
        self.path: Path | UPath = self.local or asked
        self._lock: _ObjectLock | None = None

    def __str__(self) -> str:
        return str(self.path)

    def scene(self, scene_id: str) -> Path | UPath:
        """Folder of a scene, whatever its id holds."""
        return self.path / self.scene_place(scene_id)

    def scene_place(self, scene_id: str) -> str:
        """Folder of a scene, as seen from the run folder."""
        return f"scenes/{safe_name(scene_id)}"

    def differing(
        self, scene_id: str, outputs: Mapping[str, Mapping[str, Any]], *, content: bool = False
    ) -> list[str]:
        """Names of a scene's files that are gone or not what was noted of them.

        Parameters
        ----------
        scene_id : str
            The scene.
        outputs : mapping
            SHA-256, size and time of each file, by name.
        content : bool
            Read every file. Else one of the noted size and time is taken for the noted one, and where the times differ,
            as after a copy, its content decides; an object store tells sizes only.
        """
        place = self.scene_place(scene_id)
        return [name for name, facts in outputs.items() if self._differs(place, name, facts, content)]

    def _differs(self, place: str, name: str, facts: Mapping[str, Any], content: bool) -> bool:
        if self.local is None:
            if self._listed.get(place, {}).get(name) != facts["size"]:
                return True
            return content and bytes_differ((self.path / place / name).read_bytes(), facts)
        path = self.local / place / name
        try:
            about = path.stat()
            if not stat.S_ISREG(about.st_mode) or about.st_size != facts["size"]:
                return True
            same_time = about.st_mtime_ns == facts["mtime_ns"]
            return (content or not same_time) and file_digest(path) != facts["sha256"]
        except OSError as error:
            log.info("%s: %s", path, error)
            return True

    @functools.cached_property
    def _listed(self) -> dict[str, dict[str, int]]:
        """Sizes of all scenes' files in an object store, where one listing takes little longer than asking for one."""
        found: dict[str, dict[str, int]] = {}
        place = UPath(self.path) / "scenes"
        for path, about in place.fs.find(place.path, detail=True).items():
            *_, folder, name = str(path).split("/")
            found.setdefault(f"scenes/{folder}", {})[name] = int(about["size"])
        return found

    def remove_scene(self, scene_id: str) -> None:
        """Remove a scene's files.

        Raises
        ------
        OutputError
            When they cannot be removed.
        """
        place = self.scene_place(scene_id)
        with writing(self):
            if self.local is not None:
                if (self.local / place).exists():
                    shutil.rmtree(self.local / place)
                return
            for name in self._listed.get(place, {}):
                (self.path / place / name).unlink(missing_ok=True)

    def write_text(self, name: str, text: str) -> None:
        """Write a small file, whole or not at all.

        Raises
        ------
        OutputError
            When it cannot be written; the file of before stays.
        """
        with writing(self):
            if self.local is None:
                (self.path / name).write_text(text, encoding="utf-8")  # an object appears when it is whole
                return
            write_atomic(self.local / name, lambda part: part.write_text(text, encoding="utf-8"))

    @contextmanager
    def scene_part(self, scene_id: str, files: Set[str]) -> Iterator[Path]:
        """Local folder for a scene's files, which become the scene's when the block ends without error.

        Parameters
        ----------
        scene_id : str
            The scene.
        files : set of str
            Names of the files that the block will have made.

        Yields
        ------
        pathlib.Path
            The folder.

        Raises
        ------
        OutputError
            When the files cannot be written or put in their place; nothing of them is left.
        """
        if self.local is None:
            with self.staging(self.scene_place(scene_id)) as part:
                yield part
            return
        final = self.local / self.scene_place(scene_id)
        part = _hidden(final)
        with writing(self):
            part.mkdir(parents=True)
            try:
                yield part
                if files - {path.name for path in part.iterdir()}:
                    # This run was stopped and another one swept while the scene was still in flight.
                    raise OutputError(f"{self}: the files of {scene_id} were taken away while it was written")
                _replace_folder(part, final)
            finally:
                shutil.rmtree(part, ignore_errors=True)

    @contextmanager
    def staging(self, name: str) -> Iterator[Path]:
        """Local folder for files that belong into the subfolder ``name``; each file appears there whole."""
        if self.local is not None:
            yield self.local / name
            return
        with writing(self), tempfile.TemporaryDirectory(prefix="darts_xr_") as place:
            yield Path(place)
            # The item comes last, for it says that the others are there.
            for file in sorted(Path(place).iterdir(), key=lambda path: (path.name == "item.json", path.name)):
                (self.path / name / file.name).write_bytes(file.read_bytes())

    def sweep(self) -> None:
        """Remove what a killed run left half-written; only for who holds the lock."""
        if self.local is None:
            return  # objects are whole or absent
        for place in (self.local, self.local / "scenes", self.local / "products"):
            for left in place.glob(f".*{_PART}"):
                # Renamed first: a scene in flight, of a run that was stopped, must not find a part of its files.
                doomed = _hidden(left)
                with suppress(FileNotFoundError):
                    os.replace(left, doomed)
                    if doomed.is_dir():
                        shutil.rmtree(doomed, ignore_errors=True)
                    else:
                        doomed.unlink()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs out of the folder; a lock whose holder died is void.

        Raises
        ------
        RunLockedError
            When another run is at work in the folder.
        OutputError
            When the folder cannot be written.
        """
        if self.local is not None:
            with writing(self):
                self.local.mkdir(parents=True, exist_ok=True)
                # Held by the kernel, which lets go when the process ends, however it ends.
                lock = FileLock(self.local / _LOCK)
                try:
                    lock.acquire(timeout=0)
                except Timeout as error:
                    raise RunLockedError(_locked(self, "another process")) from error
            try:
                yield
            finally:
                lock.release()
            return
        self._lock = _ObjectLock(self, UPath(self.path) / _LOCK)
        with self._lock.held():
            yield

    def check_lock(self) -> None:
        """Make sure that the lock is still this run's: in an object store another run takes it from one that stalls.

        Raises
        ------
        RunLockedError
            When another run has taken it.
        """
        if self._lock is not None and self._lock.taken:
            raise RunLockedError(_locked(self, self._lock.taken))


def _replace_folder(part: Path, final: Path) -> None:
    """Put a folder in the place of another; a worker that was thought dead may be doing the same."""
    for left in (2, 1, 0):
        aside = _hidden(final)
        with suppress(FileNotFoundError):
            os.replace(final, aside)
        try:
            os.replace(part, final)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or left == 0:
                with suppress(OSError):
                    os.replace(aside, final)
                raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _hidden(final: Path) -> Path:
    """Path beside a folder that nobody else uses, and that the next run sweeps away."""
    return final.with_name(f".{final.name}.{uuid.uuid4().hex[:8]}{_PART}")


class _ObjectLock:
    """A lock as an object that names its holder and is renewed while the run goes on.

    Object stores have no locks that end with their holder, so one that is not renewed lapses.
    """

    def __init__(self, folder: RunFolder, path: UPath) -> None:
        self.folder, self.path = folder, path
        self.holder = f"{socket.gethostname()}, process {os.getpid()}, {uuid.uuid4().hex[:8]}"
        self.taken: str | None = None  # by which other run
        self._over = threading.Event()

    @contextmanager
    def held(self) -> Iterator[None]:
        self._acquire()
        keeper = threading.Thread(target=self._keep, name="lock", daemon=True)
        keeper.start()
        try:
            yield
        finally:
            self._over.set()
            keeper.join()
            with writing(self.folder):
                if (found := self._read()) and found["holder"] == self.holder:
                    self.path.unlink(missing_ok=True)

    def _read(self) -> dict[str, Any] | None:
        try:
            # In one request: between two the other run may write it anew.
            return dict(json.loads(self.path.fs.cat_file(self.path.path)))
        except FileNotFoundError:
            return None

    def _content(self) -> bytes:
        return json.dumps({"holder": self.holder, "time": time.time()}).encode()

    def _acquire(self) -> None:
        with writing(self.folder):
            if found := self._read():
                if time.time() - found["time"] < STALE_AFTER:
                    raise RunLockedError(_locked(self.folder, found["holder"]))
                self.path.unlink(missing_ok=True)
            try:
                self.path.fs.pipe_file(self.path.path, self._content(), mode="create")
            except FileExistsError as error:
                raise RunLockedError(_locked(self.folder, "another process")) from error

    def _keep(self) -> None:
        """Renew the lock, however long a scene takes."""
        while not self._over.wait(STALE_AFTER / 6):
            try:
                found = self._read()
                if found and found["holder"] != self.holder:
                    self.taken = found["holder"]
                    return
                self.path.write_bytes(self._content())
            except Exception as error:  # the store may come back; who writes results hears of it if not
                log.warning("%s: the lock could not be renewed: %s", self.folder, error)


def _locked(folder: RunFolder, holder: str) -> str:
    return (
        f"{folder} is in use: {holder} is running there. Wait until it ends, or give this run another folder; "
        "if that run is dead, its lock lapses by itself."
    )


@contextmanager
def writing(folder: RunFolder) -> Iterator[None]:
    """Give every failure to write one name.

    Raises
    ------
    OutputError
        For any OSError or ProductError of the block, and what object stores raise.
    """
    try:
        yield
    except store_errors(ProductError) as error:
        raise OutputError(
            f"{folder} cannot be written: {getattr(error, 'strerror', None) or error}. Free space or correct "
            "permissions, then start the same run again: it goes on where it stopped."
        ) from error
