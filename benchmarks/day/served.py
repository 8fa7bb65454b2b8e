"""A short day on a real server: four devices, three ensembles, a mix that changes in four phases.

The members take memory, of which a device has enough for two, and time without the CPU, so that a
small machine can play four devices. The server runs twice under the same load: once with the best
fixed allocation in hindsight, once following the traffic with a window of a few seconds. Every
answer is checked.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import yaml
from ensembled_client import EnsembleClient

from allocator.simulation import EnsembleShare
from benchmarks.day.simulated import best_fixed
from benchmarks.errors import BenchmarkError
from benchmarks.server_process import running_server
from server.config import load_config
from server.deployment.placement import placement_problem
from server.deployment.plan import make_plan

__all__ = ["Phase", "serve_day"]

_MEMBER = Path(__file__).with_name("member.py")
_ENSEMBLES = {"x": ("a", "b"), "y": ("c", "d"), "z": ("e", "f")}
_MIXES = ((8, 1, 1), (1, 1, 8), (1, 8, 1), (1, 1, 1))
_MS, _MIB, _BATCH = 40, 128, 8
_DEVICES, _DEVICE_MIB = 4, 330
_CLIENTS = 48
_FOLLOW = {"follow": True, "follow_window_s": 6, "follow_pause_s": 2, "follow_payback_s": 60}
_PROFILE_S = 60.0


@dataclass(frozen=True)
class Phase:
    """A mix of the ensembles, and the rows/s that were answered: by the fixed one, following."""

    mix: tuple[int, ...]
    fixed_rows_s: float
    followed_rows_s: float


def serve_day(phase_s: float) -> list[Phase]:
    """Serve the day twice, and return what was answered in each phase.

    Raises:
        BenchmarkError: if an answer is wrong or missing.
    """
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("ENSEMBLED_CACHE", f"{folder}/cache")
        path = Path(folder) / "day.yaml"
        path.write_text(yaml.safe_dump(_document()))
        (Path(folder) / "fixed.json").write_text(_fixed_allocation(path))
        path.write_text(yaml.safe_dump(_document() | {"allocation": "fixed.json"}))
        fixed = _rates(path, phase_s)
        path.write_text(yaml.safe_dump(_document() | {"placement": _FOLLOW}))
        followed = _rates(path, phase_s)
    return [Phase(*phase) for phase in zip(_MIXES, fixed, followed, strict=True)]


def _document() -> dict[str, Any]:
    member = {
        "model": {"python": f"{_MEMBER}:Sleeper", "args": {"ms": _MS, "mib": _MIB}},
        "batch_size": _BATCH,
    }
    names = [name for members in _ENSEMBLES.values() for name in members]
    return {
        "members": dict.fromkeys(names, member),
        "ensembles": {name: {"members": list(members)} for name, members in _ENSEMBLES.items()},
        "devices": [
            {"name": f"cpu:{index}", "part_of": "cpu", "memory_bytes": f"{_DEVICE_MIB}MiB"}
            for index in range(_DEVICES)
        ],
    }


def _fixed_allocation(path: Path) -> str:
    """The best one for all phases, in hindsight."""
    plan = make_plan(load_config(path), profile_s=_PROFILE_S)
    problem = placement_problem(plan.config, plan.models.members, plan.all_devices, plan.found)
    mixes = [
        [EnsembleShare(one, weight) for one, weight in zip(_ENSEMBLES.values(), mix, strict=True)]
        for mix in _MIXES
    ]
    return best_fixed(problem, mixes).to_json()


def _rates(path: Path, phase_s: float) -> list[float]:
    """Serve a configuration under the load, and return the rows/s of each phase."""
    with running_server(path) as server, _Load(f"http://{server.address}") as load:
        counts = [load.rows]
        for mix in _MIXES:
            load.mix = mix
            time.sleep(phase_s)
            counts.append(load.rows)
        if load.error is not None:
            raise BenchmarkError(f"a request has failed: {load.error}")
    return [(after - before) / phase_s for before, after in pairwise(counts)]


class _Load:
    """Clients with one request of a batch in flight each, for ensembles drawn from the mix."""

    def __init__(self, url: str) -> None:
        self.mix = _MIXES[0]
        self.rows = 0
        self.error: BaseException | None = None
        self._url = url
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(Random(seed),)) for seed in range(_CLIENTS)
        ]

    def __enter__(self) -> _Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _run(self, random: Random) -> None:
        rows = np.array([[random.random()] * 4] * _BATCH, np.float32)
        try:
            with EnsembleClient(self._url, retries=0, connections=1) as client:
                while not self._stopped.is_set():
                    (model,) = random.choices(list(_ENSEMBLES), self.mix)
                    answer = client.predict(model, {"x": rows})
                    if answer.degraded or not np.array_equal(answer.values, rows):
                        raise BenchmarkError(f"a wrong answer: {answer}")
                    with self._lock:
                        self.rows += _BATCH
        except Exception as error:  # reported by the one who plays the phases
            self.error = error
