"""Measures the full grid of a configuration's members, every batch size, also those that don't pay.

Runs in the benchmark's process; the members run in children, as `ensembled profile` runs them. A
configuration flows in, the text of a profiles file flows out, with what the models do for a row.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from allocator.profiles import Profile, Profiles
from server.config import load_config
from server.deployment.devices import find_devices
from server.members.inspect import inspect_members
from server.profiling.targets import MEASURING_S, ProfileTarget, profile_targets
from workers.profiler.handle import Loaded, Measure, Measured, ProfilerProcess

__all__ = ["measure_grid"]

_TIMEOUT_S = 600.0


def measure_grid(path: Path) -> str:
    """Return the profiles of a configuration's members on its kinds of devices."""
    config = load_config(path)
    members, devices = inspect_members(config), find_devices(config)
    targets = list(profile_targets(config, members, devices))
    profiles: list[Profile] = []
    for number, target in enumerate(targets):
        print(f"{number + 1} of {len(targets)}: {' on '.join(target.key)}", file=sys.stderr)
        profiles += _measured(target)
    numbers = {
        member.name: {
            "parameter_bytes": member.signature.parameter_bytes,
            "work": msgspec.to_builtins(member.signature.work),
        }
        for member in members
    }
    return Profiles(profiles).to_json(models=numbers)


def _measured(target: ProfileTarget) -> Iterator[Profile]:
    assert target.instance is not None
    assert target.arena is not None
    with ProfilerProcess(target.devices[0], target.instance, target.arena) as process:
        process.wait_reply(Loaded, _TIMEOUT_S)
        for batch in target.batches:
            process.send(Measure(batch, MEASURING_S))
            found = process.wait_reply(Measured, _TIMEOUT_S)
            yield Profile(*target.key, batch, found.latency_s, found.memory_bytes)
