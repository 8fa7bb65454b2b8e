"""Hours of service in twenty minutes: ``python -m benchmarks.soak [--seconds N] [--every N]``.

Serves fake members that sleep, so that they are the limit and not the machine, at 70% of what they
can do, with a fault from a seed every ten seconds. Prints whether the memory of any process, or the
99th percentile of the latency, has a slope, and that descriptors, threads, processes and shared
files are what they were at the start. Exits with 1 if a promise was broken or something grows.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import secrets
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import psutil

from benchmarks.chaos.campaign import Campaign, Plan
from benchmarks.chaos.faults import KINDS
from benchmarks.chaos.judging import Judge
from benchmarks.chaos.load import Load
from benchmarks.chaos.processes import Processes
from benchmarks.chaos.runner import Report, SystemUnderTest, report_of, served
from benchmarks.chaos.scene import Scene, steady
from benchmarks.chaos.table import line_of, text_of
from benchmarks.figures import percentile
from benchmarks.limit import errors_as_lines
from benchmarks.trends import Trend, trend

__all__ = ["main"]

_CLIENTS = 40
_SLEEP_MS = 16.0
_CALIBRATION_S = 8.0
_SAMPLE_S = 1.0
_MINUTE_S = 60.0
_BLOCK_S = 15.0
#: All but the one that needs a member that is slow, and the deaths of the front-end: what grows
#: is seen in a long life.
_LEFT_OUT = {"a crowd for a slow member", "kill the front-end", "hang the front-end"}
_KINDS = tuple(kind for kind in KINDS if kind not in _LEFT_OUT)
#: Nor the combiner's, as soon as slopes are measured: its heap has its size after some fifteen
#: faults, and between two deaths there would be six.
_SHORT_LIVES = {"kill the combiner", "hang the combiner", "kill all but the front-end"}
_LATER_KINDS = tuple(kind for kind in _KINDS if kind not in _SHORT_LIVES)
_MIB = 1 << 20
#: A process that was just started still grows; and so does the front-end until its heap has room
#: for the largest crowd that the faults bring, which is what this share of the time is for.
_WARM_UP_S = 20.0
_WARM_UP_SHARE = 1 / 2
#: A slope below that share of the mean per hour is none that anybody would notice.
_SLIGHT = 0.05
#: A line through fewer blocks tells nothing.
_BLOCKS = 10


class Samples:
    """Resident memory in MiB by role and by process, as (seconds, MiB).

    Without what is shared: the arena becomes resident page by page, as it is used for the first
    time.
    """

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self.lives: dict[str, dict[int, list[tuple[float, float]]]] = {}

    async def run(self) -> None:
        """Sample until cancelled."""
        while True:
            for role, process in {
                "supervisor": self._processes.parent,
                **self._processes.now(),
            }.items():
                with contextlib.suppress(psutil.Error):
                    memory = process.memory_info()
                    mib = (memory.rss - memory.shared) / _MIB
                    lives = self.lives.setdefault(role, {})
                    lives.setdefault(process.pid, []).append((time.monotonic(), mib))
            await asyncio.sleep(_SAMPLE_S)


class Slopes(msgspec.Struct, frozen=True):
    """What has a slope, or has none.

    Attributes:
        overall: resident memory by role, whoever plays it, MiB.
        per_life: the same, what the lives of its processes have in common.
        p99_ms: of each minute.
    """

    overall: dict[str, Trend | None]
    per_life: dict[str, Trend | None]
    p99_ms: Trend | None

    @property
    def growing(self) -> list[str]:
        """Names of what grows, and not only slightly."""
        named = {
            **{f"memory of {role}": one for role, one in self.overall.items()},
            **{f"memory within a life of {role}": one for role, one in self.per_life.items()},
            "p99": self.p99_ms,
        }
        return [
            name
            for name, one in named.items()
            if one is not None
            and one.blocks >= _BLOCKS
            and one.grows
            and one.per_hour > _SLIGHT * one.mean
        ]


def slopes_of(samples: Samples, latencies: Sequence[tuple[float, float]], start: float) -> Slopes:
    """Find the slopes.

    Args:
        samples: of memory.
        latencies: (when, seconds).
        start: what was before does not count.
    """
    overall: dict[str, Trend | None] = {}
    per_life: dict[str, Trend | None] = {}
    for role, lives in samples.lives.items():
        grown_up = [
            [(when, mib) for when, mib in life if when > max(start, life[0][0] + _WARM_UP_S)]
            for life in lives.values()
        ]
        overall[role] = trend([[one for life in grown_up for one in life]], _MINUTE_S)
        per_life[role] = trend(grown_up, _BLOCK_S)
    minutes: dict[int, list[float]] = {}
    for when, seconds in latencies:
        if when > start:
            minutes.setdefault(int((when - start) / _MINUTE_S), []).append(seconds * 1e3)
    p99 = [(minute * _MINUTE_S, percentile(many, 99)) for minute, many in sorted(minutes.items())]
    return Slopes(overall, per_life, trend([p99], _MINUTE_S))


async def _period_s(scene: Scene, system: SystemUnderTest, seed: int, share: float) -> float:
    """How often each client must ask for that share of what the server can do."""
    serials = itertools.count(1)
    load = Load(
        scene,
        system.addresses,
        Judge(),
        clients=_CLIENTS,
        seed=seed,
        serial=lambda: next(serials),
    )
    load.start()
    await asyncio.sleep(_CALIBRATION_S)
    await load.stop()
    per_s = len(load.latencies) / (load.latencies[-1][0] - load.latencies[0][0])
    return _CLIENTS / (share * per_s)


async def _watched(campaign: Campaign, samples: Samples) -> None:
    sampling = asyncio.create_task(samples.run())
    try:
        await campaign.run()
    finally:
        sampling.cancel()
        await asyncio.gather(sampling, return_exceptions=True)


def soak(options: argparse.Namespace) -> tuple[Report, Slopes]:
    """Serve, inject faults and sample, as the command line says."""
    scene = steady(sleep_ms=_SLEEP_MS)
    number = itertools.count(1)
    with served(scene, options.log) as system:
        period_s = asyncio.run(_period_s(scene, system, options.seed, options.share))
        plan = Plan(
            options.seed,
            faults=max(1, round(options.seconds / options.every)),
            kinds=_KINDS,
            later_kinds=_LATER_KINDS,
            clients=_CLIENTS,
            spacing_s=options.every,
            period_s=period_s,
            every=sys.maxsize,
        )
        campaign = Campaign(
            plan,
            scene,
            system.addresses,
            system.processes,
            changes=system.changes,
            on_fault=lambda happened: print(line_of(next(number), happened), flush=True),
        )
        samples = Samples(system.processes)
        start = time.monotonic() + _WARM_UP_S + _WARM_UP_SHARE * options.seconds
        asyncio.run(_watched(campaign, samples))
        for problem in system.end():
            campaign.complain(problem)
        report = report_of(plan, campaign)
    return report, slopes_of(samples, campaign.load.latencies, start)


def _line(name: str, one: Trend | None, unit: str) -> str:
    if one is None:
        return f"| {name} | too few samples | | |"
    return (
        f"| {name} | {one.mean:.1f} {unit} | {one.per_hour:+.2f} {unit}/h "
        f"| {one.low:+.2f} to {one.high:+.2f} |"
    )


def text_of_slopes(slopes: Slopes) -> str:
    """A table for people."""
    lines = ["| what | mean | slope | 95% interval |", "| --- | --- | --- | --- |"]
    for role, one in slopes.overall.items():
        lines.append(_line(f"memory of {role}", one, "MiB"))
        lines.append(_line(f"memory of {role}, within a life", slopes.per_life[role], "MiB"))
    lines.append(_line("p99 of each minute", slopes.p99_ms, "ms"))
    return "\n".join([*lines, *(f"GROWS: {name}" for name in slopes.growing)])


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=1200.0)
    parser.add_argument("--every", type=float, default=10.0, help="seconds from fault to fault")
    parser.add_argument("--share", type=float, default=0.7, help="of what the server can do")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 31))
    parser.add_argument("--json", type=Path, help="write the report and the slopes there")
    parser.add_argument("--log", type=Path, help="keep the server's log there")
    return parser.parse_args()


def main() -> None:
    """Soak, and print what came of it."""
    options = _parse()
    print(f"seed {options.seed}: {options.seconds:g} s", flush=True)
    with errors_as_lines():
        report, slopes = soak(options)
    print(text_of(report), text_of_slopes(slopes), sep="\n\n")
    if options.json is not None:
        both = {"report": report, "slopes": slopes}
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(both)) + b"\n")
    sys.exit(0 if report.is_clean and not slopes.growing else 1)


if __name__ == "__main__":
    main()
