"""What the server's processes hold, over a campaign: does it grow, does it come back?"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import psutil

from tests.fuzz.findings import Findings
from tests.support.serving import Server, title, wait_for

_MIB = 1 << 20
_EVERY_S = 0.5
#: A process may end with so much more than it began with after the warm-up ...
MAX_GROWTH_MIB = 64.0
#: ... and, where there is enough to tell a slope, grow by so much in 100,000 requests.
MAX_SLOPE_MIB = 24.0
_LEAST_FOR_SLOPE = 20_000
#: Pools of threads (images, typed tensors, gRPC's) are filled as they are needed.
_MORE_THREADS = 24
_MORE_DESCRIPTORS = 4


class Held(NamedTuple):
    """What a process holds."""

    pid: int
    rss_mib: float
    descriptors: int
    threads: int


def held(server: Server) -> dict[str, Held]:
    """What each process holds, by its title."""
    found = {}
    for process in (server.process, *server.children()):
        with process.oneshot():
            rss_mib = process.memory_info().rss / _MIB
            found[title(process)] = Held(
                process.pid, rss_mib, process.num_fds(), process.num_threads()
            )
    return found


class Sampler(threading.Thread):
    """Looks every half second.

    Args:
        server: whose processes.
        findings: knows how many requests were done.
    """

    def __init__(self, server: Server, findings: Findings) -> None:
        super().__init__(name="sampler")
        self._server, self._findings = server, findings
        self._ended = threading.Event()
        self.samples: list[tuple[int, dict[str, Held]]] = []

    def run(self) -> None:
        while not self._ended.wait(_EVERY_S):
            try:
                self.samples.append((self._findings.done, held(self._server)))
            except psutil.NoSuchProcess:
                self._findings.violate("processes", "a process ended")

    def end(self) -> None:
        self._ended.set()
        self.join()

    def slopes_mib(self) -> dict[str, float]:
        """By process, growth in 100,000 requests, by least squares over the latter half."""
        half = self.samples[len(self.samples) // 2 :]
        if len(half) < 10 or half[-1][0] < _LEAST_FOR_SLOPE:
            return {}
        done = [count for count, _ in half]
        return {
            name: float(np.polyfit(done, [at[name].rss_mib for _, at in half], 1)[0] * 1e5)
            for name in half[-1][1]
            if all(name in at for _, at in half)
        }


def shared_files() -> set[str]:
    return set(os.listdir("/dev/shm"))


def judge(
    server: Server, before: dict[str, Held], slopes_mib: dict[str, float], findings: Findings
) -> list[dict[str, Any]]:
    """Compare with the baseline, once what was left open has been let go of.

    Returns:
        A row per process, for the report.
    """

    def is_back() -> bool:
        after = held(server)
        return all(
            after[name].descriptors <= one.descriptors + _MORE_DESCRIPTORS
            for name, one in before.items()
            if name in after
        )

    try:
        wait_for(is_back, "descriptors are back")
    except AssertionError as error:
        findings.violate("resources", str(error))
    after = held(server)
    for what in _differences(before, after, slopes_mib):
        findings.violate("resources", what)
    return [
        {"process": name, "before": one._asdict(), "after": after[name]._asdict(),
         "slope_mib_per_100k": slopes_mib.get(name)}
        for name, one in before.items()
        if name in after
    ]  # fmt: skip


def _differences(
    before: dict[str, Held], after: dict[str, Held], slopes_mib: dict[str, float]
) -> Iterator[str]:
    if {name: one.pid for name, one in before.items()} != {n: o.pid for n, o in after.items()}:
        yield f"other processes: {sorted(before)} before, {sorted(after)} after"
    for name in before.keys() & after.keys():
        old, new = before[name], after[name]
        if new.rss_mib > old.rss_mib + MAX_GROWTH_MIB:
            yield f"{name} has grown from {old.rss_mib:.0f} to {new.rss_mib:.0f} MiB"
        if new.threads > old.threads + _MORE_THREADS:
            yield f"{name} has {new.threads} threads, {old.threads} before"
    for name, slope_mib in slopes_mib.items():
        if slope_mib > MAX_SLOPE_MIB:
            yield f"{name} grows by {slope_mib:.0f} MiB in 100,000 requests"
