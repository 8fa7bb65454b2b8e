"""Guards the combiner against custom rules that crash or hang it.

Used in the combiner and in the supervisor. A custom rule may end the process, or hang it where no
signal interrupts it. The board therefore names the rule while it runs, and the supervisor finds it
there after a crash. A rule that has crashed the combiner several times is paused for a while, so
that it fails its own rows and no others.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import msgspec

from workers.rules import RuleFunction, is_custom
from workers.runtime.arena import Array
from workers.runtime.memory import BoardRow
from workers.runtime.spec import EnsembleSpec, GenerationSpec, PausedRule, RuleSpec

__all__ = ["RuleCrashes", "RuleGuard", "guarded_rules", "is_guarded", "rule_code", "rules_of"]

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


def guarded_rules(ensemble: EnsembleSpec) -> str:
    """Return an ensemble's name, custom rules and meta-models as JSON, equal for the same ones."""
    rules = [rule for rule in ensemble.rules if is_guarded(rule)]
    return msgspec.json.encode((ensemble.name, rules)).decode()


def rules_of(code: int, generations: Iterable[GenerationSpec]) -> str:
    """Return the `guarded_rules` that a number on the board stands for, empty for none."""
    arena, ensemble = divmod(code - 1, 1 << 32)
    for generation in generations:
        for spec in generation.arenas:
            if code and spec.index == arena:
                return guarded_rules(spec.ensembles[ensemble])
    return ""


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
        self._crashes: dict[str, list[int]] = {}

    def record(self, rules: str, now_ns: int) -> int:
        """Record that a combiner died in these rules of an ensemble; how many did recently.

        It died in none if they are empty.
        """
        if not rules:
            return 0
        recent = [then for then in self._crashes.get(rules, ()) if now_ns - then < _PAUSE_NS]
        self._crashes[rules] = [*recent, now_ns]
        return len(self._crashes[rules])

    def paused(self, now_ns: int) -> tuple[PausedRule, ...]:
        """Return the rules that a new combiner must not run, and until when."""
        return tuple(
            PausedRule(rules, len(crashes), crashes[-1] + _PAUSE_NS)
            for rules, crashes in self._crashes.items()
            if len(crashes) >= _MAX_CRASHES and now_ns - crashes[-1] < _PAUSE_NS
        )
