"""Where commands write: tables on stdout, results in the file that the user named.

Runs in the process of the command line.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from rich.console import Console

from server.errors import ConfigError
from server.stdout import stdout

__all__ = ["check_output", "stdout_console", "write_output"]

_WIDE = 1000


def stdout_console() -> Console:
    """Return a console for stdout, which takes names of members and devices as they are.

    Into a file or a pipe, tables are as wide as they need to be.
    """
    stream = stdout()
    width: int | None = _WIDE
    if stream.isatty():  # Rich would ask the standard descriptors, of which stdout is none
        with contextlib.suppress(OSError):
            width = None if "COLUMNS" in os.environ else os.get_terminal_size(stream.fileno())[0]
    return Console(file=stream, width=width, markup=False, highlight=False, soft_wrap=True)


def check_output(option: str, path: Path | None) -> None:
    """Refuse a file that can't be written, before anything takes its time.

    Raises:
        ConfigError: if its directory is not there.
    """
    if path is not None and not path.parent.is_dir():
        raise ConfigError(f"{option} {path}: there is no directory {path.parent}")


def write_output(option: str, path: Path, text: str) -> None:
    """Write a file as the user's own program would: through links, with the usual permissions.

    Raises:
        ConfigError: if it can't be written.
    """
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{option} {path}: {error.strerror}") from None
