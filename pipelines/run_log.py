"""What was said while a run went on: ``run.log`` in its folder, of this process and of its workers."""

from __future__ import annotations

import logging
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import NamedTuple

from darts_xr.addresses import redact, store_errors
from darts_xr.errors import OutputError
from pipelines.folder import RunFolder

log = logging.getLogger(__name__)

NAME = "run.log"
_PACKAGES = ("darts_xr", "pipelines")
_NOTE = "Details: "  # of an error whose traceback stands in a run.log
_SEND_SECONDS = 60.0  # an object store cannot append: the whole is sent anew, so not at each line
_format = logging.Formatter().format

_scene: ContextVar[str] = ContextVar("scene", default="")
_in_hand: set[str] = set()  # scenes that this process is doing
_open: list[RunLog] = []  # run logs that hear this process


class Line(NamedTuple):
    """One message, as it travels from a worker: seconds since 1970, level, scene or "", logger, text."""

    when: float
    level: str
    scene: str
    logger: str
    text: str

    def __str__(self) -> str:
        when = datetime.fromtimestamp(self.when, UTC).isoformat(timespec="milliseconds")
        # What others chose neither steers the terminal that shows it nor looks like a line of its own.
        scene, *lines = (
            "".join(map(_shown, line)) for line in (self.scene, *self.text.rstrip("\n").split("\n"))
        )
        text = "\n    ".join(lines)
        return f"{when.replace('+00:00', 'Z')} {self.level:<7} {scene or '-'} {self.logger}: {text}\n"


def _shown(sign: str) -> str:
    return sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}"


def _line_of(record: logging.LogRecord) -> Line:
    text = redact(_format(record))
    # Chunks are computed on threads that know nothing of scenes; what they say names theirs.
    scene = _scene.get() or next((name for name in tuple(_in_hand) if name in text), "")
    return Line(record.created, record.levelname, scene, record.name, text)


class RunLog(logging.Handler):
    """The log of a run, appended to; a context manager within which it hears what this process says.

    Parameters
    ----------
    folder : RunFolder
        The run folder; its lock must be held. In an object store the log is sent once a minute and at the end.
    start : str
        What the first line says of the run.

    Notes
    -----
    A log that cannot be written is said to be so once, and never a reason for a run to end. An error that leaves the
    block is written with its traceback.
    """

    def __init__(self, folder: RunFolder, start: str) -> None:
        super().__init__()
        self.path = folder.path / NAME
        self._folder, self._start = folder, start
        self._file: int | None = None
        self._text, self._sent = "", time.monotonic()  # of an object store
        self._dead = False
        self._levels: list[tuple[logging.Logger, int]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Write what a logger of this process said."""
        try:
            self._write(_line_of(record))
        except Exception:  # as all handlers do: what cannot be formatted must not stop who said it
            self.handleError(record)

    def say(self, text: str, scene: str = "", level: int = logging.INFO) -> None:
        """Write a line of the run itself."""
        self._write(Line(time.time(), logging.getLevelName(level), scene, "run", redact(text)))

    def take(self, lines: Iterable[Iterable[object]]) -> None:
        """Write what was said on a worker."""
        for line in lines:
            self._write(Line(*line))  # type: ignore[arg-type]

    def _write(self, line: Line) -> None:
        self._reach(lambda: self._put(str(line)))

    def _put(self, text: str) -> None:
        if self._file is None:
            self._text += text
            if time.monotonic() - self._sent >= _SEND_SECONDS:
                self._send()
            return
        left = text.encode(errors="backslashreplace")
        while left:
            left = left[os.write(self._file, left) :]

    def _send(self) -> None:
        self._folder.write_text(NAME, self._text)
        self._sent = time.monotonic()

    def _begin(self) -> None:
        local = self._folder.local
        if local is None:
            with suppress(FileNotFoundError):
                self._text = self.path.read_text(encoding="utf-8", errors="replace")
            goes_on = bool(self._text)
        else:
            self._file = os.open(local / NAME, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            goes_on = os.fstat(self._file).st_size > 0
        if goes_on:
            self._put("\n")  # also ends a line that a killed run left half-written
        self.say(f"the run {'goes on' if goes_on else 'starts'}: {self._start}")

    def _end(self) -> None:
        if self._file is None:
            self._send()

    def _reach(self, write: Callable[[], None]) -> None:
        """Write, unless that failed before; the first failure is said."""
        assert self.lock is not None
        with self.lock:
            if self._dead:
                return
            try:
                write()
            except store_errors(OutputError) as error:
                self._dead = True
                log.warning("%s cannot be written (%s); the run goes on without it", self.path, error)

    def __enter__(self) -> RunLog:
        self._reach(self._begin)
        for logger in map(logging.getLogger, _PACKAGES):
            self._levels.append((logger, logger.level))
            if not logger.hasHandlers():  # nobody else would be shown what is said for the file
                logger.setLevel(logging.INFO)
            logger.addHandler(self)
        _open.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _open.remove(self)
        for logger, level in self._levels:
            logger.removeHandler(self)
            logger.setLevel(level)
        if error is not None:
            story = "".join(traceback.format_exception(error))
            self.say(f"stopped by an error\n{story}", level=logging.ERROR)
        self._reach(self._end)
        if error is not None and not self._dead:
            error.add_note(f"{_NOTE}{self.path}")
        assert self.lock is not None
        with self.lock:  # a scene that was left alone may be speaking still
            self._dead = True
            if self._file is not None:
                os.close(self._file)
        self.close()


def kept_in(error: BaseException) -> str | None:
    """Path of the run log that has the traceback of an error; None where there is none."""
    notes = [note for note in getattr(error, "__notes__", ()) if note.startswith(_NOTE)]
    return notes[0].removeprefix(_NOTE) if notes else None


class _Notes(logging.Handler):
    """Keeps what is said while this thread does a scene: its warnings, and all lines of the scene."""

    def __init__(self, scene: str) -> None:
        super().__init__()
        self.scene, self.thread = scene, threading.get_ident()
        self.warnings: list[str] = []
        self.lines: list[Line] = []

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if record.thread == self.thread and record.levelno >= logging.WARNING:
                self.warnings.append(record.getMessage())
            if _open:  # it is in a run log already
                return
            line = _line_of(record)
            # What names no scene travels with one of those in hand.
            if (line.scene or next(iter(tuple(_in_hand)), "")) == self.scene:
                self.lines.append(line)
        except Exception:
            self.handleError(record)


@contextmanager
def noting(scene: str, *, own_process: bool) -> Iterator[_Notes]:
    """Collect what the library and the pipelines say while a scene is done.

    Parameters
    ----------
    scene : str
        Id of the scene.
    own_process : bool
        Whether the process is a worker's, so that nobody else's terminal shows what is said for the log.
    """
    notes = _Notes(scene)
    loggers = [logging.getLogger(name) for name in _PACKAGES]
    token = _scene.set(scene)
    _in_hand.add(scene)
    for logger in loggers:
        if own_process and logger.level == logging.NOTSET:
            logger.setLevel(logging.INFO)
        logger.addHandler(notes)
    try:
        yield notes
    finally:
        for logger in loggers:
            logger.removeHandler(notes)
        _in_hand.discard(scene)
        _scene.reset(token)
