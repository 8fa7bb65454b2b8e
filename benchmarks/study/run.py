"""The placement study: ``python -m benchmarks.study [--quick] [--output DIRECTORY]``.

One process searches every case with every solver, one after the other, and writes a page, its
plots and a JSON file with everything. It takes about five minutes on two cores.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import msgspec

from benchmarks.results_file import describe_hardware
from benchmarks.study.cases import (
    ENSEMBLES,
    GPU_COUNTS,
    MEMORIES,
    Case,
    mixed_case,
    one_case,
    sweep_case,
    twelve_case,
)
from benchmarks.study.outcomes import Outcome, Study
from benchmarks.study.page import PLOT_DIRECTORY, page
from benchmarks.study.roofline import write_profiles
from benchmarks.study.solving import Effort, solve

__all__ = ["main", "run_study", "write_study"]

_ROOT = Path(__file__).resolve().parents[2]
#: Memories of the twelve networks' case that are simulated, too: it takes seconds each.
_PLAYED = (None, 2 << 30)
_CODE = ("allocator", "benchmarks/study")
_PROFILES = _ROOT / "configs/profiles/estimated.json"


def run_study(*, quick: bool) -> Study:
    """Search all cases, and return what came out.

    Args:
        quick: fewer numbers of GPUs and a second for each search: a try.
    """
    start = time.perf_counter()
    counts = (1, 4, 16) if quick else GPU_COUNTS
    many = Effort(time_limit_s=1.0 if quick else 3.0)
    few = Effort(time_limit_s=1.0 if quick else 10.0, patient_greedy=not quick, simulated=True)
    return Study(
        commit=_commit(),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        hardware=describe_hardware(),
        software={
            "python": platform.python_version(),
            **{name: version(name) for name in ("highspy", "matplotlib", "numpy")},
        },
        profiles="estimated by benchmarks/study/roofline.py, not measured",
        seed=many.seed,
        sweep_limit_s=many.time_limit_s,
        extremes_limit_s=few.time_limit_s,
        sweep=_solve_all((sweep_case(s, n) for s in ENSEMBLES for n in counts), many),
        twelve=tuple(
            _solve(twelve_case(memory), replace(few, simulated=memory in _PLAYED))
            for memory in MEMORIES
        ),
        one=_solve(one_case(), few),
        mixed=_solve(mixed_case(), few),
        elapsed_s=round(time.perf_counter() - start, 1),
    )


def _solve_all(cases: Iterable[Case], effort: Effort) -> tuple[Outcome, ...]:
    return tuple(_solve(case, effort) for case in cases)


def _solve(case: Case, effort: Effort) -> Outcome:
    print(f"{case.title} ...", file=sys.stderr, flush=True)
    return solve(case, effort)


def write_study(study: Study, directory: Path) -> None:
    """Write the page, and beside it a directory with plots and results."""
    # Only here, so that searches and tests need no matplotlib.
    from benchmarks.study.plots import write_plots  # noqa: PLC0415

    beside = directory / PLOT_DIRECTORY
    write_plots(study, beside)
    # Matrices would take a line per cell with indentation, so there is none.
    (beside / "results.json").write_bytes(msgspec.json.encode(study) + b"\n")
    (directory / "placement-study.md").write_text(page(study), encoding="utf-8")


def _commit() -> str:
    """The commit, marked if the code that decides the outcome differs from it."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(_ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", *_CODE)
        return git("rev-parse", "--short", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.study", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer cases, less search: a try")
    parser.add_argument("--output", type=Path, default=_ROOT / "docs", metavar="DIRECTORY")
    options = parser.parse_args()
    _PROFILES.write_text(write_profiles() + "\n", encoding="utf-8")
    study = run_study(quick=options.quick)
    write_study(study, options.output)
    print(f"{options.output / 'placement-study.md'}: {study.elapsed_s:.0f} s")
