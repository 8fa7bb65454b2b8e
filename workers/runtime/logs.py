"""The log: to stderr, as lines for people or JSON, from a thread so that nobody waits for it.

Used in every process of the server. Records of `logging` flow in, lines flow to stderr, which a
child has as a separate descriptor. Messages quote clients and models, so everything that could
start a line or move a terminal's cursor is escaped: a line that begins with a time is one of ours.

Repeated warnings are rate-limited: bad input can make one line of code complain thousands of times
a second, which must fill neither the disk nor the log. What can't be written (a full disk, a closed
pipe), or comes while `_MAX_QUEUED_LINES` wait for a reader that does not read, is lost; how much is
logged afterwards.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import select
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from workers.runtime.texts import abridge

__all__ = [
    "MAX_BYTES",
    "FloodFilter",
    "Format",
    "HumanFormatter",
    "JsonFormatter",
    "ProcessName",
    "flush",
    "log_environment",
    "log_settings",
    "printable",
    "set_up_logging",
]

Format = Literal["human", "json"]

#: A pipe takes this much at once or nothing (PIPE_BUF), so lines of several processes never mix.
MAX_BYTES = 4096

_log = logging.getLogger(__name__)
_LEVEL, _FORMAT = "ENSEMBLED_LOG_LEVEL", "ENSEMBLED_LOG_FORMAT"
_STDERR = 2
_MAX_QUEUED_LINES = 1000
_FLUSH_S = 0.5
_INDENT = "    "
#: The attributes of every record; all others were given with `extra` and are logged.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}
#: This many warnings from one place in the code pass per window.
_BURST = 20
_WINDOW_S = 10.0


class ProcessName(NamedTuple):
    """Names the process that logs: its role, and a worker's device or a profiler's member."""

    role: str
    subject: str = ""

    @property
    def title(self) -> str:
        """The name in the log and in the list of processes."""
        words = ("ensembled", "" if self.role == "supervisor" else self.role, self.subject)
        return " ".join(filter(None, words))


def log_environment(level: str, style: Format) -> dict[str, str]:
    """Return the environment variables with which a child process logs like its parent."""
    return {_LEVEL: level, _FORMAT: style}


def log_settings(environment: Mapping[str, str]) -> tuple[str, Format]:
    """Return level and format as `log_environment` encodes them."""
    style: Format = "json" if environment.get(_FORMAT) == "json" else "human"
    return environment.get(_LEVEL) or "info", style


def set_up_logging(name: ProcessName, level: str, style: Format, fd: int = _STDERR) -> None:
    """Send this process's log to stderr, and with it what Python would print there.

    To be called once, before any file is opened: a closed stderr becomes the null device, because
    otherwise the next file to be opened would take its place and receive the log.
    """
    _reserve_standard_streams()
    handler = _Handler(fd)
    handler.setFormatter(JsonFormatter(name) if style == "json" else HumanFormatter(name))
    handler.addFilter(FloodFilter())
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(level.upper())
    logging.raiseExceptions = False  # they would be printed to stderr
    logging.captureWarnings(True)
    threading.excepthook = _on_thread_exception
    sys.unraisablehook = _on_unraisable


def flush(timeout_s: float = _FLUSH_S) -> None:
    """Wait until everything logged is written, up to a timeout; for the end of the process."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _Handler):
            handler.wait_written(timeout_s)


def printable(text: str) -> str:
    """Escape all unprintable characters: newlines, colours, marks that change the direction."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class HumanFormatter(logging.Formatter):
    """``2026-11-21 19:05:12,123 WARNING ensembled worker cpu:0: text key=value``.

    The lines of a traceback follow, indented.
    """

    def __init__(self, name: ProcessName) -> None:
        super().__init__()
        self._title = name.title

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and those of its traceback."""
        head = f"{self.formatTime(record)} {record.levelname} {self._title}: "
        text = printable(_message(record))
        extras = "".join(f" {key}={_value(value)}" for key, value in _extras(record).items())
        lines = [abridge(head + text, MAX_BYTES - 1 - len(extras.encode())) + extras]
        for line in _exception(self, record).split("\n"):
            if line:
                lines.append(abridge(_INDENT + printable(line), MAX_BYTES - 1))
        return "\n".join(lines)


class JsonFormatter(logging.Formatter):
    """One ASCII object: time, level, role, device, pid, logger, message, extras, exception."""

    def __init__(self, name: ProcessName) -> None:
        super().__init__()
        self._process = {"role": name.role}
        if name.role == "worker":
            self._process["device"] = name.subject

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        document = {
            **_extras(record),
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            **self._process,
            "pid": record.process,
            "logger": record.name,
            "message": _message(record),
        }
        if exception := _exception(self, record):
            document["exception"] = exception
        return _fit(document)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # the arguments don't fit the format: log both
        return f"{record.msg} {record.args}"


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    return {k: value for k, value in vars(record).items() if k not in _STANDARD and value != ""}


