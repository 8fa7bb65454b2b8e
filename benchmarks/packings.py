"""Placement where memory is tight: ``python -m benchmarks.packings``.

Twelve networks of the placement study on 4 to 16 GPUs, of one kind or of two, whose memory is a
multiple of what all networks need at batch size 1, so that a device holds one to five of them. For
each pool it prints the rows/s found, the proven bound and the seconds. Pools on which no allocation
exists are told.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from allocator.problem import NoPlaceError, Problem
from allocator.search.search import SOLVERS, search
from benchmarks.study.cases import ENSEMBLES
from benchmarks.study.networks import ACCELERATORS, NETWORKS
from benchmarks.study.roofline import estimate, gpus, memory_bytes

_NETWORKS = ENSEMBLES[12]

#: By the number of devices, their memory as a multiple of an even share of all networks.
_SLACKS = {
    4: (1.04, 1.1, 1.2, 1.35),
    6: (1.06, 1.2, 1.45),
    8: (1.3, 1.5, 1.8),
    12: (2.0, 2.6),
    16: (2.7, 3.5),
}


def pools() -> Iterator[tuple[str, Problem]]:
    """Yield each pool with its name: of V100s, and of half A100s, half T4s."""
    sizes = [memory_bytes(NETWORKS[name], ACCELERATORS["v100"], 1) for name in _NETWORKS]
    for count, slacks in _SLACKS.items():
        for slack in slacks:
            memory = int(max(sum(sizes) / count * slack, max(sizes) * 1.02))
            alike = tuple(gpus("v100", count, memory=memory))
            yield f"v{count}-{slack}", Problem(_NETWORKS, alike, estimate(_NETWORKS, ("v100",)))
            half = count // 2
            mixed = (
                *gpus("a100", half, memory=memory),
                *gpus("t4", count - half, memory=memory, first=half),
            )
            yield (
                f"at{count}-{slack}",
                Problem(_NETWORKS, mixed, estimate(_NETWORKS, ("a100", "t4"))),
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--solver", choices=SOLVERS, default="auto")
    parser.add_argument("--time-limit", type=float, default=10.0, help="seconds for each pool")
    options = parser.parse_args()
    for name, problem in pools():
        try:
            found = search(problem, solver=options.solver, time_limit_s=options.time_limit)
        except NoPlaceError as error:
            print(f"{name}: {error}")
            continue
        print(
            f"{name}: {found.throughput_rows_s:.2f} rows/s, at most {found.bound_rows_s:.2f} "
            f"(gap {found.gap:.2%}) in {found.elapsed_s:.1f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
