"""Whose rule the combiner is running, told on the board while it is a user's own code.

Used in the combiner and in the supervisor. Such a rule may end the process, or hang it where no
signal interrupts it. The supervisor then finds on the board whose rule it was; one that has done so
several times is left alone for a while, so that it fails its own rows and not everybody's.
"""

from __future__ import annotations

import time
from types import TracebackType

from workers.rules.catalogue import is_custom
from workers.runtime.memory import BoardRow
from workers.runtime.spec import EnsembleSpec, PausedRule

__all__ = ["RuleDeaths", "RuleGuard", "is_guarded", "rule_code"]

#: A rule that has run for so long hangs; a Python function is interrupted long before.
_HANG_NS = 5_000_000_000
_DEATHS = 3
_PAUSE_NS = 60_000_000_000


def rule_code(arena: int, ensemble: int) -> int:
    """What stands on the board for an ensemble's rule, never 0."""
    return 1 + (arena << 32 | ensemble)


def is_guarded(spec: EnsembleSpec) -> bool:
    """Whether an ensemble's rule is a user's own function or model."""
    return spec.meta is not None or is_custom(spec.rule)


class RuleGuard:
    """The context in which one ensemble's rule runs.

    Args:
        board: the combiner's row.
        code: the rule's.
    """

    def __init__(self, board: BoardRow, code: int) -> None:
        self._board = board
        self._code = code

    def __enter__(self) -> None:
        """Say whose rule runs from now on."""
        self._board.begin(self._code, time.monotonic_ns() + _HANG_NS)

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """Say that it has come to an end."""
        self._board.end(time.monotonic_ns())


class RuleDeaths:
    """The supervisor's memory of combiners that died in a rule. Pure."""

    def __init__(self) -> None:
        self._deaths: dict[int, list[int]] = {}

    def blame(self, code: int, now_ns: int) -> int:
        """Note that a combiner died while this rule ran; how many did of late, 0 if none ran."""
        if not code:
            return 0
        recent = [then for then in self._deaths.get(code, ()) if now_ns - then < _PAUSE_NS]
        self._deaths[code] = [*recent, now_ns]
        return len(self._deaths[code])

    def paused(self, now_ns: int) -> tuple[PausedRule, ...]:
        """The rules that a new combiner is to leave alone, and until when."""
        return tuple(
            PausedRule(code, len(deaths), deaths[-1] + _PAUSE_NS)
            for code, deaths in self._deaths.items()
            if len(deaths) >= _DEATHS and now_ns - deaths[-1] < _PAUSE_NS
        )
