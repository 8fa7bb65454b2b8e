"""What running processes have cost so far: CPU time, waiting for a core, context switches.

Read from ``/proc``, of all threads that live; so costs are differences between two readings, and
the time of a thread that ended between them is missing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec
import psutil

__all__ = [
    "ProcessCost",
    "Usage",
    "costs_per_request",
    "family",
    "role",
    "total",
    "usage_of",
]

_PROC = Path("/proc")
_SWITCHES = re.compile(r"^(?:non)?voluntary_ctxt_switches:\s*(\d+)$", re.MULTILINE)
_OURS, _ALL = "ensembled", "all"


class Usage(msgspec.Struct, frozen=True):
    """What some threads have used since they started.

    Attributes:
        cpu_ns: time on a core.
        waiting_ns: time that they could have run, but had no core.
        switches: context switches, voluntary or not.
    """

    cpu_ns: int = 0
    waiting_ns: int = 0
    switches: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.cpu_ns + other.cpu_ns,
            self.waiting_ns + other.waiting_ns,
            self.switches + other.switches,
        )

    def __sub__(self, other: Usage) -> Usage:
        return Usage(
            self.cpu_ns - other.cpu_ns,
            self.waiting_ns - other.waiting_ns,
            self.switches - other.switches,
        )


class ProcessCost(msgspec.Struct, frozen=True):
    """What a request costs the processes of one role.

    Attributes:
        role: of the processes.
        cpu_us: time on a core per request.
        waiting_us: time that they could have run per request, but had no core.
        switches: context switches per request.
    """

    role: str
    cpu_us: float
    waiting_us: float
    switches: float


def family(pid: int) -> list[psutil.Process]:
    """Return a process and all its descendants."""
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]


def role(title: str) -> str:
    """Return what a process of ours is for by its title; ``all`` for anybody else's."""
    name, _, rest = title.partition(" ")
    if name != _OURS:
        return _ALL
    return "workers" if rest.startswith("worker ") else rest or "supervisor"


def usage_of(processes: Iterable[psutil.Process]) -> dict[str, Usage]:
    """Return what processes have used so far, by role; those that have ended are left out."""
    found: dict[str, Usage] = {}
    for process in processes:
        try:
            name = role((process.cmdline() or [""])[0])
            used = _threads(process.pid)
        except (psutil.Error, OSError):
            continue
        found[name] = found.get(name, Usage()) + used
    return found


def _threads(pid: int) -> Usage:
    total = Usage()
    for task in (_PROC / str(pid) / "task").iterdir():
        try:
            times = (task / "schedstat").read_text(encoding="ascii").split()
            status = (task / "status").read_text(encoding="utf-8", errors="replace")
        except OSError:  # the thread has ended
            continue
        switches = sum(map(int, _SWITCHES.findall(status)))
        total += Usage(int(times[0]), int(times[1]), switches)
    return total


def costs_per_request(
    before: Mapping[str, Usage], after: Mapping[str, Usage], requests: int
) -> tuple[ProcessCost, ...]:
    """Return what each of a number of requests cost between two readings, by role."""
    costs = []
    for name, used in after.items():
        spent = used - before.get(name, Usage())
        costs.append(
            ProcessCost(
                role=name,
                cpu_us=spent.cpu_ns / requests / 1e3,
                waiting_us=spent.waiting_ns / requests / 1e3,
                switches=spent.switches / requests,
            )
        )
    return tuple(costs)


def total(costs: Sequence[ProcessCost]) -> ProcessCost:
    """Return what a request costs the processes of all roles together."""
    return ProcessCost(
        role=_ALL,
        cpu_us=sum(cost.cpu_us for cost in costs),
        waiting_us=sum(cost.waiting_us for cost in costs),
        switches=sum(cost.switches for cost in costs),
    )
