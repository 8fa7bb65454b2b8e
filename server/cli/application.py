"""What the commands of `ensembled` share: the application, errors, output.

Runs in the process of the command line. Errors become lines on stderr: exit 2 for what the user
wrote, 1 for what failed at run time. Tables go to stdout, results and plots into files.
"""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.errors import ConfigError, EnsembledError
from server.stdout import libraries_print_to_stderr, stdout

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = [
    "app",
    "check_output",
    "check_plot",
    "errors_as_lines",
    "file_errors",
    "make_table",
    "stdout_console",
    "write_output",
]

_UNLIMITED_WIDTH = 1000

app = typer.Typer(
    name="ensembled",
    help="Serve ensembles of neural networks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # noqa: PLC0415

        typer.echo(f"ensembled {version('ensembled')}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


@contextmanager
def errors_as_lines(debug: bool) -> Iterator[None]:
    """Turn an exception of the block into lines on stderr and an exit code, unless debugging."""
    try:
        with libraries_print_to_stderr():
            yield
    except (typer.Exit, typer.Abort):
        raise
    except BrokenPipeError:  # the reader is gone; the flush at the end must not fail either
        os.dup2(os.open(os.devnull, os.O_WRONLY), stdout().fileno())
        raise typer.Exit(1) from None
    except Exception as error:
        if debug:
            raise
        for line in str(shown := _shown(error)).splitlines():
            typer.echo(f"error: {line}", err=True)
        raise typer.Exit(shown.exit_code) from None


def _shown(error: Exception) -> EnsembledError:
    """The error to show for an exception."""
    if isinstance(error, EnsembledError):
        return error
    if isinstance(error, UnicodeEncodeError):  # on its way to a child process
        return ConfigError(
            f"{ascii(error.object)[1:-1]} is not UTF-8, as the names of files and directories "
            "must be: rename it, or move what is in it"
        )
    if isinstance(error, OSError) and error.errno in {errno.EMFILE, errno.ENFILE}:
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return EnsembledError(
            f"{error.strerror}: the limit of file descriptors is {limit}: raise it (ulimit -n), "
            "to 1024 at least"
        )
    return EnsembledError(f"{type(error).__name__}: {error} (see --debug)")


def stdout_console() -> Console:
    """Return a console for stdout that prints names of members and devices without markup.

    Into a file or a pipe, tables are as wide as they need to be.
    """
    from rich.console import Console  # noqa: PLC0415 (not for `--help`)

    stream = stdout()
    width: int | None = _UNLIMITED_WIDTH
    if stream.isatty():  # Rich would ask the standard descriptors, of which stdout is none
        with suppress(OSError):
            width = None if "COLUMNS" in os.environ else os.get_terminal_size(stream.fileno())[0]
    return Console(file=stream, width=width, markup=False, highlight=False, soft_wrap=True)


def make_table(*texts: str, numbers: Sequence[str], title: str | None = None) -> Table:
    """Return a table without rows, of columns of texts and then of numbers."""
    from rich.table import Table  # noqa: PLC0415 (not for `--help`)

    table = Table(*texts, title=title, title_justify="left")
    for heading in numbers:
        table.add_column(heading, justify="right")
    return table


def check_output(option: str, path: Path | None) -> None:
    """Raise a ConfigError for a file that can't be written there, before any work is done."""
    if path is not None and not path.parent.is_dir():
        raise ConfigError(f"{option} {path}: there is no directory {path.parent}")
    if path is not None and path.is_dir():
        raise ConfigError(f"{option} {path}: is a directory")


def check_plot(path: Path | None) -> None:
    """Raise a ConfigError for a plot that can't be drawn, before any work is done."""
    check_output("--plot", path)
    if path is not None and path.suffix not in {".svg", ".png"}:
        raise ConfigError(f"--plot {path}: should end in .svg or .png")
    if path is not None and find_spec("matplotlib") is None:
        raise ConfigError("--plot needs matplotlib: pip install 'ensembled[plot]'")


def write_output(option: str, path: Path, text: str) -> None:
    """Write a file as the user's own program would: through links, with the usual permissions."""
    with file_errors(f"{option} {path}"):
        path.write_text(text, encoding="utf-8")


@contextmanager
def file_errors(where: str) -> Iterator[None]:
    """Turn what goes wrong with a file in the block into a ConfigError that begins with `where`."""
    try:
        yield
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{where}: {reason}") from None
