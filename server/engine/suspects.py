"""Rows that may have killed their workers, found by elimination.

Runs in the front-end; pure. What a worker was executing when it died is suspected, and most of it
wrongly. So it runs again, from the second death on each row by itself, until a row has seen more
deaths than an innocent one can.
"""

from __future__ import annotations

from collections import defaultdict
from enum import Enum, auto

from allocator.dispatch.state import Member

__all__ = ["FAIL_AFTER", "Suspects", "Verdict"]

#: A row that was being executed at this many deaths goes out alone from then on ...
_ALONE_AFTER = 2
#: ... and after this many it fails: two in company, three alone.
FAIL_AFTER = 5


class Verdict(Enum):
    """What happens to a row after a death."""

    AGAIN = auto()
    ALONE = auto()
    FAILS = auto()


class Suspects:
    """How many deaths each row has seen, by member."""

    def __init__(self) -> None:
        self._deaths: defaultdict[tuple[Member, int], int] = defaultdict(int)

    def blame(self, member: Member, row: int) -> Verdict:
        """Count a death against a row that a member was executing."""
        self._deaths[member, row] += 1
        deaths = self._deaths[member, row]
        if deaths >= FAIL_AFTER:
            del self._deaths[member, row]
            return Verdict.FAILS
        return Verdict.ALONE if deaths >= _ALONE_AFTER else Verdict.AGAIN

    def acquit(self, member: Member, start: int, stop: int) -> None:
        """Forget the deaths of rows that a member has survived, or that are not needed any more."""
        if self._deaths:
            for row in range(start, stop):
                self._deaths.pop((member, row), None)

    def forget(self, arena: int) -> None:
        """An arena is gone, and so are its rows."""
        for suspect in [one for one in self._deaths if one[0].arena == arena]:
            del self._deaths[suspect]
