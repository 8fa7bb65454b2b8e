"""The worker process of one device: holds the device's instances and runs one batch at a time.

In: `Assign` and `Reset` from the front-end. Out: `Predicted` to the combiner, `Ready` to the
front-end; both cover the jobs finished since the last time, and are sent when the queue is empty or
a millisecond of work has accumulated. All but `Reset` goes through rings
(`workers.runtime.queues`). A job's predictions are written to the arena before its `done` cells,
and those before any message. The supervisor's `Load` and `Unload` come through a mailbox, and what
they need is done in a thread.

What one job does to the arena is in `workers.worker.instance`.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, BinaryIO

import msgspec
import zmq

from workers.runtime.bootstrap import (
    Started,
    StatusChannel,
    bind_to_device,
    follow_supervisor,
    run_role,
)
from workers.runtime.loader import Built, Loader
from workers.runtime.logs import ProcessName
from workers.runtime.mailbox import Mailbox
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
from workers.runtime.queues import Queues, Sleeper
from workers.runtime.sockets import COMBINER, WORKERS, Decoder, descriptor, drain, open_socket
from workers.runtime.spec import InstanceSpec, Load, Loaded, Unload, WorkerSpec
from workers.worker.loading import InstanceLoader, Part, Served

if TYPE_CHECKING:
    from workers.runtime.tracing import BatchSpans

__all__ = ["main"]

_HEARTBEAT_S = 0.5
_FLUSH_NS = 1_000_000
_HANG_S = 2.0
_HANG_FACTOR = 10.0

_Mail = Load | Unload | Built[Part]


class Worker:
    """The process's loop; `spans` records batches with traced requests, if there is tracing.

    Commands come through `mailbox`; reports on them go to `status`.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        mailbox: Mailbox[_Mail],
        status: StatusChannel,
        spans: BatchSpans | None,
    ) -> None:
        device = spec.device
        memory = SharedMemory(spec.memory)
        name = f"worker {device.name}"
        self._board = memory.board(name)
        self._served = Served()
        self._arenas, self._instances = self._served.arenas, self._served.instances
        self._mailbox, self._mail = mailbox, mailbox.items
        self._status = status
        builder = InstanceLoader(device, memory)
        for one in spec.loads:
            self._served.add(one.generation.number, builder.load(one))
        self._loader = Loader(
            builder, mailbox, self._board, status, lowers_priority=len(device.cores) <= 1
        )
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
            (
                *queues.own_descriptors(name),
                descriptor(self._front_end),
                mailbox.descriptor,
            ),
        )
        self._epoch = 0
        self._jobs: deque[Job] = deque()
        self._executing = 0
        self._last_job = 0
        self._finished: list[Finished] = []
        self._predictions: list[Predictions] = []
        self._spans = spans

    def run(self) -> None:
        """Run until the supervisor releases the process."""
        self._board.beat()  # before it can be given work
        self._assigned.skip()
        self._send_hello()
        while True:
            self._board.beat()
            if self._mail:
                self._open_mail()
            while messages := drain(self._front_end, self._decoder):
                self._handle(messages)
            self._receive_assigned()
            if self._jobs:
                self._run_jobs()
            elif not self._sleeper.wait(_HEARTBEAT_S):
                self._send_hello()

    # -- generations --------------------------------------------------------------------------

    def _open_mail(self) -> None:
        """Follow the supervisor's commands, and take over what has been loaded for them."""
        for item in self._mailbox.take():
            match item:
                case Load():
                    if item.replaces:
                        self._served.make_room(item)
                        self._send_hello()  # what is gone gets no more jobs
                    self._loader.load(item)
                case Unload():
                    self._served.drop(item.generation)
                    self._send_hello()
                    self._loader.unload(item.generation)
                case Built():
                    self._serve(item)

    def _serve(self, built: Built[Part]) -> None:
        """Serve a generation that has been loaded, too, unless it is not wanted any more."""
        number = built.generation
        if not self._loader.is_wanted(number):
            return
        try:
            with self._loader.excused():
                self._served.add(number, built.part)
        except (ValueError, MemoryError) as failure:
            self._loader.refuse(number, str(failure))
            return
        self._send_hello()  # before its jobs can come
        self._status.send(Loaded(number))

    # -- jobs -----------------------------------------------------------------------------------

    def _receive_assigned(self) -> None:
        """Receive the messages for this worker, but not for an earlier one."""
        messages = [
            self._decoder.decode(payload)
            for incarnation, payload in self._assigned.pop()
            if incarnation == self._incarnation
        ]
        self._handle(messages)

    def _handle(self, messages: list[ToWorker]) -> None:
        for message in messages:
            match message:
                case Reset():
                    self._epoch = message.epoch
                    self._last_job = 0  # the new front-end starts a new numbering
                    self._jobs.clear()
                    self._send_hello()
                case Assign():
                    if message.epoch == self._epoch:
                        self._jobs.extend(message.jobs)

    def _run_jobs(self) -> None:
        now_ns = flushed_ns = time.monotonic_ns()
        while self._jobs:
            job = self._jobs.popleft()
            started_ns = now_ns
            self._executing = job.id
            instance = self._instances.get(job.instance)
            # Rows for one that was unloaded meanwhile go elsewhere, if anybody waits for them.
            error = None if instance is None else instance.run(job.ranges, self._begin)
            now_ns = time.monotonic_ns()
            self._board.end(now_ns)
            self._last_job = job.id
            all_predicted = error == ""
            self._finished.append(Finished(job.id, (now_ns - started_ns) / 1e9, all_predicted))
            if instance is not None:
                self._add_predictions(job, instance.spec, error or "")
                if job.traces and self._spans is not None:
                    self._spans.record(job, instance.spec, started_ns, now_ns, error or "")
            if not self._jobs or now_ns - flushed_ns > _FLUSH_NS:
                self._flush()
                if self._mail:
                    return
                now_ns = flushed_ns = time.monotonic_ns()
                self._receive_assigned()
                if self._jobs:
                    self._handle(drain(self._front_end, self._decoder))

    def _begin(self, expected_s: float) -> None:
        """Publish the job that is being executed, and when it counts as hung."""
        limit_s = max(_HANG_S, _HANG_FACTOR * expected_s)
        self._board.begin(self._executing, time.monotonic_ns() + int(limit_s * 1e9))

    def _add_predictions(self, job: Job, spec: InstanceSpec, error: str) -> None:
        """Add a job's rows to the next message; consecutive jobs over equal rows count once."""
        if error:
            error = f"member {spec.source.member!r} failed: {error}"
        for start, stop in job.ranges:
            predictions = Predictions(spec.arena, start, stop, error)
            if not self._predictions or self._predictions[-1] != predictions:
                self._predictions.append(predictions)

    def _flush(self) -> None:
        ready = encode(Ready(self._epoch, tuple(self._finished)))
        if not self._ready.push(ready, self._incarnation):
            self._front_end.send(ready)
        predicted = encode(Predicted(tuple(self._predictions)))
        if not self._predicted.push(predicted):
            self._combiner.send(predicted)
        # Of the workers that share a row, at least the last one sees that it may end.
        if self._combiner_bell.is_needed() and self._may_end():
            self._combiner_bell.ring()
        if self._is_ready_wanted[0]:  # otherwise it is read with the combiner's messages
            self._front_end_bell.ring_if_needed()
        self._predictions.clear()
        self._finished.clear()

    def _may_end(self) -> bool:
        """Whether the combiner could end any of the rows in the message."""
        return any(
            [self._arenas[one.arena].may_end(one.start, one.stop) for one in self._predictions]
        )

    def _send_hello(self) -> None:
        latencies = {number: one.latency_s for number, one in self._instances.items()}
        self._front_end.send(encode(Hello(self._epoch, self._last_job, latencies)))


def _run(spec: WorkerSpec, commands: BinaryIO, status: StatusChannel) -> None:
    bind_to_device(spec.device)
    spans = None
    if spec.tracing is not None:
        from workers.runtime.tracing import BatchSpans  # noqa: PLC0415  (only where it is configured)

        spans = BatchSpans(spec.tracing, spec.device.name)
    mailbox: Mailbox[_Mail] = Mailbox()
    decode = msgspec.json.Decoder(Load | Unload).decode
    follow_supervisor(
        commands,
        lambda line: mailbox.put(decode(line)),
        (lambda: None) if spans is None else spans.close,
    )
    worker = Worker(spec, mailbox, status, spans)
    status.send(Started())
    worker.run()


def main() -> None:
    """Entry point of a worker process."""
    run_role(lambda spec: ProcessName("worker", spec.device.name), WorkerSpec, _run)


if __name__ == "__main__":
    main()
