"""The one error of the benchmarks: something that makes a measurement impossible or worthless."""

from __future__ import annotations

__all__ = ["BenchmarkError"]


class BenchmarkError(Exception):
    """There is nothing to report; the text says in one line why."""
