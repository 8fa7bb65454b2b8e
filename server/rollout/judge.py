"""Whether a roll-out has gone well, or badly, by its limits.

Runs in the front-end; pure. Figures flow in, a verdict with its reason flows out.

A limit counts as kept, or as exceeded, only if it is so by three standard errors; in between the
judge waits for more requests. Shares have Wilson's interval, in which the rows of one request
count as one observation: they have much in common. The ratio of two latencies is that of their
geometric means, with the interval of the difference of two means of logarithms; so a few slow
answers neither end a roll-out nor save it. As every look is one more chance to be wrong, the judge
looks again only after a tenth more requests. Source of the interval: Wilson, "Probable Inference,
the Law of Succession, and Statistical Inference" (Journal of the American Statistical Association,
1927).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

from server.rollout.figures import RolloutFigures
from server.rollout.spec import Limits, RolloutSpec

__all__ = ["Judge", "Verdict", "share_interval"]

_DEVIATIONS = 3.0
#: For the means of logarithms to be about normal.
_LEAST_TIMES = 30


class Verdict(NamedTuple):
    """What is to become of a roll-out, and why: one line with the figures."""

    action: Literal["promote", "rollback", "wait"]
    reason: str


class _Finding(NamedTuple):
    """A figure that has a limit; its true value is in [low, high] as far as one can tell."""

    text: str
    low: float
    high: float
    limit: float


class Judge:
    """Judges one roll-out again and again."""

    def __init__(self, spec: RolloutSpec) -> None:
        self._spec = spec
        self._next = 0

    def look(self, figures: RolloutFigures) -> Verdict:
        """What the figures say now."""
        requests = figures.new.requests
        if requests < self._next:
            return Verdict("wait", f"looks again after {self._next} requests")
        verdict = judge(self._spec, figures)
        limits = [one.after_requests for one in (self._spec.promote, self._spec.rollback) if one]
        if limits and requests >= min(limits):
            self._next = requests + math.ceil(requests / 10)
        return verdict


def judge(spec: RolloutSpec, figures: RolloutFigures) -> Verdict:
    """Judge a roll-out: a limit of `rollback` that is exceeded goes before all else."""
    requests = figures.new.requests
    if spec.rollback and requests >= spec.rollback.after_requests:
        exceeded = [one for one in _findings(spec.rollback, figures) if one.low > one.limit]
        if exceeded:
            return Verdict("rollback", _reason(exceeded, requests))
    if spec.promote and requests >= spec.promote.after_requests:
        found = list(_findings(spec.promote, figures))
        if all(one.high <= one.limit for one in found):
            return Verdict("promote", _reason(found, requests))
        return Verdict("wait", _reason([one for one in found if one.high > one.limit], requests))
    return Verdict("wait", f"too few requests: {requests}")


def _reason(findings: list[_Finding], requests: int) -> str:
    return "; ".join([*(one.text for one in findings), f"after {requests} requests"])


def _findings(limits: Limits, figures: RolloutFigures) -> Iterator[_Finding]:
    """Each figure that has a limit."""
    new, present = figures.new, figures.present
    if (limit := limits.max_disagreement) is not None:
        rows, apart = figures.compared_rows, figures.disagreeing_rows
        share = apart / rows if rows else 0.0
        text = f"{apart:.6g} of {rows} rows disagree ({share:.3%}, limit {limit:.3%})"
        yield _Finding(text, *share_interval(share, figures.compared), limit)
    if (limit := limits.max_error_rate) is not None:
        share = new.errors / new.requests if new.requests else 0.0
        text = f"{new.errors} of {new.requests} requests failed ({share:.3%}, limit {limit:.3%})"
        yield _Finding(text, *share_interval(share, new.requests), limit)
    if (limit := limits.max_latency_ratio) is not None:
        fewest = min(new.answered, present.answered)
        if fewest < _LEAST_TIMES:
            yield _Finding(f"only {fewest} latencies to compare", 0.0, math.inf, limit)
            return
        (slow, error), (fast, other) = new.log_time(), present.log_time()
        margin = _DEVIATIONS * math.sqrt(error + other)
        text = f"latency {math.exp(slow - fast):.3g} times the present one (limit {limit:.3g})"
        yield _Finding(text, math.exp(slow - fast - margin), math.exp(slow - fast + margin), limit)


def share_interval(
    share: float, trials: int, *, deviations: float = _DEVIATIONS
) -> tuple[float, float]:
    """Wilson's interval of a true share of which `share` was found in so many trials.

    It has the probability of so many standard deviations of a normal distribution.
    """
    if not trials:
        return 0.0, 1.0
    z2 = deviations**2
    center = share + z2 / (2 * trials)
    margin = deviations * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    scale = 1 + z2 / trials
    return max(0.0, (center - margin) / scale), min(1.0, (center + margin) / scale)
