"""Checks what a selection is given, and which members can take part.

Runs in the process of the command line; pure. Predictions, what is true of the rows and a problem
flow in; a `ConfigError`, or the members that are left out, flow out.
"""

from __future__ import annotations

import numpy as np

from allocator.problem import Problem
from server.calibration.metrics import Array, Floats
from server.errors import ConfigError
from server.selection.options import SelectOptions

__all__ = ["usable_members"]


def usable_members(
    predictions: Floats, y: Array, problem: Problem, options: SelectOptions
) -> dict[str, str]:
    """Return the members that can't take part, with the reason.

    Raises:
        ConfigError: if the rows are wrong, or no member is left.
    """
    parts = [("--data", predictions, y)]
    if options.test is not None:
        parts.append(("--test", *options.test))
    for option, predicted, truth in parts:
        _check_rows(option, predicted, truth, len(problem.members))
    if parts[0][1].shape[2:] != parts[-1][1].shape[2:]:
        raise ConfigError(
            f"--test: predictions of a row have shape {list(parts[-1][1].shape[2:])}, "
            f"those of --data {list(predictions.shape[2:])}"
        )
    of_classes = y.dtype.kind in "iu"
    if options.measure.of_classes not in (None, of_classes):
        what = "classes" if of_classes else "numbers"
        raise ConfigError(f"--measure {options.measure.name} is not for {what}, which y has")
    left_out = {}
    for index, name in enumerate(problem.members):
        if not all(np.isfinite(predicted[index]).all() for _, predicted, _ in parts):
            left_out[name] = "its predictions are not all finite numbers"
        elif not any(problem.options(device, index) for device in range(len(problem.devices))):
            left_out[name] = "it has no profile that fits any of the devices"
    if len(left_out) == len(problem.members):
        raise ConfigError(f"no member can take part: {next(iter(left_out.values()))}, ...")
    return left_out


def _check_rows(option: str, predictions: Floats, y: Array, members: int) -> None:
    of_classes = y.dtype.kind in "iu"
    if predictions.ndim < 2 or len(predictions) != members:
        raise ConfigError(
            f"{option}: predictions of {members} members should be [{members}, rows, ...], "
            f"not {list(predictions.shape)}"
        )
    wanted = predictions.shape[1:2] if of_classes else predictions.shape[1:]
    if y.shape != wanted:
        raise ConfigError(
            f"{option}: y should be {list(wanted)} for predictions {list(predictions.shape)}, "
            f"not {list(y.shape)}"
        )
    if not len(y):
        raise ConfigError(f"{option}: there are no labelled rows")
    if not of_classes:
        if y.dtype.kind != "f" or not np.isfinite(y).all():
            raise ConfigError(f"{option}: y should be finite numbers or whole numbers of classes")
        return
    if predictions.ndim != 3:
        raise ConfigError(
            f"{option}: predictions of classes should be [members, rows, classes], "
            f"not {list(predictions.shape)}"
        )
    if (outside := (y < 0) | (y >= predictions.shape[2])).any():
        row = int(outside.argmax())
        raise ConfigError(
            f"{option}: y[{row}] is {y[row]}, but there are classes 0 to {predictions.shape[2] - 1}"
        )
    if len(np.unique(y)) < 2:
        raise ConfigError(f"{option}: the rows are all of class {y[0]}")
