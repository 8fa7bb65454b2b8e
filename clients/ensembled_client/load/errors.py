"""Why a load test could not run: one line for a person, and an exit status of the command.

Raised in the parent, or in a load process that sends it to the parent.
"""

from __future__ import annotations

__all__ = ["EXIT_FAILED", "EXIT_GATE", "EXIT_USAGE", "LoadTestError", "UsageError"]

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_GATE = 3


class LoadTestError(Exception):
    """The test could not run: no server, no such model, an unreadable file."""

    exit_status = EXIT_FAILED


class UsageError(LoadTestError):
    """An option is invalid, or options exclude each other."""

    exit_status = EXIT_USAGE
