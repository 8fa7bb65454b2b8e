"""What the host gives to CPU devices: groups of cores, and the memory limit.

Runs in the process that plans an allocation; files of /sys and /proc flow in, numbers flow out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

__all__ = ["available_cores", "core_groups", "memory_limit_bytes"]

#: Up to so many cores each is a device; beyond, cores that share a cache are one.
_MAX_SINGLE_CORES = 4


def available_cores() -> list[int]:
    """Return the ids of the cores that this process may run on, in order."""
    return sorted(os.sched_getaffinity(0))


def core_groups(cores: list[int], *, root: Path = Path("/")) -> list[tuple[int, ...]]:
    """Divide cores into the groups that become devices.

    Up to four cores are a group each; more are grouped by the L3 cache they share, and are one
    group where the kernel does not tell.

    Args:
        cores: the ids of the cores to divide.
        root: where /sys is found.
    """
    if len(cores) <= _MAX_SINGLE_CORES:
        return [(core,) for core in cores]
    groups: dict[str, list[int]] = {}
    for core in cores:
        cache = root / f"sys/devices/system/cpu/cpu{core}/cache/index3/shared_cpu_list"
        try:
            groups.setdefault(cache.read_text().strip(), []).append(core)
        except OSError:
            return [tuple(cores)]
    return [tuple(group) for group in groups.values()]


def memory_limit_bytes(*, root: Path = Path("/")) -> int:
    """Return the memory this process may use: the host's, or less where a cgroup limits it.

    Args:
        root: where /proc and /sys are found.
    """
    return min([psutil.virtual_memory().total, *_cgroup_limits(root)])


def _cgroup_limits(root: Path) -> Iterator[int]:
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            top, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            top, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        # Every ancestor limits too; inside a container only the top may be mounted.
        folder = top / group.lstrip("/")
        for directory in [folder, *folder.parents]:
            with suppress(OSError, ValueError):  # not mounted here, or "max"
                yield int((directory / name).read_text())
            if directory == top:
                break
