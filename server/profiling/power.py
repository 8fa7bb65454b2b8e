"""Searches for the power limit of a GPU, and the batch sizes, at which rows cost the least.

Runs in the process of the command line. A configuration's members and a GPU flow in, a measurement
per member, batch size and limit flows out, each with its cost. A limit is only set by `PowerLimit`,
which its caller asks for, and which puts the former one back whatever happens.

The cost is Zeus's (You, Chung and Chowdhury, NSDI 2023), for a row instead of a training run:

    cost = eta x joules per row + (1 - eta) x the GPU's highest limit in watts x seconds per row

so eta = 1 asks for the least energy, eta = 0 for the most rows per second. The joules are all that
the GPU takes meanwhile, idle power included. As in Zeus, batch sizes and limits decouple: at each
limit every member has its best batch size, and the limit with the lowest sum over the members wins.
"""

from __future__ import annotations

import math
import signal
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from server.config import Config
from server.errors import ConfigError
from server.members.inspect import InspectedMember
from server.profiling.profiler import TargetProfiler, time_allowances
from server.profiling.targets import ProfileRecord, profile_targets
from workers.profiler.energy import NVML
from workers.profiler.gauges import gpu_handle
from workers.runtime.spec import DeviceSpec

__all__ = [
    "PowerLimit",
    "PowerPoint",
    "best_points",
    "limit_steps",
    "measure_points",
    "power_limit",
]


@dataclass(frozen=True)
class PowerPoint:
    """What a member's batches take on a GPU at a power limit, its idle power included."""

    member: str
    batch: int
    limit_watts: float
    rows_per_s: float
    joules_per_row: float

    def cost(self, eta: float, most_watts: float) -> float:
        """The cost of a row, J: a mean of its energy and, at the highest limit, its time."""
        return eta * self.joules_per_row + (1 - eta) * most_watts / self.rows_per_s


class PowerLimit:
    """The power limit of a GPU in watts: what it is, and between what it may be."""

    def __init__(self, nvml: Any, handle: Any, uuid: str) -> None:
        self._nvml = nvml
        self._handle = handle
        self.uuid = uuid
        self.watts = nvml.nvmlDeviceGetPowerManagementLimit(handle) / 1e3
        least, most = nvml.nvmlDeviceGetPowerManagementLimitConstraints(handle)
        self.least_watts, self.most_watts = least / 1e3, most / 1e3

    @contextmanager
    def changing(self) -> Iterator[Callable[[float], None]]:
        """Yield what sets the limit; afterwards the former one is set again, whatever happens.

        Whatever a process can see, that is: SIGTERM and SIGHUP become `SystemExit` meanwhile, but
        after SIGKILL the limit stays.

        Raises:
            ConfigError: if this user may not set it.
        """

        def set_limit(watts: float) -> None:
            self._nvml.nvmlDeviceSetPowerManagementLimit(self._handle, round(watts * 1e3))

        try:
            set_limit(self.watts)
        except self._nvml.NVMLError as error:
            raise ConfigError(
                f"--set-limits: the power limit of {self.uuid} can't be set ({error}), "
                "which root may"
            ) from None
        former = {one: signal.signal(one, _exit) for one in (signal.SIGTERM, signal.SIGHUP)}
        try:
            yield set_limit
        finally:
            set_limit(self.watts)
            for one, handler in former.items():
                signal.signal(one, handler)


def _exit(signum: int, _: object) -> None:
    raise SystemExit(128 + signum)


def power_limit(device: DeviceSpec, load: Callable[[], Any] = NVML) -> PowerLimit | None:
    """Return the power limit of a GPU, None if NVML does not tell it, as for MIG slices."""
    try:
        nvml = load()
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
        handle = gpu_handle(nvml, device)
        return PowerLimit(nvml, handle, str(nvml.nvmlDeviceGetUUID(handle)))
    except (nvml.NVMLError, ValueError):
        return None


def limit_steps(limit: PowerLimit, steps: int) -> list[float]:
    """Return so many limits at equal distances, the highest first."""
    width = (limit.most_watts - limit.least_watts) / max(steps - 1, 1)
    return [limit.most_watts - step * width for step in range(steps)]


def measure_points(
    config: Config,
    members: Sequence[InspectedMember],
    device: DeviceSpec,
    limit_watts: float,
    report: Callable[[str], None],
) -> list[PowerPoint]:
    """Measure every member's batches at the limit that is set; the cache has no part in it."""
    points = []
    targets = [one for one in profile_targets(config, members, [device]) if not one.is_fake]
    for target, allowance in zip(targets, time_allowances(math.inf, len(targets)), strict=True):
        metered = replace(target, is_metered=True)
        record = TargetProfiler(metered, ProfileRecord(), allowance, report).run()
        if record.energy is None:
            continue
        for one in record.measured:
            if joules := record.energy.joules.get(one.batch):
                taken = joules + record.energy.idle_watts * one.latency_s
                rate = one.batch / one.latency_s
                points.append(
                    PowerPoint(target.key[0], one.batch, limit_watts, rate, taken / one.batch)
                )
    return points


def best_points(
    points: Sequence[PowerPoint], *, eta: float, most_watts: float
) -> tuple[PowerPoint, ...]:
    """Return a point for each member, all at the limit at which their rows cost the least together.

    Only limits at which every member was measured count; none if there is no point.
    """
    by_limit: defaultdict[float, dict[str, PowerPoint]] = defaultdict(dict)
    for one in points:
        best = by_limit[one.limit_watts]
        known = best.get(one.member)
        if known is None or one.cost(eta, most_watts) < known.cost(eta, most_watts):
            best[one.member] = one
    members = {one.member for one in points}
    complete = [best for best in by_limit.values() if len(best) == len(members)]
    if not complete:
        return ()
    return tuple(
        min(
            complete, key=lambda best: sum(one.cost(eta, most_watts) for one in best.values())
        ).values()
    )
