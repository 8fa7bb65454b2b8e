"""The worker process of one device: holds the device's instances and runs one batch at a time.

In: `Assign` and `Reset` from the front-end. Out: `Predicted` to the combiner, `Ready` to the
front-end; both are told together for the jobs finished since the last time, as soon as the queue is
empty or a millisecond of work has gathered. All but `Reset` goes through rings
(`workers.runtime.queues`). A job's predictions are written to the arena before its `done` cells,
and those before any message.

What one job does to the arena is in `workers.worker.instance`.
"""

from __future__ import annotations

import os
import time
from collections import deque
from typing import TYPE_CHECKING, BinaryIO

import zmq

from workers.backends import load
from workers.runtime.arena import Arena
from workers.runtime.bells import Sleeper
from workers.runtime.bootstrap import Started, Status, end_with_supervisor, run_role
from workers.runtime.channels import COMBINER, WORKERS, Decoder, descriptor, drain, open_socket
from workers.runtime.log_lines import Speaker
from workers.runtime.memory import SharedMemory
from workers.runtime.messages import (
    Assign,
    Finished,
    Hello,
    Job,
    Predicted,
    Predictions,
    Ready,
    Reset,
    ToWorker,
    encode,
)
from workers.runtime.queues import Queues
from workers.runtime.spec import DeviceSpec, WorkerSpec
from workers.worker.instance import Instance

if TYPE_CHECKING:
    from workers.runtime.tracing import BatchSpans

__all__ = ["main", "settle"]

_HEARTBEAT_S = 0.5
_FLUSH_NS = 1_000_000
_HANG_S = 2.0
_HANG_FACTOR = 10.0
_NICE = 5


