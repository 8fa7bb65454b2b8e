"""stdout, kept for what the commands are documented to print.

Runs in the process of the command line. `keep_stdout` moves stdout away from its descriptor before
anything else is imported: from then on descriptor 1 and `sys.stdout` are stderr, for whatever a
library prints, in Python or in C. What a command has to say goes through `echo` or `stdout`.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import sys
from collections.abc import Iterator
from typing import TextIO

__all__ = [
    "close_stdout",
    "echo",
    "keep_stdout",
    "libraries_print_to_stderr",
    "stdout",
    "typer_prints_to_stdout",
]

_STDOUT, _STDERR = 1, 2
_kept: io.TextIOWrapper | None = None


def keep_stdout() -> None:
    """Take stdout away from everybody else, once; children do not inherit it."""
    global _kept  # noqa: PLW0603 (the process has one stdout)
    if _kept is not None:
        return
    _open_standard_descriptors()
    fd = fcntl.fcntl(_STDOUT, fcntl.F_DUPFD_CLOEXEC, _STDERR + 1)
    os.dup2(_STDERR, _STDOUT)
    encoding, errors = "utf-8", "strict"
    if isinstance(sys.stdout, io.TextIOWrapper):
        encoding, errors = sys.stdout.encoding, sys.stdout.errors or errors
    _kept = os.fdopen(fd, "w", encoding=encoding, errors=errors)
    sys.stdout = sys.stderr


def stdout() -> TextIO:
    """The stream for what a command prints. Without `keep_stdout`, as in tests, `sys.stdout`."""
    return sys.stdout if _kept is None else _kept


def echo(text: str, end: str = "\n") -> None:
    """Print what a command is documented to print.

    Raises:
        BrokenPipeError: if nobody reads it any more.
    """
    print(text, end=end, file=stdout(), flush=True)


def close_stdout() -> None:
    """End what is printed. A reader that is gone has had enough; what could not be written is lost.

    For the end of the process, where Python would complain.
    """
    if _kept is not None:
        with contextlib.suppress(OSError):
            _kept.close()


@contextlib.contextmanager
def typer_prints_to_stdout() -> Iterator[None]:
    """Within the block `sys.stdout` is stdout: Typer prints help to it, as wide as it is."""
    before = sys.stdout, sys.__stdout__
    sys.stdout = sys.__stdout__ = stdout()  # type: ignore[misc, assignment]
    try:
        yield
    finally:
        sys.stdout, sys.__stdout__ = before  # type: ignore[misc]


@contextlib.contextmanager
def libraries_print_to_stderr() -> Iterator[None]:
    """Within the block, `sys.stdout` is stderr again."""
    if _kept is None:
        yield
    else:
        with contextlib.redirect_stdout(sys.stderr):
            yield


def _open_standard_descriptors() -> None:
    """Put the null device where the user has closed one, lest another file takes its place."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        os.set_inheritable(fd, True)
    os.close(fd)
