"""The day on four simulated GPUs: what could be served in each hour, by each allocation.

The controller of the server follows the trace, with the server's own search. The allocation to
compare with is the best one for the whole day, in hindsight. What an allocation can serve of an
hour's mix is what the simulator serves of it at saturation; while a device loads models for a
change, it counts as serving nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from allocator.matrix import AllocationMatrix
from allocator.problem import Cells, Device, Problem
from allocator.profiles import Profiles
from allocator.search.greedy import Move, greedy
from allocator.search.search import search
from allocator.search.throughput import solve_throughput
from allocator.search.variants import fill_spare_memory
from allocator.simulation import (
    ClosedLoop,
    EnsembleShare,
    LaterStage,
    Scenario,
    mix_demand,
    simulate,
)
from benchmarks.day.trace import ENSEMBLES, HOURS, Minute
from server.following.controller import Controller, FollowLimits
from server.following.search import find_better
from server.following.traffic import ModelTraffic, Traffic

__all__ = ["Change", "Hour", "best_fixed", "play_day"]

_PROFILES = Path(__file__).parents[2] / "configs/profiles/estimated.json"
_GPU, _GPUS, _MEMORY_BYTES = "Tesla V100-SXM2-16GB", 4, 16 << 30
_STEP_S = 20.0
#: An instance takes so long to load.
_LOAD_S = 5.0
_SEARCH_S = 2.0
_REQUESTS = 20_000
_CONNECTIONS = 8192
_MEMBERS = tuple(name for stages in ENSEMBLES.values() for stage in stages for name in stage)


@dataclass(frozen=True)
class Hour:
    """Rows/s that could be served in an hour, with the shares of the ensembles.

    By the allocation that a server starts with, by the best fixed one, by the one that follows.
    """

    mix: dict[str, float]
    first_rows_s: float
    fixed_rows_s: float
    followed_rows_s: float


@dataclass(frozen=True)
class Change:
    """A change of the allocation, at a moment of the day, with the seconds that it cost."""

    at_s: float
    reason: str
    cost_s: float


def play_day(minutes: Sequence[Minute]) -> tuple[list[Hour], list[Change]]:
    """Return the hours of the day, and the changes that the controller made."""
    problem = _pool()
    mixes = [_mix(minutes[60 * hour : 60 * (hour + 1)]) for hour in range(HOURS)]
    fixed = best_fixed(problem, mixes)

    @cache
    def capacity(matrix: AllocationMatrix, hour: int) -> float:
        return _served_rows_s(problem, matrix, mixes[hour])

    served, changes = _follow(problem, minutes)
    first = served[0][0]
    hours = []
    for hour, mix in enumerate(mixes):
        steps = served[hour * len(served) // HOURS : (hour + 1) * len(served) // HOURS]
        followed = sum(capacity(matrix, hour) * share for matrix, share in steps) / len(steps)
        total = sum(one.weight for one in mix)
        shares = {one.name: one.weight / total for one in mix}
        hours.append(Hour(shares, capacity(first, hour), capacity(fixed, hour), followed))
    return hours, changes


def _pool() -> Problem:
    known = Profiles.from_json(_PROFILES.read_bytes())
    devices = tuple(Device(f"cuda:{index}", _GPU, _MEMORY_BYTES) for index in range(_GPUS))
    used = Profiles(one for one in known if one.member in _MEMBERS and one.device_kind == _GPU)
    return Problem(_MEMBERS, devices, used)


def _mix(minutes: Sequence[Minute]) -> list[EnsembleShare]:
    """The ensembles in the proportions of some minutes."""
    mix = []
    for name, (first, *later) in ENSEMBLES.items():
        rows = sum(minute.rows[name] for minute in minutes)
        unsure = sum(minute.unsure for minute in minutes) / max(rows, 1)
        stages = tuple(LaterStage(tuple(members), unsure) for members in later)
        mix.append(EnsembleShare(tuple(first), max(rows, 1), stages, name))
    return mix


class _DayScorer:
    """Scores an allocation by the rows/s of all hours, by the performance model."""

    def __init__(self, problem: Problem, mixes: Sequence[Sequence[EnsembleShare]]) -> None:
        self._hours = [replace(problem, demand=mix_demand(mix)) for mix in mixes]
        self._cells = problem.empty()

    def score(self, cells: Cells) -> float:
        self._cells = cells.copy()
        return sum(solve_throughput(hour, cells)[0] for hour in self._hours)

    def score_move(self, move: Move) -> float:
        before, moved = self._cells, self._cells.copy()
        moved[move.device, move.member] = move.batch
        score = self.score(moved)
        self._cells = before
        return score


def best_fixed(problem: Problem, mixes: Sequence[Sequence[EnsembleShare]]) -> AllocationMatrix:
    """The best allocation for the day among the best ones for each hour and the day's mean.

    Its neighbours are tried, too.
    """
    scorer = _DayScorer(problem, mixes)
    demands = [mix_demand(mix) for mix in mixes]
    mean = {
        name: sum(one.get(name, 0.0) for one in demands) / len(mixes) for name in problem.members
    }
    candidates = []
    for demand in [mean, *demands]:
        found = search(replace(problem, demand=demand), time_limit_s=_SEARCH_S)
        candidates.append(fill_spare_memory(problem, problem.cells_of(found.matrix)))
    best = max(candidates, key=scorer.score)
    return problem.matrix(greedy(problem, best, scorer, max_neighbours=60))


def _follow(
    problem: Problem, minutes: Sequence[Minute]
) -> tuple[list[tuple[AllocationMatrix, float]], list[Change]]:
    """Step by step, the allocation that serves and the share of it that is not loading models."""
    first = search(problem, time_limit_s=_SEARCH_S).matrix
    matrix = problem.matrix(fill_spare_memory(problem, problem.cells_of(first)))
    controller, limits = Controller(load_s=_LOAD_S), FollowLimits(search_s=_SEARCH_S)
    generation = 1

    def serve(now: float) -> None:
        controller.serve(
            generation,
            limits=limits,
            problem=problem,
            stages=ENSEMBLES,
            matrix=matrix,
            now=now,
        )

    serve(0.0)
    served: list[tuple[AllocationMatrix, float]] = []
    changes: list[Change] = []
    for step in range(round(len(minutes) * 60 / _STEP_S)):
        now = (step + 1) * _STEP_S
        minute = minutes[int(step * _STEP_S / 60)]
        served.append((matrix, 1.0))
        controller.observe(_observed(minute, generation), now)
        task = controller.next_task(now)
        if task is None:
            continue
        decision = controller.decide(task, find_better(task), now)
        if decision.move is None:
            continue
        lost_s = _LOAD_S * sum(decision.move.new.values()) / _GPUS
        served[-1] = (matrix, max(1 - lost_s / _STEP_S, 0.0))
        changes.append(Change(now, decision.reason, lost_s))
        matrix, generation = AllocationMatrix.from_json(decision.move.matrix), generation + 1
        serve(now)
        controller.changed(decision.move, _LOAD_S * max(decision.move.new.values()))
    return served, changes


def _observed(minute: Minute, generation: int) -> Traffic:
    """What the front-end would report of a step of a minute."""
    models: dict[str, ModelTraffic] = {}
    members: dict[str, int] = {}
    for name, (first, *later) in ENSEMBLES.items():
        rows = round(minute.rows[name] * _STEP_S / 60)
        unsure = round(minute.unsure * _STEP_S / 60) if later else 0
        models[name] = ModelTraffic(rows, rows, ended=(rows - unsure, unsure) if later else ())
        members |= dict.fromkeys(first, rows)
        for stage in later:
            members |= dict.fromkeys(stage, unsure)
    return Traffic(generation, _STEP_S, models, members)


def _served_rows_s(
    problem: Problem, matrix: AllocationMatrix, mix: Sequence[EnsembleShare]
) -> float:
    scenario = Scenario(
        matrix=matrix,
        devices=problem.devices,
        profiles=problem.profiles,
        arrivals=ClosedLoop(_CONNECTIONS),
        mix=mix,
        requests=_REQUESTS + _CONNECTIONS,
        warm_up=0.5,
    )
    return simulate(scenario).throughput_rows_s
