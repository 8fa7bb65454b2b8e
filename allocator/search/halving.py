"""Successive halving: the best of some candidates, measured the longer the fewer are left.

Pure, used in the process that plans an allocation. Candidates and a way to measure them flow in,
their standings flow out.

The algorithm is that of Jamieson and Talwalkar, "Non-stochastic best arm identification and
hyperparameter optimization" (AISTATS 2016): every round may take the same time, which those that
are still in share; then the worse half is out. As there, what earlier rounds measured counts on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["Standing", "first_seconds", "successive_halving"]

_Candidate = TypeVar("_Candidate")


@dataclass(frozen=True)
class Standing(Generic[_Candidate]):
    """How a candidate did.

    `score` is the mean of its measurements, weighted by their length (`seconds` altogether); 0 if
    one of them was 0.
    """

    candidate: _Candidate
    score: float = 0.0
    seconds: float = 0.0
    rounds: int = 0

    def after(self, score: float, seconds: float) -> Standing[_Candidate]:
        """Return the standing after one more measurement."""
        total = self.seconds + seconds
        # What has failed once is not to be relied on, however good it was before.
        failed = score <= 0 or (self.rounds > 0 and self.score <= 0)
        mean = 0.0 if failed else (self.score * self.seconds + score * seconds) / total
        return Standing(self.candidate, mean, total, self.rounds + 1)


def first_seconds(candidates: int, longest_s: float, *, eta: int = 2) -> float:
    """How long the first measurements are, for the last ones to be of a given length."""
    rounds = 1
    while (candidates := math.ceil(candidates / eta)) > 1:
        rounds += 1
    return longest_s / float(eta ** (rounds - 1))


def successive_halving(
    candidates: Sequence[_Candidate],
    measure: Callable[[_Candidate, float], float],
    *,
    first_s: float,
    eta: int = 2,
) -> tuple[Standing[_Candidate], ...]:
    """Find the best of some candidates, which come in the order of what one expects of them.

    `measure` scores a candidate, the higher the better, in so many seconds: `first_s` in the first
    round, `eta` times as many in the next, for which the best of every `eta` remain. A score of 0
    is a failure, and the candidate is out at once. Of equals, the earlier one is better.

    Returns:
        How all of them did, the best first: those that stayed in longer, then by score.

    Raises:
        ValueError: if `first_s` is not positive, or `eta` is less than 2.
    """
    if first_s <= 0 or eta < 2:
        raise ValueError(f"first_s should be above 0 and eta 2 or more, not {first_s} and {eta}")
    standings: list[Standing[_Candidate]] = [Standing(candidate) for candidate in candidates]
    left, seconds = len(standings), first_s
    while left > 0:
        measured = [one.after(measure(one.candidate, seconds), seconds) for one in standings[:left]]
        # Sorting is stable: candidates that are out stay behind those that were better.
        measured.sort(key=lambda one: -one.score)
        standings[:left] = measured
        going_on = min(math.ceil(left / eta), sum(one.score > 0 for one in measured))
        left, seconds = going_on if going_on > 1 else 0, seconds * eta
    # A finalist that failed is behind those that did not, even if these were out earlier.
    standings.sort(key=lambda one: one.score <= 0)
    return tuple(standings)
