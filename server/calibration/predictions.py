"""Has the members of an ensemble predict the calibration data, as clients would ask them.

Runs in the process of the command line. Inputs flow in, each member's predictions flow out: each is
asked as a model by itself, in batches, all at the same time, by a server that is a child process
for the length of the predictions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path

import numpy as np
from ensembled_client import EnsembleClient, EnsembledClientError

from server.calibration.metrics import Array
from server.calibration.target import CalibrationTarget
from server.errors import StartError
from server.inference.dataset import Inputs
from server.measurement.server import MeasurementError, measured_server
from server.members.inspect import InspectedMember
from server.versions import split_name

__all__ = ["predict_members"]

_BATCH_ROWS = 64
_MAX_CLIENTS = 8
_BATCH_TIMEOUT_S = 60.0


def predict_members(
    config: Path, target: CalibrationTarget, inputs: Sequence[Inputs]
) -> list[list[Array]]:
    """Serve a configuration, and have all members of an ensemble predict some inputs.

    Returns, for each of the inputs, the predictions of each member, [rows, *its own shape].

    Raises:
        StartError: if the server does not start, or a member predicts NaN or infinity.
    """
    names = [member.name for member in target.members]

    def predict(client: EnsembleClient, member: InspectedMember, given: Inputs) -> Array:
        name, version = split_name(member.name)
        x = {one.sent.name: given[one.sent.name] for one in member.inputs}
        batches = math.ceil(len(next(iter(x.values()))) / _BATCH_ROWS)
        try:
            return client.predict(
                name,
                x,
                max_rows=_BATCH_ROWS,
                timeout=_BATCH_TIMEOUT_S * batches,
                version=version,
            ).values
        except EnsembledClientError as error:
            raise StartError(f"{member.name}: {error.message}") from None

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
        for name, values in zip(names, found, strict=True):
            valid = np.isfinite(values).reshape(len(values), -1).all(axis=1)
            if not valid.all():
                row = int(valid.argmin())
                raise StartError(f"{name}: predicts NaN or infinity for row {row}")
    return predictions
