"""The entry point of the command `ensembled`: keeps stdout clean, then runs the command line."""

from server.stdout import close_stdout, keep_stdout

__all__ = ["main"]


def main() -> None:
    """Run the command line; nothing else is imported before stdout is kept."""
    keep_stdout()
    from server.cli.main import main as run_command_line  # noqa: PLC0415

    try:
        run_command_line()
    finally:
        close_stdout()
