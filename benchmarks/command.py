"""What the measurements' command lines have in common."""

from __future__ import annotations

import argparse
import sys

__all__ = ["parse_measurement"]


def parse_measurement(
    parser: argparse.ArgumentParser, *, seconds: int = 3, rounds: int = 3
) -> argparse.Namespace:
    """Add how often and how long to measure to a command's options, and parse its arguments.

    Args:
        parser: of the command.
        seconds: of each measurement, by default.
        rounds: by default.
    """
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--seconds", type=int, default=seconds, help="of each measurement")
    options = parser.parse_args()
    if min(options.rounds, options.seconds) < 1:
        sys.exit("error: --rounds and --seconds are 1 or more")
    return options
