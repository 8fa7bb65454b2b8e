"""What people see of a simulation: two tables on stdout.

Runs in the process of the command line; figures flow in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.table import Table

from allocator.devices import Device
from allocator.matrix import AllocationMatrix
from allocator.simulation import Arrivals, ClosedLoop, Figures, Trace
from server.cli.output import stdout_console

__all__ = ["show"]


def show(
    matrix: AllocationMatrix,
    devices: Sequence[Device],
    arrivals: Arrivals,
    figures: Figures,
    deadline_ms: float | None,
) -> None:
    """Print the figures of a simulation.

    Args:
        matrix: what was simulated.
        devices: at least those of the matrix.
        arrivals: the load.
        figures: what came of it.
        deadline_ms: when an answer was late.
    """
    console = stdout_console()
    console.print(
        f"{_load(arrivals)}; {figures.simulated_s:,.4g} s simulated, "
        f"figures of the last {figures.window_s:,.4g} s"
    )
    summary = Table("", show_header=False)
    summary.add_column(justify="right")
    for name, value in _summary(figures, deadline_ms):
        summary.add_row(name, value)
    console.print(summary)
    console.print(_device_table(matrix, {one.name: one.kind for one in devices}, figures))


def _load(arrivals: Arrivals) -> str:
    if isinstance(arrivals, Trace):
        return f"a trace of {len(arrivals.requests):,} requests"
    each = "1 row" if arrivals.rows == 1 else f"{arrivals.rows} rows"
    if isinstance(arrivals, ClosedLoop):
        return f"{arrivals.connections:,} connections, {each} per request"
    return f"{arrivals.rate:,g} requests/s, {each} each"


def _summary(figures: Figures, deadline_ms: float | None) -> Iterator[tuple[str, str]]:
    yield "rows/s", f"{figures.throughput_rows_s:,.1f}"
    yield "requests/s", f"{figures.requests_s:,.1f}"
    if figures.latency is not None:
        yield "p50 ms", f"{figures.latency.p50_s * 1e3:,.2f}"
        yield "p99 ms", f"{figures.latency.p99_s * 1e3:,.2f}"
        yield "longest ms", f"{figures.latency.max_s * 1e3:,.2f}"
    if deadline_ms is not None:
        yield f"later than {deadline_ms:g} ms", f"{figures.late_share:.2%}"
        yield "rows/s in time", f"{figures.goodput_rows_s:,.1f}"
    if figures.unanswered:
        yield "in flight at the end", f"{figures.unanswered:,}"


def _device_table(matrix: AllocationMatrix, kinds: dict[str, str], figures: Figures) -> Table:
    table = Table("device", "kind")
    table.add_column("busy", justify="right")
    table.add_column("member x batch size")
    for heading in ("rows", "rows/job"):
        table.add_column(heading, justify="right")
    for name in matrix.devices:
        own = [one for one in figures.instances if one.device == name]
        busy = f"{figures.utilisation[name]:.1%}"
        if not own:
            table.add_row(name, kinds[name], busy, "not used", "", "", end_section=True)
        for one in own:
            first = one is own[0]
            table.add_row(
                *((name, kinds[name], busy) if first else ("", "", "")),
                f"{one.member} x{matrix.batch(name, one.member)}",
                f"{one.rows:,}",
                f"{one.mean_batch:.1f}",
                end_section=one is own[-1],
            )
    return table
