"""Outputs of classical ONNX models: a map from classes to probabilities per row, labels as text.

Runs in workers and in inspection. What onnxruntime returns for such outputs flows in, arrays and
the classes' labels flow out. Converters of scikit-learn and of boosted trees write such models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from workers.backends.base import Array, refusal
from workers.runtime.spec import ModelSource

__all__ = ["ClassMaps", "preferred_output", "refuse_texts"]

_MAPS = "seq(map("
_TEXT = "tensor(string)"
_LABELS = (_TEXT, "tensor(int64)")


class ClassMaps:
    """The outputs that are maps: a dict per row, from each class to its probability.

    Attributes:
        labels: the classes of each such output, by its name, in the order of its columns; known
            after the first run.
    """

    def __init__(self, types: Mapping[str, str], outputs: Sequence[str]) -> None:
        self._places = {
            place: name for place, name in enumerate(outputs) if types[name].startswith(_MAPS)
        }
        self._keys: dict[str, tuple[Any, ...]] = {}

    @property
    def labels(self) -> dict[str, tuple[str, ...]]:
        """See the class."""
        return {name: tuple(map(str, keys)) for name, keys in self._keys.items()}

    def unpack(self, outputs: list[Any]) -> list[Array]:
        """Return the outputs with arrays [n, classes] in the place of maps.

        Raises:
            RuntimeError: if a row has other classes than the first row ever.
        """
        for place, name in self._places.items():
            rows: Sequence[Mapping[Any, float]] = outputs[place]
            keys = self._keys.setdefault(name, tuple(rows[0]))
            try:
                columns = [[row[key] for key in keys] for row in rows]
            except KeyError as missing:
                raise RuntimeError(f"a row of {name!r} has no class {missing}") from None
            outputs[place] = np.array(columns, np.float32).reshape(len(rows), len(keys))
        return outputs


def preferred_output(types: Mapping[str, str]) -> tuple[str, ...]:
    """Return the only map of a model that beside it has labels alone, else nothing."""
    maps = [name for name, kind in types.items() if kind.startswith(_MAPS)]
    others = [kind for kind in types.values() if not kind.startswith(_MAPS)]
    return tuple(maps) if len(maps) == 1 and set(others) <= set(_LABELS) else ()


def refuse_texts(source: ModelSource, types: Mapping[str, str], outputs: Sequence[str]) -> None:
    """Raise ModelError if an output is text, which can't be combined."""
    for name in outputs:
        if types[name] == _TEXT:
            others = [other for other, kind in types.items() if kind != _TEXT]
            other = f"use the output {' or '.join(map(repr, others))}, or " if others else ""
            raise refusal(
                source,
                f"output {name!r} is text, which can't be combined: {other}have the model give the "
                "class's number",
            )
