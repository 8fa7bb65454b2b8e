"""The parent's side of child processes: the command, what a child prints, and one-shot children.

Used in processes that start others, and in the supervisor for its own stdout. A child's stdout and
stderr belong to its libraries: bytes of these flow in, records of `logging` flow out. The child's
own results go through a separate descriptor. The output of a child that is killed has been read
until then; a flood of it is limited by the log's filter (`workers.runtime.logs`), per child.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator

from workers.runtime.child_main import flush_c
from workers.runtime.logs import MAX_BYTES

__all__ = [
    "ChildError",
    "OutputLogger",
    "OutputReader",
    "child_command",
    "describe_exit",
    "log_stdout",
    "run_child",
    "start_child",
]

_log = logging.getLogger(__name__)
_CHUNK_BYTES = 1 << 16
_STDOUT = 1


class ChildError(Exception):
    """A child has given no answer; the text is how it ended, see `describe_exit`."""


def describe_exit(code: int, last_line: str) -> str:
    """Return ``died of SIGSEGV``, or ``exited 3: the last line that it printed``."""
    if code < 0:
        return f"died of {signal.Signals(-code).name}"
    return f"exited {code}: {last_line or 'no message'}"


def child_command(module: str, *arguments: str | int) -> list[str]:
    """Return the command line of a child that runs a module as a program."""
    # -P: a directory `workers` in the current directory is not ours. -u: see the module.
    return [
        *(sys.executable, "-u", "-P", "-m", "workers.runtime.child_main", module),
        *map(str, arguments),
    ]


def start_child(
    module: str,
    *arguments: str | int,
    inherited: tuple[int, ...],
    output: OutputReader,
    stdin: int | None = None,
) -> subprocess.Popen[bytes]:
    """Start a child that prints to `output`; the descriptors it inherits are closed here."""
    try:
        return subprocess.Popen(
            child_command(module, *arguments),
            stdin=stdin,
            stdout=output.fd,
            stderr=output.fd,
            pass_fds=inherited,
        )
    finally:
        for fd in (*inherited, output.fd):
            os.close(fd)


def run_child(source: str, module: str, data: bytes, timeout_s: float) -> bytes:
    """Run a child that reads `data` from stdin and writes its answer to a descriptor; return that.

    The descriptor is the module's first argument; `source` is the child's name in the log.

    Raises:
        ChildError: if it takes longer than `timeout_s`, crashes, or writes no answer.
    """
    with tempfile.TemporaryFile() as answer:
        output = OutputReader(source)
        fd = os.dup(answer.fileno())
        with start_child(
            module, fd, inherited=(fd,), output=output, stdin=subprocess.PIPE
        ) as child:
            try:
                child.communicate(data, timeout_s)
            except subprocess.TimeoutExpired:
                raise ChildError(f"took more than {timeout_s:g} s") from None
            finally:
                child.kill()
        answer.seek(0)
        data = answer.read()
        if child.returncode < 0 or not data:
            raise ChildError(describe_exit(child.returncode, output.last_line()))
        return data


class OutputLogger:
    """Logs the output of one process line by line; `last` is the last that was not blank."""

    def __init__(self, source: str, level: int = logging.WARNING) -> None:
        self._source = source
        self._level = level
        self._rest = b""
        self.last = ""

    def feed(self, data: bytes) -> None:
        """Log the lines that this output completes; a very long one is logged in pieces."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) >= MAX_BYTES:
            lines.append(self._rest)
            self._rest = b""
        for line in lines:
            self._emit(line)

    def end(self) -> None:
        """Log the last line even if its newline is missing."""
        self._emit(self._rest)
        self._rest = b""

    def _emit(self, line: bytes) -> None:
        text = line[:MAX_BYTES].decode(errors="replace").strip()
        if not text:
            return
        self.last = text
        if _log.isEnabledFor(self._level):
            # The source stands in for the file name: the log limits floods by place.
            arguments = (self._source, text)
            record = _log.makeRecord(
                _log.name, self._level, self._source, 0, "%s printed: %s", arguments, None
            )
            _log.handle(record)


class OutputReader:
    """Logs a child's output from a thread; for parents without an event loop.

    `fd` is the child's stdout and stderr, which `start_child` closes here.
    """

    def __init__(self, source: str, level: int = logging.WARNING) -> None:
        self._lines = OutputLogger(source, level)
        reader, self.fd = os.pipe()
        self._thread = threading.Thread(
            target=self._read, args=(reader,), name="child output", daemon=True
        )
        self._thread.start()

    def last_line(self, timeout_s: float = 1.0) -> str:
        """Return the last line, after the end of the output unless a grandchild keeps it open."""
        self._thread.join(timeout_s)
        return self._lines.last

    def _read(self, fd: int) -> None:
        with contextlib.suppress(OSError):
            while data := os.read(fd, _CHUNK_BYTES):
                self._lines.feed(data)
        self._lines.end()
        os.close(fd)


@contextlib.contextmanager
def log_stdout(source: str) -> Iterator[None]:
    """Log what this process, `source`, prints on stdout within the block, at its end.

    The output goes through a file: C code that blocks on a full pipe may hold up its reader.
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
            lines = OutputLogger(source, logging.INFO)
            lines.feed(file.read(_CHUNK_BYTES))
            lines.end()
