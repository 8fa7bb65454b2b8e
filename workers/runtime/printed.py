"""What a process prints becomes lines of the log that name it.

Used in the parents of processes, and in the supervisor of itself. Bytes of a child's stdout and
stderr flow in, records of `logging` flow out. A child that is killed has already told what it
printed; one that floods is cut short by the filter of the log (`workers.runtime.log_floods`), each
child by itself.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import threading
from collections.abc import Iterator

from workers.runtime.child_main import flush_c
from workers.runtime.log_lines import MAX_BYTES

__all__ = ["PrintReader", "PrintedLines", "stdout_logged"]

_log = logging.getLogger(__name__)
_CHUNK = 1 << 16
_STDOUT = 1


class PrintedLines:
    """Splits what one process prints into lines of the log.

    Args:
        source: the process, as people know it.
        level: of the records.

    Attributes:
        last: the last line so far with anything in it.
    """

    def __init__(self, source: str, level: int = logging.WARNING) -> None:
        self._source = source
        self._level = level
        self._rest = b""
        self.last = ""

    def feed(self, data: bytes) -> None:
        """Take what was printed; a line without an end is told when it is long."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) >= MAX_BYTES:
            lines.append(self._rest)
            self._rest = b""
        for line in lines:
            self._tell(line)

    def end(self) -> None:
        """Tell the last line, even if its end is missing."""
        self._tell(self._rest)
        self._rest = b""

    def _tell(self, line: bytes) -> None:
        text = line[:MAX_BYTES].decode(errors="replace").strip()
        if not text:
            return
        self.last = text
        if _log.isEnabledFor(self._level):
            # The source stands where the file would: floods are counted by place.
            arguments = (self._source, text)
            record = _log.makeRecord(
                _log.name, self._level, self._source, 0, "%s printed: %s", arguments, None
            )
            _log.handle(record)


class PrintReader:
    """Reads what a child prints, in a thread; for parents without an event loop.

    Args:
        source: see `PrintedLines`.
        level: see `PrintedLines`.

    Attributes:
        fd: for the child's stdout and stderr; to be let go of (`started`) once it has it.
    """

    def __init__(self, source: str, level: int = logging.WARNING) -> None:
        self._lines = PrintedLines(source, level)
        reader, self.fd = os.pipe()
        self._thread = threading.Thread(
            target=self._read, args=(reader,), name="printed", daemon=True
        )
        self._thread.start()

    def started(self) -> None:
        """Close this process's end: the child has its own, or could not be started."""
        os.close(self.fd)

    def last_line(self, timeout_s: float = 1.0) -> str:
        """Wait for the end of what is printed, and return its last line.

        Args:
            timeout_s: for how long; whoever has inherited the descriptor may keep it open.
        """
        self._thread.join(timeout_s)
        return self._lines.last

    def _read(self, fd: int) -> None:
        with contextlib.suppress(OSError):
            while data := os.read(fd, _CHUNK):
                self._lines.feed(data)
        self._lines.end()
        os.close(fd)


@contextlib.contextmanager
def stdout_logged(source: str) -> Iterator[None]:
    """Log, at its end, what this process has printed on stdout within the block.

    It goes through a file: C code that waits for room in a pipe may be holding up who reads it.

    Args:
        source: this process.
    """
    with tempfile.TemporaryFile() as file, open(_STDOUT, "w", closefd=False) as stream:
        before = os.dup(_STDOUT)
        os.dup2(file.fileno(), _STDOUT)
        try:
            with contextlib.redirect_stdout(stream):
                yield
        finally:
            stream.flush()
            flush_c()
            os.dup2(before, _STDOUT)
            os.close(before)
            file.seek(0)
            lines = PrintedLines(source, logging.INFO)
            lines.feed(file.read(_CHUNK))
            lines.end()
