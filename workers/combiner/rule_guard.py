"""Guards the combiner against custom rules that crash or hang it.

Used in the combiner and in the supervisor. A custom rule may end the process, or hang it where no
signal interrupts it. The board therefore names the rule while it runs, and the supervisor finds it
there after a crash. A rule that has crashed the combiner several times is paused for a while, so
that it fails its own rows and no others.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from workers.rules import RuleFunction, is_custom
from workers.runtime.arena import Array
from workers.runtime.memory import BoardRow
from workers.runtime.spec import PausedRule, RuleSpec

__all__ = ["RuleCrashes", "RuleGuard", "is_guarded", "rule_code"]

#: A rule that runs for longer hangs; a Python function is interrupted long before.
_HANG_NS = 5_000_000_000
_MAX_CRASHES = 3
_PAUSE_NS = 60_000_000_000


def rule_code(arena: int, ensemble: int) -> int:
    """Return the number that stands for an ensemble's rules on the board, never 0."""
    return 1 + (arena << 32 | ensemble)


def is_guarded(spec: RuleSpec) -> bool:
    """Whether a rule runs a user's own function or model."""
    return spec.meta is not None or is_custom(spec.rule)


class RuleGuard:
    """Runs an ensemble's custom rules, which `code` stands for on the combiner's board row."""

    def __init__(self, board: BoardRow, code: int) -> None:
        self._board = board
        self._code = code

    def run(
        self, function: RuleFunction, predictions: Sequence[Array], answers: Sequence[Array]
    ) -> None:
        """Run the rule, and announce it on the board meanwhile."""
        self._board.begin(self._code, time.monotonic_ns() + _HANG_NS)
        try:
            function(predictions, answers)
        finally:
            self._board.end(time.monotonic_ns())


class RuleCrashes:
    """The supervisor's record of combiners that died in a rule; pure."""

    def __init__(self) -> None:
        self._crashes: dict[int, list[int]] = {}

    def record(self, code: int, now_ns: int) -> int:
        """Record that a combiner died in this rule (0: in none); return how many did recently."""
        if not code:
            return 0
        recent = [then for then in self._crashes.get(code, ()) if now_ns - then < _PAUSE_NS]
        self._crashes[code] = [*recent, now_ns]
        return len(self._crashes[code])

    def paused(self, now_ns: int) -> tuple[PausedRule, ...]:
        """Return the rules that a new combiner must not run, and until when."""
        return tuple(
            PausedRule(code, len(crashes), crashes[-1] + _PAUSE_NS)
            for code, crashes in self._crashes.items()
            if len(crashes) >= _MAX_CRASHES and now_ns - crashes[-1] < _PAUSE_NS
        )
