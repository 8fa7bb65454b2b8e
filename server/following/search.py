"""Searches for an allocation for observed traffic, from the present one: a child's work.

`search_in_child` runs in a thread of the supervisor; the search takes seconds of CPU time, so it is
made in a process of its own, at the lowest priority. A `SearchTask` flows in as JSON on stdin, a
`Found` flows out.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import replace

import msgspec
import numpy as np

from allocator.matrix import AllocationMatrix
from allocator.problem import Cells, Device, NoPlaceError, Problem
from allocator.profiles import Profile, Profiles
from allocator.search.greedy import AnalyticScorer, greedy
from allocator.search.search import search
from allocator.search.throughput import solve_throughput
from allocator.search.variants import fill_spare_memory
from workers.runtime.child_main import end_with
from workers.runtime.child_process import ChildError, log_stdout, run_child

__all__ = ["Candidate", "Found", "SearchTask", "find_better", "main", "search_in_child"]

_NAME = "the search for an allocation"
_NICE = 19
#: Beside the search's own time limit.
_MARGIN_S = 60.0
#: Instances that a step towards the optimum changes; the nearest candidate is one of few steps.
_STEPS = 3


class SearchTask(msgspec.Struct, frozen=True):
    """A problem, the present allocation, and what the traffic asked for.

    Attributes:
        demand: of a window of traffic, by member.
        parts: of parts of the window, one after the other.
        present: the instances there are, as (device, member, batch); devices that were lost are
            left out, so a member may have none.
        fill: whether spare memory is filled with further instances.
    """

    members: tuple[str, ...]
    devices: tuple[Device, ...]
    profiles: tuple[Profile, ...]
    row_s: dict[str, float]
    demand: dict[str, float]
    parts: tuple[dict[str, float], ...]
    present: tuple[tuple[str, str, int], ...]
    time_limit_s: float
    tolerance: float = 0.0
    fill: bool = True

    @classmethod
    def of(
        cls,
        problem: Problem,
        present: AllocationMatrix,
        *,
        parts: tuple[dict[str, float], ...],
        time_limit_s: float,
        tolerance: float,
        fill: bool,
    ) -> SearchTask:
        """Return the task to find a better matrix than the present one."""
        devices = {device.name for device in problem.devices}
        return cls(
            members=problem.members,
            devices=problem.devices,
            profiles=tuple(problem.profiles),
            row_s={name: s for name, s in problem.row_s.items() if name in devices},
            demand=dict(problem.demand),
            parts=parts,
            present=tuple(one for one in present.instances() if one[0] in devices),
            time_limit_s=time_limit_s,
            tolerance=tolerance,
            fill=fill,
        )

    @property
    def problem(self) -> Problem:
        """What the allocation is searched for."""
        profiles = Profiles(self.profiles)
        return Problem(self.members, self.devices, profiles, self.row_s, self.demand)


class Candidate(msgspec.Struct, frozen=True):
    """An allocation and the rows/s of traffic that it can serve: of the window, of its parts.

    `new` is, by device, how many instances are not there yet. The present one has no matrix.
    """

    rows_s: float
    parts_rows_s: tuple[float, ...] = ()
    matrix: str = ""
    new: dict[str, int] = {}


class Found(msgspec.Struct, frozen=True):
    """The present allocation, those that could take its place, and what no allocation exceeds.

    `error` says why there is none.
    """

    present: Candidate
    candidates: tuple[Candidate, ...] = ()
    bound_rows_s: float | None = None
    error: str = ""


def find_better(task: SearchTask) -> Found:
    """Search for better allocations: the best one, and one near the present one."""
    problem = task.problem
    parts = [replace(problem, demand=demand) for demand in task.parts]
    rows = {device.name: index for index, device in enumerate(problem.devices)}
    columns = {name: index for index, name in enumerate(problem.members)}
    present = problem.empty()
    for device, member, batch in task.present:
        at = rows[device], columns[member]
        known = [one.batch for one in problem.options(*at)]
        # A matrix of a file may have others.
        present[at] = max((one for one in known if one <= batch), default=min(known, default=0))

    def candidate(cells: Cells, *, is_present: bool = False) -> Candidate:
        rows_s = solve_throughput(problem, cells)[0]
        parts_rows_s = tuple(solve_throughput(part, cells)[0] for part in parts)
        if is_present:
            return Candidate(rows_s, parts_rows_s)
        new = np.count_nonzero((cells != present) & (cells > 0), axis=1)
        return Candidate(
            rows_s,
            parts_rows_s,
            matrix=problem.matrix(cells).to_json(),
            new={name: int(new[index]) for name, index in rows.items() if new[index]},
        )

    try:
        best = search(problem, time_limit_s=task.time_limit_s, tolerance=task.tolerance)
    except NoPlaceError as error:
        return Found(candidate(present, is_present=True), error=str(error))
    found = [problem.cells_of(best.matrix), *_near(problem, present)]
    if task.fill:
        found = [fill_spare_memory(problem, cells) for cells in found]
    distinct = {cells.tobytes(): cells for cells in found if (cells != present).any()}
    return Found(
        candidate(present, is_present=True),
        tuple(candidate(cells) for cells in distinct.values()),
        best.bound_rows_s,
    )


def _near(problem: Problem, present: Cells) -> Iterator[Cells]:
    """Yield an allocation that a few steps from the present one lead to, which costs little."""
    if present.any(axis=0).all():
        yield greedy(problem, present, AnalyticScorer(problem), max_iterations=_STEPS)


def search_in_child(task: SearchTask) -> Found:
    """Search in a child process, which takes its time limit and a little more; never fails."""
    try:
        answer = run_child(
            _NAME,
            "server.following.search",
            msgspec.json.encode(task),
            task.time_limit_s + _MARGIN_S,
        )
    except ChildError as error:
        return Found(Candidate(0.0), error=f"the process that searched {error}")
    return msgspec.json.decode(answer, type=Found)


def main() -> None:
    """Search for what stdin describes and write what was found: the child's part."""
    os.nice(_NICE)
    task = msgspec.json.decode(sys.stdin.buffer.read(), type=SearchTask)
    with log_stdout(_NAME):  # a solver's banner: nobody is to see it
        found = find_better(task)
    end_with(msgspec.json.encode(found))


if __name__ == "__main__":
    main()
