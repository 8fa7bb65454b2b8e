"""Copies of requests for a shadow, a version whose answers reach nobody: they are compared.

Runs in the front-end. Requests that the present version has answered flow in and go to the engine
once more, with the lowest priority; what the comparison finds flows into the roll-out's figures.
Copies are best effort: few at a time, bounded in memory, and dropped whenever anything waits.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Protocol

from msgspec.structs import replace

from allocator.dispatch.flows import LOW
from server.engine.engine import Engine
from server.engine.memory_budget import MemoryBudget
from server.engine.request import Answer, PreparedRequest
from server.errors import DeadlineExceeded, QueueFull, RequestError, Unavailable
from server.inference.endpoint import Endpoint
from server.inference.outputs import main_values, named_outputs
from server.inference.requests import BoundRequest, InferRequest
from server.inference.spec import ModelSpec
from server.rollout.agreement import Values, compare
from server.rollout.figures import RolloutFigures

__all__ = ["Answerer", "Shadows"]

_log = logging.getLogger(__name__)

_MAX_COPIES = 16
_MAX_BYTES = 64 << 20
#: A copy that others keep waiting for so long is given up.
_WITHIN_S = 10.0


class Answerer(Protocol):
    """What answers requests: `Inference`, whose methods these are."""

    @property
    def engine(self) -> Engine:
        """The engine that they go through."""
        ...

    async def bind(self, endpoint: Endpoint, request: InferRequest) -> BoundRequest:
        """Check a request against its model."""
        ...

    async def answer(self, bound: BoundRequest, arrived: float, *, within_s: float = 0.0) -> Answer:
        """Submit a request and wait for its answer."""
        ...


class Shadows:
    """The copies that are under way, for all shadows."""

    def __init__(self, inference: Answerer) -> None:
        self._inference = inference
        self._budget = MemoryBudget(_MAX_BYTES)
        self._copies: set[asyncio.Task[None]] = set()

    def copy(
        self,
        present: ModelSpec,
        endpoint: Endpoint,
        request: InferRequest,
        answer: Answer,
        *,
        figures: RolloutFigures,
        tolerance: float,
    ) -> None:
        """Begin a copy of a request that `present` has answered, for a shadow's endpoint.

        It is dropped if the server has anything else to do.
        """
        nbytes = _nbytes(request) + len(answer.values)
        is_idle = endpoint.is_open and self._inference.engine.is_idle_for(endpoint.model.served)
        try:
            if len(self._copies) >= _MAX_COPIES or not is_idle:
                raise QueueFull("others come first")
            self._budget.reserve(nbytes)
        except QueueFull:
            figures.dropped += 1
            return
        values = main_values(present, answer)
        copying = self._run(values, endpoint, request, figures, tolerance)
        endpoint.pins += 1
        task = asyncio.get_running_loop().create_task(copying)
        self._copies.add(task)

        def end(_: object) -> None:
            endpoint.pins -= 1
            self._copies.discard(task)
            self._budget.release(nbytes)

        task.add_done_callback(end)

    def stop(self) -> None:
        """Give up all copies."""
        for task in self._copies:
            task.cancel()

    async def _run(
        self,
        present: Values,
        endpoint: Endpoint,
        request: InferRequest,
        figures: RolloutFigures,
        tolerance: float,
    ) -> None:
        began = time.monotonic()
        try:
            bound = await self._bind(endpoint, request)
            answer = await self._inference.answer(bound, began, within_s=_WITHIN_S)
        except (QueueFull, DeadlineExceeded):
            figures.dropped += 1
        except Unavailable as error:
            if error.reason == "no_quorum":
                figures.new.errors += 1
            else:
                figures.dropped += 1
        except RequestError:
            figures.new.errors += 1
        except Exception:
            figures.new.errors += 1
            _log.exception("a copy of a request to %r failed", endpoint.model.served.name)
        else:
            figures.new.answer(answer.rows, answer.ended - answer.started)
            if not answer.degraded:
                figures.agree(compare(present, main_values(endpoint.model, answer), tolerance))

    async def _bind(self, endpoint: Endpoint, request: InferRequest) -> BoundRequest:
        """The copy, whose answer nobody waits for."""
        request = named_outputs(endpoint.model, request)
        parameters = replace(request.parameters, timeout_s=0.0)
        prepared, inputs, rows = await self._inference.bind(
            endpoint, replace(request, parameters=parameters)
        )
        options = replace(prepared.options, priority=LOW)
        unhurried = PreparedRequest(prepared.model, options, prepared.dims, prepared.sizes)
        return BoundRequest(unhurried, inputs, rows)


def _nbytes(request: InferRequest) -> int:
    return sum(
        sum(map(len, tensor.elements)) if tensor.array is None else tensor.array.nbytes
        for tensor in request.tensors
    )
