"""The requests that a test sends: made once, by the parent, and sent again and again. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Rotation", "Workload"]


@dataclass(frozen=True)
class Workload:
    """Requests by their number of rows, each complete as it goes to the wire.

    Attributes:
        rows: of a request whose arrival does not say it.
        requests: at least one for each number of rows that occurs.
    """

    rows: int
    requests: Mapping[int, tuple[bytes, ...]]


class Rotation:
    """Gives one request after the other.

    Args:
        workload: what there is.
        start: where to begin, so that processes don't send the same at the same time.
    """

    def __init__(self, workload: Workload, start: int = 0) -> None:
        self._requests = workload.requests
        self._next = dict.fromkeys(workload.requests, start)

    def next(self, rows: int) -> bytes:
        """The next request of so many rows."""
        requests = self._requests[rows]
        number = self._next[rows]
        self._next[rows] = number + 1
        return requests[number % len(requests)]
