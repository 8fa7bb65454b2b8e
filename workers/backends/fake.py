"""A member without a network: for tests, fault injection and measurements of overhead.

Runs in workers and in inspection. Row i of an output is the first elements of row i of the first
input, flattened and repeated as often as needed, as float32, plus `add`: so every output identifies
its request.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from workers.backends.base import Array, Model, choose_outputs, refusal
from workers.backends.sizes import SizesError, bounded_inputs
from workers.runtime.spec import (
    FakeOptions,
    ModelSignature,
    ModelSource,
    TensorSpec,
    variable_symbols,
)

__all__ = ["EXIT_CODE", "FakeModel"]

#: The exit code of a worker that a fake member ends.
EXIT_CODE = 13


class FakeModel(Model):
    """A model whose outputs, speed and failures follow its `FakeOptions`."""

    def __init__(self, source: ModelSource) -> None:
        if source.fake is None or not source.fake.inputs or not source.fake.outputs:
            raise refusal(source, "a fake needs `inputs` (at least one) and `outputs` (1 or more)")
        self._options: FakeOptions = source.fake
        shapes = source.fake.inputs.items()
        described = [
            TensorSpec(name, "FP32", shape, symbols=variable_symbols(name, shape))
            for name, shape in shapes
        ]
        try:
            inputs = bounded_inputs(source.member, described, source.limits)
        except SizesError as unfit:
            raise refusal(source, str(unfit)) from unfit
        if inputs[0].elements == 0:
            raise refusal(source, f"the fake's first input {inputs[0].name!r} has no elements")
        sizes = source.fake.outputs
        known = sizes if isinstance(sizes, dict) else {"output": (sizes,)}
        chosen = choose_outputs(source, [*known])
        outputs = tuple(
            TensorSpec(name, "FP32", source.padded.get(name, known[name])) for name in chosen
        )
        self.signature = ModelSignature(inputs, outputs, parameter_bytes=0)
        self._shapes = [(-1, *known[name]) for name in chosen]
        self._elements = [math.prod(known[name]) for name in chosen]
        self._columns: dict[int, list[Array]] = {}
        self._armed = False

    def arm(self) -> None:
        """Fail from now on, if so configured."""
        self._armed = True

    def predict(self, inputs: Sequence[Array]) -> list[Array]:
        """Return [n, *shape] float32 per output, or fail as configured."""
        rows = np.asarray(inputs[0], np.float32).reshape(len(inputs[0]), -1)
        if self._options.sleep_ms > 0:
            time.sleep(self._options.sleep_ms / 1000)
        added = np.float32(self._options.add)
        answers = [rows[:, columns] + added for columns in self._columns_of(rows.shape[1])]
        if self._armed and self._options.fail != "none":
            self._fail(rows, answers[0])
        return [answer.reshape(shape) for answer, shape in zip(answers, self._shapes, strict=True)]

    def close(self) -> None:
        """Do nothing."""

    def _columns_of(self, elements: int) -> list[Array]:
        """Return which of so many elements each output consists of."""
        columns = self._columns.get(elements)
        if columns is None:
            columns = [np.arange(wanted) % elements for wanted in self._elements]
            self._columns[elements] = columns
        return columns

    def _fail(self, rows: npt.NDArray[np.float32], answer: npt.NDArray[np.float32]) -> None:
        """Fail if a row has the configured value; NaN is written to `answer`."""
        value = self._options.fail_value
        hit = np.ones(len(rows), np.bool_) if value is None else rows[:, 0] == np.float32(value)
        if not hit.any():
            return
        match self._options.fail:
            case "raise":
                raise RuntimeError("a fake member raised, as configured")
            case "alloc":
                raise MemoryError("a fake member ran out of memory, as configured")
            case "exit":
                os._exit(EXIT_CODE)
            case "hang":
                threading.Event().wait()
            case _:
                answer[hit] = np.nan
