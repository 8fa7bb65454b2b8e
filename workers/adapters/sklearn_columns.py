"""Which columns a fitted scikit-learn model takes, and of which types.

Runs in workers and in inspection; pure. A model fitted on a data frame flows in, its columns flow
out. A model knows only the names: the types are those of the categories that its encoders have
seen; what reaches an estimator without an encoder must be a number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.preprocessing import FunctionTransformer

from workers.adapters.tables import NUMBER, Column

__all__ = ["column_types"]

#: Packages whose estimators take numbers, unless they are encoders.
_NUMERIC = {"sklearn", "xgboost", "lightgbm", "catboost"}
#: Where estimators that wrap others keep them after `fit`.
_WRAPPED = (
    "best_estimator_",
    "estimator_",
    "estimators_",
    "calibrated_classifiers_",
    "estimator",
    "regressor_",
)


def column_types(
    model: Any, declared: Mapping[str, str], types: Mapping[str, str]
) -> dict[str, Column | None]:
    """Return the columns that a model uses, in its order; None where the type is unknown.

    Args:
        model: fitted on a data frame: it has `feature_names_in_`.
        declared: datatypes by column, which take precedence.
        types: datatypes by column, for those that would be unknown.
    """
    names = [str(name) for name in model.feature_names_in_]
    walk = _Walk()
    walk.visit(model, names)
    columns: dict[str, Column | None] = {}
    for name in names:
        if name not in walk.used:
            continue
        found = walk.found.get(name)
        datatype = declared.get(name) or (found.datatype if found else types.get(name))
        known = found is not None and found.datatype == datatype
        columns[name] = found if known or datatype is None else Column(name, datatype)
    return columns


class _Walk:
    """Follows columns through a model, up to the first step that changes them."""

    def __init__(self) -> None:
        self.used: set[str] = set()
        self.found: dict[str, Column] = {}

    def visit(self, step: Any, names: Sequence[str]) -> None:
        """Record what a step tells about the columns that it is given."""
        if isinstance(step, Pipeline):
            self._visit_steps([one for _, one in step.steps], names)
        elif isinstance(step, ColumnTransformer):
            for _, one, chosen in step.transformers_:
                if not (isinstance(one, str) and one == "drop"):
                    self.visit(one, _chosen(names, chosen))
        elif isinstance(step, FeatureUnion):
            for _, one in step.transformer_list:
                self.visit(one, names)
        elif encoder := getattr(step, "_preprocessor", None):  # histogram-based gradient boosting
            self.visit(encoder, names)
        elif wrapped := _wrapped(step):
            for one in wrapped:
                self.visit(one, names)
        else:
            self.used.update(names)
            self._visit_estimator(step, names)

    def _visit_steps(self, steps: Sequence[Any], names: Sequence[str]) -> None:
        """A step that only fills in missing values leaves the question to the next one."""
        for step in steps:
            self.visit(step, names)
            if not (isinstance(step, str) or hasattr(step, "statistics_")):
                return

    def _visit_estimator(self, step: Any, names: Sequence[str]) -> None:
        if hasattr(step, "categories_"):
            for name, categories in zip(names, step.categories_, strict=True):
                self._tell(name, categories)
        elif hasattr(step, "statistics_"):  # an imputer: numbers, or texts
            for name, value in zip(names, step.statistics_, strict=True):
                self._tell(name, [value] if isinstance(value, str) else [0.0])
        elif isinstance(step, CountVectorizer | HashingVectorizer):
            for name in names:
                self._tell(name, ["a"])
        elif _takes_numbers(step):
            for name in names:
                self._tell(name, [0.0])

    def _tell(self, name: str, values: Iterable[Any]) -> None:
        """Record a column by values that it has; an encoder's are better than none."""
        value = next((one for one in values if not _is_missing(one)), 0.0)
        column = Column(name, _datatype(value), value)
        known = self.found.get(name)
        if known is None or known.datatype == NUMBER:
            self.found[name] = column


def _chosen(names: Sequence[str], chosen: Any) -> list[str]:
    """The columns that a `ColumnTransformer` gives to a transformer: by name, place or mask."""
    if isinstance(chosen, str):
        return [chosen]
    if isinstance(chosen, slice) and isinstance(chosen.start or chosen.stop, str):
        start = names.index(chosen.start) if chosen.start else 0
        stop = names.index(chosen.stop) + 1 if chosen.stop else len(names)
        return list(names[start:stop])
    if not isinstance(chosen, int | slice) and any(isinstance(one, str) for one in chosen):
        return [str(one) for one in chosen]
    return [str(one) for one in np.atleast_1d(np.array(names, object)[chosen])]


def _wrapped(step: Any) -> list[Any]:
    """The fitted estimators inside of one that gives them the columns as they are."""
    kinds = (Pipeline, ColumnTransformer, FeatureUnion)
    for attribute in _WRAPPED:
        inner = getattr(step, attribute, None)
        found = inner if isinstance(inner, list) else [inner]
        if attribute == "calibrated_classifiers_":
            found = [getattr(one, "estimator", None) for one in found]
        if pipelines := [one for one in found if isinstance(one, kinds)]:
            return pipelines
    return []


def _takes_numbers(step: Any) -> bool:
    if isinstance(step, str):  # passed through to an estimator
        return True
    if isinstance(step, FunctionTransformer):
        called = getattr(step.func, "func", step.func)  # of a partial
        own = getattr(called, "__module__", "").partition(".")[0] == "sklearn"
        return called is None or isinstance(called, np.ufunc) or own
    package = type(step).__module__.partition(".")[0]
    return isinstance(step, BaseEstimator) and package in _NUMERIC


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float | np.floating) and np.isnan(value))


def _datatype(value: Any) -> str:
    if isinstance(value, str | bytes):
        return "BYTES"
    if isinstance(value, bool | np.bool_):
        return "BOOL"
    return NUMBER
