"""The worker process of one device: holds the device's instances and runs one batch at a time.

In: `Assign` and `Reset` from the front-end. Out: `Predicted` to the combiner, `Ready` to the
front-end; both are sent together for the jobs finished since the last time, as soon as the queue
is empty or a millisecond of work has gathered. A job's predictions are written to the arena before
its `done` cells, and those before any message.

A job that fails is retried in halves down to single rows, so that only the rows that a member
really fails on (an error, or NaN in its answer) are marked as failed.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import zmq

from workers.arena import Arena, Array, Cells
from workers.backends import Model, load
from workers.bootstrap import Started, Status, end_with_supervisor, run_role
from workers.channels import COMBINER, WORKERS, Decoder, drain, open_socket, wait_receive
from workers.memory import SharedMemory
from workers.messages import (
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
from workers.spec import Binding, InstanceSpec, OutputMeaning, WorkerSpec

__all__ = ["Instance", "interpret", "main", "scale"]

_log = logging.getLogger(__name__)
_HEARTBEAT_MS = 500
_FLUSH_S = 0.001
_HANG_S = 2.0
_HANG_FACTOR = 10.0
_NICE = 5


def interpret(raw: Array, meaning: OutputMeaning) -> Array:
    """Turn a model's raw output into predictions: logits become probabilities over the last axis.

    Args:
        raw: [rows, *outputs].
        meaning: what the model's output is.
    """
    if meaning != "logits":
        return raw
    values = raw.astype(np.promote_types(raw.dtype, np.float32), copy=False)
    exponentials = np.exp(values - values.max(axis=-1, keepdims=True))
    normalised: Array = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return normalised


def scale(pixels: Array, binding: Binding) -> Array:
    """Apply a binding to stored rows: pixels [rows, H, W, 3] become scaled FP32, else untouched."""
    scaling = binding.scaling
    if scaling is None:
        return pixels
    scaled = pixels.astype(np.float32)
    scaled -= np.array(scaling.mean, np.float32)
    scaled *= np.float32(1.0) / np.array(scaling.std, np.float32)
    if scaling.layout == "nchw":
        scaled = np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))
    return scaled


class Instance:
    """A member loaded on this device, reading from and writing to its arena."""

    def __init__(self, spec: InstanceSpec, arena: Arena, model: Model) -> None:
        self.spec = spec
        self.latency_s = (0.0, 0.0)
        self._arena = arena
        self._model = model
        self._predictions: Any = arena.predictions[spec.member]
        self._done = arena.done[spec.member]
        self._closing = arena.closing.data

    def warm_up(self) -> None:
        """Run batches of one row and of the full size, and keep what a warm one took.

        Raises:
            ValueError: if the model answers with NaN.
        """
        latencies = []
        for batch in (1, self.spec.batch):
            inputs = self._random_inputs(batch)
            for _ in range(2):
                started = time.perf_counter()
                answer = self._answer(inputs)
                elapsed = time.perf_counter() - started
            latencies.append(elapsed)
            if np.isnan(answer).any():
                source = self.spec.source
                raise ValueError(
                    f"member {source.member!r} ({source.path}): NaN in the output of the warm-up"
                )
        self.latency_s = latencies[0], latencies[1]
        self._model.arm()

    def expected_s(self, rows: int) -> float:
        """Seconds that a batch of `rows` should take at most, by the warm-up."""
        return max(self.latency_s) * max(1.0, rows / self.spec.batch)

    def run(self, ranges: Sequence[tuple[int, int]]) -> str:
        """Predict the rows of `ranges` as one batch; return what went wrong, empty if nothing."""
        arena = self._arena
        if len(ranges) == 1:
            start, stop = ranges[0]
            slots: slice | Cells = arena.slots(start, stop)
            rows = arena.numbers(start, stop)
        else:
            rows = np.concatenate([arena.numbers(start, stop) for start, stop in ranges])
            slots = rows % arena.capacity
        if self._closing[rows[0] % arena.capacity] == rows[0] and self._all_ended(slots, rows):
            return ""  # closed while it waited: nobody wants it any more
        try:
            answer = self._answer(
                [scale(arena.views[binding.view][slots], binding) for binding in self.spec.bindings]
            )
            self._predictions[slots] = answer
        except Exception as error:
            if len(rows) == 1:
                _log.warning("member %s failed on a row: %s", self.spec.source.member, error)
                self._done[slots] = -rows
                return f"{type(error).__name__}: {error}"
            first, second = _halves(ranges, len(rows) // 2)
            errors = self.run(first), self.run(second)
            return errors[0] or errors[1]
        bad = self._bad_rows(answer)
        if bad is None:
            self._done[slots] = rows
            return ""
        self._done[slots] = np.where(bad, -rows, rows)
        return "not a finite number in its output"

    def _all_ended(self, slots: slice | Cells, rows: Cells) -> bool:
        return bool((np.abs(self._arena.ended[slots]) == rows).all())

    def _answer(self, inputs: list[Array]) -> Array:
        return interpret(self._model.predict(inputs), self.spec.meaning)

    def _bad_rows(self, answer: Array) -> npt.NDArray[np.bool_] | None:
        """Which rows a member failed on: NaN anywhere, infinity where it can't be meant."""
        if not np.issubdtype(answer.dtype, np.floating) or np.isfinite(answer.sum()):
            return None
        good = ~np.isnan(answer) if self.spec.meaning == "values" else np.isfinite(answer)
        bad = ~np.all(good.reshape(len(answer), -1), axis=1)
        return bad if bad.any() else None

    def _random_inputs(self, batch: int) -> list[Array]:
        generator = np.random.default_rng(0)
        inputs: list[Array] = []
        for binding, tensor in zip(self.spec.bindings, self.spec.signature.inputs, strict=True):
            stored = self._arena.views[binding.view]
            shape = (batch, *stored.shape[1:])
            if binding.scaling is not None:
                pixels = generator.integers(0, 256, shape, np.uint8)
                inputs.append(scale(pixels, binding))
            elif np.issubdtype(tensor.dtype, np.floating):
                inputs.append(generator.random(shape, np.float32).astype(tensor.dtype))
            else:
                inputs.append(np.zeros(shape, tensor.dtype))
        return inputs


