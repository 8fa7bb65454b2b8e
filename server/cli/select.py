"""`ensembled select`: finds the ensembles of a library that are worth serving, prints and writes.

Runs in the process of the command line. A request flows in; tables or JSON on stdout, plots, a
report, and the files of a picked point flow out.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from rich.table import Table

from allocator.problem import readable_bytes
from server.cli.allocate import read_devices, read_profiles
from server.cli.application import (
    check_output,
    check_plot,
    file_errors,
    make_table,
    stdout_console,
    write_output,
)
from server.config import load_config
from server.deployment.experience import read_experience, read_week
from server.errors import ConfigError, did_you_mean
from server.history.windows import Served, production
from server.profiling.progress import progress_on_stderr
from server.selection.costing import Pool
from server.selection.document import selection_document
from server.selection.options import COSTS, CostName
from server.selection.picking import check_pick, pick
from server.selection.pipeline import LibrarySelection, SelectRequest, select_from_library
from server.selection.points import Point, Selection
from server.selection.written import point_files
from server.stdout import echo

__all__ = [
    "SelectOutputs",
    "cost_names",
    "read_pool",
    "read_production",
    "run_selection",
]

_MOST_NAMED = 6
_AUTO = Path("auto")


@dataclass(frozen=True, kw_only=True)
class SelectOutputs:
    """What the command writes: the point `picked` to `output`, a plot, a report, tables or JSON."""

    picked: str | None = None
    output: Path | None = None
    plot: Path | None = None
    html: Path | None = None
    as_json: bool = False

    def check(self) -> None:
        """Raise a ConfigError for what can't be written, before any work is done."""
        if self.output is not None and self.picked is None:
            raise ConfigError("--output needs --pick: knee, best, or a number of the front")
        if self.picked is not None:
            check_pick(self.picked)
        check_output("--output", self.output)
        check_plot(self.plot)
        check_output("--html", self.html)
        if self.html is not None and not (find_spec("jinja2") and find_spec("matplotlib")):
            raise ConfigError("--html needs jinja2 and matplotlib: pip install 'ensembled[plot]'")


def read_pool(devices: Path | None, profiles: Path | None) -> Pool:
    """Return what files say of devices and profiles; ``auto`` stands for those of this host.

    Raises:
        ConfigError: if one can't be read, or is wrong.
    """
    table = None if profiles is None else read_profiles(profiles)
    if devices is None or devices == _AUTO:
        return Pool(profiles=table)
    pool, idle_watts = read_devices(devices)
    return Pool(pool, idle_watts, table)


def read_production(path: Path | None) -> tuple[tuple[Served, ...], float | None]:
    """Return what servers of a configuration have served, and their rows/s in a busy minute.

    Raises:
        ConfigError: if the configuration is wrong, or nothing was served in the last week.
    """
    if path is None:
        return (), None
    config = load_config(path, with_conformal=False)
    windows = read_week(config)
    if not windows:
        raise ConfigError(
            f"--from-production {path}: its servers have served nothing in the last week, "
            "or keep no history (see `ensembled history`)"
        )
    return tuple(read_experience(config)), production(windows).busy_rows_per_s or None


def cost_names(text: str) -> tuple[CostName, ...]:
    """Return the costs of a list with commas, or raise ConfigError."""
    given = [one.strip() for one in text.split(",")]
    for name in given:
        if name not in COSTS:
            raise ConfigError(
                f"--costs: there is no cost {name!r}{did_you_mean(name, COSTS)}, there are "
                f"{', '.join(COSTS)}"
            )
    return tuple(name for name in COSTS if name in given)


def run_selection(request: SelectRequest, outputs: SelectOutputs) -> None:
    """Select, print what was found, and write the files.

    Raises:
        ConfigError: if anything given is wrong, or nothing satisfies the constraints.
    """
    outputs.check()
    found = select_from_library(request, lambda doing: progress_on_stderr(doing=doing))
    selection = found.selection
    picked = None if outputs.picked is None else pick(selection, outputs.picked)
    if outputs.as_json:
        echo(json.dumps(selection_document(selection, picked)))
    else:
        _print_tables(found, picked)
    _write(found, picked, outputs)


