"""`ensembled power`: suggests a power limit for each kind of GPU, and batch sizes for it.

Runs in the process of the command line. A configuration flows in; a table or JSON on stdout flows
out. Limits are only set while it measures, and only if it is asked to.
"""

from __future__ import annotations

import json
from dataclasses import asdict

from rich.table import Table

from server.cli.application import make_table, stdout_console
from server.config import Config
from server.deployment.devices import find_devices
from server.errors import ConfigError
from server.members.files import local_files
from server.members.inspect import InspectedMember, inspect_members
from server.profiling.power import (
    PowerLimit,
    PowerPoint,
    best_points,
    limit_steps,
    measure_points,
    power_limit,
)
from server.profiling.progress import progress_on_stderr
from server.stdout import echo
from workers.runtime.spec import DeviceSpec

__all__ = ["power"]


def power(config: Config, *, eta: float, steps: int, set_limits: bool, as_json: bool) -> None:
    """Measure the members' rows/s and energy on the first GPU of each kind, and print the best.

    Raises:
        ConfigError: if no GPU tells its power limit, or if it can't be set and should be.
        StartError: if a member can't be inspected.
    """
    first: dict[str, tuple[DeviceSpec, PowerLimit]] = {}
    for device in find_devices(config):
        if device.is_cuda and device.kind not in first:
            limit = power_limit(device)
            if limit is not None:
                first[device.kind] = device, limit
    if not first:
        raise ConfigError("power limits are those of GPUs, of which none here tells its limit")
    config = local_files(config)
    members, found = inspect_members(config), []
    for device, limit in first.values():
        points = _measure(config, members, device, limit, steps if set_limits else 0)
        best = best_points(points, eta=eta, most_watts=limit.most_watts)
        if not best:
            raise ConfigError(f"{device.kind}: the energy of some member can't be measured there")
        if not as_json:
            _print(device, limit, points, best, eta)
        found.append(
            {
                "device_kind": device.kind,
                "eta": eta,
                "former_limit_watts": limit.watts,
                "limit_watts": best[0].limit_watts,
                "best": [asdict(one) for one in best],
                "points": [asdict(one) | {"cost": one.cost(eta, limit.most_watts)}
                           for one in points],
            }
        )  # fmt: skip
    if as_json:
        echo(json.dumps({"kinds": found}))


def _measure(
    config: Config,
    members: list[InspectedMember],
    device: DeviceSpec,
    limit: PowerLimit,
    steps: int,
) -> list[PowerPoint]:
    """Measure at so many limits, or at the present one alone."""
    with progress_on_stderr() as on_progress:
        if not steps:
            return measure_points(
                config, members, device, limit.watts, lambda what: on_progress(what, 0, 1)
            )
        points = []
        with limit.changing() as set_limit:
            for done, watts in enumerate(limit_steps(limit, steps)):

                def report(what: str, done: int = done, watts: float = watts) -> None:
                    on_progress(f"{watts:.0f} W: {what}", done, steps)

                set_limit(watts)
                points += measure_points(config, members, device, watts, report)
        return points


def _print(
    device: DeviceSpec,
    limit: PowerLimit,
    points: list[PowerPoint],
    best: tuple[PowerPoint, ...],
    eta: float,
) -> None:
    console = stdout_console()
    console.print(_table(device, limit, points, best, eta))
    watts = best[0].limit_watts
    if {one.limit_watts for one in points} == {limit.watts}:
        console.print(
            f"only batch sizes were compared, at the present limit of {limit.watts:.0f} W; "
            "`ensembled power CONFIG --set-limits`, as root, tries others and sets it back"
        )
    elif watts != limit.watts:
        console.print(f"to set this limit: nvidia-smi -i {limit.uuid} -pl {watts:.0f}")
    else:
        console.print(f"the present limit of {limit.watts:.0f} W is the best of these")


def _table(
    device: DeviceSpec,
    limit: PowerLimit,
    points: list[PowerPoint],
    best: tuple[PowerPoint, ...],
    eta: float,
) -> Table:
    numbers = ("limit W", "batch", "rows/s", "J / row", "cost")
    table = make_table("member", numbers=numbers, title=f"{device.kind}, eta {eta:g}")
    for one in points:
        is_best = one in best
        table.add_row(
            one.member,
            f"{'* ' if is_best else ''}{one.limit_watts:.0f}",
            str(one.batch),
            f"{one.rows_per_s:.1f}",
            f"{one.joules_per_row:.3g}",
            f"{one.cost(eta, limit.most_watts):.3g}",
            style="bold" if is_best else None,
        )
    return table
