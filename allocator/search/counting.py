"""Counts the parts that CPU devices may be divided into: the master of the search for a division.

Pure, used by `allocator.search.division`; a `Divisible` problem flows in, proposals for divisions
and bounds flow out.

Devices that are alike form a class. Of a class there are n[s] parts of s cores, and Z[s, m, b]
copies of each instance on them, at most n[s] of a member, which take X[s, m, b] <= Z of the parts'
time. All parts of a device share its memory, and often all devices share the RAM: so memory is
counted exactly, as a sum over copies and workers. All that is relaxed is the time of a single part,
for which that of all parts of its size stands. The bits of n[s] let a division be forbidden.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import highspy

from allocator.division import Divisible, Division
from allocator.problem import Problem
from allocator.search.alike import AlikeDevices, alike_devices, part_catalogue
from allocator.search.throughput import Program, typical_rows_per_s

__all__ = ["Counts", "Master", "Proposal"]

#: By class of divisible devices and size of part, how many there are.
Counts = tuple[tuple[int, ...], ...]

_Terms = list[tuple[int, float]]

#: What all workers that there can be cost together, as a share of the throughput.
_WORKERS = 1e-3
_GAP = 1e-4
_LEAST_S = 0.01
_NOTHING = (highspy.HighsModelStatus.kInfeasible, highspy.HighsModelStatus.kModelEmpty)


@dataclass(frozen=True)
class Proposal:
    """The most promising division that is not forbidden, and rows/s that none of these exceeds.

    There is no division if all are forbidden (then the bound is 0), or if time was too short.
    """

    division: Division | None
    bound: float


class Master:
    """The program over counts, and the divisions that it is forbidden to propose."""

    def __init__(self, divisible: Divisible) -> None:
        self._divisible = divisible
        self._classes = alike_devices(divisible)
        self._divided = [one for one in self._classes if one.is_divisible]
        self._catalogue = part_catalogue(divisible, self._classes)
        self._scale = typical_rows_per_s(self._catalogue)
        self._most_workers = sum(one.most(one.sizes[0]) for one in self._divided)
        self._forbidden: set[Counts] = set()
        #: Rows/s that no allocation on any division exceeds; 0 if there is none at all.
        self.highest = 0.0
        self.highest = self._solve(math.inf, worker_cost=0.0, is_whole=False)[1]

    def counts(self, division: Division) -> Counts:
        """Return how many parts of each size a division has."""
        found = []
        for one in self._divided:
            sizes = Counter(size for name in one.names for size in division[name])
            found.append(tuple(sizes[size] for size in one.sizes))
        return tuple(found)

    def forbid(self, division: Division) -> None:
        """Propose this division, and those with as many parts of each size, no more."""
        self._forbidden.add(self.counts(division))

    def propose(self, time_limit_s: float) -> Proposal:
        """Return the most promising division that is left."""
        cost = _WORKERS * self.highest / self._scale / self._most_workers
        while True:
            counts, bound = self._solve(time_limit_s, worker_cost=cost, is_whole=True)
            if counts is None:
                return Proposal(None, bound)
            if (division := self._packed(counts)) is not None:
                return Proposal(division, bound)
            self._forbidden.add(counts)

    def _solve(
        self, time_limit_s: float, *, worker_cost: float, is_whole: bool
    ) -> tuple[Counts | None, float]:
        program = _Program(
            self._divisible.whole,
            self._classes,
            self._catalogue,
            self._forbidden,
            worker_cost=worker_cost,
            is_whole=is_whole,
        )
        counts, bound = program.solve(time_limit_s)
        return counts, max(bound + worker_cost * self._most_workers, 0.0) * self._scale

    def _packed(self, counts: Counts) -> Division | None:
        """Give the parts to devices, the biggest first; None if that leaves one over."""
        division: dict[str, tuple[int, ...]] = {}
        for one, numbers in zip(self._divided, counts, strict=True):
            left = dict.fromkeys(one.names, one.cores)
            parts: defaultdict[str, tuple[int, ...]] = defaultdict(tuple)
            for size, number in reversed(list(zip(one.sizes, numbers, strict=True))):
                for _ in range(number):
                    name = next((name for name in one.names if left[name] >= size), None)
                    if name is None:
                        return None
                    left[name] -= size
                    parts[name] += (size,)
            division |= {name: parts[name] for name in one.names}
        return division


class _Program:
    """The program as it is now; `is_whole` counts parts and copies in whole numbers.

    Each worker costs `worker_cost`, in the unit of the throughput.
    """

    def __init__(
        self,
        problem: Problem,
        classes: Sequence[AlikeDevices],
        catalogue: Problem,
        forbidden: Iterable[Counts],
        *,
        worker_cost: float,
        is_whole: bool,
    ) -> None:
        self._catalogue = catalogue
        self._scale = typical_rows_per_s(catalogue)
        self._is_whole, self._worker_cost = is_whole, worker_cost
        self._program = Program()
        self._rate = self._program.column(gain=1.0)
        self._speeds: list[_Terms] = [[(self._rate, -demand)] for demand in problem.demands]
        self._copies: list[_Terms] = [[] for _ in problem.members]
        self._memory: list[_Terms] = [[] for _ in problem.memory_domains]
        self._numbers: list[list[_Terms]] = []  # of a divisible class, each size's bits
        at = 0
        for one in classes:
            self._add_class(one, at)
            at += len(one.sizes)
        for terms, domain in zip(self._memory, problem.memory_domains, strict=True):
            unit = max(domain.memory_bytes, 1)
            scaled = [(column, size / unit) for column, size in terms]
            self._program.row(scaled, upper=domain.memory_bytes / unit)
        for speed, copies in zip(self._speeds, self._copies, strict=True):
            self._program.row(speed, lower=0.0)
            self._program.row(copies, lower=1.0)
        for counts in forbidden:
            self._forbid(counts)

    def solve(self, time_limit_s: float) -> tuple[Counts | None, float]:
        """Return the best counts, and the most that is possible; None if there are none (in time).

        The bound is minus infinity if there is no solution at all.
        """
        solver = self._program.solver()
        solver.setOptionValue("time_limit", max(time_limit_s, _LEAST_S))
        solver.setOptionValue("mip_rel_gap", _GAP)
        solver.run()
        status, info = solver.getModelStatus(), solver.getInfo()
        if status in _NOTHING:
            return None, -math.inf
        bound = info.objective_function_value
        if self._is_whole:
            bound = info.mip_dual_bound
        elif status != highspy.HighsModelStatus.kOptimal:
            bound = math.inf
        if info.primal_solution_status != highspy.SolutionStatus.kSolutionStatusFeasible:
            return None, bound
        values = solver.getSolution().col_value
        return tuple(
            tuple(round(sum(factor * values[bit] for bit, factor in bits)) for bits in numbers)
            for numbers in self._numbers
        ), bound

    def _add_class(self, one: AlikeDevices, at: int) -> None:
        """Add the parts of a class, of which the catalogue has the sizes from `at` on."""
        program, devices = self._program, len(one.names)
        used: _Terms = []
        times: _Terms = [(self._rate, one.row_s * one.cores * devices * self._scale)]
        numbers: list[_Terms] = []
        for index, size in enumerate(one.sizes):
            number = self._number(one.most(size) if one.is_divisible else 0)
            shares = self._add_copies(one, at + index, number)
            numbers.append(number)
            used += [(bit, size * factor) for bit, factor in number]
            times += [(share, float(size)) for share in shares]
            self._memory[one.domain] += [
                (bit, factor * one.worker_bytes[index]) for bit, factor in number
            ]
        program.row(times, upper=one.cores * devices)
        if one.is_divisible:
            self._numbers.append(numbers)
            program.row(used, upper=one.cores * devices)
            for index, size in enumerate(one.sizes):
                bigger = [term for number in numbers[index:] for term in number]
                program.row(bigger, upper=one.most(size))

    def _number(self, most: int) -> _Terms:
        """Add the bits of how many parts of a size there are."""
        return [
            (
                self._program.column(
                    gain=-self._worker_cost * (1 << bit), upper=1.0, integer=self._is_whole
                ),
                float(1 << bit),
            )
            for bit in range(most.bit_length())
        ]

    def _add_copies(self, one: AlikeDevices, index: int, number: _Terms) -> list[int]:
        """Add the copies on parts of a size; return their shares of these parts' time."""
        program, catalogue = self._program, self._catalogue
        parts = [(bit, -factor) for bit, factor in number]
        most = one.most(one.sizes[0]) if number else 1
        shares: list[int] = []
        for member in range(len(catalogue.members)):
            own: _Terms = []
            for option in catalogue.efficient(index, member):
                copy = program.column(upper=most, integer=self._is_whole and one.is_divisible)
                share = program.column()
                program.row([(share, 1.0), (copy, -1.0)], upper=0.0)
                own.append((copy, 1.0))
                shares.append(share)
                self._memory[one.domain].append((copy, float(option.memory_bytes)))
                self._speeds[member].append((share, option.rows_per_s / self._scale))
            self._copies[member] += own
            program.row([*own, *parts], upper=0.0 if number else 1.0)
        program.row([*((share, 1.0) for share in shares), *parts], upper=0.0 if number else 1.0)
        return shares

    def _forbid(self, counts: Counts) -> None:
        """At least one bit must differ."""
        terms: _Terms = []
        ones = 0
        for numbers, found in zip(self._numbers, counts, strict=True):
            for number, value in zip(numbers, found, strict=True):
                for bit, factor in number:
                    is_set = bool(value & int(factor))
                    ones += is_set
                    terms.append((bit, -1.0 if is_set else 1.0))
        self._program.row(terms, lower=1.0 - ones)
