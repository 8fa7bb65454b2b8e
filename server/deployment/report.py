"""Reports an allocation to people and programs: tables, a summary, the result file.

Runs in the process of the command line. An allocation and its problem flow in, text flows out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from allocator.problem import Cells, Problem, readable_bytes
from allocator.search.energy import EnergyFigures
from allocator.search.relaxation import upper_bound
from allocator.search.search import Allocation
from allocator.search.throughput import Floats, ThroughputModel
from allocator.simulation import Figures

__all__ = ["print_allocation", "result_document", "summary"]

_BAR_WIDTH = 10
#: Memory is reported as the limit if unlimited memory would allow for this much more.
_MEMORY_GAIN = 1.01
_MOST_NAMES = 5
#: Energies that differ by less are reported as one.
_SAME_ENERGY = 1.005
#: Solvers that do not maximize the throughput of the performance model.
_OTHER_OBJECTIVES = {"energy", "measured", "simulated"}
_BASELINES = {
    "worst_fit": "worst-fit",
    "batch_only": "batch sizes tuned",
    "greedy": "bounded greedy",
    "whole_devices": "one worker per device",
    "smallest_parts": "the smallest workers",
}


def result_document(
    allocation: Allocation,
    corrections: Sequence[str] = (),
    figures: Figures | None = None,
    energy: EnergyFigures | None = None,
    **more: Any,
) -> str:
    """Return the result, and `more` keys, as JSON: an allocation file for `ensembled serve`."""
    matrix = allocation.matrix
    document = {
        "members": matrix.members,
        "devices": matrix.devices,
        "matrix": matrix.cells,
        "solver": allocation.solver,
        "throughput_rows_s": allocation.throughput_rows_s,
        "bound_rows_s": allocation.bound_rows_s,
        "gap": allocation.gap,
        "elapsed_s": round(allocation.elapsed_s, 3),
        "time_limited": allocation.time_limited,
        "baselines": dict(allocation.baselines),
        "corrections": list(corrections),
    }
    if figures is not None:
        document["simulated"] = figures.to_json()
    if energy is not None:
        document["energy"] = energy.to_json()
    return json.dumps(document | more)


def summary(allocation: Allocation) -> str:
    """Return one line: how fast the allocation is, and how fast any could be."""
    text = f"predicted throughput {_rate(allocation.throughput_rows_s)} rows/s"
    if allocation.bound_rows_s is not None and allocation.gap is not None:
        text += f", at most {_rate(allocation.bound_rows_s)} possible (gap {allocation.gap:.2%})"
    return f"{text}; found by {allocation.solver} in {allocation.elapsed_s:.1f} s"


def print_allocation(
    console: Console,
    allocation: Allocation,
    problem: Problem,
    corrections: Sequence[str] = (),
    figures: Figures | None = None,
    *,
    energy: EnergyFigures | None = None,
) -> None:
    """Print the matrix, its use of each device, and how good it is, without markup."""
    cells = problem.cells_of(allocation.matrix)
    model = ThroughputModel(problem)
    model.put_all(cells)
    model.rows_per_s()
    shares = model.shares()
    console.print(_table(problem, cells, shares, allocation.throughput_rows_s))
    console.print(summary(allocation))
    if allocation.time_limited:
        console.print("the time limit cut the search short")
    if figures is not None and figures.latency is not None:
        console.print(
            f"simulated: {_rate(figures.throughput_rows_s)} rows/s, "
            f"p50 {figures.latency.p50_s * 1e3:.3g} ms, p99 {figures.latency.p99_s * 1e3:.3g} ms"
            + (f", {figures.late_share:.2%} late" if figures.late_share else "")
        )
    compared = _baselines(allocation) if energy is None else _energy(energy)
    for line in (
        *_limits(problem, allocation, model),
        *compared,
        *(f"counted in: {correction}" for correction in corrections),
    ):
        console.print(line)


def _table(problem: Problem, cells: Cells, shares: Floats, throughput: float) -> Table:
    table = Table(title="allocation matrix (batch sizes)", title_justify="left")
    table.add_column("device", no_wrap=True)
    table.add_column("kind", no_wrap=True)
    for member in problem.members:
        table.add_column(member, justify="right", no_wrap=True)
    table.add_column("memory")
    table.add_column("busy")
    used = problem.used_bytes(cells)
    for index, device in enumerate(problem.devices):
        domain = problem.domain_of[index]
        capacity = problem.memory_domains[domain].memory_bytes
        busy = float(shares[index].sum()) + throughput * problem.row_seconds(index)
        shared = " shared" if len(problem.memory_domains[domain].devices) > 1 else ""
        table.add_row(
            device.name,
            device.kind,
            *(Text(str(batch), "bold") if batch else Text(".", "dim") for batch in cells[index]),
            _bar(
                int(used[domain]) / max(capacity, 1),
                f"{readable_bytes(int(used[domain]))} of {readable_bytes(capacity)}{shared}",
            ),
            _bar(busy, f"{busy:.0%}"),
        )
    return table


def _bar(share: float, text: str) -> str:
    full = round(min(share, 1.0) * _BAR_WIDTH)
    return f"{'█' * full}{'░' * (_BAR_WIDTH - full)} {text}"


def _limits(problem: Problem, allocation: Allocation, model: ThroughputModel) -> Iterator[str]:
    """Yield what limits the throughput, according to the performance model."""
    if allocation.solver in _OTHER_OBJECTIVES:
        return
    members, devices = model.prices()
    slow = [name for name, price in zip(problem.members, members, strict=True) if price > 1e-6]
    full = [
        device.name
        for device, price in zip(problem.devices, devices, strict=True)
        if price > 1e-6 * allocation.throughput_rows_s
    ]
    if full:
        where = _some(full, len(problem.devices), "devices")
        whose = _some(slow, len(problem.members), "members")
        yield f"limited by: the time of {where} (it goes to {whose})"
    unlimited = replace(
        problem,
        devices=tuple(replace(device, memory_bytes=1 << 60, pool="") for device in problem.devices),
    )
    possible = upper_bound(unlimited, 1.0)
    if _MEMORY_GAIN * allocation.throughput_rows_s < possible < np.inf:
        yield f"limited by: memory; with enough of it {_rate(possible)} rows/s would be possible"


def _energy(figures: EnergyFigures) -> Iterator[str]:
    own, idle = figures.joules_per_row, figures.idle_joules_per_row
    yield (
        f"at {_rate(figures.min_rows_per_s)} rows/s: {own + idle:.4g} J per row, "
        f"at least {figures.bound_joules_per_row:.4g} needed (gap {figures.gap:.2%})"
    )
    if idle:
        yield f"of that, {idle:.4g} J are the idle power of the devices that are used"
    if figures.most_joules_per_row > own * _SAME_ENERGY:
        most = figures.most_joules_per_row + idle
        yield f"rows that go to the least efficient instances make it {most:.4g} J at most"
    if figures.fastest_joules_per_row is not None:
        factor = figures.fastest_joules_per_row / (own + idle)
        taken = f"{figures.fastest_joules_per_row:.4g} J per row ({factor:.2f} x)"
        yield f"compared: the allocation with the highest throughput {taken}"


def _some(names: Sequence[str], there: int, what: str) -> str:
    if len(names) == there:
        return f"all {what}"
    return ", ".join(names) if len(names) <= _MOST_NAMES else f"{len(names)} of {there} {what}"


def _baselines(allocation: Allocation) -> Iterator[str]:
    for key, rate in allocation.baselines.items():
        name = _BASELINES[key]
        if rate is None:
            yield f"compared: {name} finds no place"
        else:
            factor = allocation.throughput_rows_s / rate
            yield f"compared: {name} {_rate(rate)} rows/s ({factor:.2f} x)"


def _rate(rows_s: float) -> str:
    return f"{rows_s:,.0f}" if rows_s >= 1000 else f"{rows_s:.4g}"
