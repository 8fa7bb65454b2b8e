"""What the benchmarks measure, as data: written to JSON, read back for the table.

Pure. Times are in the unit of the field's name, rates per second. What was measured several times
is a `Spread`.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import msgspec

__all__ = [
    "LimitFigures",
    "LoadFigures",
    "MemberCost",
    "OverheadFigures",
    "PairFigures",
    "PayloadFigures",
    "PeerCase",
    "PeerFigures",
    "PeerLoad",
    "ProcessMemory",
    "ProtocolFigures",
    "RoleCost",
    "ServingFigures",
    "Spread",
    "ValidationFigures",
    "WayFigures",
    "percentile",
]


class Spread(msgspec.Struct, frozen=True):
    """The median of several rounds, with the lowest and the highest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarise the rounds of one measurement; there is at least one.

        Raises:
            ValueError: if there is none.
        """
        if not values:
            raise ValueError("there are no rounds to summarise")
        return cls(statistics.median(values), min(values), max(values))


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value that `percent` of the values do not exceed (nearest rank).

    Args:
        values: at least one, in any order.
        percent: above 0, to 100.

    Raises:
        ValueError: if there are no values, or `percent` is out of its range.
    """
    if not values or not 0 < percent <= 100:
        raise ValueError("a percentile needs values, and a percentage above 0 and to 100")
    rank = -(-len(values) * percent // 100)  # rounded up
    return sorted(values)[int(rank) - 1]


class LimitFigures(msgspec.Struct, frozen=True):
    """What the members can do without a server.

    Attributes:
        cores: processes, each pinned to a core.
        batches: each member's best batch size.
        rows_per_s: rows of the whole ensemble, all processes together.
        slowest_ms: the slowest member alone at batch 1.
        in_turn_ms: all members at batch 1, one after the other.
        split_ms: one row by all members at batch 1, spread over the cores in the best way, until
            the last core is done; None if it is not measured.
        split: the members of each core for that.
    """

    cores: int
    batches: dict[str, int]
    rows_per_s: Spread
    slowest_ms: Spread
    in_turn_ms: Spread
    split_ms: Spread | None = None
    split: tuple[tuple[str, ...], ...] = ()


class LoadFigures(msgspec.Struct, frozen=True):
    """The server under load from some number of connections, one row per request.

    Attributes:
        connections: of the load generator, each with one request at a time.
        rows_per_s: answered.
        p50_ms: latency, median.
        p99_ms: latency.
        of_limit: rows/s as a share of the limit's, measured in the same round.
        p50_of_in_turn: p50 by the batch-1 time of all members in turn, in the same round.
        p50_of_slowest: p50 by the batch-1 time of the slowest member, in the same round.
        of_by_hand: rows/s by those of the placement made by hand, in the same round.
    """

    connections: int
    rows_per_s: Spread
    p50_ms: Spread
    p99_ms: Spread
    of_limit: Spread
    p50_of_in_turn: Spread
    p50_of_slowest: Spread
    of_by_hand: Spread | None = None


class ProcessMemory(msgspec.Struct, frozen=True):
    """The memory of one process of an idle server, in MiB.

    Attributes:
        name: the process's title.
        rss_mib: all that is resident, shared pages counted in every process.
        pss_mib: shared pages divided among those who share them: these add up.
        uss_mib: what only this process has.
    """

    name: str
    rss_mib: float
    pss_mib: float
    uss_mib: float


class WayFigures(msgspec.Struct, frozen=True):
    """One way to ask.

    Attributes:
        name: which one.
        in_flight: requests at once.
        requests_per_s: answered.
        p50_ms: latency; 0 where the load generator does not tell it.
    """

    name: str
    in_flight: int
    requests_per_s: Spread
    p50_ms: Spread


class ProtocolFigures(msgspec.Struct, frozen=True, tag="protocols"):
    """One ensemble over every protocol.

    Attributes:
        ways: to ask it.
        grpc_of_echo: calls/s over gRPC by those of an echo of raw bytes, in the same round; None in
            old results.
    """

    ways: tuple[WayFigures, ...]
    grpc_of_echo: Spread | None = None


class ServingFigures(msgspec.Struct, frozen=True, tag="serving"):
    """A real ensemble served, beside its limit."""

    ensemble: str
    row_bytes: int
    limit: LimitFigures
    loads: tuple[LoadFigures, ...]
    idle_memory: tuple[ProcessMemory, ...]


class PayloadFigures(msgspec.Struct, frozen=True):
    """The path's price for one payload at one connection.

    Attributes:
        payload_bytes: of the tensor.
        body_bytes: of the request.
        protocol: how it is sent.
        memcpy_ms: one copy of the tensor, in the same round.
        p50_ms: latency of a request, median.
        p99_ms: latency of a request.
        more_than_memcpy_ms: p50 less the copy.
        front_end_cpu_us: CPU time of a request in the front-end; None in old results.
    """

    payload_bytes: int
    body_bytes: int
    protocol: str
    memcpy_ms: Spread
    p50_ms: Spread
    p99_ms: Spread
    more_than_memcpy_ms: Spread
    front_end_cpu_us: Spread | None = None


class MemberCost(msgspec.Struct, frozen=True):
    """What a request costs all processes of the server together, by the number of members.

    Attributes:
        members: fakes in the ensemble.
        connections: of the load generator.
        requests_per_s: answered.
        cpu_us_per_request: user and system time of all processes of the server.
        us_per_extra_member: what each member more than in the smallest ensemble adds to that
            (None for the smallest).
    """

    members: int
    connections: int
    requests_per_s: Spread
    cpu_us_per_request: Spread
    us_per_extra_member: Spread | None = None


class OverheadFigures(msgspec.Struct, frozen=True, tag="overhead"):
    """The price of the path when predictions cost nothing."""

    payloads: tuple[PayloadFigures, ...]
    members: tuple[MemberCost, ...]


class RoleCost(msgspec.Struct, frozen=True):
    """What a request costs the processes of one role, see `benchmarks.process_cost`.

    Attributes:
        role: of the processes.
        cpu_us: time on a core per request.
        waiting_us: time waiting for one per request.
        switches: context switches per request.
    """

    role: str
    cpu_us: Spread
    waiting_us: Spread
    switches: Spread


class PeerLoad(msgspec.Struct, frozen=True):
    """One server under load from some number of connections, beside ours in the same rounds.

    Attributes:
        system: which server.
        connections: of the load generator, each with one request at a time.
        requests_per_s: answered.
        p50_ms: latency, median.
        p99_ms: latency.
        ours: requests/s of ours by its; None for ours itself, and where ours is not measured.
        ours_p50: p50 of ours by its.
        of_limit: requests/s by the limit's; None where that is not measured.
        p50_of_split: p50 by the time of the best split of the members over the cores.
        cost: by role; empty where it is not measured.
    """

    system: str
    connections: int
    requests_per_s: Spread
    p50_ms: Spread
    p99_ms: Spread
    ours: Spread | None = None
    ours_p50: Spread | None = None
    of_limit: Spread | None = None
    p50_of_split: Spread | None = None
    cost: tuple[RoleCost, ...] = ()


class PeerCase(msgspec.Struct, frozen=True):
    """An ensemble served by several servers in turn.

    Attributes:
        case: its name.
        versions: of the servers measured.
        left_out: why the others are not, by name.
        limit: what the members do without a server; None if it is not measured.
        loads: what was measured, by connections.
    """

    case: str
    versions: dict[str, str]
    left_out: dict[str, str]
    limit: LimitFigures | None
    loads: tuple[PeerLoad, ...]


class PeerFigures(msgspec.Struct, frozen=True, tag="peers"):
    """Other servers beside ours."""

    cases: tuple[PeerCase, ...]


class PairFigures(msgspec.Struct, frozen=True):
    """An ensemble on a matrix: promised and measured.

    Attributes:
        connections: of the load generator, each with one request of one row at a time.
        measured_rows_per_s: what the server answered.
        simulated_rows_per_s: what a simulation of it gives.
        modelled_rows_per_s: what the plain performance model gives, whatever the load.
        error: by how much the simulation is off, as a share of what was measured.
    """

    name: str
    connections: int
    measured_rows_per_s: Spread
    simulated_rows_per_s: float
    modelled_rows_per_s: float
    error: float


class ValidationFigures(msgspec.Struct, frozen=True, tag="validation"):
    """The simulation beside the server."""

    pairs: tuple[PairFigures, ...]

    @property
    def median_error(self) -> float:
        """The median of the errors, each as a positive share."""
        return statistics.median(abs(pair.error) for pair in self.pairs)
