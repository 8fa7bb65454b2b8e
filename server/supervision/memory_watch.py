"""Finds the worker whose member leaks: CPU devices take more memory than they have.

Runs in the supervisor, which kills that worker: its rows run again, and the memory is free before
the kernel has to choose a process. Devices' specs and process ids flow in, a worker's device flows
out. The kernel's count of private memory is used, so the shared arena and weights that are mapped
from files do not count.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from workers.runtime.spec import DeviceSpec

__all__ = ["MemoryWatch", "private_bytes"]

#: Less growth than this share of the memory is no leak: what was planned was wrong, and a new
#: process would need as much.
_LEAK_SHARE = 0.25
_PRIVATE = re.compile(r"^RssAnon:\s+(\d+) kB$", re.MULTILINE)


def private_bytes(pid: int) -> int:
    """Return the private memory of a process that is in RAM, 0 if nobody says."""
    try:
        found = _PRIVATE.search(Path(f"/proc/{pid}/status").read_text(encoding="utf-8"))
    except OSError:  # it is gone, or this is not Linux
        return 0
    return int(found[1]) << 10 if found else 0


class MemoryWatch:
    """Compares workers with what they took when they were up, and devices with their budgets."""

    def __init__(self, devices: Iterable[DeviceSpec]) -> None:
        self._first: dict[int, int] = {}
        self.follow(devices)

    def follow(self, devices: Iterable[DeviceSpec]) -> None:
        """From now on, watch the workers of these devices."""
        self._budgets: dict[str, int] = {}
        self._sharing: defaultdict[str, list[str]] = defaultdict(list)
        for device in devices:
            if not device.is_cuda:  # whose memory is not the host's
                key = device.pool or device.name
                self._budgets[key] = device.memory_bytes
                self._sharing[key].append(device.name)

    def record_up(self, pid: int) -> None:
        """Record what a worker takes with its members: after it has loaded or unloaded some."""
        self._first[pid] = private_bytes(pid)

    def find_leaking(self, pids: Mapping[str, int]) -> tuple[str, int, int] | None:
        """Return the device of a worker that leaks, its memory and its devices' budget, in bytes.

        `pids` are the processes of the workers that are alive, by device.
        """
        up = {device: pid for device, pid in pids.items() if pid in self._first}
        self._first = {pid: self._first[pid] for pid in up.values()}
        taken = {device: private_bytes(pid) for device, pid in up.items()}
        for key, budget in self._budgets.items():
            there = [device for device in self._sharing[key] if device in taken]
            if sum(taken[device] for device in there) <= budget:
                continue
            growth = {device: taken[device] - self._first[up[device]] for device in there}
            worst = max(growth, key=growth.__getitem__)
            if growth[worst] > _LEAK_SHARE * budget:
                return worst, taken[worst], budget
        return None
