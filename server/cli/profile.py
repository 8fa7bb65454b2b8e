"""The command `ensembled profile`, and what people see of profiling.

Runs in the process of the command line. A configuration flows in; a table or the profiles file's
JSON on stdout flow out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.table import Table

from allocator.profiles import Profile
from server.cli.output import check_output, stdout_console, write_output
from server.config import Config
from server.deployment.placement import find_devices
from server.members.inspect import inspect_members
from server.profiling import Measurements, profile_members
from server.profiling.progress import progress_on_stderr
from server.stdout import echo

__all__ = ["profile", "profiles_document"]


def profile(config: Config, *, output: Path | None, as_json: bool, fresh: bool) -> None:
    """Profile the members of a configuration and print what they cost on stdout.

    Args:
        config: the configuration.
        output: where to write the profiles file, if anywhere.
        as_json: print the profiles file's text instead of a table.
        fresh: measure what was measured before, too.

    Raises:
        ConfigError: if the configuration, or the place for the output, is wrong.
        StartError: if a member can't run on any device.
    """
    check_output("--output", output)
    members = inspect_members(config)
    devices = find_devices(config)
    with progress_on_stderr() as on_progress:
        found = profile_members(config, members, devices, fresh=fresh, on_progress=on_progress)
    document = profiles_document(found)
    if output is not None:
        write_output("--output", output, document + "\n")
    if as_json:
        echo(document)
        return
    console = stdout_console()
    console.print(_table(found))
    for line in _footnotes(found):
        console.print(line)


def profiles_document(found: Measurements) -> str:
    """Return the text of the profiles file, which `Profiles.from_json` reads back."""
    return found.profiles.to_json(
        worker_bytes=dict(found.worker_bytes),
        colocation=[
            {"member": member, "device_kind": kind, "factor": factor}
            for (member, kind), factor in found.colocation.items()
        ],
    )


def _table(found: Measurements) -> Table:
    table = Table("member", "device kind")
    for heading in ("batch", "ms / batch", "rows/s", "memory MiB"):
        table.add_column(heading, justify="right")
    groups: dict[tuple[str, str], list[Profile]] = {}
    for one in found.profiles:
        groups.setdefault((one.member, one.device_kind), []).append(one)
    for (member, kind), profiles in groups.items():
        best = max(profiles, key=lambda one: one.rows_per_s)
        for one in profiles:
            first = one is profiles[0]
            table.add_row(
                member if first else "",
                kind if first else "",
                *_figures(one, is_best=one is best),
                style="bold" if one is best else None,
                end_section=one is profiles[-1],
            )
    return table


def _figures(one: Profile, *, is_best: bool) -> Sequence[str]:
    return (
        str(one.batch),
        f"{one.latency_s * 1e3:.3f}",
        f"{'* ' if is_best else ''}{one.rows_per_s:.1f}",
        f"{one.memory_bytes / (1 << 20):.1f}",
    )


def _footnotes(found: Measurements) -> Iterator[str]:
    yield "* most rows per second"
    for kind, size in found.worker_bytes.items():
        yield f"a worker without any member takes {size / (1 << 20):.0f} MiB on {kind}"
    for member, kind, factor in found.slowdowns():
        yield f"{member}: {factor:.2f} times slower while all devices of {kind} are busy"
    for member, kind, reason in found.missing:
        yield f"{member} on {kind}: {reason}"
    for member, kind in found.estimated:
        yield f"{member} on {kind}: estimated, not measured"
