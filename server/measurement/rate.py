"""How fast a matrix is in truth: it is served and loaded.

Runs in the process of the command line. A configuration and matrices flow in, rows per second
flow out. A matrix that can't be served, because memory does not suffice for example, gives none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from allocator.matrix import AllocationMatrix
from server.config import Config
from server.measurement.load import measure_rows_s
from server.measurement.requests import load_requests
from server.measurement.server import MeasurementError, measured_server

__all__ = ["Intensity", "ServedRate", "intensity", "models_of"]

_CLIENTS = 8
#: While one batch of each instance runs, the next one waits.
_BATCHES_IN_FLIGHT = 2
#: An answer should take less than a measurement.
_LONGEST_ANSWER_S = 0.5


def models_of(config: Config) -> list[str]:
    """Who is asked, in equal shares: all ensembles; without any, all members."""
    return list(config.ensembles or config.members)


@dataclass(frozen=True)
class Intensity:
    """How much load there is.

    Attributes:
        clients: who each have one request in flight.
        rows: of each request.
    """

    clients: int
    rows: int


def intensity(
    config: Config, matrices: Iterable[AllocationMatrix], *, expected_rows_s: float
) -> Intensity:
    """Return a load that keeps all of some matrices busy; one for all, since they compete.

    Args:
        config: which models are asked, and when an answer is too late for them.
        matrices: what is to be measured.
        expected_rows_s: by the performance model.
    """
    models = len(models_of(config))
    deadlines_s = [one.deadline_ms / 1e3 for one in config.ensembles.values() if one.deadline_ms]
    longest_s = min([_LONGEST_ANSWER_S, *(late_s / 2 for late_s in deadlines_s)])
    most = max(sum(column) for one in matrices for column in zip(*one.cells, strict=True))
    rows = models * min(_BATCHES_IN_FLIGHT * most, expected_rows_s * longest_s)
    clients = max(_CLIENTS, models)
    return Intensity(clients, max(1, math.ceil(rows / clients)))


class ServedRate:
    """Measures matrices by serving them, one after the other.

    Args:
        path: the configuration file.
        config: what it says.
        load: how much to ask.
        on_failure: called with the reason why a matrix can't be served.
    """

    def __init__(
        self, path: Path, config: Config, load: Intensity, on_failure: Callable[[str], None]
    ) -> None:
        self._path, self._config, self._load = path, config, load
        self._on_failure = on_failure
        self._models = models_of(config)

    def __call__(self, matrix: AllocationMatrix, seconds: float) -> float:
        """Rows/s of a matrix, 0 if it can't be served or a request fails."""
        try:
            with measured_server(self._path, matrix) as address:
                requests = load_requests(
                    address,
                    self._models,
                    self._load.rows,
                    image_sizes={model: self._image_size(model) for model in self._models},
                    most_bytes=int(self._config.server.max_request_bytes),
                )
                return measure_rows_s(address, requests, self._load.clients, seconds)
        except MeasurementError as error:
            self._on_failure(str(error))
            return 0.0

    def _image_size(self, model: str) -> int:
        """The largest image that a member of a model wants, 0 if none takes images."""
        ensemble = self._config.ensembles.get(model)
        names = ensemble.members if ensemble else (model,)
        inputs = [self._config.members[name].input for name in names]
        return max(one.image.size if one else 0 for one in inputs)
