"""What a reply must be, and when: the judge of a campaign. Pure.

It knows when the front-end was away and when there was more load than there is room for; in these
times a broken connection or a refusal is no lie. A wrong answer always is.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field

import numpy as np

from benchmarks.chaos.client import LOST, NO_CONNECTION, Ask, Reply
from benchmarks.chaos.scene import POISON, Model

__all__ = ["Judge", "Shifts", "Times", "Verdict"]

_MAX_VIOLATIONS = 100
#: Payloads are whole numbers, and sums of them; the probabilities of others differ by more.
_TOLERANCE = 1e-3


class Times:
    """Times that are over, and one that may not be."""

    def __init__(self) -> None:
        self._spans: list[tuple[float, float]] = []

    def begin(self, now: float) -> None:
        """It begins, unless it has already."""
        if not self._spans or self._spans[-1][1] < math.inf:
            self._spans.append((now, math.inf))

    def end(self, now: float) -> None:
        """It ends."""
        if self._spans and self._spans[-1][1] == math.inf:
            self._spans[-1] = self._spans[-1][0], now

    def overlap(self, start: float, stop: float) -> bool:
        """Whether any of it lies between `start` and `stop`."""
        return any(first <= stop and start <= last for first, last in reversed(self._spans))


class Shifts:
    """What all members add to their answers, by the times at which that may be so."""

    def __init__(self) -> None:
        self._times: dict[float, Times] = {}
        self.begin(0.0, -math.inf)

    def begin(self, shift: float, now: float) -> None:
        """From now on, answers may be so."""
        self._times.setdefault(shift, Times()).begin(now)

    def end(self, shift: float, now: float) -> None:
        """No answer to what is asked from now on is so."""
        self._times[shift].end(now)

    def during(self, start: float, stop: float) -> list[float]:
        """Those of one time."""
        return [shift for shift, times in self._times.items() if times.overlap(start, stop)]


@dataclass
class Verdict:
    """How many replies there were of each kind.

    Attributes:
        answered: right answers.
        failed: failures that a member's name stands on, of rows that it fails on.
        late: refusals because the deadline had passed without a quorum.
        refused: for want of room.
        absent: while the front-end was away.
        wrong: answers that are not right.
        lost: requests without an answer in time.
        untrue: failures that there was no reason for, and readiness that is not so.
        violations: the first of the last three kinds, in words.
    """

    answered: int = 0
    failed: int = 0
    late: int = 0
    refused: int = 0
    absent: int = 0
    wrong: int = 0
    lost: int = 0
    untrue: int = 0
    violations: list[str] = field(default_factory=list)


class Judge:
    """Judges every reply.

    Args:
        margin_s: how much later than its deadline an answer may be: a second if the combiner has
            died, and the more the busier the machine is.

    Attributes:
        away: when the front-end was not there.
        full: when more was asked than there is room for.
        shifts: which deployments were served.
        verdict: so far.
    """

    def __init__(self, margin_s: float = 2.0) -> None:
        self._margin_s = margin_s
        self.away = Times()
        self.full = Times()
        self.shifts = Shifts()
        self.verdict = Verdict()

    def complain(self, what: str) -> None:
        """Note something that is not true."""
        self.verdict.untrue += 1
        self._note(what)

    def _note(self, what: str) -> None:
        if len(self.verdict.violations) < _MAX_VIOLATIONS:
            self.verdict.violations.append(what)

    def judge(self, model: Model, ask: Ask, reply: Reply, times: tuple[float, float]) -> None:
        """Count a reply.

        Args:
            model: who was asked.
            ask: what.
            reply: what came back.
            times: when it was asked and answered, monotonic seconds.
        """
        verdict, (start, stop) = self.verdict, times
        deadline_s = deadline_of(model, ask)
        what = f"{model.name} ({len(ask.x)} rows {ask.parameters}) after {stop - start:.2f} s"
        if reply.status == 200:
            shifts = self.shifts.during(start, stop)
            flaws = [flaw_of(model, ask, reply, shift) for shift in shifts]
            if all(flaws):
                verdict.wrong += 1
                self._note(f"{what}: {flaws[0]}; members add one of {shifts}")
                return
            verdict.answered += 1
        elif reply.status in {NO_CONNECTION, 503} and self.away.overlap(start, stop):
            verdict.absent += 1
        elif reply.status == 429 and (deadline_s or self.full.overlap(start, stop)):
            verdict.refused += 1
        elif reply.status == 504 and deadline_s and stop - start >= 0.9 * deadline_s:
            verdict.late += 1
        elif reply.status == 500 and self._is_poisoned(model, ask, reply):
            verdict.failed += 1
        elif reply.status == LOST:
            verdict.lost += 1
            self._note(f"{what}: no answer")
            return
        else:
            self.complain(f"{what}: {reply.status} {reply.error}")
            return
        away = self.away.overlap(start, stop)
        if deadline_s and stop - start > deadline_s + self._margin_s and not away:
            verdict.lost += 1
            self._note(f"{what}: {reply.status} came late for a deadline of {deadline_s} s")

    @staticmethod
    def _is_poisoned(model: Model, ask: Ask, reply: Reply) -> bool:
        named = any(f"'{name}'" in reply.error for name in model.fails)
        return named and bool((ask.x[:, 0] == POISON).any())


def deadline_of(model: Model, ask: Ask) -> float:
    """The deadline of a request in seconds, 0 if it has none."""
    own_s = float(ask.parameters.get("timeout", 0)) / 1e6
    return min((s for s in (model.deadline_s, own_s) if s), default=0.0)


def flaw_of(model: Model, ask: Ask, reply: Reply, shift: float) -> str:
    """What is wrong with an answer of members that add `shift` more, empty if nothing is."""
    asked = str(ask.parameters.get("members", ",".join(model.adds))).split(",")
    expected = tuple(name for name in model.adds if name in asked)
    if not set(reply.members) <= set(expected):
        return f"it rests on {reply.members}, {expected} were asked"
    if len(reply.members) < min(model.quorum, len(expected)) and not model.is_softmax:
        return f"it rests on {reply.members}, which are no quorum"
    # Of a cascade's members those that were not needed are not missed.
    if not model.is_softmax and reply.degraded != (reply.members != expected):
        return f"it rests on {reply.members} of {expected}, and degraded is {reply.degraded}"
    if reply.values is None or reply.values.shape != ask.x.shape:
        return "it has another shape"
    # Named are the members of all rows; one that failed on, or was late for, some is in others.
    others = [name for name in expected if name not in reply.members]
    wrong = np.ones(len(ask.x), np.bool_)
    for more in itertools.chain.from_iterable(
        itertools.combinations(others, count) for count in range(len(others) + 1)
    ):
        right = model.answer(ask.x, (*reply.members, *more), shift)
        wrong &= np.abs(reply.values - right).max(axis=1) > _TOLERANCE
        if not wrong.any():
            return ""
    row = int(wrong.argmax())
    return f"row {row} of {ask.x[row]} is {reply.values[row]}, of {reply.members}"
