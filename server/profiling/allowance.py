"""How the time for profiling is divided.

Runs in the process that profiles. A budget flows in, each task's allowance flows out when its
turn comes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Allowance", "allowances"]

#: Less is not worth starting a process, and none gets less as its share.
_LEAST_S = 0.5
_LEAST_SHARE_S = 2.0


@dataclass(frozen=True)
class Allowance:
    """How long a task may take.

    Attributes:
        share_end: until when it may begin something, monotonic.
        end: when the time is over for all tasks, monotonic.
    """

    share_end: float
    end: float

    def suffices_for(self, seconds: float) -> bool:
        """Whether something that takes so long may begin.

        Args:
            seconds: how long it takes, about.
        """
        return time.monotonic() + seconds < min(self.share_end, self.end)

    def timeout_s(self, limit_s: float) -> float:
        """Return for how long to wait for something that should not take longer than a limit.

        Args:
            limit_s: the limit.
        """
        return min(limit_s, self.end - time.monotonic())

    @property
    def is_over(self) -> bool:
        """Whether the time is over for all tasks."""
        return time.monotonic() >= self.end


def allowances(budget_s: float | None, tasks: int) -> Iterator[Allowance]:
    """Divide what time is left among the tasks that are left, when the turn of each comes.

    Args:
        budget_s: how long all of them may take together, from now on; None is without limit.
        tasks: how many there are.

    Yields:
        An allowance per task; none any more when too little time is left.
    """
    end = math.inf if budget_s is None else time.monotonic() + budget_s
    for done in range(tasks):
        now = time.monotonic()
        if end - now < _LEAST_S:
            return
        yield Allowance(now + max((end - now) / (tasks - done), _LEAST_SHARE_S), end)
