"""What requests to one model go to.

Used in the front-end, under every protocol.
"""

from __future__ import annotations

from server.engine.request import Answer
from server.engine.statistics import ModelCounters
from server.inference.spec import ModelSpec

__all__ = ["Endpoint"]


class Endpoint:
    """A model that clients can request, with the counters of its requests."""

    def __init__(self, model: ModelSpec, counters: ModelCounters | None = None) -> None:
        self.model = model
        self.counters = ModelCounters() if counters is None else counters

    def succeed(self, arrived: float, answer: Answer) -> None:
        """Count a request with a response; `arrived` is when its body had been received."""
        self.counters.succeed(arrived, answer)

    def fail(self, arrived: float, error: BaseException) -> None:
        """Count a request that gets an error, or whose client has gone."""
        self.counters.fail(arrived, error)
