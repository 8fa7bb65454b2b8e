"""Far more work than can be done: ``python -m benchmarks.overload``.

Serves fake members that take time, about 500 rows a second, and measures the peak with a crowd that
waits for its answers; then requests come at a multiple of that rate, whether there are answers or
not. Goodput is what was answered within the ensemble's deadline. A slow probe beside the flood
measures how long refusals take, and what a lone client waits before and after it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.errors import BenchmarkError
from benchmarks.figures import percentile
from benchmarks.infer_request import EncodedRequest, binary_request, model_input
from benchmarks.limit import errors_as_lines
from benchmarks.members import random_input
from benchmarks.server_process import RunningServer, running_server

__all__ = ["Overload", "main", "measure_overload"]

_CONFIG = Path(__file__).resolve().parent / "overload.yaml"
_ENSEMBLE = "all"
_DEADLINE_MS = 1000
_CROWD = 256
_IN_FLIGHT = 4096
_PROBE_S = 0.05
_QUIET_S = 5.0


class Overload(msgspec.Struct, frozen=True):
    """What was measured.

    Attributes:
        times: how many times the peak rate came.
        peak_per_s: answers to the crowd.
        goodput_per_s: answers within the deadline during the flood.
        sent_per_s: requests of the flood.
        late_share: part of the accepted requests that missed the deadline.
        refusals: of the probe.
        refusal_p50_ms, refusal_p99_ms: how long those took.
        before_p50_ms, after_p50_ms: a lone client's answers.
        memory_before_mib, memory_peak_mib: of the front-end.
    """

    times: float
    peak_per_s: float
    goodput_per_s: float
    sent_per_s: float
    late_share: float
    refusals: int
    refusal_p50_ms: float
    refusal_p99_ms: float
    before_p50_ms: float
    after_p50_ms: float
    memory_before_mib: float
    memory_peak_mib: float


@dataclass
class _Probe:
    """A client that asks now and then, and notes status, milliseconds, and the server's memory."""

    server: RunningServer
    request: EncodedRequest
    answers: list[tuple[int, float]] = field(default_factory=list)
    memory_mib: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> _Probe:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        connection = HTTPConnection(self.server.address, timeout=60)
        while not self._stop.wait(_PROBE_S):
            started = time.perf_counter()
            connection.request("POST", self.request.path, self.request.body, self.request.headers)
            response = connection.getresponse()
            response.read()
            self.answers.append((response.status, (time.perf_counter() - started) * 1e3))
            if len(self.answers) % 20 == 1:
                self.memory_mib.append(_front_end_mib(self.server))
        connection.close()

    def times_ms(self, status: int) -> list[float]:
        """How long the answers of a status took."""
        times = [ms for answered, ms in self.answers if answered == status]
        if not times:
            raise BenchmarkError(f"the probe got no {status}")
        return times


def measure_overload(times: float, seconds: int) -> Overload:
    """Measure the peak, then a flood.

    Args:
        times: how many times the peak rate comes.
        seconds: of the flood.

    Raises:
        BenchmarkError: if the server fails.
    """
    with running_server(_CONFIG) as server:
        tensor = model_input(server.address, _ENSEMBLE)
        request = binary_request(_ENSEMBLE, tensor.name, random_input(tensor, 1, 0))
        with _Probe(server, request) as before:
            time.sleep(_QUIET_S)
        crowd = _load(server, "--connections", str(_CROWD), "--duration", "10")
        peak_per_s = crowd["requests_per_s"]
        with _Probe(server, request) as beside:
            rate = f"{times * peak_per_s:.0f}"
            options = ("--connections", str(_IN_FLIGHT), "--deadline-ms", str(_DEADLINE_MS))
            flood = _load(server, "--rate", rate, "--duration", str(seconds), *options)
        time.sleep(2 * _DEADLINE_MS / 1e3)  # what was accepted last is answered by now
        with _Probe(server, request) as after:
            time.sleep(_QUIET_S)
    refusals = beside.times_ms(429)
    answered = flood["requests"]["answered"]
    late = sum(n for text, n in flood["errors"].items() if text.startswith("504"))
    late += answered - flood["goodput_per_s"] * flood["seconds"]
    return Overload(
        times=times,
        peak_per_s=peak_per_s,
        goodput_per_s=flood["goodput_per_s"],
        sent_per_s=flood["requests"]["sent"] / flood["seconds"],
        late_share=late / max(1, answered + late),
        refusals=len(refusals),
        refusal_p50_ms=statistics.median(refusals),
        refusal_p99_ms=percentile(refusals, 99),
        before_p50_ms=statistics.median(before.times_ms(200)),
        after_p50_ms=statistics.median(after.times_ms(200)),
        memory_before_mib=max(before.memory_mib),
        memory_peak_mib=max(beside.memory_mib),
    )


def _load(server: RunningServer, *options: str) -> Any:
    """Run the load tester; its one test."""
    command = [sys.executable, "-m", "ensembled_client.load", f"http://{server.address}", _ENSEMBLE]
    done = subprocess.run(
        [*command, "--json", *options], check=False, capture_output=True, text=True
    )
    try:
        (test,) = json.loads(done.stdout)["tests"]
    except ValueError:
        raise BenchmarkError(f"the load tester failed: {done.stderr.strip()}") from None
    return test


def _front_end_mib(server: RunningServer) -> float:
    return next(one.rss_mib for one in server.memory() if one.name.endswith("front-end"))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overload", description=__doc__)
    parser.add_argument("--times", type=float, default=10.0)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with errors_as_lines():
        found = measure_overload(options.times, options.seconds)
    if options.json:
        print(msgspec.json.encode(found).decode())
        return
    print(
        f"peak {found.peak_per_s:.0f} requests/s; {found.sent_per_s:.0f}/s sent: goodput "
        f"{found.goodput_per_s:.0f}/s, {found.goodput_per_s / found.peak_per_s:.1%} of the peak; "
        f"{found.late_share:.1%} of what was accepted came late\n"
        f"{found.refusals} refusals of the probe: p50 {found.refusal_p50_ms:.1f} ms, "
        f"p99 {found.refusal_p99_ms:.1f} ms\n"
        f"alone: p50 {found.before_p50_ms:.1f} ms before, {found.after_p50_ms:.1f} ms after\n"
        f"memory of the front-end: {found.memory_before_mib:.0f} MiB before, at most "
        f"{found.memory_peak_mib:.0f} MiB during it"
    )


if __name__ == "__main__":
    main()
