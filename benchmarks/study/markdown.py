"""Numbers and tables as the study's page shows them.

Pure; figures flow in, Markdown flows out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["devices_used", "gib_text", "percent_text", "rate_text", "table"]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; all columns but the first are aligned to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def rate_text(rate: float | None) -> str:
    """Rows/s for people; None is no placement."""
    return "no place" if rate is None else f"{rate:,.0f}"


def percent_text(share: float | None) -> str:
    """A share as a percentage; None is unknown."""
    return "-" if share is None else f"{max(100 * share, 0):.1f}%"


def gib_text(size: int) -> str:
    """A size in GiB."""
    return f"{size / (1 << 30):.3g} GiB"


def devices_used(matrix: Sequence[Sequence[int]]) -> int:
    """How many devices have an instance."""
    return sum(any(row) for row in matrix)
