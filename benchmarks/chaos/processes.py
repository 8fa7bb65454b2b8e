"""The processes of the system under test, seen from outside: their roles and what they hold.

Runs in the campaign. Roles are told by the titles that the processes give themselves.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec
import psutil

__all__ = ["COMBINER", "FRONT_END", "SUPERVISOR", "Census", "Processes", "worker_of"]

SUPERVISOR = "supervisor"
FRONT_END = "front-end"
COMBINER = "combiner"
_TITLE = "ensembled"
_MIB = 1 << 20
#: Threads of pools, which are started when they are needed for the first time.
_POOLS = 8
#: Memory that has not come back: by more than what a first storm of requests leaves for good.
_MORE, _SLACK_MIB = 1.25, 32.0


def worker_of(device: str) -> str:
    """The role of a device's worker."""
    return f"worker {device}"


class Census(msgspec.Struct, frozen=True):
    """What a server has at a moment.

    Attributes:
        processes: how many.
        fds: open file descriptors, by role.
        threads: by role.
        rss_mib: resident memory by role, in MiB.
        shared_files: names in /dev/shm.
        sockets: names in the server's temporary directory and below.
    """

    processes: int
    fds: dict[str, int]
    threads: dict[str, int]
    rss_mib: dict[str, float]
    shared_files: frozenset[str]
    sockets: frozenset[str]

    def more_than(self, baseline: Census) -> str:
        """What there is more of than there was, "" if there is nothing."""
        grown = [
            f"{role} has {count} {what}, {before[role]} before"
            for what, now, before, slack in (
                ("descriptors", self.fds, baseline.fds, 0),
                ("threads", self.threads, baseline.threads, _POOLS),
            )
            for role, count in now.items()
            if count > before[role] + slack
        ]
        grown += [
            f"{role} has {mib:.0f} MiB, {baseline.rss_mib[role]:.0f} before"
            for role, mib in self.rss_mib.items()
            if mib > _MORE * baseline.rss_mib[role] + _SLACK_MIB
        ]
        if self.processes != baseline.processes:
            grown.append(f"{self.processes} processes, {baseline.processes} before")
        for what, names, known in (
            ("in /dev/shm", self.shared_files, baseline.shared_files),
            ("sockets", self.sockets, baseline.sockets),
        ):
            if names > known:
                grown.append(f"{what}: {', '.join(sorted(names - known))}")
        return "; ".join(grown)


class Processes:
    """The supervisor and its children.

    Args:
        pid: of the supervisor.
        directory: the server's temporary one.
        devices: that have a worker.

    Attributes:
        parent: the supervisor.
    """

    def __init__(self, pid: int, directory: Path, devices: tuple[str, ...]) -> None:
        self.parent = psutil.Process(pid)
        self._children = Path(f"/proc/{pid}/task/{pid}/children")
        self._directory = directory
        self.workers = tuple(worker_of(device) for device in devices)
        self.roles = (FRONT_END, COMBINER, *self.workers)
        self._shared = _names(Path("/dev/shm"))

    @property
    def is_alive(self) -> bool:
        """Whether the supervisor is."""
        return self.parent.is_running() and self.parent.status() != psutil.STATUS_ZOMBIE

    def now(self) -> dict[str, psutil.Process]:
        """The processes that play the roles, by role; some may be between two lives."""
        found = {}
        for pid in self._children.read_text().split():
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(int(pid))
                if process.status() != psutil.STATUS_ZOMBIE:
                    found[" ".join(process.cmdline()).strip().removeprefix(f"{_TITLE} ")] = process
        return {role: process for role, process in found.items() if role in self.roles}

    def send(self, role: str, number: int) -> int:
        """Send a signal to whoever plays a role; the process's id, 0 if there is none now."""
        if role == SUPERVISOR:
            self.parent.send_signal(number)
            return self.parent.pid
        with contextlib.suppress(psutil.Error, KeyError):
            process = self.now()[role]
            process.send_signal(number)
            return process.pid
        return 0

    def count(self) -> int:
        """How many processes there are, the supervisor and the dead that nobody waited for too."""
        return 1 + len(self._children.read_text().split())

    def fds(self, role: str) -> int:
        """How many descriptors a child has open."""
        count: int = self.now()[role].num_fds()
        return count

    def census(self) -> Census:
        """Count everything.

        Raises:
            psutil.Error: if somebody dies meanwhile.
        """
        by_role = {SUPERVISOR: self.parent, **self.now()}
        return Census(
            processes=self.count(),
            fds={role: process.num_fds() for role, process in by_role.items()},
            threads={role: process.num_threads() for role, process in by_role.items()},
            rss_mib={role: p.memory_info().rss / _MIB for role, p in by_role.items()},
            shared_files=_names(Path("/dev/shm")) - self._shared,
            sockets=frozenset(
                # The directory's own name is drawn by lot.
                str(path.name)
                for path in self._directory.rglob("*")
                if path.is_socket() or path.is_dir()
            ),
        )


def _names(directory: Path) -> frozenset[str]:
    return frozenset(os.listdir(directory)) if directory.exists() else frozenset()
