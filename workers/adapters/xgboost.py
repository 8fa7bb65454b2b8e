"""XGBoost's models, from `.json` and `.ubj` files.

Runs in workers and in inspection. A matrix ``x``, or columns for a model with names of features,
flow in; probabilities of a classifier, or values, flow out, as XGBoost's own scikit-learn interface
gives them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xgboost

from workers.adapters import AdapterError
from workers.adapters.formats import wrong_format
from workers.adapters.tables import NUMBER, Array, Column, Table, cores

__all__ = ["XgboostModel"]

#: What XGBoost puts around its messages: a time, the place in its source, and a stack trace.
_NOISE = re.compile(r"^(\[[\d:]+\] )?(\S+:\d+: )?(Check failed: .*?: )?")


class XgboostModel:
    """A booster, as `Booster.save_model` or `XGBClassifier.save_model` wrote it."""

    def __init__(self, *, path: str) -> None:
        self._path = Path(path)

    def load(self, device: str) -> None:
        """Open the file, on as many cores as the process has or on a GPU.

        Raises:
            AdapterError: if it is no such model.
        """
        if wrong := wrong_format(self._path, "xgboost"):
            raise AdapterError(wrong)
        try:
            booster = xgboost.Booster(model_file=self._path)
        except xgboost.core.XGBoostError as failure:
            reason = f"XGBoost {xgboost.__version__} can't load it: {_reason(failure)}"
            raise AdapterError(reason) from failure
        booster.set_param({"nthread": cores(), "device": device})
        self._booster = booster
        document = json.loads(booster.save_raw("json"))["learner"]
        self._table = _table(booster, document)
        self.inputs, self.example = self._table.inputs, self._table.example
        objective = document["objective"]["name"]
        self._is_binary = objective == "binary:logistic"
        self._has_margins = objective == "multi:softmax"
        self.output = "values"
        if self._is_binary or objective.startswith("multi:soft"):
            self.output = "probabilities"
        # With early stopping, the trees after the best ones are not used.
        best = booster.attributes().get("best_iteration")
        self._trees = (0, int(best) + 1) if best is not None else (0, 0)

    def predict(self, **arrays: Array) -> Array:
        """Return probabilities [rows, classes], or values [rows] or [rows, targets]."""
        try:
            found = self._booster.inplace_predict(
                self._table.numbers(arrays, np.float32),
                iteration_range=self._trees,
                predict_type="margin" if self._has_margins else "value",
            )
        except xgboost.core.XGBoostError as failure:
            raise RuntimeError(_reason(failure)) from failure
        array: Array = np.asarray(found)
        if self._is_binary:
            return np.stack([1 - array, array], axis=-1)
        return _softmax(array) if self._has_margins else array


def _table(booster: Any, document: Mapping[str, Any]) -> Table:
    """Return the model's table: numbers, which XGBoost makes FP32, and categories by name."""
    names = booster.feature_names
    if not names:
        return Table((), width=booster.num_features())
    model = document["gradient_booster"]
    model = model.get("gbtree", model).get("model", {})  # `dart` holds a `gbtree`
    encoded = model.get("cats", {}).get("enc") or [{}] * len(names)
    columns = [_column(name, one) for name, one in zip(names, encoded, strict=True)]
    return Table(columns, width=len(names))


def _column(name: str, encoded: Mapping[str, Any]) -> Column:
    """Return a column: of numbers, or of the categories that the model keeps."""
    values = encoded.get("values", [])
    if not values:
        return Column(name, NUMBER)
    if "offsets" not in encoded:
        codes = {value: code for code, value in enumerate(values)}
        return Column(name, NUMBER, values[0], codes, is_closed=True)
    ends = encoded["offsets"]
    text = bytes(value & 0xFF for value in values)
    kept = [text[start:end] for start, end in zip(ends, ends[1:], strict=False)]
    stored = {_stored(one.decode(errors="replace")): code for code, one in enumerate(kept)}
    codes = stored | {one: code for code, one in enumerate(kept)}
    example = next((one for one in kept if one.isascii()), b"").decode()
    return Column(name, "BYTES", example, codes, key=_stored, is_closed=True)


def _stored(text: str) -> bytes:
    """Return a category as XGBoost keeps it: it takes as many bytes as there are characters."""
    return text.encode()[: len(text)]


def _softmax(margins: Array) -> Array:
    powers = np.exp(margins - margins.max(axis=1, keepdims=True))
    normalised: Array = powers / powers.sum(axis=1, keepdims=True)
    return normalised


def _reason(failure: Exception) -> str:
    """Return the useful part of a message of XGBoost, in one line."""
    message = str(failure).partition("Stack trace:")[0]
    return _NOISE.sub("", " ".join(message.split()))
