"""A calibration from beginning to end: data is read, members are asked, all is fitted and judged.

Runs in the process of the command line, with a server of its own as a child while members predict.
A configuration and .npz files flow in, a `Calibration` flows out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from server.calibration.combining import Rule
from server.calibration.dataset import Inputs, read_classes, read_inputs, split_rows
from server.calibration.fitting import Fit, Options, fit
from server.calibration.fragment import fragment
from server.calibration.judging import Report, judge
from server.calibration.metrics import Classes, Floats
from server.calibration.outside import detection
from server.calibration.predicting import asking
from server.calibration.subject import Subject, find_subject
from server.config import Config
from server.errors import ConfigError, StartError

__all__ = ["Calibration", "Source", "calibrate_ensemble"]

_MOST_NAMED = 5
#: By how much the sum of a row's probabilities may differ from 1.
_TOLERANCE = 1e-2

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Source:
    """What to calibrate, and with which data.

    Attributes:
        data: .npz file of inputs and `y`.
        ensemble: its name; None if there is only one.
        holdout: share of the rows to judge by.
        outside: .npz files of inputs from elsewhere.
    """

    data: Path
    ensemble: str | None = None
    holdout: float = 0.5
    outside: Sequence[Path] = ()

    def __post_init__(self) -> None:
        """Check what is known without reading anything.

        Raises:
            ConfigError: if the share is none.
        """
        if not 0 < self.holdout < 1:
            raise ConfigError(f"--holdout should be between 0 and 1, not {self.holdout:g}")


@dataclass(frozen=True)
class Calibration:
    """What came of it.

    Attributes:
        subject: the ensemble.
        inputs: all rows, by input.
        y: their classes.
        fitting: numbers of the rows that were fitted on.
        held: numbers of the held-out rows.
        fit: what was fitted.
        report: how good it is, on held-out rows.
        detection: by file of outside rows, `before` and `after`: AUROC by score.
        notes: what the user should know, one line each.
        yaml: what is to be put into the configuration.
    """

    subject: Subject
    inputs: Inputs
    y: Classes
    fitting: Rows
    held: Rows
    fit: Fit
    report: Report
    detection: Mapping[str, Mapping[str, Mapping[str, float]]]
    notes: tuple[str, ...]
    yaml: str


def calibrate_ensemble(config: Config, path: Path, source: Source, options: Options) -> Calibration:
    """Calibrate an ensemble.

    Args:
        config: the configuration.
        path: of its file.
        source: what, and with which data.
        options: of the fit.

    Raises:
        ConfigError: if the configuration or a file is wrong.
        StartError: if a member can't run or fails.
    """
    subject = find_subject(config, source.ensemble)
    inputs, y = _read(subject, source.data)
    fitting, held = split_rows(y, source.holdout, options.seed)
    elsewhere = [read_inputs("--outside", one, subject.inputs) for one in source.outside]
    predictions, *outside = _predict(config, path, subject, [inputs, *elsewhere])
    directory = str(config.directory.absolute())
    configured = Rule(subject, None, directory)
    found = fit(subject, predictions, y, rows=fitting, options=options, directory=directory)
    about = (
        f"Fitted by `ensembled calibrate` on {len(fitting)} of {len(y)} rows of "
        f"{source.data.name}, seed {options.seed}"
    )
    return Calibration(
        subject=subject,
        inputs=inputs,
        y=y,
        fitting=fitting,
        held=held,
        fit=found,
        report=judge(subject, found, configured, predictions, y, rows=(fitting, held)),
        detection={
            name: {
                "before": detection(predictions[:, held], one),
                "after": detection(found.predictions[:, held], found.apply(subject, one)),
            }
            for name, one in zip(_names(source.outside), outside, strict=True)
        },
        notes=(*found.notes, *_absent(subject, y), *_others(config, subject)),
        yaml=fragment(subject, found, about),
    )


def _read(subject: Subject, data: Path) -> tuple[Inputs, Classes]:
    inputs = read_inputs("--data", data, subject.inputs)
    rows = len(next(iter(inputs.values())))
    labels = subject.classes.labels
    return inputs, read_classes("--data", data, rows, subject.number_of_classes, labels)


def _predict(
    config: Config, path: Path, subject: Subject, inputs: Sequence[Inputs]
) -> list[Floats]:
    """What the members predict of each of some inputs, by a server that is gone afterwards."""
    names = [member.name for member in subject.members]
    with asking(path, subject.matrix, int(config.server.max_request_bytes)) as server:
        found = [server.members(names, one) for one in inputs]
    for predictions in found:
        for name, one in zip(names, predictions, strict=True):
            _check_probabilities(name, one)
    return [subject.aligned(predictions) for predictions in found]


def _check_probabilities(name: str, p: npt.NDArray[Any]) -> None:
    if (wrong := ~np.isfinite(p).all(axis=1)).any():
        raise StartError(f"{name}: predicts NaN or infinity for row {int(wrong.argmax())}")
    wrong = (p < 0).any(axis=1) | (np.abs(p.sum(axis=1) - 1) > _TOLERANCE)
    if wrong.any():
        row = int(wrong.argmax())
        raise ConfigError(
            f"members.{name}.output: what it gives for row {row} are no probabilities (they add up "
            f"to {p[row].sum():.4g}): are they logits?"
        )


def _names(paths: Sequence[Path]) -> list[str]:
    """What files are called: by their names alone, if these are distinct."""
    stems = [path.stem for path in paths]
    return stems if len(set(stems)) == len(stems) else [str(path) for path in paths]


def _absent(subject: Subject, y: Classes) -> list[str]:
    """Say which classes no row has, since nothing is known of them."""
    missing = sorted(set(range(subject.number_of_classes)) - set(y.tolist()))
    if not missing:
        return []
    labels = subject.classes.labels
    named = ", ".join(labels[i] if labels else str(i) for i in missing[:_MOST_NAMED])
    more = f" and {len(missing) - _MOST_NAMED} more" if len(missing) > _MOST_NAMED else ""
    return [f"no row is of class {named}{more}: the figures say nothing about it"]


def _others(config: Config, subject: Subject) -> list[str]:
    """Say which other ensembles the new temperatures change."""
    mine = {member.name for member in subject.members}
    others = [
        name
        for name, ensemble in config.ensembles.items()
        if name != subject.name and mine & set(ensemble.members)
    ]
    if not others:
        return []
    return [f"the temperatures belong to the members, so they change {', '.join(others)}, too"]
