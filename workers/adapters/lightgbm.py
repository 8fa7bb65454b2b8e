"""LightGBM's models, from the text files that `Booster.save_model` writes.

Runs in workers and in inspection. A matrix ``x``, or columns for a model with names of features,
flow in; probabilities of a classifier, or values, flow out, as `LGBMClassifier.predict_proba` and
`Booster.predict` give them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np

from workers.adapters import AdapterError
from workers.adapters.formats import wrong_format
from workers.adapters.tables import NUMBER, Array, Column, Table, cores

__all__ = ["LightgbmModel"]

#: How LightGBM calls features without names.
_UNNAMED = re.compile(r"Column_\d+")
#: Objectives whose prediction is a probability, or one per class.
_BINARY = {"binary", "cross_entropy"}
_MULTICLASS = {"multiclass", "multiclassova"}
_END = "\nend of trees"


class LightgbmModel:
    """A booster, of a classifier, a regressor or trained directly."""

    def __init__(self, *, path: str) -> None:
        self._path = Path(path)

    def load(self, device: str) -> None:
        """Open the file; LightGBM predicts on the CPU, on the cores of the process.

        Raises:
            AdapterError: if it is no such model.
        """
        if wrong := wrong_format(self._path, "lightgbm"):
            raise AdapterError(wrong)
        text = self._path.read_text(encoding="utf-8", errors="replace")
        if _END not in text:  # on which LightGBM would end the process
            raise AdapterError("the file is truncated: copy it again")
        try:
            self._booster = lightgbm.Booster(model_str=text)
        except lightgbm.basic.LightGBMError as failure:
            raise AdapterError(
                f"LightGBM {lightgbm.__version__} can't load it: {failure}"
            ) from failure
        self._table = _table(self._booster, text)
        self.inputs, self.example = self._table.inputs, self._table.example
        objective = _value(text, "objective").partition(" ")[0]
        self._is_binary = objective in _BINARY
        self.output = "values"
        if self._is_binary or objective in _MULTICLASS:
            self.output = "probabilities"

    def predict(self, **arrays: Array) -> Array:
        """Return probabilities [rows, classes], or values [rows]."""
        found: Any = self._booster.predict(
            self._table.numbers(arrays, np.float64), num_threads=cores()
        )
        array: Array = np.asarray(found)
        return np.stack([1 - array, array], axis=-1) if self._is_binary else array


def _table(booster: Any, text: str) -> Table:
    names = booster.feature_name()
    if all(_UNNAMED.fullmatch(name) for name in names):
        return Table((), width=len(names))
    kept = _categories(booster, text)
    columns = [_column(name, kept.get(i, ())) for i, name in enumerate(names)]
    return Table(columns, width=len(names))


def _column(name: str, categories: Sequence[Any]) -> Column:
    """Return a column: of numbers, or of categories, of which unknown ones are missing."""
    if not categories:
        return Column(name, NUMBER)
    codes = {category: code for code, category in enumerate(categories)}
    first = categories[0]
    return Column(name, "BYTES" if isinstance(first, str) else NUMBER, first, codes)


def _categories(booster: Any, text: str) -> dict[int, Sequence[Any]]:
    """Return the categories of a data frame's categorical columns, by the column's place."""
    if not booster.pandas_categorical:
        return {}
    places = sorted(map(int, _value(text, "[categorical_feature", ":").rstrip("]").split(",")))
    return dict(zip(places, booster.pandas_categorical, strict=False))


def _value(text: str, key: str, separator: str = "=") -> str:
    """Return the value of a key at the beginning of a line, empty if there is none."""
    found: Iterator[re.Match[str]] = re.finditer(rf"^{re.escape(key + separator)}(.*)$", text, re.M)
    return next((match[1].strip() for match in found), "")
