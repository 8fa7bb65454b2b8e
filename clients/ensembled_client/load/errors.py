"""What ends a load test before its figures: one line for a person, and an exit status."""

from __future__ import annotations

__all__ = ["EXIT_FAILED", "EXIT_GATE", "EXIT_USAGE", "LoadTestError", "UsageError"]

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_GATE = 3


class LoadTestError(Exception):
    """The test could not be run: no server there, no such model, an unreadable file."""

    exit_status = EXIT_FAILED


class UsageError(LoadTestError):
    """The options make no sense, alone or together."""

    exit_status = EXIT_USAGE
