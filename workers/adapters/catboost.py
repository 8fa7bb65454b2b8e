"""CatBoost's models, from `.cbm` files.

Runs in workers and in inspection. A matrix ``x``, or columns for a model with names or with
categorical features, flow in; probabilities of a classifier, or values, flow out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import catboost
import numpy as np

from workers.adapters import AdapterError
from workers.adapters.formats import wrong_format
from workers.adapters.tables import NUMBER, Array, Column, Table, cores
from workers.runtime.spec import TensorSpec

__all__ = ["CatboostModel"]

#: Losses whose predictions are probabilities; of several labels, not of one, they are values.
_CLASSIFIERS = {"Logloss", "CrossEntropy", "MultiClass", "MultiClassOneVsAll"}


class CatboostModel:
    """A classifier or a regressor.

    Args:
        path: the file.
        declared: columns that the configuration describes, by name.
    """

    def __init__(self, *, path: str, declared: Mapping[str, TensorSpec] | None = None) -> None:
        self._path = Path(path)
        self._declared = declared or {}

    def load(self, device: str) -> None:
        """Open the file; the model runs on the CPU, on the cores of the process.

        Raises:
            AdapterError: if it is no such model, or has features that can't be served.
        """
        if wrong := wrong_format(self._path, "catboost"):
            raise AdapterError(wrong)
        model = catboost.CatBoost()
        try:
            model.load_model(str(self._path))
        except catboost.CatBoostError as failure:
            reason = f"CatBoost {catboost.__version__} can't load it: {failure}"
            raise AdapterError(reason) from failure
        self._model = model
        self._table = self._make_table()
        self.inputs, self.example = self._table.inputs, self._table.example
        loss = json.loads(model.get_metadata()["params"])["loss_function"]["type"]
        self._kind = "RawFormulaVal"
        self.output = "values"
        if loss in _CLASSIFIERS:
            self._kind, self.output = "Probability", "probabilities"
            self.labels = [str(one) for one in model.classes_]
        elif loss == "RMSEWithUncertainty":
            self._kind = loss
        elif loss.startswith("Multi") and len(model.classes_):
            self._kind = "Probability"  # of each label by itself

    def predict(self, **arrays: Array) -> Array:
        """Return probabilities [rows, classes], or values [rows] or [rows, targets]."""
        try:
            found = self._model.predict(
                self._table.frame(arrays), prediction_type=self._kind, thread_count=cores()
            )
        except catboost.CatBoostError as failure:
            raise RuntimeError(" ".join(str(failure).split())) from failure
        return np.asarray(found)

    def _make_table(self) -> Table:
        names, texts = self._model.feature_names_, self._model.get_text_feature_indices()
        categorical = self._model.get_cat_feature_indices()
        if self._model.get_embedding_feature_indices():
            raise AdapterError("has embedding features, which are not columns: export it to ONNX")
        if not categorical and not texts and names == [str(i) for i in range(len(names))]:
            return Table((), width=len(names))
        columns = []
        for i, name in enumerate(names):
            datatype = "BYTES" if i in categorical or i in texts else NUMBER
            given = self._declared.get(name)
            columns.append(Column(name, given.datatype if given else datatype))
        return Table(columns, width=len(names))
