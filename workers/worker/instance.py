"""An instance: a member loaded on a device, predicting rows of its arena.

Runs in the worker. Stored inputs flow from the arena into the model, predictions flow back, then
the `done` cells: only rows on which the member itself fails (an error, or NaN in its output) are
marked as failed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import numpy as np

from workers.backends import Model
from workers.backends.sizes import repeated
from workers.runtime.arena import Arena, Array, Cells
from workers.runtime.spec import InstanceSpec
from workers.worker.host_memory import HUGE_PAGE_BYTES, use_huge_pages
from workers.worker.inputs import ModelInput
from workers.worker.outputs import ModelOutput
from workers.worker.padding import Part, VariableInputs

__all__ = ["DeviceLost", "Instance"]

_log = logging.getLogger(__name__)

_Function = Callable[[Array], Array]


class DeviceLost(Exception):
    """The device fails on everything in this process; a new process may be able to use it."""


class Instance:
    """A member loaded on this device, reading from and writing to its arena.

    Args:
        probes_device: whether an error may leave the device unusable for this process, as on a
            GPU, so that it is checked after each.

    Attributes:
        latency_s: seconds of a warm batch of one row, and of a full one.
        failure: the error of the last batch that failed, empty if none did.
    """

    def __init__(
        self, spec: InstanceSpec, arena: Arena, model: Model, *, probes_device: bool = False
    ) -> None:
        self.spec = spec
        self._probes_device = probes_device
        self.latency_s = (0.0, 0.0)
        self.failure = ""
        self._arena = arena
        self._model = model
        self._done = arena.done[spec.member]
        self._outputs = _outputs(spec, arena)
        self._closing = arena.closing.data
        self._inputs = _inputs(spec, arena)
        self._variants = 1 if spec.augmentation is None else len(spec.augmentation.variants)
        #: The most frequent case, which is worth a short way: one output, none of it augmented.
        self._only = self._outputs[0] if len(self._outputs) == 1 else None
        is_variable = any(arena.spec.views[binding.view].symbols for binding in spec.bindings)
        self._variable = VariableInputs(spec, arena) if is_variable else None

    def warm_up(self) -> None:
        """Run batches of one row and of the full size, and record their warm latencies.

        On a CPU the model's memory is moved to huge pages afterwards.

        Raises:
            ValueError: naming member and file, if the model fails, or returns NaN, an invalid
                class, or not one output per row.
        """
        member = f"member {self.spec.source.member!r} ({self.spec.source.origin})"
        latencies = []
        for batch in (1, self.spec.batch):
            part, inputs = self._examples(batch)
            try:
                for _ in range(2):
                    started = time.perf_counter()
                    predictions = self._predict(inputs, part)
                    elapsed = time.perf_counter() - started
            except RuntimeError as failure:
                raise ValueError(
                    f"{member}: in the warm-up with {batch} rows: {failure}"
                ) from failure
            latencies.append(elapsed)
            for output, values in zip(self._outputs, predictions, strict=True):
                if np.isnan(values).any():
                    raise ValueError(f"{member}: {output.nan} in the output of the warm-up")
        self.latency_s = latencies[0], latencies[1]
        if not self._probes_device and self.spec.signature.parameter_bytes >= HUGE_PAGE_BYTES:
            use_huge_pages()
        self._model.arm()

    def run(
        self,
        ranges: Sequence[tuple[int, int]],
        on_attempt: Callable[[float], None] = lambda expected_s: None,
    ) -> str | None:
        """Predict the rows of `ranges` as one batch.

        A batch that fails is retried in halves, down to single rows.

        Args:
            ranges: of this arena, together at most the instance's batch size.
            on_attempt: called before each attempt with the seconds that it is expected to take.

        Returns:
            The error of rows that failed, empty if none did; None if all rows had ended already, so
            that none was predicted.

        Raises:
            DeviceLost: if the device fails on everything; the failed rows stay unmarked then.
        """
        arena = self._arena
        start, stop = ranges[0]
        if len(ranges) == 1:
            slots: slice | Cells = arena.slots(start, stop)
            rows = arena.row_numbers(start, stop)
        else:
            rows = np.concatenate([arena.row_numbers(start, stop) for start, stop in ranges])
            slots = rows % arena.capacity
        if self._closing[start % arena.capacity] == start and self._all_ended(slots, rows):
            return None  # closed while the job was queued
        on_attempt(max(self.latency_s))
        predicted = self._attempt(slots, rows, on_attempt)
        if isinstance(predicted, str):
            if len(rows) == 1:
                if self._probes_device:
                    self._probe(predicted)
                self._log_failure(predicted)
                self._done[slots] = -rows
                return predicted
            first, second = _split(ranges, len(rows) // 2)
            errors = self.run(first, on_attempt), self.run(second, on_attempt)
            return errors[0] or errors[1] or (None if None in errors else "")
        self._done[slots], error = predicted
        if error:
            self._log_failure(error)
        return error

    def _log_failure(self, error: str) -> None:
        _log.warning("member %s failed on a row: %s", self.spec.source.member, error)

    def _attempt(
        self, slots: slice | Cells, rows: Cells, on_attempt: Callable[[float], None]
    ) -> tuple[Cells, str] | str:
        """Predict rows and store the predictions; return their `done` cells, or the error.

        With the cells comes the error of rows that failed by themselves. No reference to a failed
        attempt is kept, so that smaller ones can use its memory.
        """
        try:
            if self._variable is None:
                predictions = self._predict([one.read(slots) for one in self._inputs])
                return self._store(predictions, slots, rows)
            done, errors = rows.copy(), ""
            for number, part in enumerate(self._variable.parts(slots)):
                if number:
                    on_attempt(max(self.latency_s))
                predictions = self._predict(self._variable.read(part), part)
                where = part.positions
                done[where], error = self._store(predictions, part.slots, rows[where])
                errors = errors or error
        except Exception as error:
            self.failure = f"{type(error).__name__}: {error}"
            return self.failure
        return done, errors

    def _store(
        self, predictions: Sequence[Array], slots: slice | Cells, rows: Cells
    ) -> tuple[Cells, str]:
        """Write predictions; return the `done` cells, and the error of rows that have none."""
        if self._only is not None and self._only.write(slots, predictions[0]) is None:
            return rows, ""
        error = ""
        for place, output in enumerate(self._outputs):
            failed = output.write(slots, predictions[place])
            if failed is not None:
                rows = np.where(failed, -np.abs(rows), rows)
                error = f"{output.invalid} in its output"
        return rows, error

    def _probe(self, error: str) -> None:
        """Check that a failure is the row's own: some errors make a GPU unusable for a process.

        Raises:
            DeviceLost: if the member fails on anything now.
        """
        try:
            part, inputs = self._examples(1)
            self._predict(inputs, part)
        except Exception as failure:
            text = f"{type(failure).__name__} {failure}".lower()
            if "memory" in text and "illegal memory access" not in text:
                return  # other batches may have enough of it
            raise DeviceLost(
                f"after an error of member {self.spec.source.member!r} ({error}) the device does "
                f"not compute any more: {failure}"
            ) from failure

    def _all_ended(self, slots: slice | Cells, rows: Cells) -> bool:
        return bool((np.abs(self._arena.ended[slots]) == rows).all())

    def _predict(self, inputs: list[Array], part: Part | None = None) -> list[Array]:
        """Return the predictions of rows; `part` has their sizes if these vary."""
        answers = self._model.predict(inputs)
        if self._only is not None:
            return [self._only.prepare(answers[0], len(inputs[0]), part)]
        rows = len(inputs[0]) // self._variants
        if self.spec.augmentation is not None:
            answers = [*answers, answers[0]]
        return [output.prepare(answers[i], rows, part) for i, output in enumerate(self._outputs)]

    def _examples(self, batch: int) -> tuple[Part | None, list[Array]]:
        """Return plausible rows, the model's own example if it has one, and their sizes."""
        part = None
        if self._variable is not None:
            part, inputs = self._variable.examples(batch)
        else:
            generator = np.random.default_rng(0)
            inputs = [one.random(batch, generator) for one in self._inputs]
        if self._model.example is not None:
            shapes = [one.shape for one in inputs]
            inputs = list(map(repeated, self._model.example, shapes))
        return part, inputs


