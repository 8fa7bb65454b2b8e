"""The command `ensembled` itself, to which the other modules add commands.

Runs in the process of the command line. Errors become lines on stderr: exit 2 for what the user
wrote, 1 for what failed at run time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from server.errors import EnsembledError
from server.stdout import libraries_print_to_stderr, stdout, typer_prints_to_stdout

__all__ = ["app", "errors_as_lines", "main"]

app = typer.Typer(
    name="ensembled",
    help="Serve ensembles of neural networks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """Run the command line."""
    with typer_prints_to_stdout():
        app()


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
    """Turn what goes wrong within the block into lines and an exit code, unless debugging."""
    try:
        with libraries_print_to_stderr():
            yield
    except (typer.Exit, typer.Abort):
        raise
    except BrokenPipeError:  # who read our output has had enough; nor can it be flushed at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), stdout().fileno())
        raise typer.Exit(1) from None
    except Exception as error:
        if debug:
            raise
        expected = isinstance(error, EnsembledError)
        text = str(error) if expected else f"{type(error).__name__}: {error} (see --debug)"
        for line in text.splitlines():
            typer.echo(f"error: {line}", err=True)
        raise typer.Exit(error.exit_code if isinstance(error, EnsembledError) else 1) from None
