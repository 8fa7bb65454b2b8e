"""Has the members of an ensemble predict the calibration data, as clients would ask them.

Runs in the process of the command line. Inputs flow in, each member's predictions flow out: each is
asked as a model by itself, in batches, all at the same time, by a server that is a child process
for the length of the predictions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path

import numpy as np
from ensembled_client import EnsembleClient, EnsembledClientError

from allocator.matrix import AllocationMatrix
from server.calibration.metrics import Array
from server.calibration.target import CalibrationTarget
from server.errors import ConfigError, StartError
from server.inference.dataset import Inputs
from server.measurement.server import MeasurementError, measured_server
from server.members.inspect import InspectedMember
from server.versions import split_name

__all__ = ["ask_members", "check_probabilities", "predict_members"]

_BATCH_ROWS = 64
_MAX_CLIENTS = 8
_BATCH_TIMEOUT_S = 60.0
#: By how much the sum of a row's probabilities may differ from 1.
_TOLERANCE = 1e-2


def predict_members(
    config: Path, target: CalibrationTarget, inputs: Sequence[Inputs]
) -> list[list[Array]]:
    """Serve a configuration, and have all members of an ensemble predict some inputs.

    Returns, for each of the inputs, the predictions of each member, [rows, *its own shape].

    Raises:
        StartError: if the server does not start, or a member predicts NaN or infinity.
    """
    questions = [(member, given) for given in inputs for member in target.members]
    answers = ask_members(config, target.matrix, questions)
    for answer in answers:
        if isinstance(answer, StartError):
            raise answer
    found = [one for one in answers if not isinstance(one, StartError)]
    each = len(target.members)
    return [found[start : start + each] for start in range(0, len(found), each)]


def ask_members(
    config: Path,
    matrix: AllocationMatrix,
    questions: Sequence[tuple[InspectedMember, Inputs]],
    on_answer: Callable[[InspectedMember], None] = lambda member: None,
) -> list[Array | StartError]:
    """Serve a configuration, and have members predict some inputs, [rows, *own shape] for each.

    Instead of predictions there is an error where a member fails, or predicts NaN or infinity.
    `on_answer` is called for each question.

    Raises:
        StartError: if the server does not start.
    """

    def ask(client: EnsembleClient, question: tuple[InspectedMember, Inputs]) -> Array | StartError:
        member, given = question
        try:
            return _predict(client, member, given)
        except StartError as error:
            return error
        finally:
            on_answer(member)

    try:
        with (
            measured_server(config, matrix) as address,
            EnsembleClient(f"http://{address}") as client,
            ThreadPoolExecutor(min(len(questions), _MAX_CLIENTS)) as pool,
        ):
            return list(pool.map(ask, repeat(client), questions))
    except MeasurementError as error:
        raise StartError(f"the server for predictions: {error}") from None


def _predict(client: EnsembleClient, member: InspectedMember, given: Inputs) -> Array:
    """Return the predictions of a member.

    Raises:
        StartError: if it fails, or predicts NaN or infinity.
    """
    name, version = split_name(member.name)
    x = {one.sent.name: given[one.sent.name] for one in member.inputs}
    batches = math.ceil(len(next(iter(x.values()))) / _BATCH_ROWS)
    try:
        values: Array = client.predict(
            name,
            x,
            max_rows=_BATCH_ROWS,
            timeout=_BATCH_TIMEOUT_S * batches,
            version=version,
        ).values
    except EnsembledClientError as error:
        raise StartError(f"{member.name}: {error.message}") from None
    valid = np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if not valid.all():
        row = int(valid.argmin())
        raise StartError(f"{member.name}: predicts NaN or infinity for row {row}")
    return values


def check_probabilities(name: str, p: Array) -> None:
    """Raise a ConfigError if a member's predictions [rows, classes] are no probabilities."""
    wrong = (p < 0).any(axis=1) | (np.abs(p.sum(axis=1) - 1) > _TOLERANCE)
    if wrong.any():
        row = int(wrong.argmax())
        raise ConfigError(
            f"members.{name}.output: row {row} has no probabilities (they add up to "
            f"{p[row].sum():.4g}): are they logits?"
        )
