"""What the host gives to CPU devices: groups of cores, and the memory limit.

Runs in the process that plans an allocation; files of /sys and /proc flow in, numbers flow out.
Tests put these files under another `root`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

__all__ = [
    "MOST_SINGLE",
    "allowed_cores",
    "available_cores",
    "core_groups",
    "cpu_model",
    "memory_limit_bytes",
]

#: Up to so many cores each is a device; beyond, cores that share a cache are one.
MOST_SINGLE = 4


def allowed_cores() -> list[int]:
    """Return the ids of the cores that this process may run on, in order."""
    return sorted(os.sched_getaffinity(0))


def available_cores(*, root: Path = Path("/")) -> list[int]:
    """Return the ids of the cores to use: the allowed ones, or fewer where a quota limits them.

    A CPU quota of, say, 1.5 cores may be spent on any cores, but more than two busy ones would
    only be halted in turns.
    """
    cores = allowed_cores()
    return cores[: min([len(cores), *_cgroup_quotas(root)])]


def core_groups(
    cores: list[int], *, most_single: int = MOST_SINGLE, root: Path = Path("/")
) -> list[tuple[int, ...]]:
    """Divide cores into the groups that become devices.

    Up to `most_single` cores are a group each; more are grouped by the L3 cache they share, and are
    one group where the kernel does not tell.
    """
    if len(cores) <= most_single:
        return [(core,) for core in cores]
    groups: dict[str, list[int]] = {}
    for core in cores:
        cache = root / f"sys/devices/system/cpu/cpu{core}/cache/index3/shared_cpu_list"
        try:
            groups.setdefault(cache.read_text().strip(), []).append(core)
        except OSError:
            return [tuple(cores)]
    return [tuple(group) for group in groups.values()]


def cpu_model(*, root: Path = Path("/")) -> str:
    """Return the name of the processor's model, or '' where the kernel does not tell."""
    try:
        lines = (root / "proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return " ".join(value.split())
    return ""


def memory_limit_bytes(*, root: Path = Path("/")) -> int:
    """Return the memory this process may use: the host's, or less where a cgroup limits it."""
    return min([psutil.virtual_memory().total, *_cgroup_limits(root)])


def _cgroup_limits(root: Path) -> Iterator[int]:
    """Yield every memory limit of this process's cgroups, in bytes."""
    for unified, folder in _cgroups(root, "memory"):
        name = "memory.max" if unified else "memory.limit_in_bytes"
        with suppress(OSError, ValueError):  # not mounted here, or "max"
            yield int((folder / name).read_text())


def _cgroup_quotas(root: Path) -> Iterator[int]:
    """Yield every CPU quota of this process's cgroups, in cores, rounded up."""
    for unified, folder in _cgroups(root, "cpu"):
        names = ["cpu.max"] if unified else ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
        with suppress(OSError, ValueError):  # not mounted here, or "max"
            text = " ".join((folder / name).read_text() for name in names)
            quota_us, period_us = map(int, text.split())
            if quota_us > 0 and period_us > 0:  # version 1 says -1 for no quota
                yield -(-quota_us // period_us)


def _cgroups(root: Path, controller: str) -> Iterator[tuple[bool, Path]]:
    """Yield the cgroups that may limit this process: whether of version 2, and the folder."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        unified = controllers == ""
        if not unified and controller not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("" if unified else controller)
        # Every ancestor limits too; inside a container only the top may be mounted.
        folder = top / group.lstrip("/")
        for directory in [folder, *folder.parents]:
            yield unified, directory
            if directory == top:
                break
