"""Keeps stdout for what the commands are documented to print.

Runs in the process of the command line. `keep_stdout` moves stdout away from its descriptor before
anything else is imported: from then on descriptor 1 and `sys.stdout` are stderr, for whatever a
library prints, in Python or in C. Commands print through `echo` or `stdout`.
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
    """Move stdout to a descriptor of its own, once; children do not inherit it."""
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
    """Return the stream of what commands print: `sys.stdout` without `keep_stdout`, as in tests."""
    return sys.stdout if _kept is None else _kept


def echo(text: str, end: str = "\n") -> None:
    """Print what a command is documented to print.

    Raises:
        BrokenPipeError: if the reader has gone.
    """
    print(text, end=end, file=stdout(), flush=True)


def close_stdout() -> None:
    """Flush and close stdout at the end of the process; what a gone reader did not read is lost."""
    if _kept is not None:
        with contextlib.suppress(OSError):
            _kept.close()


@contextlib.contextmanager
def typer_prints_to_stdout() -> Iterator[None]:
    """Let `sys.stdout` be stdout within the block, so that Typer prints help as wide as that is."""
    before = sys.stdout, sys.__stdout__
    sys.stdout = sys.__stdout__ = stdout()  # type: ignore[misc, assignment]
    try:
        yield
    finally:
        sys.stdout, sys.__stdout__ = before  # type: ignore[misc]


@contextlib.contextmanager
def libraries_print_to_stderr() -> Iterator[None]:
    """Let `sys.stdout` be stderr again within the block."""
    if _kept is None:
        yield
    else:
        with contextlib.redirect_stdout(sys.stderr):
            yield


def _open_standard_descriptors() -> None:
    """Open the null device for closed standard descriptors, lest other files get them."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        os.set_inheritable(fd, True)
    os.close(fd)
