"""An instance: a member loaded on a device, predicting rows of its arena.

Runs in the worker. Stored inputs flow from the arena into the model, predictions flow back, then
the `done` cells: only the rows that a member really fails on (an error, or NaN in its answer) are
marked as failed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from workers.backends import Model
from workers.runtime.arena import Arena, Array, Cells
from workers.runtime.spec import InstanceSpec
from workers.worker.huge_pages import HUGE_PAGE_BYTES, collapse
from workers.worker.inputs import ModelInput
from workers.worker.postprocess import interpreter

__all__ = ["DeviceLost", "Instance"]

_log = logging.getLogger(__name__)


class DeviceLost(Exception):
    """The device computes nothing any more for this process; a new one may find it well."""


class Instance:
    """A member loaded on this device, reading from and writing to its arena.

    Args:
        spec: of the instance.
        arena: this process's view of it.
        model: the loaded member.
        probes: whether an error may have ended the device for this process, as on a GPU.

    Attributes:
        failure: what went wrong with the last batch that failed, empty if none did.
    """

    def __init__(
        self, spec: InstanceSpec, arena: Arena, model: Model, *, probes: bool = False
    ) -> None:
        self.spec = spec
        self._probes = probes
        self.latency_s = (0.0, 0.0)
        self.failure = ""
        self._arena = arena
        self._model = model
        self._predictions: Any = arena.predictions[spec.member]
        self._row_shape = self._predictions.shape[1:]
        self._done = arena.done[spec.member]
        self._interpret = interpreter(spec)
        no_class = f"a class that is none of 0 to {spec.classes - 1}"
        self._flaw = no_class if spec.meaning == "class" else "not a finite number"
        self._closing = arena.closing.data
        self._inputs = [
            ModelInput(
                arena.views[binding.view],
                arena.spec.views[binding.view].datatype,
                binding.scaling,
                tensor.datatype,
            )
            for binding, tensor in zip(spec.bindings, spec.signature.inputs, strict=True)
        ]

    def warm_up(self) -> None:
        """Run batches of one row and of the full size, and keep what a warm one took.

        Where that is the memory of this process, it is put on huge pages then.

        Raises:
            ValueError: naming member and file, if the model fails, or answers with NaN, a class
                that there is not, or not a row per row.
        """
        source = self.spec.source
        latencies = []
        for batch in (1, self.spec.batch):
            inputs = self._random_inputs(batch)
            try:
                for _ in range(2):
                    started = time.perf_counter()
                    answer = self._answer(inputs)
                    elapsed = time.perf_counter() - started
            except RuntimeError as failure:
                where = f"member {source.member!r} ({source.path})"
                raise ValueError(
                    f"{where}: in the warm-up with {batch} rows: {failure}"
                ) from failure
            latencies.append(elapsed)
            if np.isnan(answer).any():
                what = self._flaw if self.spec.meaning == "class" else "NaN"
                raise ValueError(
                    f"member {source.member!r} ({source.path}): {what} in the output of the warm-up"
                )
        self.latency_s = latencies[0], latencies[1]
        if not self._probes and self.spec.signature.parameter_bytes >= HUGE_PAGE_BYTES:
            collapse()
        self._model.arm()

    def run(
        self,
        ranges: Sequence[tuple[int, int]],
        on_attempt: Callable[[float], None] = lambda expected_s: None,
    ) -> str | None:
        """Predict the rows of `ranges` as one batch.

        A batch that fails is tried again in halves, down to single rows.

        Args:
            ranges: of this arena, together no more rows than the instance's batch size.
            on_attempt: called before each attempt with the seconds that it may well take.

        Returns:
            What went wrong with some of the rows, empty if nothing; None if nobody wants them any
            more, so that none was predicted.

        Raises:
            DeviceLost: if the device does not compute any more; of rows that then failed nothing
                is written.
        """
        arena = self._arena
        start, stop = ranges[0]
        if len(ranges) == 1:
            slots: slice | Cells = arena.slots(start, stop)
            rows = arena.numbers(start, stop)
        else:
            rows = np.concatenate([arena.numbers(start, stop) for start, stop in ranges])
            slots = rows % arena.capacity
        if self._closing[start % arena.capacity] == start and self._all_ended(slots, rows):
            return None  # closed while it waited
        on_attempt(max(self.latency_s))
        answer = self._attempt(slots)
        if isinstance(answer, str):
            if len(rows) == 1:
                if self._probes:
                    self._probe(answer)
                _log.warning("member %s failed on a row: %s", self.spec.source.member, answer)
                self._done[slots] = -rows
                return answer
            first, second = _halves(ranges, len(rows) // 2)
            errors = self.run(first, on_attempt), self.run(second, on_attempt)
            return errors[0] or errors[1] or (None if None in errors else "")
        bad = self._bad_rows(answer)
        if bad is None:
            self._done[slots] = rows
            return ""
        self._done[slots] = np.where(bad, -rows, rows)
        reason = f"{self._flaw} in its output"
        _log.warning("member %s failed on a row: %s", self.spec.source.member, reason)
        return reason

    def _attempt(self, slots: slice | Cells) -> Array | str:
        """Predict rows and store that; the predictions, or what went wrong.

        Nothing of an attempt that failed is kept, so that smaller ones find the memory it took.
        """
        try:
            answer = self._answer([one.read(slots) for one in self._inputs])
            self._predictions[slots] = answer
        except Exception as error:
            self.failure = f"{type(error).__name__}: {error}"
            return self.failure
        return answer

    def _probe(self, error: str) -> None:
        """Make sure that a row's failure is the row's own: some errors end a GPU for the process.

        Raises:
            DeviceLost: if the member fails on anything now.
        """
        try:
            self._answer(self._random_inputs(1))
        except Exception as failure:
            said = f"{type(failure).__name__} {failure}".lower()
            if "memory" in said and "illegal memory access" not in said:
                return  # others may have enough of it
            raise DeviceLost(
                f"after an error of member {self.spec.source.member!r} ({error}) the device does "
                f"not compute any more: {failure}"
            ) from failure

    def _all_ended(self, slots: slice | Cells, rows: Cells) -> bool:
        return bool((np.abs(self._arena.ended[slots]) == rows).all())

    def _answer(self, inputs: list[Array]) -> Array:
        answer = self._interpret(self._model.predict(inputs))
        expected = len(inputs[0]), *self._row_shape
        if answer.shape != expected:  # which NumPy might stretch, so that rows get others' answers
            raise RuntimeError(
                f"answers {list(answer.shape)} to a batch of {expected[0]} rows, "
                f"not {list(expected)}"
            )
        return answer

    def _bad_rows(self, answer: Array) -> npt.NDArray[np.bool_] | None:
        """Which rows a member failed on: NaN anywhere, infinity where it can't be meant."""
        if np.logical_and.reduce(np.isfinite(answer), axis=None):
            return None
        good = ~np.isnan(answer) if self.spec.meaning == "values" else np.isfinite(answer)
        bad = ~np.all(good.reshape(len(answer), -1), axis=1)
        return bad if bad.any() else None

    def _random_inputs(self, batch: int) -> list[Array]:
        generator = np.random.default_rng(0)
        return [one.random(batch, generator) for one in self._inputs]


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
