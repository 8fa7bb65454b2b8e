"""The tasks: data that scikit-learn ships, or makes from a fixed seed, and their fixed folds.

Pure, but for scikit-learn. Nothing flows in, inputs with what is true of them flow out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
from sklearn import datasets
from sklearn.model_selection import RepeatedKFold, RepeatedStratifiedKFold, train_test_split

from server.calibration.metrics import Array, Floats, Rows

__all__ = ["TASKS", "Fold", "Task", "folds"]

_SEED = 0
_ROWS = 1000
#: What is left of a fold's training rows to select on.
_VALID_SHARE = 0.3


@dataclass(frozen=True)
class Task:
    """Inputs x float64 [rows, features], and y: classes int64 [rows], or numbers float64 [rows]."""

    name: str
    x: Floats
    y: Array

    @property
    def of_classes(self) -> bool:
        """Whether classes are predicted."""
        return self.y.dtype.kind == "i"


@dataclass(frozen=True)
class Fold:
    """Numbers of rows: members are trained on `train`, selected on `valid`, judged on `test`."""

    train: Rows
    valid: Rows
    test: Rows


def folds(task: Task, count: int, repeats: int = 1) -> Iterator[Fold]:
    """Yield a task's folds, always the same; each row is tested on once per repetition."""
    make = RepeatedStratifiedKFold if task.of_classes else RepeatedKFold
    splits = make(n_splits=count, n_repeats=repeats, random_state=_SEED)
    for known, test in splits.split(task.x, task.y):
        train, valid = train_test_split(
            known,
            test_size=_VALID_SHARE,
            random_state=_SEED,
            stratify=task.y[known] if task.of_classes else None,
        )
        yield Fold(np.sort(train), np.sort(valid), np.sort(test))


def _shipped(name: str) -> Callable[[], Any]:
    return lambda: getattr(datasets, f"load_{name}")(return_X_y=True)


def _made(name: str, **options: Any) -> Callable[[], Any]:
    given = {"n_samples": _ROWS, "random_state": _SEED, **options}
    return lambda: getattr(datasets, f"make_{name}")(**given)


def _classification(**options: Any) -> Callable[[], Any]:
    return _made("classification", n_features=20, **options)


_MAKERS: Mapping[str, Callable[[], Any]] = MappingProxyType(
    {
        "iris": _shipped("iris"),
        "wine": _shipped("wine"),
        "breast-cancer": _shipped("breast_cancer"),
        "digits": _shipped("digits"),
        "moons": _made("moons", noise=0.3),
        "circles": _made("circles", noise=0.2, factor=0.6),
        "quantiles": _made("gaussian_quantiles", n_features=6, n_classes=4),
        "hastie": _made("hastie_10_2"),
        "noisy": _classification(n_informative=6, flip_y=0.2),
        "many-classes": _classification(n_informative=10, n_classes=8, class_sep=1.5),
        "rare-class": _classification(n_informative=5, weights=[0.95], flip_y=0.02),
        "clusters": _classification(n_informative=8, n_clusters_per_class=4),
        "diabetes": _shipped("diabetes"),
        "friedman": _made("friedman1", noise=1.0),
    }
)


def _task(name: str) -> Task:
    x, y = _MAKERS[name]()
    if y.dtype.kind == "f" and set(np.unique(y)) == {-1.0, 1.0}:
        y = (y > 0).astype(np.int64)
    y = y.astype(np.int64) if y.dtype.kind in "iu" else y.astype(np.float64)
    return Task(name, x.astype(np.float64), y)


#: By name; made when they are asked for.
TASKS: Mapping[str, Callable[[], Task]] = MappingProxyType(
    {name: partial(_task, name) for name in _MAKERS}
)