def _write(found: LibrarySelection, picked: Point | None, outputs: SelectOutputs) -> None:
    selection = found.selection
    if outputs.output is not None and picked is not None and outputs.picked is not None:
        files = point_files(found, picked, outputs.picked, outputs.output)
        for path, text in files.items():
            write_output("--output", path, text)
        print(f"wrote {' and '.join(str(path) for path in files)}", file=sys.stderr)
    if outputs.plot is not None:
        from server.selection.plot import draw_selection  # noqa: PLC0415 (matplotlib is an extra)

        with file_errors(f"--plot {outputs.plot}"):
            draw_selection(outputs.plot, selection, picked)
    if outputs.html is not None:
        from server.selection.html import html_report  # noqa: PLC0415 (jinja2 is an extra)

        write_output("--html", outputs.html, html_report(found, picked))


def _print_tables(found: LibrarySelection, picked: Point | None) -> None:
    selection, console = found.selection, stdout_console()
    console.print(_front_table(selection, picked))
    console.print(_baseline_table(selection))
    if selection.left_out:
        table = make_table("left out", "why", numbers=())
        for name, why in selection.left_out.items():
            table.add_row(name, why)
        console.print(table)
    for note in selection.notes:
        print(f"note: {note}", file=sys.stderr)


def _front_table(selection: Selection, picked: Point | None) -> Table:
    table = _point_table(
        selection,
        "",
        title=f"the front, by {selection.judged_on} rows that nothing was chosen by "
        f"(searched on {selection.selected_on})",
    )
    marked = {"knee": selection.knee, "best": pick(selection, "best"), "picked": picked}

    def marks(point: Point) -> list[str]:
        return [name for name, one in marked.items() if one is point]

    for number, point in enumerate(selection.front, 1):
        table.add_row(" ".join([str(number), *marks(point)]), *_cells(point))
    for point in selection.dominated:
        if names := marks(point):
            table.add_row(" ".join(["-", *names]), *_cells(point))
    return table


def _baseline_table(selection: Selection) -> Table:
    table = _point_table(selection, "compared with", title=None)
    for name, point in selection.baselines.items():
        cells = ["has no place on the devices"] if point is None else _cells(point)
        table.add_row(name.replace("_", " "), *cells)
    return table


def _point_table(selection: Selection, first: str, *, title: str | None) -> Table:
    numbers = (selection.measure, "95%", "rows/s", "gap", "p99 ms", "memory", "J/row", "devices")
    return make_table(first, "members", numbers=numbers, title=title)


def _cells(point: Point) -> list[str]:
    cost, (low, high) = point.cost, point.quality_interval
    return [
        "\n".join(_members(point)),
        f"{point.quality:.4f}",
        f"{low:.4f} to {high:.4f}",
        f"{cost.rows_per_s:,.4g}",
        "-" if cost.gap is None else f"{cost.gap:.1%}",
        "-" if cost.p99_s is None else f"{1e3 * cost.p99_s:.3g}",
        readable_bytes(cost.memory_bytes),
        "-" if cost.joules_per_row is None else f"{cost.joules_per_row:.3g}",
        str(cost.devices),
    ]


def _members(point: Point) -> Iterator[str]:
    """The members with their weights, by stage of a cascade a line."""
    candidate = point.candidate
    weights = dict(zip(candidate.members, candidate.weights, strict=True))
    has_weights = len(set(candidate.weights)) > 1
    shown = {name: f"{name} {weights[name]:.2g}" if has_weights else name for name in weights}
    if candidate.cascade is None:
        yield _listed([*shown.values()])
        return
    reached = candidate.cascade.reached
    for stage, share in zip(candidate.cascade.stages, reached, strict=True):
        yield f"{share:.0%}: {_listed([shown[name] for name in stage])}"


def _listed(names: Sequence[str]) -> str:
    if len(names) <= _MOST_NAMED:
        return ", ".join(names)
    return f"{', '.join(names[:_MOST_NAMED])} and {len(names) - _MOST_NAMED} more"
