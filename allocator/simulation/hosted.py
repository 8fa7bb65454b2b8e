"""The model with processes: front-end, combiner and load generator take time and cores as well.

Used within one simulation run, see `simulation`. The way of a row: the front-end takes a request in
and binds its rows, workers report finished jobs to front-end and combiner, the combiner ends
complete rows, the front-end answers, the load generator takes the answer in.

Front-end and combiner work in turns, each over all that has come since the last; the load
generator takes one answer after the other. As in `workers.worker.process`, a worker reports what it
has finished when it is idle, or a millisecond of work has accumulated.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from allocator.dispatch.state import OpenJob
from allocator.simulation.scenario import Scenario
from allocator.simulation.simulation import Simulation
from allocator.simulation.workers import SimulatedWorker

__all__ = ["HostedSimulation"]

# As in `workers.worker.process`.
_FLUSH_S = 0.001

#: Arriving requests, with rows of each; owners of rows that have ended; finished jobs.
_FrontEndLoad = tuple[list[tuple[range, int]], list[int], list[tuple[SimulatedWorker, OpenJob]]]

_FRONT_END, _COMBINER, _CLIENT = "front-end", "combiner", "client"


class HostedSimulation(Simulation):
    """One run with processes."""

    def __init__(self, scenario: Scenario) -> None:
        super().__init__(scenario)
        self._host = scenario.host
        self._busy: set[str] = set()
        self._coming: list[tuple[range, int]] = []
        self._ended: list[int] = []
        self._heard: list[tuple[SimulatedWorker, OpenJob]] = []
        self._predicted: list[OpenJob] = []
        self._answers: deque[int] = deque()
        self.records.process_s.update(dict.fromkeys((_FRONT_END, _COMBINER, _CLIENT), 0.0))

    def _accept(self, requests: range, rows: int) -> None:
        self._coming.append((requests, rows))
        self._wake_front_end()

    def _report(self, worker: SimulatedWorker, job: OpenJob) -> None:
        worker.unreported.append(job)
        now = self._timeline.now
        if worker.queue and now - worker.flushed <= _FLUSH_S:
            return
        worker.flushed = now
        self._heard += [(worker, job) for job in worker.unreported]
        self._predicted += worker.unreported
        worker.unreported = []
        self._wake_combiner()
        self._wake_front_end()

    def _stop(self, worker: SimulatedWorker) -> None:
        # What it had finished is in the arena, where the front-end has the combiner look.
        self._predicted += worker.unreported
        worker.unreported = []
        super()._stop(worker)
        self._wake_combiner()

    def _answer(self, requests: list[int]) -> None:
        if not self._host.client_s_per_request:
            super()._answer(requests)
            return
        self._answers.extend(requests)
        self._wake_client()

    # -- turns --------------------------------------------------------------------------------

    def _work(self, process: str, seconds: float, end: Callable[[Any], None], load: Any) -> None:
        """Let a process work for so many seconds of CPU time, then call `end` with its load."""
        began = self._timeline.now
        self._busy.add(process)

        def over(load: Any) -> None:
            self._busy.discard(process)
            self.records.process_s[process] += self._timeline.now - began
            end(load)

        self._timeline.work(seconds, over, load, 1, False)

    def _wake_front_end(self) -> None:
        coming, ended, heard = self._coming, self._ended, self._heard
        if _FRONT_END in self._busy or not (coming or ended or heard):
            return
        self._coming, self._ended, self._heard = [], [], []
        host, rows_of = self._host, self.records.rows
        came = sum(len(requests) for requests, _ in coming)
        rows = sum(len(requests) * each for requests, each in coming)
        answers = sum(1 / rows_of[request] for request in ended)
        seconds = (
            host.frontend_s_per_turn
            + host.frontend_s_per_request * (came + answers) / 2
            + (host.frontend_s_per_row + host.frontend_s_per_byte * host.row_bytes) * rows
            + host.frontend_s_per_job * len(heard)
        )
        self._work(_FRONT_END, seconds, self._end_front_end_turn, (coming, ended, heard))

    def _end_front_end_turn(self, load: _FrontEndLoad) -> None:
        coming, ended, heard = load
        for worker, job in heard:
            # A job that is not open was lost with its device.
            if worker.state.close(job.id, self._timeline.now) is not None:
                self._dispatch_due = True
        for requests, rows in coming:
            super()._accept(requests, rows)
        if ended:
            self._end_rows(ended)
        self._wake_front_end()

    def _wake_combiner(self) -> None:
        if _COMBINER in self._busy or not self._predicted:
            return
        jobs, self._predicted = self._predicted, []
        owners = [owner for job in jobs for owner in self._rows.count(job.ranges)]
        seconds = (
            self._host.combiner_s_per_turn
            + self._host.combiner_s_per_range * sum(len(job.ranges) for job in jobs)
            + self._host.combiner_s_per_row * len(owners)
        )
        self._work(_COMBINER, seconds, self._end_combiner_turn, owners)

    def _end_combiner_turn(self, owners: list[int]) -> None:
        self._ended += self._advance(owners)
        self._wake_combiner()
        self._wake_front_end()

    def _wake_client(self) -> None:
        if _CLIENT not in self._busy and self._answers:
            seconds = self._host.client_s_per_request
            self._work(_CLIENT, seconds, self._end_answer, self._answers.popleft())

    def _end_answer(self, request: int) -> None:
        super()._answer([request])
        self._wake_client()
