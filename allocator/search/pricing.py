"""What packings contribute to a throughput that is asked for, at some prices or in some order.

Pure, used by `allocator.search.master`; packings and prices flow in, shares and values flow out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from allocator.search.packings import Integers, Packings
from allocator.search.throughput import Floats, Program

__all__ = ["Asked", "Pricing", "Rows"]

_SAME = 1e-6


@dataclass(frozen=True, eq=False)
class Asked:
    """The throughputs in question, rows/s: what reaches at least `low` and, as all, at most `high`.

    Attributes:
        rows_per_s: [members], what each needs to do for `high`; no instance needs to do more.
        copies: [members], how many instances each needs at least for `low`.
        times: [classes], the share of a device's time that `low` leaves for predictions.
    """

    low: float
    high: float
    rows_per_s: Floats
    copies: Floats
    times: Floats

    @classmethod
    def between(cls, packings: Packings, low: float, high: float) -> Asked:
        """Return what a range of throughputs asks of a problem's members and devices."""
        demands = np.array(packings.problem.demands)
        copies = np.ceil(low * demands / packings.fastest * (1 - _SAME))
        times = np.maximum(1 - low * packings.row_seconds, 0.0)
        return cls(low, high, high * demands, np.maximum(copies, 1.0), times)


class Pricing:
    """The packings within a range; what instances do is in shares of what is asked of members."""

    def __init__(self, packings: Packings, asked: Asked) -> None:
        self._packings = packings
        there = packings.members >= 0
        paces = packings.speeds / asked.rows_per_s[packings.members]
        #: What each instance does in all of the time, and the time that it needs to do it all.
        self._paces = np.where(there, paces, 0.0)
        self._needs = np.where(there, 1 / paces, 0.0)
        self._times = asked.times[packings.classes][:, None]

    def best(self, speed: Floats, copy: Floats) -> tuple[Floats, Integers]:
        """Return each packing's highest value, and the order of its instances that has it.

        `speed` and `copy` are the members' prices of all that is asked of them, and of an instance.
        The instances that gain the most per time go first, as in a knapsack of fractions.
        """
        gains = np.append(speed, 0.0)[self._packings.members] * self._paces
        orders = np.argsort(-gains, axis=1, kind="stable")
        spent = _spent(np.take_along_axis(self._needs, orders, 1), self._times)
        values = (spent * np.take_along_axis(gains, orders, 1)).sum(axis=1)
        return values + self._packings.holds @ copy, orders

    def columns(self, keys: Integers) -> Floats:
        """Return columns of the program of fractions, [keys, rows], in the order of `Rows`.

        A key is a packing and the order of its instances.
        """
        packings, orders = keys[:, 0], keys[:, 1:]
        needs = np.take_along_axis(self._needs[packings], orders, 1)
        done = _spent(needs, self._times[packings])
        done *= np.take_along_axis(self._paces[packings], orders, 1)
        members = np.take_along_axis(self._packings.members[packings], orders, 1)
        holds = self._packings.holds[packings]
        shares = np.zeros((len(keys), holds.shape[1] + 1))
        np.put_along_axis(shares, members, done, 1)
        classes = np.arange(len(self._packings.counts))
        devices = self._packings.classes[packings][:, None] == classes
        return np.hstack([shares[:, :-1], holds, devices])


def _spent(needs: Floats, times: Floats) -> Floats:
    """The time that each gets, one after another, if all together have so much."""
    return np.clip(times - (np.cumsum(needs, axis=1) - needs), 0.0, needs)


class Rows:
    """The rows of a program over packings: speeds, copies (of members), devices (of classes)."""

    def __init__(self, packings: Packings, asked: Asked, throughput: int) -> None:
        self._lower = [0.0] * len(asked.copies) + asked.copies.tolist()
        self._upper = packings.counts.tolist()
        self._terms: list[list[tuple[int, float]]] = [[(throughput, -1.0)] for _ in asked.copies]
        self._terms += [[] for _ in (*self._lower[len(asked.copies) :], *self._upper)]

    def add(self, row: int, column: int, factor: float) -> None:
        """Add a term to a row."""
        self._terms[row].append((column, factor))

    def close(self, program: Program) -> None:
        """Add the rows to the program."""
        for terms, least in zip(self._terms, self._lower, strict=False):
            program.row(terms, lower=least)
        for terms, most in zip(self._terms[len(self._lower) :], self._upper, strict=True):
            program.row(terms, upper=float(most))
