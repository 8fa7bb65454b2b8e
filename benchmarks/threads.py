"""What dividing CPU devices gains: ``python -m benchmarks.threads``.

Pure: hosts of 16 and of 64 cores with little and with much memory are simulated, on which a search
places ten networks. Their profiles have the shape of what was measured here: the time of a batch on
one core, memory, and Amdahl's serial share (AFIPS 1967), fitted to the best times of many batches
on one and on two cores. More cores than two are extrapolated. Compared are one worker for all
cores, one per core, and what the search finds, by the performance model of placement.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from dataclasses import asdict, dataclass, replace

from allocator.division import Divisible, part_kind, thread_counts
from allocator.problem import Device, NoPlaceError, Problem
from allocator.profiles import Profile, Profiles
from allocator.search.division import search_divided

__all__ = ["HOSTS", "Outcome", "divide", "main", "simulated_host"]

_MIB, _GIB = 1 << 20, 1 << 30
#: A worker with ONNX Runtime and no member.
_WORKER_BYTES = 69 * _MIB
#: Members: seconds of a row on one core, serial share, and bytes of an instance. Measured on two
#: cores of an AMD EPYC: EfficientNet-Lite 0 to 2 run 1.8 times as fast on two, a multilayer
#: perceptron 1.2 times, and the digit networks no faster.
_MEMBERS = {
    "lite0": (4.8e-3, 0.12, 70 * _MIB),
    "lite1": (7.3e-3, 0.13, 80 * _MIB),
    "lite2": (10.3e-3, 0.13, 90 * _MIB),
    "lite0 again": (4.8e-3, 0.12, 70 * _MIB),
    "lite1 again": (7.3e-3, 0.13, 80 * _MIB),
    "lite2 again": (10.3e-3, 0.13, 90 * _MIB),
    "mlp": (7e-6, 0.67, 4 * _MIB),
    "attention": (10e-6, 1.0, 4 * _MIB),
    "cnn": (8e-6, 1.0, 4 * _MIB),
    "residual": (8e-6, 1.0, 4 * _MIB),
}
_BATCHES = (1, 2, 4, 8)
#: Cores, memory for workers and instances in bytes, and by what factor the networks are bigger and
#: slower than those that were measured.
HOSTS = (
    (16, 2 * _GIB, 1),
    (16, 32 * _GIB, 1),
    (16, 12 * _GIB, 10),
    (16, 32 * _GIB, 10),
    (64, 4 * _GIB, 1),
    (64, 128 * _GIB, 1),
    (64, 24 * _GIB, 10),
    (64, 128 * _GIB, 10),
)


@dataclass(frozen=True)
class Outcome:
    """Rows/s on a host: with one worker for all cores, with workers of one core, and divided.

    A division is written as, e.g., ``2 x 4 + 8 x 1``; without a place there are no rows/s.
    """

    cores: int
    memory_bytes: int
    factor: int
    whole_rows_s: float | None
    single_rows_s: float | None
    divided_rows_s: float
    gap: float
    division: str
    seconds: float


def simulated_host(cores: int, memory_bytes: int, factor: int) -> Divisible:
    """Return the problem of dividing a host for networks that are `factor` times those measured."""
    counts = thread_counts((), cores)
    profiles = [
        Profile(
            member,
            part_kind(count),
            batch,
            factor * seconds * batch * (serial + (1 - serial) / count),
            factor * size + batch * _MIB,
        )
        for member, (seconds, serial, size) in _MEMBERS.items()
        for count in counts
        for batch in _BATCHES
    ]
    device = Device("cpu:0", part_kind(cores), memory_bytes, tuple(range(cores)), "ram")
    problem = Problem(tuple(_MEMBERS), (device,), Profiles(profiles))
    worker_bytes = {part_kind(count): _WORKER_BYTES for count in counts}
    return Divisible(problem, {device.name: counts}, worker_bytes)


def divide(cores: int, memory_bytes: int, factor: int, *, time_limit_s: float) -> Outcome:
    """Search for the division of a host; with one core for each worker, some may have none."""
    host = simulated_host(cores, memory_bytes, factor)
    found = search_divided(host, time_limit_s=time_limit_s)
    allocation = found.allocation
    single = replace(host, counts=dict.fromkeys(host.counts, (1,)))
    sizes = Counter(len(device.cores) for device in found.problem.devices)
    return Outcome(
        cores,
        memory_bytes,
        factor,
        allocation.baselines["whole_devices"],
        _rows_s(single, time_limit_s),
        allocation.throughput_rows_s,
        allocation.gap or 0.0,
        " + ".join(f"{sizes[size]} x {size}" for size in sorted(sizes, reverse=True)),
        allocation.elapsed_s,
    )


def _rows_s(host: Divisible, time_limit_s: float) -> float | None:
    try:
        return search_divided(host, time_limit_s=time_limit_s).allocation.throughput_rows_s
    except NoPlaceError:
        return None


def main() -> None:
    """Divide all hosts, and print a table in Markdown, or JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.threads", description=__doc__)
    parser.add_argument("--time-limit", type=float, default=5.0, help="seconds for each host")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    outcomes = [divide(*host, time_limit_s=options.time_limit) for host in HOSTS]
    if options.json:
        print(json.dumps([asdict(one) for one in outcomes], indent=1))
        return
    print(
        "| cores | memory | networks | one worker | one per core | divided | gain | gap | parts |"
    )
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |")
    for one in outcomes:
        print(f"| {' | '.join(_cells(one))} |")


def _cells(one: Outcome) -> list[str]:
    rates = [one.whole_rows_s, one.single_rows_s]
    gains = [f"{one.divided_rows_s / rate:.2f}" if rate else "-" for rate in rates]
    return [
        str(one.cores),
        f"{one.memory_bytes / _GIB:g} GiB",
        f"x {one.factor}",
        *("no place" if rate is None else f"{rate:.4g}" for rate in rates),
        f"{one.divided_rows_s:.4g}",
        " / ".join(gains),
        f"{one.gap:.1%}",
        one.division,
    ]


if __name__ == "__main__":
    main()