def _halves(
    ranges: Sequence[tuple[int, int]], count: int
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Split ranges into their first `count` rows and the rest."""
    first: list[tuple[int, int]] = []
    rest: list[tuple[int, int]] = []
    for start, stop in ranges:
        cut = min(stop, start + count)
        count -= cut - start
        if cut > start:
            first.append((start, cut))
        if stop > cut:
            rest.append((cut, stop))
    return first, rest


class Worker:
    """The process's loop."""

    def __init__(self, spec: WorkerSpec) -> None:
        device = spec.device
        memory = SharedMemory(spec.memory)
        self._board = memory.board(f"worker {device.name}")
        arenas = [Arena(memory, arena) for arena in spec.memory.arenas]
        if device.is_cuda:
            from workers.pinned import pin  # noqa: PLC0415  (only where there is a GPU)

            pin(memory.buffer, device.name)
        self._instances = [
            Instance(instance, arenas[instance.arena], load(instance.source, device))
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
        self._front_end.rcvtimeo = _HEARTBEAT_MS
        self._combiner = open_socket(zmq.PUSH, spec.sockets, COMBINER, bind=False)
        self._decoder: Decoder[ToWorker] = Decoder(ToWorker)
        self._epoch = 0
        self._jobs: deque[Job] = deque()
        self._last_job = 0
        self._finished: list[Finished] = []
        self._predictions: list[Predictions] = []

    def run(self) -> None:
        """Serve until the supervisor lets go of the process."""
        self._hello()
        while True:
            self._board.beat()
            messages = wait_receive(self._front_end, self._decoder)
            if messages:
                self._take(messages)
                self._work()
            else:
                self._hello()

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
        flushed = time.perf_counter()
        while self._jobs:
            job = self._jobs.popleft()
            instance = self._instances[job.instance]
            rows = sum(stop - start for start, stop in job.ranges)
            limit_s = max(_HANG_S, _HANG_FACTOR * instance.expected_s(rows))
            started = time.perf_counter()
            self._board.begin(job.id, time.monotonic_ns() + int(limit_s * 1e9))
            error = instance.run(job.ranges)
            self._board.end()
            now = time.perf_counter()
            self._last_job = job.id
            self._finished.append(Finished(job.id, now - started))
            self._predictions += [
                Predictions(instance.spec.arena, start, stop, error and self._blame(job, error))
                for start, stop in job.ranges
            ]
            if not self._jobs or now - flushed > _FLUSH_S:
                self._flush()
                flushed = now
                self._take(drain(self._front_end, self._decoder))

    def _blame(self, job: Job, error: str) -> str:
        return f"member {self._instances[job.instance].spec.source.member!r} failed: {error}"

    def _flush(self) -> None:
        self._combiner.send(encode(Predicted(tuple(self._predictions))))
        self._front_end.send(encode(Ready(self._epoch, tuple(self._finished))))
        self._predictions.clear()
        self._finished.clear()

    def _hello(self) -> None:
        latencies = tuple(instance.latency_s for instance in self._instances)
        self._front_end.send(encode(Hello(self._epoch, self._last_job, latencies)))


def _run(spec: WorkerSpec, commands: BinaryIO, status: Status) -> None:
    end_with_supervisor(commands)
    os.nice(_NICE)
    if spec.device.cores:
        os.sched_setaffinity(0, spec.device.cores)
        os.environ["OMP_NUM_THREADS"] = str(len(spec.device.cores))
    worker = Worker(spec)
    status.send(Started())
    worker.run()


def main() -> None:
    """Entry point of a worker process."""
    run_role(lambda spec: f"ensembled worker {spec.device.name}", WorkerSpec, _run)


if __name__ == "__main__":
    main()
