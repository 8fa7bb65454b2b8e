"""Where the log goes: to stderr, from a thread of its own, so that nobody ever waits for it.

Used in every process of the server. Records of `logging` flow in, lines flow to stderr, which a
child holds as a descriptor of its own. What can't be written (a full disk, a closed pipe) is lost,
and so is what comes while a reader who does not read has left no room: never more than `_MAX_LINES`
wait. How much was lost is said afterwards.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import select
import sys
import threading
from collections.abc import Mapping
from typing import Any, Literal

from workers.runtime.log_floods import FloodFilter
from workers.runtime.log_lines import HumanFormatter, JsonFormatter, Speaker

__all__ = ["Format", "flush", "log_environment", "set_up_logging", "settings_of"]

Format = Literal["human", "json"]

_LEVEL, _FORMAT = "ENSEMBLED_LOG_LEVEL", "ENSEMBLED_LOG_FORMAT"
_STDERR = 2
_MAX_LINES = 1000
_FLUSH_S = 0.5
_log = logging.getLogger(__name__)


def log_environment(level: str, style: Format) -> dict[str, str]:
    """What a child process finds in its environment to log like its parent."""
    return {_LEVEL: level, _FORMAT: style}


def settings_of(environment: Mapping[str, str]) -> tuple[str, Format]:
    """Level and format, as `log_environment` has put them there."""
    style: Format = "json" if environment.get(_FORMAT) == "json" else "human"
    return environment.get(_LEVEL) or "info", style


def set_up_logging(speaker: Speaker, level: str, style: Format, fd: int = _STDERR) -> None:
    """Send this process's log to stderr, and with it what Python would print there.

    To be called once, before anything is opened: if stderr is closed, it becomes the null device,
    lest the next file that is opened takes its place and gets the log.

    Args:
        speaker: this process.
        level: the least severe that is told.
        style: how lines look.
        fd: where they go.
    """
    _hold_standard_streams()
    handler = _Handler(fd)
    handler.setFormatter(JsonFormatter(speaker) if style == "json" else HumanFormatter(speaker))
    handler.addFilter(FloodFilter())
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(level.upper())
    logging.raiseExceptions = False  # which would be printed to stderr
    logging.captureWarnings(True)
    threading.excepthook = _on_thread_exception
    sys.unraisablehook = _on_unraisable


def flush(timeout_s: float = _FLUSH_S) -> None:
    """Wait until what was logged is written, but not for long. For the end of the process."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _Handler):
            handler.wait_written(timeout_s)


class _Handler(logging.Handler):
    """Hands formatted lines to the thread that writes them."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd
        # Unlike other queues, it can be put to while it is put to, which a finalizer may do.
        self._lines: queue.SimpleQueue[bytes | threading.Event] = queue.SimpleQueue()
        #: Only grow, each in one thread: lines for which there was no room, and that nobody took.
        self._dropped = self._failed = 0
        threading.Thread(target=self._write_lines, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Let a record be written; lose it if too many wait."""
        if self._lines.qsize() >= _MAX_LINES:
            self._dropped += 1
            return
        try:
            text = self.format(record)
        except Exception as error:  # whatever was to be told must not do harm
            text = f"a line of the log can't be formatted: {type(error).__name__}"
        self._lines.put(text.encode(errors="backslashreplace") + b"\n")

    def wait_written(self, timeout_s: float) -> None:
        """Wait until the lines so far are written."""
        written = threading.Event()
        self._lines.put(written)
        written.wait(timeout_s)

    def _write_lines(self) -> None:
        told = 0
        while True:
            item = self._lines.get()
            if isinstance(item, bytes) and not self._write(item):
                self._failed += 1
                continue
            lost = self._dropped + self._failed
            is_time = self._lines.empty() or isinstance(item, threading.Event)
            if lost > told and is_time and self._write(self._complaint(lost - told)):
                told = lost
            if isinstance(item, threading.Event):
                item.set()

    def _complaint(self, lost: int) -> bytes:
        record = _log.makeRecord(
            _log.name, logging.WARNING, "", 0, "%d lines of the log were lost", (lost,), None
        )
        return self.format(record).encode() + b"\n"

    def _write(self, data: bytes) -> bool:
        """Write it, however long that takes; whether it is all there."""
        while data:
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:  # someone else has made it so
                with contextlib.suppress(OSError):
                    select.select([], [self._fd], [])
            except OSError:
                return False
        return True


def _hold_standard_streams() -> None:
    while (fd := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        os.set_inheritable(fd, True)
    os.close(fd)


def _on_thread_exception(failed: Any) -> None:
    if failed.exc_type is SystemExit:
        return
    name = failed.thread.name if failed.thread is not None else "a thread"
    told = (failed.exc_type, failed.exc_value, failed.exc_traceback)
    _log.error("%s failed", name, exc_info=told)


def _on_unraisable(failed: Any) -> None:
    told = (failed.exc_type, failed.exc_value, failed.exc_traceback)
    _log.error("%s: %r", failed.err_msg or "an exception was ignored", failed.object, exc_info=told)
