"""A library for each task: some forty networks, forests and simpler models, trained and timed.

Uses scikit-learn. A task's fold flows in; predictions of the rows to select and to judge on, what
a batch takes, and what failed flow out.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.discriminant_analysis import (
    LinearDiscriminantAnalysis,
    QuadraticDiscriminantAnalysis,
)
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from benchmarks.selection.tasks import Fold, Task
from server.calibration.metrics import Array, Floats

__all__ = ["BATCHES", "Library", "train"]

#: Rows of the batches that are timed.
BATCHES = (1, 8, 64)
_TIMED = 5
_HIDDEN = ((8,), (32,), (128,), (512,), (32, 32), (128, 128), (256, 256, 128))
_TREES = (4, 16, 64, 128)


@dataclass(frozen=True)
class Library:
    """What the members of a fold gave.

    Attributes:
        valid, test: predictions float64 [members, rows, classes], or [members, rows] of numbers.
        latency_s: by member, seconds for a batch of each size.
        failed: by member, what went wrong: those are in none of the others.
    """

    members: tuple[str, ...]
    valid: Floats
    test: Floats
    latency_s: Mapping[str, Mapping[int, float]]
    failed: Mapping[str, str]


def _models(of_classes: bool) -> Iterator[tuple[str, Any]]:
    """Yield the untrained members: of very unlike size, some twice from other seeds."""
    network = MLPClassifier if of_classes else MLPRegressor
    forest = RandomForestClassifier if of_classes else RandomForestRegressor
    extra = ExtraTreesClassifier if of_classes else ExtraTreesRegressor
    boosted = HistGradientBoostingClassifier if of_classes else HistGradientBoostingRegressor
    tree = DecisionTreeClassifier if of_classes else DecisionTreeRegressor
    nearest = KNeighborsClassifier if of_classes else KNeighborsRegressor
    for seed in range(2):
        for hidden in _HIDDEN:
            name = f"mlp-{'-'.join(map(str, hidden))}-{seed}"
            yield (
                name,
                network(
                    hidden_layer_sizes=hidden,
                    max_iter=100,
                    early_stopping=True,
                    random_state=seed,
                ),
            )
    for trees in _TREES:
        yield f"forest-{trees}", forest(trees, random_state=0)
        yield f"extra-{trees}", extra(trees, random_state=0)
    for rounds in (10, 50):
        yield f"boosted-{rounds}", boosted(max_iter=rounds, random_state=0)
    for depth in (2, 4, 8):
        yield f"tree-{depth}", tree(max_depth=depth, random_state=0)
    for neighbours in (1, 5, 25):
        yield f"nearest-{neighbours}", nearest(neighbours)
    yield from _others(of_classes)


def _others(of_classes: bool) -> Iterator[tuple[str, Any]]:
    for strength in (0.01, 1.0, 100.0):
        linear = LogisticRegression(C=strength, max_iter=500) if of_classes else Ridge(strength)
        yield f"linear-{strength:g}", linear
    if of_classes:
        yield "bayes", GaussianNB()
        yield "lda", LinearDiscriminantAnalysis()
        yield "qda", QuadraticDiscriminantAnalysis()


def train(task: Task, fold: Fold) -> Library:
    """Train and time all members on a fold; one that fails, or predicts NaN, is counted."""
    found: dict[str, tuple[Floats, Floats]] = {}
    latency_s, failed = {}, {}
    for name, model in _models(task.of_classes):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of convergence: the member is what it is
                fitted = make_pipeline(StandardScaler(), model)
                fitted.fit(task.x[fold.train], task.y[fold.train])
                predict = _predictor(fitted, task)
                found[name] = predict(task.x[fold.valid]), predict(task.x[fold.test])
                latency_s[name] = _timed(predict, task.x[fold.test])
        except (ValueError, ArithmeticError, np.linalg.LinAlgError) as error:
            failed[name] = f"{type(error).__name__}: {error}"
    names = tuple(found)
    valid, test = (np.stack([found[name][i] for name in names]) for i in range(2))
    return Library(names, valid, test, latency_s, failed)


def _predictor(fitted: Any, task: Task) -> Callable[[Array], Floats]:
    """A member as a function, whose answers are finite.

    Raises:
        ValueError: from the function, if they are not, or a class of the task is missing.
    """

    def predict(x: Array) -> Floats:
        answers = fitted.predict_proba(x) if task.of_classes else fitted.predict(x)
        answers = np.asarray(answers, np.float64)
        if not np.isfinite(answers).all():
            raise ValueError("it predicts NaN or infinity")
        if task.of_classes and answers.shape[1] <= task.y.max():
            raise ValueError("it does not know all classes")
        return answers

    return predict


def _timed(predict: Callable[[Array], Floats], x: Array) -> dict[int, float]:
    """The median seconds of a batch of each size."""
    found = {}
    for batch in BATCHES:
        rows, times = np.resize(x, (batch, x.shape[1])), []
        for _ in range(_TIMED):
            started = time.perf_counter()
            predict(rows)
            times.append(time.perf_counter() - started)
        found[batch] = statistics.median(times)
    return found