class Worker:
    """The process's loop.

    Args:
        spec: all it knows.
        spans: where it tells of batches with traced requests, if there is tracing.
    """

    def __init__(self, spec: WorkerSpec, spans: BatchSpans | None) -> None:
        device = spec.device
        memory = SharedMemory(spec.memory)
        name = f"worker {device.name}"
        self._board = memory.board(name)
        self._arenas = arenas = [Arena(memory, arena) for arena in spec.memory.arenas]
        if device.is_cuda:
            from workers.worker.pinned_memory import pin  # noqa: PLC0415  (only where there is a GPU)

            pin(memory.buffer, device)
        self._instances = [
            Instance(
                instance,
                arenas[instance.arena],
                load(instance.source, device),
                probes=device.is_cuda,
            )
            for instance in spec.instances
        ]
        for instance in self._instances:
            instance.warm_up()
        self._front_end = open_socket(
            zmq.DEALER,
            spec.sockets,
            WORKERS,
            bind=False,
            identity=f"{device.name}/{spec.incarnation}",
        )
        self._combiner = open_socket(zmq.PUSH, spec.sockets, COMBINER, bind=False)
        self._decoder: Decoder[ToWorker] = Decoder(ToWorker)
        queues = Queues(memory.buffer, spec.memory.queues)
        self._incarnation = spec.incarnation
        self._assigned = queues.assigned[device.name]
        self._ready = queues.finished[device.name]
        self._is_ready_wanted = queues.wanted[device.name]
        self._predicted = queues.predicted[device.name]
        self._front_end_bell = queues.bell("front-end", lambda: self._front_end.send(b""))
        self._combiner_bell = queues.bell("combiner", lambda: self._combiner.send(b""))
        self._sleeper = Sleeper(
            queues.asleep[name],
            (self._assigned,),
            (*queues.own_descriptors(name), descriptor(self._front_end)),
        )
        self._epoch = 0
        self._jobs: deque[Job] = deque()
        self._executing = 0
        self._last_job = 0
        self._finished: list[Finished] = []
        self._predictions: list[Predictions] = []
        self._spans = spans

    def run(self) -> None:
        """Serve until the supervisor lets go of the process."""
        self._board.beat()  # before anybody can give it work
        self._assigned.skip()
        self._hello()
        while True:
            self._board.beat()
            while messages := drain(self._front_end, self._decoder):
                self._take(messages)
            self._fetch()
            if self._jobs:
                self._work()
            elif not self._sleeper.wait(_HEARTBEAT_S):
                self._hello()

    def _fetch(self) -> None:
        """Take what is assigned to this worker, and to no former one."""
        messages = [
            self._decoder.decode(payload)
            for incarnation, payload in self._assigned.pop()
            if incarnation == self._incarnation
        ]
        self._take(messages)

    def _take(self, messages: list[ToWorker]) -> None:
        for message in messages:
            match message:
                case Reset():
                    self._epoch = message.epoch
                    self._last_job = 0  # the new front-end counts its jobs anew
                    self._jobs.clear()
                    self._hello()
                case Assign():
                    if message.epoch == self._epoch:
                        self._jobs.extend(message.jobs)

    def _work(self) -> None:
        now_ns = flushed_ns = time.monotonic_ns()
        while self._jobs:
            job = self._jobs.popleft()
            started_ns = now_ns
            self._executing = job.id
            error = self._instances[job.instance].run(job.ranges, self._begin)
            now_ns = time.monotonic_ns()
            self._board.end(now_ns)
            self._last_job = job.id
            flawless = error == ""
            self._finished.append(Finished(job.id, (now_ns - started_ns) / 1e9, flawless))
            self._note(job, error or "")
            if job.traces and self._spans is not None:
                about = self._instances[job.instance].spec
                self._spans.record(job, about, started_ns, now_ns, error or "")
            if not self._jobs or now_ns - flushed_ns > _FLUSH_NS:
                self._flush()
                now_ns = flushed_ns = time.monotonic_ns()
                self._fetch()
                if self._jobs:
                    self._take(drain(self._front_end, self._decoder))

    def _begin(self, expected_s: float) -> None:
        """Publish what is being executed, and when it counts as hung."""
        limit_s = max(_HANG_S, _HANG_FACTOR * expected_s)
        self._board.begin(self._executing, time.monotonic_ns() + int(limit_s * 1e9))

    def _note(self, job: Job, error: str) -> None:
        """Keep what the combiner is to look at; members' jobs over the same rows are one look."""
        spec = self._instances[job.instance].spec
        if error:
            error = f"member {spec.source.member!r} failed: {error}"
        for start, stop in job.ranges:
            settled = Predictions(spec.arena, start, stop, error)
            if not self._predictions or self._predictions[-1] != settled:
                self._predictions.append(settled)

    def _flush(self) -> None:
        ready = encode(Ready(self._epoch, tuple(self._finished)))
        if not self._ready.push(ready, self._incarnation):
            self._front_end.send(ready)
        predicted = encode(Predicted(tuple(self._predictions)))
        if not self._predicted.push(predicted):
            self._combiner.send(predicted)
        # Of the workers that share a row, the last one at least sees that it is.
        if self._combiner_bell.is_needed() and self._may_end():
            self._combiner_bell.ring()
        if self._is_ready_wanted[0]:  # else it is read with what the combiner says
            self._front_end_bell.ring_if_needed()
        self._predictions.clear()
        self._finished.clear()

    def _may_end(self) -> bool:
        """Whether the combiner could end any of the rows that it is told of."""
        return any(
            [self._arenas[one.arena].may_end(one.start, one.stop) for one in self._predictions]
        )

    def _hello(self) -> None:
        latencies = tuple(instance.latency_s for instance in self._instances)
        self._front_end.send(encode(Hello(self._epoch, self._last_job, latencies)))


def settle(device: DeviceSpec) -> None:
    """Give way to the front-end, and keep to the device; before any runtime is imported."""
    os.nice(_NICE)
    if device.cores:
        os.sched_setaffinity(0, device.cores)
    os.environ.update(device.environment)


def _run(spec: WorkerSpec, commands: BinaryIO, status: Status) -> None:
    settle(spec.device)
    spans = None
    if spec.tracing is not None:
        from workers.runtime.tracing import BatchSpans  # noqa: PLC0415  (only where it is configured)

        spans = BatchSpans(spec.tracing, spec.device.name)
    end_with_supervisor(commands, (lambda: None) if spans is None else spans.close)
    worker = Worker(spec, spans)
    status.send(Started())
    worker.run()


def main() -> None:
    """Entry point of a worker process."""
    run_role(lambda spec: Speaker("worker", spec.device.name), WorkerSpec, _run)


if __name__ == "__main__":
    main()
