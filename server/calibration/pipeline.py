"""A calibration from beginning to end: data is read, members predict, all is fitted and evaluated.

Runs in the process of the command line. A configuration and .npz files flow in, a `Calibration`
flows out. Members are asked as clients would ask them: each as a model by itself, in batches, all
at the same time, by a server that is a child process for the length of the predictions.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from server.calibration.cascade_thresholds import run_cascade
from server.calibration.conformal import (
    ConformalOptions,
    Coverage,
    SetCalibration,
    calibrate_sets,
)
from server.calibration.dataset import (
    read_classes,
    read_numbers,
    split_rows,
)
from server.calibration.evaluation import Evaluation, evaluate, evaluate_detection
from server.calibration.fitting import Fit, FitOptions, conformal_fragment, fit, yaml_fragment
from server.calibration.metrics import Array, ClassIndices, Floats, Rows
from server.calibration.numbers import NumberCalibration, calibrate_numbers
from server.calibration.predictions import check_probabilities, predict_members
from server.calibration.target import CalibrationTarget, find_target
from server.calibration.temperature_scaling import rescale
from server.config import Config
from server.errors import ConfigError
from server.inference.conformal import ConformalSpec, TooFewRows, threshold_rank
from server.inference.dataset import Inputs, read_inputs
from server.members.predictive import DEFAULT_COVERAGE, ConformalDocument, fitted_for

__all__ = ["Calibration", "calibrate_ensemble"]

_MAX_NAMED = 5


@dataclass(frozen=True)
class Calibration:
    """The result for classes; rows numbered `fitting` were fitted on, `held` are the others.

    Attributes:
        detection: by file of outside rows, `before` and `after`: AUROC by score.
        sets: the evaluation of prediction sets, by method.
        notes: for the user, one line each.
        yaml: what to put into the configuration.
        document: what to write for the coverage of prediction sets, if that was wanted.
    """

    target: CalibrationTarget
    inputs: Inputs
    y: ClassIndices
    fitting: Rows
    held: Rows
    fit: Fit
    evaluation: Evaluation
    detection: Mapping[str, Mapping[str, Mapping[str, float]]]
    sets: list[Coverage]
    notes: list[str]
    yaml: str
    document: ConformalDocument | None = None


def calibrate_ensemble(
    config: Config,
    path: Path,
    data: Path,
    options: FitOptions,
    *,
    ensemble: str | None = None,
    holdout: float = 0.5,
    outside: Sequence[Path] = (),
    conformal: ConformalOptions | None = None,
) -> Calibration | NumberCalibration:
    """Calibrate an ensemble, the only one if it is not named.

    `data` is an .npz file of inputs and `y`, `outside` are .npz files of out-of-distribution
    inputs; `holdout` is the share of the rows to evaluate on.

    Raises:
        ConfigError: if an option, the configuration or a file is wrong.
        StartError: if a member can't run or fails.
    """
    if not 0 < holdout < 1:
        raise ConfigError(f"--holdout should be between 0 and 1, not {holdout:g}")
    conformal = conformal or ConformalOptions()
    if conformal.coverage is not None and not 0 < conformal.coverage < 1:
        raise ConfigError(f"--coverage should be between 0 and 1, not {conformal.coverage:g}")
    target = find_target(config, ensemble)
    inputs = read_inputs("--data", data, target.inputs)
    job = _Job(config, path, data, target, inputs, options, conformal)
    if target.kind != "classes":
        if outside or options.weighting is not None:
            option = "--outside" if outside else "--weights"
            raise ConfigError(f"{option} is for classes, {target.name} gives {target.kind}")
        return _calibrate_numbers(job)
    return _calibrate_classes(job, holdout, outside)


@dataclass(frozen=True)
class _Job:
    """What there is to calibrate, on what, and how."""

    config: Config
    path: Path
    data: Path
    target: CalibrationTarget
    inputs: Inputs
    options: FitOptions
    conformal: ConformalOptions

    @property
    def rows(self) -> int:
        return len(next(iter(self.inputs.values())))

    @property
    def coverage(self) -> float:
        """That is evaluated, and served where a request does not say it."""
        return self.conformal.coverage or self.target.config.coverage or DEFAULT_COVERAGE

    def about(self, rows: int) -> str:
        return (
            f"Fitted by `ensembled calibrate` on {rows} of {self.rows} rows of {self.data.name}, "
            f"seed {self.options.seed}"
        )

    @property
    def keys(self) -> dict[str, str | float]:
        """The ensemble's keys for what is written."""
        output, coverage = self.conformal.output, self.conformal.coverage
        if output is None:
            return {}
        path = os.path.relpath(output.absolute(), self.config.directory.absolute())
        return {"conformal": path, **({} if coverage is None else {"coverage": coverage})}

    def document(
        self, spec: ConformalSpec, changes: Mapping[str, Any] | None = None
    ) -> ConformalDocument:
        """What is to be written; `changes` are of what the configuration has."""
        try:
            threshold_rank(self.coverage, spec.rows)
        except TooFewRows as error:
            raise ConfigError(f"--conformal: {error}") from None
        depends = {**fitted_for(self.target.config, self.target.members), **(changes or {})}
        return ConformalDocument(self.about(spec.rows), depends, spec)


