"""scikit-learn's models: estimators and pipelines, from `.skops` files or trusted pickles.

Runs in workers and in inspection. Columns of a data frame, or a matrix ``x`` for a model without
names of features, flow in; what a method of the model returns flows out, under the method's name.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import skops.io
from sklearn.base import is_classifier

from workers.adapters import AdapterError
from workers.adapters.formats import recognise, wrong_format
from workers.adapters.pickles import open_pickle
from workers.adapters.sklearn_columns import column_types
from workers.adapters.tables import Array, Table, undeclared
from workers.runtime.spec import TensorSpec

__all__ = ["SklearnModel"]

#: Methods whose result can be served, and what it is.
_METHODS = {
    "predict_proba": "probabilities",
    "predict": "values",
    "decision_function": "values",
    "transform": "values",
    "score_samples": "values",
}
#: Classes of these packages hold arrays and parameters: to load them runs no other code.
_KNOWN_PACKAGES = {"sklearn", "numpy", "xgboost", "lightgbm", "catboost"}
#: Parts of them that skops calls functions, or that it has to call.
_KNOWN_FUNCTIONS = {
    "collections.OrderedDict",
    "functools.partial",  # its function is looked at by itself
    "sklearn.utils.validation.check_array",
}


class SklearnModel:
    """An estimator or a pipeline, also one of another library with scikit-learn's interface.

    Args:
        path: the file.
        trust_pickle: whether to load what may run code: a pickle, or types unknown to skops.
        declared: columns that the configuration describes, by name.
        types: datatypes by column, for columns whose type the model does not tell.
        outputs: the methods to serve; the usual one if empty. A method that returns a list, as
            `predict_proba` does for several targets, has outputs ``predict_proba_0`` and so on.
    """

    def __init__(
        self,
        *,
        path: str,
        trust_pickle: bool = False,
        declared: Mapping[str, TensorSpec] | None = None,
        types: Mapping[str, str] | None = None,
        outputs: Sequence[str] = (),
    ) -> None:
        self._path = Path(path)
        self._trusts = trust_pickle
        self._declared = {name: spec.datatype for name, spec in (declared or {}).items()}
        self._types = types or {}
        self._outputs = outputs

    def load(self, device: str) -> None:
        """Open the file; the model runs on the CPU, whatever the device.

        Raises:
            AdapterError: if it is no such model, can't be trusted, or lacks an output.
        """
        model = _open(self._path, trusted=self._trusts)
        self._methods = _chosen_methods(model, self._outputs)
        self._model = model
        self._classes = getattr(model, "classes_", None) if is_classifier(model) else None
        self._table = _table(model, self._declared, self._types)
        self.inputs, self.example = self._table.inputs, self._table.example
        self._places = {label: i for i, label in enumerate(self._targets()[0])}
        self.output, self.labels = self._meanings()

    def predict(self, **arrays: Array) -> dict[str, Array]:
        """Return the results of the methods for a batch, by output."""
        rows = self._table.frame(arrays)
        found: dict[str, Array] = {}
        for method in self._methods:
            result = getattr(self._model, method)(rows)
            if isinstance(result, list):
                found |= {f"{method}_{i}": np.asarray(one) for i, one in enumerate(result)}
            elif self.output.get(method) == "class":
                found[method] = np.array([self._places[one] for one in result], np.int64)
            else:
                found[method] = result.toarray() if hasattr(result, "toarray") else result
        return found

    def _targets(self) -> list[Any]:
        """The classes of each target; one without any for a model that is no classifier."""
        if self._classes is None:
            return [[]]
        return self._classes if isinstance(self._classes, list) else [self._classes]

    def _meanings(self) -> tuple[dict[str, str], dict[str, list[str]]]:
        """What the outputs are, and the labels of those with an element per class."""
        if self._classes is None:
            return {}, {}
        targets = self._targets()
        several = isinstance(self._classes, list)
        kinds = {}
        labels = {}
        for i, classes in enumerate(targets):
            name = f"predict_proba_{i}" if several else "predict_proba"
            kinds[name] = "probabilities"
            labels[name] = [str(one) for one in classes]
        if not several:
            kinds["predict"], labels["predict"] = "class", labels["predict_proba"]
        return kinds, labels


def _open(path: Path, *, trusted: bool) -> Any:
    """Return the fitted model in a file, or raise AdapterError."""
    if wrong := wrong_format(path, "sklearn"):
        raise AdapterError(wrong)
    if recognise(path).is_pickle:
        model = open_pickle(path, trusted=trusted)
    else:
        model = _open_skops(path, trusted=trusted)
    if not _methods(model):
        kind = f"{type(model).__module__}.{type(model).__name__}"
        raise AdapterError(f"holds {kind}, which has none of the methods {', '.join(_METHODS)}")
    if not hasattr(model, "n_features_in_") and not hasattr(model, "feature_names_in_"):
        raise AdapterError(f"the {type(model).__name__} in it is not fitted: fit it, then save it")
    if library := _with_categories(model):
        raise AdapterError(
            f"the {type(model).__name__} in it was fitted on pandas' categories, which only its "
            f"own file keeps: save that with save_model, and use {{{library}: FILE}}"
        )
    return model


def _with_categories(model: Any) -> str:
    """Return the library whose own file keeps the categories of a model, empty if it has none."""
    library = type(model).__module__.partition(".")[0]
    if library == "lightgbm" and model.booster_.pandas_categorical:
        return library
    if library == "xgboost" and "c" in (model.get_booster().feature_types or []):
        return library
    return ""


def _open_skops(path: Path, *, trusted: bool) -> Any:
    try:
        types = skops.io.get_untrusted_types(file=path)
        unknown = [name for name in types if not _is_known(name)]
        if unknown and not trusted:
            raise AdapterError(
                f"uses {', '.join(unknown)}, which can run any code: save the model without, or "
                "serve it from Python code with {python: FILE.py:CLASS}; if you trust whoever made "
                "the file, write trust_pickle: true under the member's model"
            )
        return skops.io.load(path, trusted=types)
    except AdapterError:
        raise
    except ModuleNotFoundError as missing:
        raise AdapterError(f"needs the module {missing.name}, which is not installed") from missing
    except Exception as failure:
        raise AdapterError(
            f"skops can't load it ({type(failure).__name__}: {failure}): it may be of another "
            "version of scikit-learn, install that or save the model again"
        ) from failure


def _is_known(name: str) -> bool:
    """Whether a type or function in a skops file does nothing but what these libraries do."""
    module, _, member = name.rpartition(".")
    if name in _KNOWN_FUNCTIONS or name == "numpy.dtype":
        return True
    if module.partition(".")[0] not in _KNOWN_PACKAGES or ".externals" in module:
        return False
    return isinstance(getattr(importlib.import_module(module), member, None), type)


def _methods(model: Any) -> list[str]:
    return [name for name in _METHODS if callable(getattr(model, name, None))]


def _chosen_methods(model: Any, outputs: Sequence[str]) -> list[str]:
    """Return the methods to call: for these outputs, or the usual one."""
    have = _methods(model)
    if not outputs:
        if is_classifier(model) and have[0] != "predict_proba":
            raise AdapterError(
                f"{type(model).__name__} gives no probabilities: choose by output_name what to "
                f"serve ({', '.join(have)}; predict gives the class), or calibrate it with "
                "CalibratedClassifierCV"
            )
        return have[:1]
    chosen = []
    for name in outputs:
        method = name.rstrip("0123456789").removesuffix("_")
        if name not in have and method not in have:
            raise AdapterError(f"has no output {name!r}; it has: {', '.join(have)}")
        chosen.append(name if name in have else method)
    return list(dict.fromkeys(chosen))


def _table(model: Any, declared: Mapping[str, str], types: Mapping[str, str]) -> Table:
    if not hasattr(model, "feature_names_in_"):
        return Table((), width=int(model.n_features_in_))
    columns = column_types(model, declared, types)
    if unknown := [name for name, column in columns.items() if column is None]:
        raise AdapterError(undeclared(unknown))
    known = [column for column in columns.values() if column is not None]
    return Table(known, width=len(known))
