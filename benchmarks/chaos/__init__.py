"""Faults from a seed under load, with every answer checked; `benchmarks.soak` uses it, too."""