def _calibrate_numbers(job: _Job) -> NumberCalibration:
    y = read_numbers("--data", job.data, job.rows, job.target.truth_shape)
    (predictions,) = predict_members(job.path, job.target, [job.inputs])
    found = calibrate_numbers(
        job.target, predictions, y, coverage=job.coverage, seed=job.options.seed
    )
    return replace(
        found,
        yaml=conformal_fragment(job.target, job.keys, job.about(job.rows)) if job.keys else "",
        document=job.document(found.conformal) if job.keys else None,
    )


def _calibrate_classes(job: _Job, holdout: float, outside: Sequence[Path]) -> Calibration:
    config, target, options = job.config, job.target, job.options
    labels = target.classes.labels
    y = read_classes("--data", job.data, job.rows, target.number_of_classes, labels)
    fitting, held = split_rows(y, holdout, options.seed)
    others = [read_inputs("--outside", one, target.inputs) for one in outside]
    predictions, *elsewhere = _probabilities(job.path, target, [job.inputs, *others])
    found = fit(target, predictions, y, rows=fitting, options=options)
    sets = calibrate_sets(
        _answers(target, found, y),
        y,
        rows=(fitting, held),
        coverage=job.coverage,
        seed=options.seed,
    )
    return Calibration(
        target=target,
        inputs=job.inputs,
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
        sets=sets.sets,
        notes=[*found.notes, *sets.notes, *_caveats(config, target, y)],
        yaml=yaml_fragment(target, found, job.about(len(fitting)), job.keys),
        document=_set_document(job, found, sets),
    )


def _answers(target: CalibrationTarget, fit: Fit, y: ClassIndices) -> Array:
    """Return the answers as they will be served, [rows, classes]: those of a cascade if it is."""
    if target.config.cascade is None:
        return fit.rule.combine(fit.predictions)
    stages = fit.rule.combine_stages(fit.predictions, y, target.stages)
    return run_cascade(stages, fit.confidence or target.config.confidence or ()).answers


def _set_document(job: _Job, fit: Fit, found: SetCalibration) -> ConformalDocument | None:
    if job.conformal.output is None:
        return None
    spec = found.specs.get(job.conformal.method)
    if spec is None:
        raise ConfigError(
            f"--method: {job.conformal.method} is not possible here: "
            f"{'; '.join(found.notes) or 'there are too few rows to tune it'}"
        )
    changes: dict[str, Any] = {"temperatures": list(fit.temperatures)}
    if fit.is_new_rule:
        changes |= {"rule": fit.rule.name, "weights": list(fit.rule.weights or ()), "trim": None}
    if job.target.config.cascade is not None and fit.confidence is not None:
        changes["confidence"] = list(fit.confidence)
    return job.document(spec, changes)


def _probabilities(
    config: Path, target: CalibrationTarget, inputs: Sequence[Inputs]
) -> list[Floats]:
    """Return the members' probabilities of the ensemble's classes, [members, rows, classes].

    For each of the inputs.
    """
    predictions = predict_members(config, target, inputs)
    for found in predictions:
        for member, p in zip(target.members, found, strict=True):
            check_probabilities(member.name, p)
    return [target.align(found) for found in predictions]


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
