"""Heuristics: worst-fit decreasing for a first allocation, and bounded greedy from there.

Pure, used in the process that plans an allocation; a problem and cells flow in, better cells flow
out. Both algorithms are those of Pochelu, Petiton and Conche (IEEE Big Data 2021, arXiv
2208.14049). Greedy goes to the best of a sample of neighbours, which differ in one cell: another
batch size, an instance more, an instance less; what makes cells good is a `Scorer`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from allocator.problem import Cells, Problem
from allocator.profiles import Profile
from allocator.search.throughput import ThroughputModel

__all__ = ["AnalyticScorer", "Move", "Scorer", "best_batches", "greedy", "worst_fit"]


def worst_fit(problem: Problem) -> Cells:
    """Place each member once, the biggest first, on the device with the most memory left.

    Every instance has its smallest batch size. The CPU takes part only for members that fit
    no GPU. Equals keep the given order.

    Raises:
        NoPlaceError: if a member fits nowhere; a placement may exist all the same.
    """
    devices = range(len(problem.devices))
    cells = problem.empty()
    left = problem.capacity_bytes.copy()

    def smallest(device: int, member: int) -> Profile | None:
        options = problem.options(device, member)
        return options[0] if options else None

    def size(member: int) -> int | None:
        sizes = [one.memory_bytes for d in devices if (one := smallest(d, member))]
        return max(sizes, default=None)

    for member in range(len(problem.members)):
        if size(member) is None:  # it fits no device even alone: no other member is to blame
            raise problem.refuse(member, problem.left_bytes(cells))
    for member in sorted(range(len(problem.members)), key=lambda m: -(size(m) or 0)):
        roomy = [
            (problem.devices[d].is_cuda, left[problem.domain_of[d]], -d, one)
            for d in devices
            if (one := smallest(d, member)) and one.memory_bytes <= left[problem.domain_of[d]]
        ]
        if not roomy:
            raise problem.refuse(member, problem.left_bytes(cells))
        _, _, negative, profile = max(roomy, key=lambda option: option[:3])
        cells[-negative, member] = profile.batch
        left[problem.domain_of[-negative]] -= profile.memory_bytes
    return cells


#: A neighbour must be better by this share to be worth a step.
_LEAST_GAIN = 1e-9


@dataclass(frozen=True, slots=True)
class Move:
    """One cell that changes; batch 0 removes the instance."""

    device: int
    member: int
    batch: int


class Scorer(Protocol):
    """What makes a matrix good: the higher the score the better."""

    def score(self, cells: Cells) -> float:
        """Score feasible cells and make them the ones that moves start from."""
        ...

    def score_move(self, move: Move) -> float:
        """Score the present cells after a move, without making it."""
        ...


class AnalyticScorer:
    """Scores by the throughput of the performance model, in rows/s."""

    def __init__(self, problem: Problem) -> None:
        self._model = ThroughputModel(problem)
        self._cells = problem.empty()

    def score(self, cells: Cells) -> float:
        """The throughput of these cells, from which moves start now."""
        self._cells = cells.copy()
        self._model.put_all(cells)
        return self._model.rows_per_s()

    def score_move(self, move: Move) -> float:
        """The throughput after a move."""
        self._model.put(move.device, move.member, move.batch)
        score = self._model.rows_per_s()
        self._model.put(move.device, move.member, int(self._cells[move.device, move.member]))
        return score


def greedy(
    problem: Problem,
    start: Cells,
    scorer: Scorer,
    *,
    max_iterations: int = 10,
    max_neighbours: int = 100,
    seed: int = 0,
    keep_going: Callable[[], bool] = lambda: True,
) -> Cells:
    """Search from `start`, and return the best cells found.

    Each step scores all neighbours, or a random sample of `max_neighbours`. Once `keep_going`
    returns False, the search ends.
    """
    generator = np.random.default_rng(seed)
    cells = start.copy()
    score = scorer.score(cells)
    for _ in range(max_iterations):
        moves = list(_moves(problem, cells))
        if len(moves) > max_neighbours:
            chosen = generator.choice(len(moves), max_neighbours, replace=False)
            moves = [moves[i] for i in np.sort(chosen)]
        best = _best_move(moves, scorer, score, keep_going)
        if best is None:
            return cells
        cells[best.device, best.member] = best.batch
        score = scorer.score(cells)
    return cells


def best_batches(
    problem: Problem,
    start: Cells,
    scorer: Scorer,
    *,
    keep_going: Callable[[], bool] = lambda: True,
) -> Cells:
    """Tune the batch sizes alone, instances stay where they are: the usual practice.

    Each step takes the best change of one batch size, until none helps.
    """
    cells = start.copy()
    score = scorer.score(cells)
    while best := _best_move(_batch_moves(problem, cells), scorer, score, keep_going):
        cells[best.device, best.member] = best.batch
        score = scorer.score(cells)
    return cells


def _best_move(
    moves: Iterable[Move], scorer: Scorer, score: float, keep_going: Callable[[], bool]
) -> Move | None:
    """The move to the highest score; None if none is better than what there is, or time is up."""
    best: Move | None = None
    for move in moves:
        if not keep_going():
            return None
        after = scorer.score_move(move)
        if after > score + abs(score) * _LEAST_GAIN:
            best, score = move, after
    return best


def _moves(problem: Problem, cells: Cells) -> Iterator[Move]:
    """Every feasible change of one cell."""
    left = problem.left_per_domain(cells)
    instances = np.count_nonzero(cells, axis=0)
    for device, member in np.ndindex(*cells.shape):
        if cells[device, member] and instances[member] > 1:
            yield Move(device, member, 0)
        yield from _sizes(problem, cells, left, device, member)


def _batch_moves(problem: Problem, cells: Cells) -> Iterator[Move]:
    """Every feasible change of the batch size of an instance."""
    left = problem.left_per_domain(cells)
    for device, member in np.argwhere(cells):
        yield from _sizes(problem, cells, left, int(device), int(member))


def _sizes(
    problem: Problem, cells: Cells, left: npt.NDArray[np.int64], device: int, member: int
) -> Iterator[Move]:
    """The other batch sizes that a cell may have, given what is left in each memory domain."""
    present = int(cells[device, member])
    free_bytes = int(left[problem.domain_of[device]])
    if present:
        free_bytes += problem.profile(device, member, present).memory_bytes
    for option in problem.options(device, member):
        if option.batch != present and option.memory_bytes <= free_bytes:
            yield Move(device, member, option.batch)
