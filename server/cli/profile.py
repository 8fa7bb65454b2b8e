"""`ensembled profile`: measures what members cost on each kind of device, and prints it.

Runs in the process of the command line. A configuration flows in; a table or the profiles file's
JSON on stdout flow out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from rich.table import Table

from allocator.profiles import Profile
from allocator.surrogate.surrogate import COVERAGE
from server.cli.application import check_output, make_table, stdout_console, write_output
from server.config import Config
from server.deployment.devices import find_devices
from server.deployment.division import profiled_devices
from server.deployment.placement import plain_problem
from server.members.files import local_files
from server.members.inspect import inspect_members
from server.profiling import Measurements, profile_members
from server.profiling.exploration import CERTAIN
from server.profiling.progress import progress_on_stderr
from server.stdout import echo

__all__ = ["profile"]

_MIB = 1 << 20


def profile(
    config: Config, *, output: Path | None, as_json: bool, fresh: bool, budget_s: float | None
) -> None:
    """Profile the members of a configuration and print their costs on stdout.

    Within a budget, it ends as soon as the allocation is certain.

    Raises:
        ConfigError: if the configuration, or the place for the output, is wrong.
        StartError: if a member can't run on any device.
    """
    check_output("--output", output)
    config = local_files(config)
    members = inspect_members(config)
    devices = profiled_devices(config, find_devices(config))
    with progress_on_stderr() as on_progress:
        found = profile_members(
            config,
            members,
            devices,
            budget_s=budget_s,
            until_certain=budget_s is not None,
            problem_of=plain_problem(config, members, devices),
            fresh=fresh,
            energy=True,
            on_progress=on_progress,
        )
    document = _document(found)
    if output is not None:
        write_output("--output", output, document + "\n")
    if as_json:
        echo(document)
        return
    console = stdout_console()
    console.print(_table(found.forms or found))
    for line in _footnotes(found):
        console.print(line)


def _document(found: Measurements) -> str:
    """The text of the profiles file, which `Profiles.from_json` reads back."""
    energy = [
        {"member": member, "device_kind": kind, "source": source}
        for (member, kind), source in found.energy.items()
    ]
    more = {"energy": energy, "idle_watts": dict(found.idle_watts)} if energy else {}
    return found.profiles.to_json(
        **more,
        **({} if found.doubt is None else {"doubt": found.doubt}),
        worker_bytes=dict(found.worker_bytes),
        colocation=[
            {"member": member, "device_kind": kind, "factor": factor}
            for (member, kind), factor in found.colocation.items()
        ],
    )


def _table(found: Measurements) -> Table:
    has_energy = bool(found.energy)
    energy = ("J / row",) if has_energy else ()
    numbers = ("batch", "ms / batch", "rows/s", "memory MiB", *energy)
    table = make_table("member", "device kind", numbers=numbers)
    for names, group in groupby(found.profiles, key=lambda one: (one.member, one.device_kind)):
        profiles = list(group)
        best = max(profiles, key=lambda one: one.rows_per_s)
        for one in profiles:
            table.add_row(
                *(names if one is profiles[0] else ("", "")),
                str(one.batch),
                _milliseconds(one),
                f"{'* ' if one is best else ''}{one.rows_per_s:.1f}",
                f"{one.memory_bytes / _MIB:.1f}",
                *([_joules(one, found)] if has_energy else []),
                style="bold" if one is best else None,
                end_section=one is profiles[-1],
            )
    return table


def _joules(one: Profile, found: Measurements) -> str:
    """The energy of a row, marked if it is estimated."""
    if one.joules_per_row is None:
        return "-"
    is_estimated = found.energy[one.member, one.device_kind] == "estimated"
    return f"{'~ ' if is_estimated else ''}{one.joules_per_row:.3g}"


def _footnotes(found: Measurements) -> Iterator[str]:
    yield "* most rows per second"
    if "estimated" in found.energy.values():
        yield "~ estimated from devices[].watts: the host has no meter for it"
    for kind, watts in found.idle_watts.items():
        yield f"{kind} draws {watts:.3g} W while it is idle, which joules do not include"
    for (member, kind), variant in found.variants.items():
        yield f"{member} runs as {variant} on {kind}"
    if found.predicted:
        known = len(found.profiles) - found.predicted
        yield f"(from-to) predicted, and between what {COVERAGE:.0%} of measurements are expected"
        yield f"measured: {known} of {len(found.profiles)} figures"
    if found.doubt is not None:
        yield _certainty(found.doubt)
    for one in found.profiles:
        if one.lengths:
            took = ", ".join(f"{s * 1e3:.3f} ms at {size}" for size, s in one.lengths.items())
            yield f"{one.member} on {one.device_kind}: batches of {one.batch} take {took}"
    for kind, size in found.worker_bytes.items():
        yield f"a worker without any member takes {size / _MIB:.0f} MiB on {kind}"
    for member, kind, factor in found.slowdowns():
        yield f"{member}: {factor:.2f} times slower while all devices of {kind} are busy"
    for member, kind, reason in found.missing:
        yield f"{member} on {kind}: {reason}"
    for member, kind in found.estimated:
        yield f"{member} on {kind}: predicted, not measured"


def _milliseconds(one: Profile) -> str:
    if one.interval_s is None:
        return f"{one.latency_s * 1e3:.3f}"
    low, high = (end * 1e3 for end in one.interval_s)
    return f"{one.latency_s * 1e3:.3g} ({low:.3g}-{high:.3g})"


def _certainty(doubt: float) -> str:
    """Say how far the choice of an allocation rests on predictions."""
    if doubt <= CERTAIN:
        return f"the allocation is certain: within the intervals no other is {CERTAIN:.0%} faster"
    if math.isinf(doubt):
        return "the allocation is open: by what is known, not all members find a place"
    return f"the allocation is open: within the intervals another may be {doubt:.0%} faster"
