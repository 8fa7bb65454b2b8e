"""What is awaited of children in the course of a change: their reports, or their deaths.

Runs in the supervisor. Reports, starts and deaths flow in, each in the order in which it happened;
whoever waits for one gets why it failed, or "".
"""

from __future__ import annotations

import asyncio

from server.supervision.child import Child, Report
from workers.runtime.bootstrap import Started

__all__ = ["Outcome", "Reports"]

#: Why something failed, "" if it did not.
Outcome = asyncio.Future[str]


class Reports:
    """The reports that are awaited."""

    def __init__(self) -> None:
        self._awaited: dict[tuple[Child, type, int], Outcome] = {}

    def expect(self, child: Child, kind: type, generation: int = 0) -> Outcome:
        """What will become of a report of this kind; the child's death decides it as well."""
        outcome: Outcome = asyncio.get_running_loop().create_future()
        self._awaited[child, kind, generation] = outcome
        return outcome

    def receive(self, child: Child, report: Report | Started) -> None:
        """A child reports something; it is no error if nobody waits for it (any more)."""
        key = (child, type(report), getattr(report, "generation", 0))
        self._decide(key, getattr(report, "error", ""))

    def end(self, child: Child, reason: str) -> None:
        """A child is dead: it will report nothing of what is awaited."""
        for key in [key for key in self._awaited if key[0] is child]:
            self._decide(key, reason)

    def _decide(self, key: tuple[Child, type, int], error: str) -> None:
        outcome = self._awaited.pop(key, None)
        if outcome is not None and not outcome.done():
            outcome.set_result(error)
