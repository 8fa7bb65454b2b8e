"""The entry point of the command `ensembled`: keeps stdout clean, then runs the command line."""

import sys

from server.stdout import close_stdout, keep_stdout
from workers.runtime.environment import prepare_environment

__all__ = ["main"]


def main() -> None:
    """Run the command line; nothing else is imported before stdout is kept."""
    keep_stdout()
    for warning in prepare_environment():
        print(f"warning: {warning}", file=sys.stderr)
    from server.cli.main import main as run_command_line  # noqa: PLC0415

    try:
        run_command_line()
    finally:
        close_stdout()