def _exception(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    text = formatter.formatException(record.exc_info) if record.exc_info else ""
    return text + (f"\n{formatter.formatStack(record.stack_info)}" if record.stack_info else "")


def _value(value: Any) -> str:
    """Format a value so that it can't be mistaken for the next key."""
    text = str(value)[: MAX_BYTES // 8]
    plain = text.isprintable() and not set(text) & set(" =\"'")
    return text if plain else json.dumps(text)


def _fit(document: dict[str, Any]) -> str:
    """Return JSON with the longest texts truncated until it fits; a traceback keeps its end."""
    line = _dump(document)
    while len(line) > MAX_BYTES - 1:
        key = max(document, key=lambda key: len(_dump(document[key])))
        text = document[key] if isinstance(document[key], str) else _dump(document[key])
        half = len(text) // 2
        document[key] = f"...{text[-half:]}" if key == "exception" else abridge(text, half)
        line = _dump(document)
    return line


def _dump(value: Any) -> str:
    return json.dumps(value, default=str)


@dataclass(slots=True)
class _Window:
    """The warnings of one line of code since the window began."""

    began: float
    passed: int = 0
    left_out: int = 0


class FloodFilter(logging.Filter):
    """Passes 20 warnings or errors from one line of code per ten seconds.

    The next one that passes has an attribute `left_out`, how many did not. Less severe records
    always pass.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._windows: dict[tuple[str, int], _Window] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is to be written."""
        if record.levelno < logging.WARNING:
            return True
        now = self._clock()
        window = self._windows.setdefault((record.pathname, record.lineno), _Window(now))
        if now - window.began >= _WINDOW_S:
            window.began, window.passed = now, 0
        if window.passed >= _BURST:
            window.left_out += 1
            return False
        window.passed += 1
        if window.left_out:
            record.left_out, window.left_out = window.left_out, 0
        return True


class _Handler(logging.Handler):
    """Hands formatted lines to the thread that writes them."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd
        # Unlike other queues, this one is reentrant: a finalizer may log while a record is put.
        self._lines: queue.SimpleQueue[bytes | threading.Event] = queue.SimpleQueue()
        #: Only grow, each in one thread: lines that were never queued, and that failed to write.
        self._dropped = self._failed = 0
        threading.Thread(target=self._write_lines, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a record for writing; drop it if too many wait."""
        if self._lines.qsize() >= _MAX_QUEUED_LINES:
            self._dropped += 1
            return
        try:
            text = self.format(record)
        except Exception as error:  # logging must not fail the caller
            text = f"a line of the log can't be formatted: {type(error).__name__}"
        self._lines.put(text.encode(errors="backslashreplace") + b"\n")

    def wait_written(self, timeout_s: float) -> None:
        """Wait until the lines so far are written."""
        written = threading.Event()
        self._lines.put(written)
        written.wait(timeout_s)

    def _write_lines(self) -> None:
        reported = 0
        while True:
            item = self._lines.get()
            if isinstance(item, bytes) and not self._write(item):
                self._failed += 1
                continue
            lost = self._dropped + self._failed
            is_time = self._lines.empty() or isinstance(item, threading.Event)
            if lost > reported and is_time and self._write(self._loss(lost - reported)):
                reported = lost
            if isinstance(item, threading.Event):
                item.set()

    def _loss(self, count: int) -> bytes:
        record = _log.makeRecord(
            _log.name, logging.WARNING, "", 0, "%d lines of the log were lost", (count,), None
        )
        return self.format(record).encode() + b"\n"

    def _write(self, data: bytes) -> bool:
        """Write all of `data`, however long that takes; return whether it succeeded."""
        while data:
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:  # another process has made the shared descriptor non-blocking
                with contextlib.suppress(OSError):
                    select.select([], [self._fd], [])
            except OSError:
                return False
        return True


def _reserve_standard_streams() -> None:
    while (fd := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        os.set_inheritable(fd, True)
    os.close(fd)


def _on_thread_exception(failed: Any) -> None:
    if failed.exc_type is SystemExit:
        return
    name = failed.thread.name if failed.thread is not None else "a thread"
    exception = (failed.exc_type, failed.exc_value, failed.exc_traceback)
    _log.error("%s failed", name, exc_info=exception)


def _on_unraisable(failed: Any) -> None:
    text = failed.err_msg or "an exception was ignored"
    exception = (failed.exc_type, failed.exc_value, failed.exc_traceback)
    _log.error("%s: %r", text, failed.object, exc_info=exception)
