"""Models whose means and variances are outputs of their own, as if they were one output.

Runs in workers and in inspection, around the model of any backend. Its outputs flow in; those that
belong together flow out as one array with both along a new last axis.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from ensembled_client.wire import datatype_of

from workers.backends.base import Array, Model, refusal
from workers.runtime.spec import ModelSource, TensorSpec, Work

__all__ = ["JoinedModel", "separate"]


def separate(source: ModelSource) -> ModelSource:
    """Return the source of the model itself, with all of its outputs."""
    names = dict.fromkeys((*source.outputs, *source.spreads.values()))
    return msgspec.structs.replace(source, outputs=tuple(names), spreads={})


class JoinedModel(Model):
    """A model that joins each of `source.spreads` to the output that it belongs to.

    Raises:
        ModelError: if two such outputs differ in their shape.
    """

    def __init__(self, model: Model, source: ModelSource) -> None:
        self._model, self.example = model, model.example
        found = {one.name: (i, one) for i, one in enumerate(model.signature.outputs)}
        self._parts: list[tuple[int, ...]] = []
        outputs = []
        for name in source.outputs:
            place, output = found[name]
            parts: tuple[int, ...] = (place,)
            if name in source.spreads:
                second, spread = found[source.spreads[name]]
                parts, output = (place, second), _joined(source, output, spread)
            self._parts.append(parts)
            outputs.append(output)
        self.signature = msgspec.structs.replace(model.signature, outputs=tuple(outputs))

    def arm(self) -> None:
        """See `workers.backends.Model`."""
        self._model.arm()

    def predict(self, inputs: Sequence[Array]) -> Sequence[Array]:
        """Return the outputs [n, ...]; of those that are joined, [n, ..., 2]."""
        raw = self._model.predict(inputs)
        return [
            raw[part[0]] if len(part) == 1 else np.stack([raw[i] for i in part], axis=-1)
            for part in self._parts
        ]

    def count_work(self) -> Work | None:
        """See `workers.backends.Model`."""
        return self._model.count_work()

    def close(self) -> None:
        """See `workers.backends.Model`."""
        self._model.close()


def _joined(source: ModelSource, output: TensorSpec, spread: TensorSpec) -> TensorSpec:
    """Return the spec of two outputs along a new last axis, or raise ModelError."""
    if spread.shape != output.shape:
        raise refusal(
            source,
            f"output {output.name!r} has shape {list(output.shape)} per row, but its spread "
            f"{spread.name!r} has {list(spread.shape)}",
        )
    return TensorSpec(
        output.name,
        datatype_of(np.promote_types(output.dtype, spread.dtype)),
        (*output.shape, 2),
        (*output.max_shape, 2) if output.max_shape else (),
        (*output.symbols, "") if output.symbols else (),
    )
