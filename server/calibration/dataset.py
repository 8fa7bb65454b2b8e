"""The calibration data: what is true of the rows of an .npz file, checked and split.

Runs in the process of the command line. A file flows in; classes as indices, or numbers, flow out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from server.calibration.metrics import Array, ClassIndices, Floats, Rows
from server.errors import ConfigError
from server.inference.dataset import read_arrays

__all__ = ["read_classes", "read_numbers", "split_rows"]

_CLASSES = "y"
_MIN_ROWS = 20
_MAX_NAMED = 5


def read_classes(
    option: str, path: Path, rows: int, classes: int, labels: Sequence[str]
) -> ClassIndices:
    """Return `y` of an .npz file, labels or whole numbers, as indices of classes [rows].

    Raises:
        ConfigError: if there is none, or it does not have a class for each row.
    """
    where = f"{option} {path}: y"
    held = read_arrays(f"{option} {path}", path)
    if _CLASSES not in held:
        raise ConfigError(f"{where}, the class of each row, is not there; it has {', '.join(held)}")
    y = held[_CLASSES]
    if y.shape != (rows,):
        raise ConfigError(f"{where} should be a class per row, [{rows}], not {list(y.shape)}")
    if y.dtype.kind in "US":
        return _by_label(where, np.char.strip(y.astype(str)), labels)
    if y.dtype.kind not in "iu":
        raise ConfigError(f"{where} should be whole numbers or labels, not {y.dtype}")
    if (outside := (y < 0) | (y >= classes)).any():
        row = int(outside.argmax())
        raise ConfigError(
            f"{where}[{row}] is {y[row]}, but the ensemble's classes are 0 to {classes - 1}"
        )
    return y.astype(np.int64)


def read_numbers(option: str, path: Path, rows: int, shape: tuple[int, ...]) -> Floats:
    """Return `y` of an .npz file, a number for each element of the answer, [rows, elements].

    Where an answer is one number, its `y` may be [rows] or [rows, 1].

    Raises:
        ConfigError: if there is none, or it is of another shape, or not finite numbers.
    """
    where, held = f"{option} {path}: y", read_arrays(f"{option} {path}", path)
    if _CLASSES not in held:
        raise ConfigError(f"{where}, the true numbers, is not there; it has {', '.join(held)}")
    y, elements = held[_CLASSES], math.prod(shape)
    wanted = {(rows, *shape), *([(rows,), (rows, 1)] if elements == 1 else [])}
    if y.shape not in wanted:
        raise ConfigError(f"{where} should be {[rows, *shape]}, not {list(y.shape)}")
    if y.dtype.kind not in "iuf":
        raise ConfigError(f"{where} should be numbers, not {y.dtype}")
    if not np.isfinite(y).all():
        row = int(np.argwhere(~np.isfinite(y))[0][0])
        raise ConfigError(f"{where}[{row}] is not a finite number (NaN or infinite)")
    if rows < _MIN_ROWS:
        raise ConfigError(f"--data: {rows} rows are too few, give at least {_MIN_ROWS}")
    return y.reshape(rows, elements).astype(np.float64)


def split_rows(y: ClassIndices, holdout: float, seed: int) -> tuple[Rows, Rows]:
    """Split rows into some to fit on and some to evaluate on, each class by the same share.

    Returns:
        Row numbers, ascending: fitting and held out.

    Raises:
        ConfigError: if either would be fewer than 20 rows, or of one class.
    """
    order = np.random.default_rng(seed).permutation(len(y))
    order = order[np.argsort(y[order], kind="stable")]
    # Rows sorted by class are held out at equal distances, so that each class, and all together,
    # give their share to within one row.
    held = np.diff(np.floor(np.arange(len(y) + 1) * holdout + 1e-9)).astype(np.bool_)
    parts = np.sort(order[~held]), np.sort(order[held])
    for what, rows in zip(("to fit on", "held out"), parts, strict=True):
        if len(rows) < _MIN_ROWS:
            raise ConfigError(
                f"--data: {len(rows)} of {len(y)} rows are {what}: give at least {_MIN_ROWS}"
            )
        if len(np.unique(y[rows])) < 2:
            raise ConfigError(f"--data: the rows {what} are all of class {y[rows[0]]}")
    return parts


def _by_label(where: str, y: Array, labels: Sequence[str]) -> ClassIndices:
    if not labels:
        raise ConfigError(f"{where} has labels, but the ensemble has none: give whole numbers")
    indices = {label: index for index, label in enumerate(labels)}
    if unknown := sorted({str(label) for label in y if str(label) not in indices}):
        named = ", ".join(map(repr, unknown[:_MAX_NAMED]))
        raise ConfigError(f"{where} has labels that are not among the ensemble's: {named}")
    return np.array([indices[str(label)] for label in y], np.int64)