def _inputs(spec: InstanceSpec, arena: Arena) -> list[ModelInput]:
    """The inputs of an instance's model, in its order."""
    augments: Sequence[_Function | None] = [None] * len(spec.bindings)
    if spec.augmentation is not None:
        from workers.worker.augmentation import augments_of  # noqa: PLC0415  (only where it is configured)

        is_image = [binding.scaling is not None for binding in spec.bindings]
        augments = augments_of(spec.augmentation, is_image)
    return [
        ModelInput(
            arena.views[binding.view],
            arena.spec.views[binding.view].datatype,
            binding.scaling,
            tensor.datatype,
            augment,
        )
        for binding, tensor, augment in zip(
            spec.bindings, spec.signature.inputs, augments, strict=True
        )
    ]


def _outputs(spec: InstanceSpec, arena: Arena) -> list[ModelOutput]:
    """The outputs of an instance's model; then, if it augments, the variance of the first."""
    specs, tensors = list(spec.outputs), list(spec.signature.outputs)
    areas = [arena.predictions[output.area] for output in specs]
    merges: list[_Function | None] = [None] * len(specs)
    if spec.augmentation is not None:
        from workers.worker.augmentation import combiner, variance_of  # noqa: PLC0415

        merges = [
            combiner(spec.augmentation, output, area.dtype)
            for output, area in zip(specs, areas, strict=True)
        ]
        merges.append(variance_of(spec.augmentation, specs[0]))
        areas.append(arena.predictions[spec.augmentation.variance_area])
        specs, tensors = [*specs, specs[0]], [*tensors, tensors[0]]
    return [
        ModelOutput(output, tensor.name, area, merge=merge, symbols=arena.spec.symbols)
        for output, tensor, area, merge in zip(specs, tensors, areas, merges, strict=True)
    ]


def _split(
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
