"""What the simulation promises, beside what the server does: ``python -m benchmarks.validation``.

Each pair of an ensemble and a matrix is served, and loaded by wrk at some number of connections;
beside that stands the rate that a simulation of the same matrix under the same load gives, from
profiles measured right before, and the one that the plain performance model gives (the linear
program, which knows neither front-end nor connections).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import yaml

from allocator.matrix import AllocationMatrix
from allocator.search.throughput import solve_throughput
from allocator.simulation import ClosedLoop, Scenario, simulate
from benchmarks.command import parse_measurement
from benchmarks.figures import PairFigures, Spread, ValidationFigures
from benchmarks.infer_request import binary_request, model_input
from benchmarks.limit import errors_as_lines
from benchmarks.members import random_input
from benchmarks.server_process import running_server
from benchmarks.wrk import find_wrk, run_wrk
from server.config import Config, load_config
from server.deployment.costs import plan_problem
from server.deployment.devices import find_devices
from server.deployment.placement import row_bytes
from server.members.inspect import inspect_members
from server.profiling import profile_members

__all__ = ["PAIRS", "Pair", "configured", "main", "measure_pair", "measure_validation", "promise"]

_HERE = Path(__file__).resolve().parent
_SEED = 0
_WARM_UP_S = 1
#: Seconds of CPU that wrk takes per request on the machine that it shares with the server.
_WRK_S = 12e-6
_SIMULATED_REQUESTS = 4000


@dataclass(frozen=True)
class Pair:
    """An ensemble on a matrix.

    Attributes:
        name: for the table.
        config: a configuration file, or its content.
        ensemble: who is asked.
        matrix: the batch size of each instance, by device and member.
        connections: of the load generator, each with one request of one row at a time.
    """

    name: str
    config: Path | Mapping[str, Any]
    ensemble: str
    matrix: Mapping[str, Mapping[str, int]]
    connections: int

    @property
    def is_fake(self) -> bool:
        """Whether its members only sleep."""
        return not isinstance(self.config, Path)


def _everywhere(members: Sequence[str], batch: int) -> dict[str, dict[str, int]]:
    return {device: dict.fromkeys(members, batch) for device in ("cpu:0", "cpu:1")}


def _fakes(**sleep_ms: float) -> dict[str, Any]:
    return {
        "ensembles": {"all": {"members": list(sleep_ms), "rule": "mean"}},
        "members": {
            name: {
                "model": "fake",
                "fake": {"inputs": {"x": [64]}, "outputs": 10, "sleep_ms": ms},
            }
            for name, ms in sleep_ms.items()
        },
        # They sleep, so that they need no cores of their own.
        "devices": [{"name": f"cpu:{n}", "part_of": "cpu", "cores": [0, 1]} for n in range(4)],
    }


_MLPS = [f"mlp_{n}" for n in range(5)]
_NETS = ["lite0", "lite1", "lite2"]
_DIGITS = ["mlp", "deep", "cnn", "residual", "attention"]
_SMALL, _HEAVY = _HERE / "small.yaml", _HERE / "heavy.yaml"

PAIRS: tuple[Pair, ...] = (
    Pair("five MLPs, both cores", _SMALL, "mlps", _everywhere(_MLPS, 128), 32),
    Pair("five MLPs, both cores", _SMALL, "mlps", _everywhere(_MLPS, 128), 128),
    Pair("five MLPs, both cores", _SMALL, "mlps", _everywhere(_MLPS, 128), 1),
    Pair("five MLPs, one core", _SMALL, "mlps", {"cpu:0": dict.fromkeys(_MLPS, 64)}, 32),
    Pair(
        "five digit networks, both cores",
        _HERE.parent / "configs" / "digits.yaml",
        "digits",
        _everywhere(_DIGITS, 32),
        32,
    ),
    Pair("EfficientNets, both cores", _HEAVY, "efficientnets", _everywhere(_NETS, 2), 16),
    Pair("EfficientNets, both cores", _HEAVY, "efficientnets", _everywhere(_NETS, 2), 1),
    Pair(
        "EfficientNets, worst-fit",
        _HEAVY,
        "efficientnets",
        {"cpu:0": {"lite2": 2}, "cpu:1": {"lite0": 2, "lite1": 2}},
        16,
    ),
    Pair(
        "EfficientNets, one shared",
        _HEAVY,
        "efficientnets",
        {"cpu:0": {"lite2": 2, "lite1": 2}, "cpu:1": {"lite0": 2, "lite1": 2}},
        16,
    ),
    Pair(
        "fakes of 2, 5 and 11 ms, worst-fit",
        _fakes(a=2, b=5, c=11),
        "all",
        {"cpu:0": {"c": 8}, "cpu:1": {"b": 8}, "cpu:2": {"a": 8}},
        32,
    ),
    Pair(
        "fakes of 2, 5 and 11 ms, shared",
        _fakes(a=2, b=5, c=11),
        "all",
        {"cpu:0": {"c": 4, "a": 4}, "cpu:1": {"b": 4, "c": 4}, "cpu:2": {"c": 4}},
        32,
    ),
    Pair(
        "fake of 6 ms, four devices, two batch sizes",
        _fakes(a=6),
        "all",
        {"cpu:0": {"a": 1}, "cpu:1": {"a": 2}, "cpu:2": {"a": 4}, "cpu:3": {"a": 4}},
        24,
    ),
)


def measure_validation(rounds: int, seconds: int) -> ValidationFigures:
    """Measure all pairs.

    Args:
        rounds: how often each is loaded.
        seconds: of each.

    Raises:
        BenchmarkError: if a server fails.
    """
    find_wrk()
    figures = []
    for pair in PAIRS:
        print(f"  {pair.name} @{pair.connections} ...", file=sys.stderr, flush=True)
        figures.append(measure_pair(pair, rounds, seconds))
    return ValidationFigures(tuple(figures))


def measure_pair(pair: Pair, rounds: int, seconds: int) -> PairFigures:
    """Measure one pair, see `measure_validation`."""
    with tempfile.TemporaryDirectory(prefix="validation-") as directory:
        path = configured(pair, Path(directory))
        simulated, modelled = promise(pair, load_config(path))
        with running_server(path) as server:
            tensor = model_input(server.address, pair.ensemble)
            row = random_input(tensor, 1, _SEED)
            request = binary_request(pair.ensemble, tensor.name, row)
            run_wrk(server.address, request, pair.connections, _WARM_UP_S)
            rates = [
                run_wrk(server.address, request, pair.connections, seconds).requests_per_s
                for _ in range(rounds)
            ]
    measured = Spread.of(rates)
    return PairFigures(
        name=pair.name,
        connections=pair.connections,
        measured_rows_per_s=measured,
        simulated_rows_per_s=simulated,
        modelled_rows_per_s=modelled,
        error=simulated / measured.median - 1,
    )


def promise(pair: Pair, config: Config) -> tuple[float, float]:
    """Return rows/s of a pair: simulated, and by the plain performance model.

    Args:
        pair: what is simulated.
        config: its configuration; members that are not known are profiled.
    """
    members, devices = inspect_members(config), find_devices(config)
    if pair.is_fake:  # what sleeps needs no core
        devices = [msgspec.structs.replace(device, cores=()) for device in devices]
    found = profile_members(config, members, devices)
    largest = {one.member: one.batch for one in found.profiles}
    planned = plan_problem(found, devices, largest, row_bytes=row_bytes(config, members))
    matrix = _matrix(pair, list(planned.problem.members))
    figures = simulate(
        Scenario(
            matrix=matrix,
            devices=planned.problem.devices,
            profiles=planned.problem.profiles,
            arrivals=ClosedLoop(pair.connections),
            host=replace(planned.host, client_s_per_request=_WRK_S),
            requests=_SIMULATED_REQUESTS,
            seed=_SEED,
        )
    )
    plain = replace(planned.problem, row_s={}, profiles=found.profiles)
    modelled, _ = solve_throughput(plain, plain.cells_of(matrix))
    return figures.throughput_rows_s, modelled


def configured(pair: Pair, directory: Path) -> Path:
    """Write a pair's configuration and allocation file into a directory; return the former."""
    content = (
        yaml.safe_load(pair.config.read_text(encoding="utf-8"))
        if isinstance(pair.config, Path)
        else dict(pair.config)
    )
    members = list(content["members"])
    allocation = directory / "allocation.json"
    allocation.write_text(_matrix(pair, members).to_json(), encoding="utf-8")
    content["allocation"] = str(allocation)
    path = directory / "config.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


def _matrix(pair: Pair, members: Sequence[str]) -> AllocationMatrix:
    return AllocationMatrix(
        members=tuple(members),
        devices=tuple(pair.matrix),
        cells=tuple(tuple(row.get(name, 0) for name in members) for row in pair.matrix.values()),
    )


def main() -> None:
    """Measure all pairs and print the table."""
    from benchmarks.table import validation_table  # noqa: PLC0415

    parser = argparse.ArgumentParser(prog="python -m benchmarks.validation", description=__doc__)
    options = parse_measurement(parser)
    with errors_as_lines():
        print(validation_table(measure_validation(options.rounds, options.seconds)))


if __name__ == "__main__":
    main()
