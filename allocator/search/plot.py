"""Draws an allocation: the matrix as a heat map, with each device's memory and time beside it.

Runs in the process of the command line; an allocation flows in, a file flows out. Needs
matplotlib, an extra (`plot`).
"""

from __future__ import annotations

import warnings
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from allocator.problem import Cells, Problem
from allocator.search.search import Allocation
from allocator.search.throughput import Floats, solve_throughput

__all__ = ["draw_allocation"]


def draw_allocation(path: Path, allocation: Allocation, problem: Problem) -> None:
    """Draw an allocation as .svg or .png, by the file's suffix; OSError if it can't be written."""
    cells = problem.cells_of(allocation.matrix)
    throughput, shares = solve_throughput(problem, cells)
    devices, members = cells.shape
    width, height = 4.5 + 0.5 * members, 1.8 + 0.35 * devices
    figure = Figure(figsize=(width, height), layout="tight")
    matrix, memory, load = figure.subplots(1, 3, sharey=True, width_ratios=[max(members, 2), 3, 3])
    _draw_matrix(matrix, problem, cells)
    used = problem.used_bytes(cells)
    domains = [problem.domain_of[d] for d in range(devices)]
    memory_share = [
        used[domain] / max(problem.memory_domains[domain].memory_bytes, 1) for domain in domains
    ]
    own = np.array([throughput * problem.row_seconds(d) for d in range(devices)])
    _draw_share(memory, memory_share, "memory taken")
    _draw_share(load, list(shares.sum(axis=1) + own), "time busy")
    bound = allocation.bound_rows_s
    title = f"{allocation.throughput_rows_s:,.4g} rows/s"
    if bound is not None:
        title += f", at most {bound:,.4g} possible"
    figure.suptitle(title)
    # The same picture is the same file: no dates, no random ids.
    with mpl.rc_context({"svg.hashsalt": "ensembled"}), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of letters that the font does not have
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, metadata=metadata, dpi=150)


def _draw_matrix(axes: Axes, problem: Problem, cells: Cells) -> None:
    levels: Floats = np.log2(np.maximum(cells, 1)) + 1
    axes.imshow(np.where(cells > 0, levels, np.nan), cmap="viridis", aspect="auto", vmin=0)
    middle = levels.max() / 2
    for device, member in np.argwhere(cells):
        dark = levels[device, member] < middle
        axes.text(
            member,
            device,
            str(cells[device, member]),
            ha="center",
            va="center",
            color="white" if dark else "black",
            fontsize=8,
        )
    axes.set_xticks(
        range(len(problem.members)), problem.members, rotation=60, ha="right", parse_math=False
    )
    labels = [f"{device.name} ({device.kind})" for device in problem.devices]
    axes.set_yticks(range(len(labels)), labels, parse_math=False)
    axes.set_title("batch sizes")


def _draw_share(axes: Axes, shares: list[float], title: str) -> None:
    axes.barh(range(len(shares)), shares, color="tab:blue")
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.5, 1], ["0", "50%", "100%"])
    axes.set_title(title)
