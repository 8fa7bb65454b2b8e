"""What was asked for on the command line: checked, frozen. Pure but for `parse`'s own errors."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ensembled_client.load.bodies import Parameters
from ensembled_client.load.errors import UsageError
from ensembled_client.load.gates import Gates, parse_most_errors
from ensembled_client.load.parser import new_parser
from ensembled_client.load.target import Target

__all__ = ["Options", "parse"]

_CLOSED_CONNECTIONS = 8
_OPEN_CONNECTIONS = 256
_DURATION_S = 10.0


@dataclass(frozen=True)
class Options:
    """A test, or a sweep of tests.

    Attributes:
        target: who is asked, and how.
        arrivals: ``closed``, ``constant``, ``poisson`` or ``trace``.
        loads: connections of a closed loop, or requests per second; several are a sweep, a trace
            has none.
        connections: the most an open loop may use.
        trace: the file.
        duration_s: of the measurement; None for as long as `count` or the trace takes.
        count: of requests; None for no limit.
        warmup_s: before it.
        processes: how many make the load.
        patience_s: how long an answer is waited for.
        rows: of a request.
        inputs: files to take them from; none for random ones.
        distinct: how many different requests.
        seed: of all that is random.
        shapes: of inputs with open dimensions.
        image_size: width and height of made-up images.
        parameters: of every request.
        deadline_ms: for goodput.
        gates: for the exit status.
        as_json: whether stdout gets JSON.
        output: a file for the same JSON.
        plot: a file for a picture.
        is_quiet: whether to draw no progress.
    """

    target: Target
    arrivals: str
    loads: tuple[float, ...]
    connections: int
    trace: Path | None
    duration_s: float | None
    count: int | None
    warmup_s: float
    processes: int
    patience_s: float
    rows: int
    inputs: tuple[Path, ...]
    distinct: int
    seed: int
    shapes: dict[str, tuple[int, ...]]
    image_size: tuple[int, int]
    parameters: Parameters
    deadline_ms: float | None
    gates: Gates
    as_json: bool
    output: Path | None
    plot: Path | None
    is_quiet: bool

    @property
    def is_open(self) -> bool:
        """Whether requests follow a schedule."""
        return self.arrivals != "closed"


def parse(arguments: Sequence[str] | None) -> Options:
    """Read a command line.

    Raises:
        UsageError: if the options don't go together.
        SystemExit: if there is something else wrong with them, or help was wanted.
    """
    given = new_parser().parse_args(arguments)
    arrivals = _arrivals(given)
    return Options(
        target=Target.of(given.url, given.model, given.protocol),
        arrivals=arrivals,
        loads=_loads(given, arrivals),
        connections=given.connections or _OPEN_CONNECTIONS,
        trace=given.trace,
        duration_s=_duration_s(given),
        count=given.count,
        warmup_s=given.warmup,
        processes=given.processes,
        patience_s=given.patience,
        rows=given.rows,
        inputs=tuple(given.input or ()),
        distinct=given.payloads,
        seed=given.seed,
        shapes=dict(given.shape or ()),
        image_size=given.image_size,
        parameters=Parameters(given.timeout, given.members),
        deadline_ms=given.deadline_ms,
        gates=_gates(given),
        as_json=given.json,
        output=given.output,
        plot=_plot(given.plot),
        is_quiet=given.quiet,
    )


def _arrivals(given: argparse.Namespace) -> str:
    if given.trace is not None:
        for name in ("rate", "arrivals", "sweep"):
            if getattr(given, name) is not None:
                raise UsageError(f"--trace and --{name} exclude each other")
        return "trace"
    if given.rate is not None and given.sweep is not None:
        raise UsageError("--rate and --sweep exclude each other: --arrivals makes it sweep rates")
    if given.rate is None and given.arrivals is None:
        return "closed"
    if given.rate is None and given.sweep is None:
        raise UsageError("--arrivals needs --rate, or --sweep with rates")
    return str(given.arrivals or "constant")


def _loads(given: argparse.Namespace, arrivals: str) -> tuple[float, ...]:
    if arrivals == "trace":
        return ()
    if given.sweep is None:
        return (given.rate or float(given.connections or _CLOSED_CONNECTIONS),)
    if arrivals == "closed":
        if given.connections is not None:
            raise UsageError("--connections and --sweep exclude each other in a closed loop")
        if any(load != math.floor(load) for load in given.sweep):
            raise UsageError("--sweep: connections are whole numbers (rates need --arrivals)")
    return tuple(given.sweep)


def _duration_s(given: argparse.Namespace) -> float | None:
    if given.duration is not None and given.count is not None:
        raise UsageError("--duration and --count exclude each other")
    if given.duration is not None or given.count is not None or given.trace is not None:
        return given.duration and float(given.duration)
    return _DURATION_S


def _gates(given: argparse.Namespace) -> Gates:
    if given.max_errors is None:
        return Gates(given.max_p99_ms, given.min_rate)
    try:
        most, is_share = parse_most_errors(given.max_errors)
    except ValueError:
        raise UsageError(f"--max-errors {given.max_errors}: should be like 10 or 0.5%") from None
    return Gates(given.max_p99_ms, given.min_rate, most, is_share)


def _plot(path: Path | None) -> Path | None:
    if path is not None and path.suffix.lower() not in {".svg", ".png", ".pdf"}:
        raise UsageError(f"--plot {path}: should end with .svg, .png or .pdf")
    return path
