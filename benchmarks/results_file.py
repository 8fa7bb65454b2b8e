"""Results on disk: a JSON file per benchmark, and a page with the tables of all of them.

A result says what was measured on what, and nothing about where: no host names, no paths.
"""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec
import psutil

from benchmarks.figures import (
    OverheadFigures,
    PeerFigures,
    ProtocolFigures,
    ServingFigures,
    ValidationFigures,
)
from benchmarks.peers.table import peer_table
from benchmarks.table import overhead_table, protocol_table, serving_table, validation_table

__all__ = [
    "Hardware",
    "Result",
    "describe_hardware",
    "make_result",
    "page",
    "read_results",
    "write_result",
]

_ROOT = Path(__file__).resolve().parent.parent
_PACKAGES = ("numpy", "onnxruntime", "uvicorn", "pyzmq")
_TITLES = {
    "small": "Five small networks, one row per request, binary",
    "heavy": "Three EfficientNet-Lite at 224 x 224, FP32, one row per request, binary",
    "overhead": "Overhead of the server: fake members, whose predictions cost nothing",
    "protocols": "Five small networks over every protocol, and the Python client",
    "peers": "The same members in other servers",
    "validation": "The simulation compared with the server",
}


Figures = ServingFigures | OverheadFigures | ProtocolFigures | PeerFigures | ValidationFigures


class Hardware(msgspec.Struct, frozen=True):
    """What was measured on."""

    cpu: str
    cores: int
    memory_gib: float


class Result(msgspec.Struct, frozen=True):
    """A benchmark's outcome.

    Attributes:
        name: of the benchmark.
        commit: that was measured; ``-dirty`` if files differed from it.
        date: UTC.
        hardware: that it ran on.
        software: versions by package.
        config: the file that was served, relative to the repository; or how it was made.
        seed: of all inputs.
        rounds: of every measurement.
        seconds: of every measurement.
        figures: what was measured.
    """

    name: str
    commit: str
    date: str
    hardware: Hardware
    software: dict[str, str]
    config: str
    seed: int
    rounds: int
    seconds: int
    figures: Figures


def describe_hardware() -> Hardware:
    """Return the processor, the cores this process may use, and the memory."""
    return Hardware(
        cpu=_cpu_model(),
        cores=len(os.sched_getaffinity(0)),
        memory_gib=round(psutil.virtual_memory().total / (1 << 30), 1),
    )


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def make_result(
    name: str,
    figures: Figures,
    *,
    config: str,
    rounds: int,
    seconds: int,
) -> Result:
    """Return a result of now and here."""
    return Result(
        name=name,
        commit=_commit(),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        hardware=describe_hardware(),
        software={"python": platform.python_version(), **_versions()},
        config=config,
        seed=0,
        rounds=rounds,
        seconds=seconds,
        figures=figures,
    )


def _commit() -> str:
    """Return the commit; results are no difference to it."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(_ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        commit = git("rev-parse", "--short", "HEAD")
        changed = git("status", "--porcelain", "--", ":!benchmarks/results")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit}-dirty" if changed else commit


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def write_result(directory: Path, result: Result) -> None:
    """Write a result's file, and the page of all results in the directory anew."""
    directory.mkdir(parents=True, exist_ok=True)
    text = msgspec.json.format(msgspec.json.encode(result), indent=2)
    (directory / f"{result.name}.json").write_bytes(text + b"\n")
    (directory / "README.md").write_text(page(read_results(directory)), encoding="utf-8")


def read_results(directory: Path) -> list[Result]:
    """Return the results in a directory, in the order of the page."""
    results = [
        msgspec.json.decode(file.read_bytes(), type=Result) for file in directory.glob("*.json")
    ]
    order = [*_TITLES]
    return sorted(
        results,
        key=lambda one: (order.index(one.name) if one.name in order else len(order), one.name),
    )


def page(results: Sequence[Result]) -> str:
    """Return the Markdown page of some results."""
    head = (
        "# Results\n\n<!-- Written by `make bench` and `make bench-peers`. -->\n\n"
        "This page lets you compare the server's rates and latencies with those of other\n"
        "servers, and with the limit of the same networks without a server.\n\n"
        "Each figure is the median of all rounds, with the lowest and the highest in brackets.\n"
        "Ratios compare systems that were measured in turn in the same round. The load generator\n"
        "runs on the same machine."
    )
    return "\n\n".join([head, *map(_section, results)]) + "\n"


def _section(result: Result) -> str:
    match result.figures:
        case ServingFigures():
            table = serving_table(result.figures)
        case OverheadFigures():
            table = overhead_table(result.figures)
        case ProtocolFigures():
            table = protocol_table(result.figures)
        case PeerFigures():
            table = peer_table(result.figures)
        case ValidationFigures():
            table = validation_table(result.figures)
    software = ", ".join(f"{name} {number}" for name, number in result.software.items())
    hardware = result.hardware
    about = (
        f"`{result.config}` at commit {result.commit}, {result.date}; {hardware.cores} cores of "
        f"{hardware.cpu}, {hardware.memory_gib:g} GiB; {software}; "
        f"{result.rounds} rounds of {result.seconds} s, seed {result.seed}."
    )
    return f"## {_TITLES.get(result.name, result.name)}\n\n{about}\n\n{table}"
