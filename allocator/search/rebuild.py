"""Good allocations fast: allow everything everywhere, take away until it fits, and do it again.

Pure, used by the exact search; cells flow in, better cells flow out.

If every member were loaded on every device at its best batch size, the linear program of
`allocator.search.throughput` would tell the best shares of the devices' time, and a vertex of it
uses few of the instances. Where those that it uses don't fit a device's memory, the device gets the
subset, with batch sizes, that keeps the throughput highest, and for the others the program is
solved again. That is a dive in the sense of mixed-integer programming. It is repeated for a few
devices at a time, those that fall most short of what they could contribute first, while the others
stay as they are ("ruin and recreate", Schrimpf et al., Journal of Computational Physics 159, 2000).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from allocator.problem import Cells, Problem
from allocator.profiles import Profile
from allocator.search.throughput import Floats, ThroughputModel

__all__ = ["Built", "Rebuilder"]

#: Of the instances that a crowded device should have, the most used so many are considered ...
_MOST_MEMBERS = 6
#: ... and so many subsets of them are compared by the linear program.
_MOST_SUBSETS = 6
_MOST_REBUILT = 8
#: How far chance may change an order, as a share, so that no two rebuilds are alike.
_NOISE = 0.3
_LEAST_SHARE = 1e-7
_SAME = 1e-9
#: What members together gain by being ahead of the throughput, and how far ahead it counts, as a
#: share of what were possible without any limit of memory.
_AHEAD_GAIN = 0.03
_MOST_AHEAD = 0.3


@dataclass(frozen=True)
class Built:
    """An allocation; its throughput is 0 if a member found no place.

    `score` is what to compare it by while searching: the throughput, and a little for members that
    could be faster.
    """

    cells: Cells
    throughput: float
    score: float


class Rebuilder:
    """Builds allocations, anew or from others."""

    def __init__(self, problem: Problem, seed: int) -> None:
        self._problem = problem
        self._generator = np.random.default_rng(seed)
        shape = len(problem.devices), len(problem.members)
        self._everything = problem.empty()
        self._speeds = np.zeros(shape)
        for device, member in np.ndindex(*shape):
            if options := problem.efficient(device, member):
                self._everything[device, member] = options[-1].batch
                self._speeds[device, member] = options[-1].rows_per_s
        self._truth = ThroughputModel(problem)
        self._truth.put_all(self._everything)
        self._model = ThroughputModel(
            problem,
            ahead_gain=_AHEAD_GAIN / shape[1],
            most_ahead=_MOST_AHEAD * self._truth.rows_per_s(),
        )

    def build(self) -> Built:
        """Build from nothing."""
        devices = range(len(self._problem.devices))
        return self._judge(*self._rebuild(self._problem.empty(), devices, noise=0.0))

    def judge(self, cells: Cells) -> Built:
        """Return an allocation with what it is worth."""
        self._model.put_all(cells)
        return self._judge(cells, self._model.rows_per_s())

    def improve(self, built: Built, tolerance: float) -> Built:
        """Rebuild some devices; return the result, or what there was.

        The result's score may be lower by `tolerance`, as a share.
        """
        rebuilt, score = self._rebuild(built.cells, self._worst_devices(built.cells), noise=_NOISE)
        if score > 0 and score >= built.score * (1 - tolerance - _SAME):
            return self._judge(rebuilt, score)
        return built

    def _judge(self, cells: Cells, score: float) -> Built:
        self._truth.put_all(cells)
        return Built(cells, self._truth.rows_per_s() if score else 0.0, score)

    def _worst_devices(self, cells: Cells) -> list[int]:
        """A few devices, likely those that could contribute much more at the present prices."""
        self._model.put_all(cells)
        self._model.rows_per_s()
        members, devices = self._model.prices()
        loss = np.maximum((members * self._speeds).max(axis=1) - devices, 0.0)
        weights = loss / max(loss.sum(), _SAME) + _NOISE / len(loss)
        count = int(self._generator.integers(1, min(len(loss), _MOST_REBUILT) + 1))
        chosen = self._generator.choice(len(loss), count, replace=False, p=weights / weights.sum())
        return sorted(map(int, chosen))

    def _rebuild(
        self, cells: Cells, devices: Iterable[int], *, noise: float
    ) -> tuple[Cells, float]:
        free = set(devices)
        is_free = np.zeros((len(cells), 1), bool)
        is_free[sorted(free)] = True
        cells = cells.copy()
        for device in free:
            cells[device] = self._everything[device]
        self._model.put_all(cells)
        throughput = self._model.rows_per_s()
        while throughput:
            shares = self._model.shares()
            used = (shares > _LEAST_SHARE) & (cells > 0)
            # What is settled may be used again later, so it counts even where it is idle now.
            loaded = np.where(used | ~is_free, cells, 0)
            crowded = self._most_crowded(loaded, free, noise)
            if crowded is None:
                return np.where(used, cells, 0), throughput
            device, free_bytes = crowded
            cells[device], throughput = self._fit(device, shares[device], free_bytes, noise)
            free.discard(device)
            is_free[device] = False
        return cells, 0.0

    def _most_crowded(self, cells: Cells, free: set[int], noise: float) -> tuple[int, int] | None:
        """The device that is to be fitted next, and the memory it may take; None if all fits."""
        problem = self._problem
        taken = [0] * len(problem.devices)
        for device, member in np.argwhere(cells):
            batch = int(cells[device, member])
            taken[device] += problem.profile(int(device), int(member), batch).memory_bytes
        worst, most = None, 1.0
        for index in sorted({problem.domain_of[device] for device in free}):
            domain = problem.memory_domains[index]
            excess = sum(taken[d] for d in domain.devices) / max(domain.memory_bytes, 1)
            if excess > 1.0 and (excess := excess * (1 + noise * self._chance())) > most:
                worst, most = domain, excess
        if worst is None:
            return None
        rivals = [d for d in worst.devices if d in free]
        device = max(rivals, key=lambda d: taken[d])
        rest = worst.memory_bytes - sum(taken[d] for d in worst.devices if d not in free)
        others = sum(taken[d] for d in rivals) - taken[device]
        return device, max(rest // len(rivals), rest - others)

    def _fit(
        self, device: int, shares: Floats, free_bytes: int, noise: float
    ) -> tuple[Cells, float]:
        """Give a device what keeps the throughput highest; its cells and the throughput."""
        subsets = list(self._subsets(device, shares, free_bytes))
        subsets.sort(key=lambda one: -one[0] * (1 + noise * self._chance()))
        best = np.zeros(len(self._problem.members), np.int64), -1.0
        for _, chosen in subsets[:_MOST_SUBSETS]:
            row = np.zeros(len(self._problem.members), np.int64)
            for member, profile in chosen:
                row[member] = profile.batch
            self._model.put_row(device, row)
            throughput = self._model.rows_per_s()
            if throughput > best[1]:
                best = row, throughput
        self._model.put_row(device, best[0])
        return best[0], self._model.rows_per_s()

    def _subsets(
        self, device: int, shares: Floats, free_bytes: int
    ) -> Iterator[tuple[float, list[tuple[int, Profile]]]]:
        """Yield what could be on a device, with the share of the wanted work that it can do."""
        wanted = [m for m in np.argsort(-shares, kind="stable") if shares[m] > _LEAST_SHARE]
        wanted = [int(member) for member in wanted[:_MOST_MEMBERS]]
        levels = 0
        for size in range(len(wanted), 0, -1):
            found = False
            for members in itertools.combinations(wanted, size):
                options = [self._problem.efficient(device, member) for member in members]
                best = _best_batches(options, shares[list(members)], free_bytes)
                if best is not None:
                    found = True
                    yield best[0], list(zip(members, best[1], strict=True))
            levels += found
            if levels == 2:
                return

    def _chance(self) -> float:
        return float(self._generator.random())


def _best_batches(
    options: Sequence[Sequence[Profile]], shares: Floats, free_bytes: int
) -> tuple[float, tuple[Profile, ...]] | None:
    """Choose an instance of each member so that together they fit and do the most work.

    A multiple-choice knapsack, solved exactly over the efficient partial choices. `options` are the
    members' efficient ones; `shares` is how much of the device's time each would take with its
    fastest option.
    """
    front: list[tuple[int, float, tuple[Profile, ...]]] = [(0, 0.0, ())]
    for choices, share in zip(options, shares, strict=True):
        fastest = choices[-1].rows_per_s
        longer = [
            (size, work + float(share) * one.rows_per_s / fastest, (*chosen, one))
            for taken, work, chosen in front
            for one in choices
            if (size := taken + one.memory_bytes) <= free_bytes
        ]
        longer.sort(key=lambda partial: (partial[0], -partial[1]))
        front = []
        for partial in longer:
            if not front or partial[1] > front[-1][1]:
                front.append(partial)
    return front[-1][1:] if front else None
