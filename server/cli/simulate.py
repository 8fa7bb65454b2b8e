"""The command `ensembled simulate`: what an allocation would give, without running it.

Runs in the process of the command line. What is simulated, and under what load, flows in; figures
flow out on stdout, as tables or as JSON. The devices need not be there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from allocator.matrix import AllocationMatrix
from allocator.simulation import Arrivals, ClosedLoop, Figures, Loss, Poisson, Trace, read_trace
from allocator.simulation import simulate as simulate_serving
from server.cli.simulate_inputs import Subject
from server.cli.simulate_report import show
from server.errors import ConfigError
from server.stdout import echo

__all__ = ["Load", "simulate"]

#: Without a load, so many times as many rows are in flight as fill the batches of a member.
_SATURATION = 4


@dataclass(frozen=True)
class Load:
    """What clients do: connections, or a rate, or a trace; none of them means saturation.

    Attributes:
        connections: clients that each wait for their answer before they send again.
        rate: requests per second, at random times.
        trace: a file of recorded arrivals.
        rows: of each request.
    """

    connections: int | None = None
    rate: float | None = None
    trace: Path | None = None
    rows: int = 1

    def arrivals(self, matrix: AllocationMatrix) -> Arrivals:
        """The arrivals at an allocation.

        Raises:
            ConfigError: if there is more than one kind of load, or the trace can't be read.
        """
        given = [
            f"--{name}"
            for name in ("connections", "rate", "trace")
            if getattr(self, name) is not None
        ]
        if len(given) > 1:
            raise ConfigError(f"{' and '.join(given)} exclude each other")
        if self.trace is not None:
            return self._trace(self.trace)
        try:
            if self.rate is not None:
                return Poisson(self.rate, self.rows)
            return ClosedLoop(self.connections or self._saturating(matrix), self.rows)
        except ValueError as error:
            raise ConfigError(f"the load: {error}") from None

    def _trace(self, path: Path) -> Trace:
        try:
            return read_trace(path.read_text(), rows=self.rows)
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from None
        except ValueError as error:
            raise ConfigError(f"{path}: {error}") from None

    def _saturating(self, matrix: AllocationMatrix) -> int:
        most: int = max(sum(column) for column in zip(*matrix.cells, strict=True))
        return math.ceil(_SATURATION * most / self.rows)


def simulate(
    subject: Subject,
    load: Load,
    *,
    seconds: float | None,
    deadline_ms: float | None,
    lose: Sequence[str],
    seed: int,
    as_json: bool,
) -> None:
    """Simulate an allocation under a load and print the figures on stdout.

    Args:
        subject: the allocation, and what its members cost.
        load: what clients do.
        seconds: how long to simulate; None for as long as the figures need.
        deadline_ms: when an answer is late.
        lose: devices that fail, ``DEVICE@T[:T2]``: at T seconds, back at T2.
        seed: of all chance.
        as_json: print JSON instead of tables.

    Raises:
        ConfigError: if something does not fit together.
    """
    matrix, devices = subject.matrix, subject.problem.devices
    arrivals = load.arrivals(matrix)
    try:
        figures = simulate_serving(
            matrix,
            devices,
            subject.problem.profiles,
            arrivals,
            host=subject.host,
            mix=subject.mix,
            seconds=seconds,
            deadline_s=None if deadline_ms is None else deadline_ms / 1e3,
            losses=[_loss(one) for one in lose],
            seed=seed,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if as_json:
        echo(_document(matrix, arrivals, figures, seed))
    else:
        show(matrix, devices, arrivals, figures, deadline_ms)


def _document(matrix: AllocationMatrix, arrivals: Arrivals, figures: Figures, seed: int) -> str:
    load = {"kind": type(arrivals).__name__, **vars(arrivals)}
    if requests := load.pop("requests", None):
        load["requests"] = len(requests)
    return json.dumps(
        {
            "load": load,
            "seed": seed,
            "allocation": json.loads(matrix.to_json()),
            "figures": figures.to_json(),
        },
        indent=1,
    )


def _loss(wanted: str) -> Loss:
    device, _, times = wanted.rpartition("@")
    at, _, back = times.partition(":")
    try:
        lost_s = float(at)
        back_after_s = float(back) - lost_s if back else None
        if not device:
            raise ValueError
        return Loss(device, lost_s, back_after_s)
    except ValueError:
        raise ConfigError(
            f"--lose {wanted}: should be DEVICE@T or DEVICE@T:T2, seconds, T2 after T"
        ) from None
