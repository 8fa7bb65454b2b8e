"""A calibration from beginning to end: data is read, members predict, all is fitted and evaluated.

Runs in the process of the command line. A configuration and .npz files flow in, a `Calibration`
flows out. Members are asked as clients would ask them: each as a model by itself, in batches, all
at the same time, by a server that is a child process for the length of the predictions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np
from ensembled_client import EnsembleClient, EnsembledClientError

from server.calibration.dataset import Inputs, read_classes, read_inputs, split_rows
from server.calibration.evaluation import Evaluation, evaluate, evaluate_detection
from server.calibration.fitting import Fit, FitOptions, fit, yaml_fragment
from server.calibration.metrics import Array, ClassIndices, Floats, Rows
from server.calibration.target import CalibrationTarget, find_target
from server.calibration.temperature_scaling import rescale
from server.config import Config
from server.errors import ConfigError, StartError
from server.measurement.server import MeasurementError, measured_server
from server.members.inspect import InspectedMember

__all__ = ["Calibration", "calibrate_ensemble"]

_BATCH_ROWS = 64
_MAX_CLIENTS = 8
_BATCH_TIMEOUT_S = 60.0
#: By how much the sum of a row's probabilities may differ from 1.
_TOLERANCE = 1e-2
_MAX_NAMED = 5


@dataclass(frozen=True)
class Calibration:
    """The result; rows numbered `fitting` were fitted on, `held` are the others.

    `detection` is by file of outside rows, `before` and `after`: AUROC by score. `notes` are for
    the user, one line each; `yaml` is what to put into the configuration.
    """

    target: CalibrationTarget
    inputs: Inputs
    y: ClassIndices
    fitting: Rows
    held: Rows
    fit: Fit
    evaluation: Evaluation
    detection: Mapping[str, Mapping[str, Mapping[str, float]]]
    notes: list[str]
    yaml: str


def calibrate_ensemble(
    config: Config,
    path: Path,
    data: Path,
    options: FitOptions,
    *,
    ensemble: str | None = None,
    holdout: float = 0.5,
    outside: Sequence[Path] = (),
) -> Calibration:
    """Calibrate an ensemble, the only one if it is not named.

    `data` is an .npz file of inputs and `y`, `outside` are .npz files of out-of-distribution
    inputs; `holdout` is the share of the rows to evaluate on.

    Raises:
        ConfigError: if an option, the configuration or a file is wrong.
        StartError: if a member can't run or fails.
    """
    if not 0 < holdout < 1:
        raise ConfigError(f"--holdout should be between 0 and 1, not {holdout:g}")
    target = find_target(config, ensemble)
    inputs = read_inputs("--data", data, target.inputs)
    rows = len(next(iter(inputs.values())))
    y = read_classes("--data", data, rows, target.number_of_classes, target.classes.labels)
    fitting, held = split_rows(y, holdout, options.seed)
    others = [read_inputs("--outside", one, target.inputs) for one in outside]
    predictions, *elsewhere = _predict_members(path, target, [inputs, *others])
    found = fit(target, predictions, y, rows=fitting, options=options)
    about = (
        f"Fitted by `ensembled calibrate` on {len(fitting)} of {len(y)} rows of "
        f"{data.name}, seed {options.seed}"
    )
    return Calibration(
        target=target,
        inputs=inputs,
        y=y,
        fitting=fitting,
        held=held,
        fit=found,
        evaluation=evaluate(target, found, predictions, y, rows=(fitting, held)),
        detection={
            name: {
                "before": evaluate_detection(predictions[:, held], p),
                "after": evaluate_detection(
                    found.predictions[:, held], rescale(target.members, p, found.temperatures)
                ),
            }
            for name, p in zip(_short_names(outside), elsewhere, strict=True)
        },
        notes=[*found.notes, *_caveats(config, target, y)],
        yaml=yaml_fragment(target, found, about),
    )


def _predict_members(
    config: Path, target: CalibrationTarget, inputs: Sequence[Inputs]
) -> list[Floats]:
    """Serve a configuration, and have all members of an ensemble predict some inputs.

    For each of the inputs, return probabilities of the ensemble's classes,
    [members, rows, classes].
    """
    names = [member.name for member in target.members]

    def predict(client: EnsembleClient, member: InspectedMember, given: Inputs) -> Array:
        name, x = member.name, {one.sent.name: given[one.sent.name] for one in member.inputs}
        batches = math.ceil(len(next(iter(x.values()))) / _BATCH_ROWS)
        try:
            return client.predict(
                name, x, max_rows=_BATCH_ROWS, timeout=_BATCH_TIMEOUT_S * batches
            ).values
        except EnsembledClientError as error:
            raise StartError(f"{name}: {error.message}") from None

    try:
        with (
            measured_server(config, target.matrix) as address,
            EnsembleClient(f"http://{address}") as client,
            ThreadPoolExecutor(min(len(names), _MAX_CLIENTS)) as pool,
        ):
            predictions = [
                list(pool.map(predict, repeat(client), target.members, repeat(one)))
                for one in inputs
            ]
    except MeasurementError as error:
        raise StartError(f"the server for predictions: {error}") from None
    for found in predictions:
        for name, p in zip(names, found, strict=True):
            _check_probabilities(name, p)
    return [target.align(found) for found in predictions]


def _check_probabilities(name: str, p: Array) -> None:
    if (wrong := ~np.isfinite(p).all(axis=1)).any():
        raise StartError(f"{name}: predicts NaN or infinity for row {int(wrong.argmax())}")
    wrong = (p < 0).any(axis=1) | (np.abs(p.sum(axis=1) - 1) > _TOLERANCE)
    if wrong.any():
        row = int(wrong.argmax())
        raise ConfigError(
            f"members.{name}.output: row {row} has no probabilities (they add up to "
            f"{p[row].sum():.4g}): are they logits?"
        )


def _short_names(paths: Sequence[Path]) -> list[str]:
    """File names without directory and suffix, if these are distinct; else the paths."""
    stems = [path.stem for path in paths]
    return stems if len(set(stems)) == len(stems) else [str(path) for path in paths]


def _caveats(config: Config, target: CalibrationTarget, y: ClassIndices) -> Iterator[str]:
    """What the figures do not say, and other ensembles that the new temperatures change."""
    if missing := sorted(set(range(target.number_of_classes)) - set(y.tolist())):
        labels = target.classes.labels
        named = ", ".join(labels[i] if labels else str(i) for i in missing[:_MAX_NAMED])
        more = f" and {len(missing) - _MAX_NAMED} more" if len(missing) > _MAX_NAMED else ""
        yield f"no row is of class {named}{more}: the figures say nothing about it"
    augmented = [member.name for member in target.members if member.config.augment is not None]
    if augmented:
        yield (
            f"{', '.join(augmented)} augment: their temperatures are fitted to what the variants "
            "give together, but apply to each: evaluate once more with the new ones"
        )
    own = {member.name for member in target.members}
    others = [
        name
        for name, ensemble in config.ensembles.items()
        if name != target.name and own & set(ensemble.members)
    ]
    if others:
        yield f"the temperatures belong to the members, so they change {', '.join(others)}, too"
