"""The models, and inference under every protocol.

Runs in the front-end. An `InferRequest` flows in and is bound to its model; its rows go through
the engine, and the answer flows out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import TYPE_CHECKING, Any

from server.engine.arena_requests import ArenaRequests
from server.engine.engine import Engine
from server.engine.memory_budget import MemoryBudget
from server.engine.request import Answer, Outcome, PreparedRequest
from server.engine.statistics import ModelCounters, member_statistics, model_statistics
from server.errors import ClientGone, InvalidRequest
from server.inference.access_log import AccessLog
from server.inference.binding import bind_images, bind_tensors
from server.inference.control import Control
from server.inference.deployments import Deployments
from server.inference.endpoint import Endpoint
from server.inference.index import repository_index
from server.inference.lengths import bind_sizes
from server.inference.metadata import model_config, model_metadata
from server.inference.outputs import OutputTensor, infer_options, output_tensors, takes_long
from server.inference.repository import Repository
from server.inference.requests import BoundRequest, InferRequest, RequestedOutput
from server.inference.rollouts import Rollouts
from server.inference.spec import FrontEndSpec, ModelSpec

if TYPE_CHECKING:
    from server.engine.tracing import RequestTrace, Tracer

__all__ = ["Inference"]


class Inference:
    """All models, and inference with them; images are decoded in `threads`.

    `control` asks for changes of what is served, `repository` for those that clients want, and
    `rollouts` try new versions. `unaddressed` counts requests without a known model. While the
    server drains, `is_leaving` is set: it is not ready, though it may still answer. The tracer is
    None for no tracing. `changes` counts what became of the changes of what is served.
    """

    def __init__(
        self,
        spec: FrontEndSpec,
        engine: Engine,
        threads: Executor,
        control: Control,
        tracer: Tracer | None = None,
    ) -> None:
        self.engine = engine
        self.control = control
        self.repository = Repository(control, spec.repository)
        self.deployments = Deployments(spec.deployment, engine, spec.queue.waiting_requests)
        self.unaddressed = ModelCounters()
        self._spec = spec
        self._threads = threads
        self._image_budget = MemoryBudget(spec.limits.waiting_bytes)
        self.tracer = tracer
        self.is_leaving = False
        self.changes = spec.changes
        self.access = AccessLog(spec.access_log)
        self.rollouts = Rollouts(self, spec.deployment.rollouts)

    @property
    def endpoints(self) -> Mapping[str, Endpoint]:
        """Those of the present deployment, by the internal name of their model."""
        return self.deployments.current.endpoints

    def current_arenas(self) -> list[ArenaRequests]:
        """The arenas of the present deployment."""
        generation = self.deployments.current.spec.generation
        return [self.engine.arenas[spec.index] for spec in generation.arenas]

    def find(self, name: str, version: str = "") -> Endpoint:
        """The endpoint of a model; without a version that of the newest that can answer.

        Raises `UnknownModel`.
        """
        return self.deployments.find(name, version)

    @property
    def is_ready(self) -> bool:
        """Whether the server takes traffic: started, not draining, some quorum can be met."""
        return any(self.can_answer(endpoint) for endpoint in self.endpoints.values())

    def can_answer(self, endpoint: Endpoint) -> bool:
        """Whether a model takes traffic: it can meet its quorum now."""
        if self.is_leaving or not self.engine.is_open:
            return False
        return self.engine.can_answer(endpoint.model.served)

    def config(self, endpoint: Endpoint) -> dict[str, Any]:
        """The protocol's configuration of a model."""
        deployment = self.deployments.current.spec
        return model_config(endpoint.model, deployment, self._spec.max_request_bytes)

    def metadata(self, endpoint: Endpoint) -> dict[str, Any]:
        """The protocol's metadata of a model."""
        versions = self.deployments.current.versions[endpoint.model.name]
        return model_metadata(endpoint.model, [*reversed(versions)])

    def index(self, *, ready_only: bool = False) -> list[dict[str, Any]]:
        """The protocol's repository index: each version of each model with its state."""
        deployments = self.deployments
        entries = repository_index(deployments.current, deployments.others, self.can_answer)
        return [one for one in entries if not ready_only or one["state"] == "READY"]

    def statistics(self, endpoints: list[Endpoint] | None = None) -> dict[str, Any]:
        """The protocol's statistics of some models, of all if none are named."""
        if endpoints is None:
            endpoints = list(self.endpoints.values())
        entries = [self._statistics(endpoint) for endpoint in endpoints]
        self.rollouts.add_statistics(entries)
        return {"model_stats": entries}

    def _statistics(self, endpoint: Endpoint) -> dict[str, Any]:
        served = endpoint.model.served
        if endpoint.model.is_member:
            counted = self.engine.fleet.member_counters[served.arena][served.spec.members[0]]
            return member_statistics(*endpoint.model.public, counted)
        return model_statistics(*endpoint.model.public, endpoint.counters)

    async def bind(self, endpoint: Endpoint, request: InferRequest) -> BoundRequest:
        """Check a request against its model; raises `InvalidRequest` if they don't fit together."""
        if request.complaint and self._spec.refuses_unknown_parameters:
            raise InvalidRequest(request.complaint)
        model = endpoint.model
        options = infer_options(model, request.parameters, request.outputs)
        rows, inputs = bind_tensors(model, request.tensors, options.members)
        if model.takes_images:
            inputs += await bind_images(
                model,
                request.tensors,
                options.members,
                threads=self._threads,
                max_pixels=self._spec.max_image_pixels,
                budget=self._image_budget,
            )
        if not model.lengths:
            return BoundRequest(PreparedRequest(model.served, options), inputs, rows)
        served, dims = bind_sizes(model, request.tensors, rows, options.members)
        sizes = dict(zip(model.symbols, dims.max(axis=1).tolist(), strict=True))
        return BoundRequest(PreparedRequest(served, options, dims, sizes), inputs, rows)

    async def answer(
        self,
        bound: BoundRequest,
        arrived: float,
        trace: RequestTrace | None = None,
        within_s: float = 0.0,
    ) -> Answer:
        """Submit a request and wait for its answer; if the task is cancelled, so are its rows.

        `arrived` is when its body was there, on the monotonic clock; `within_s` is a timeout beside
        the request's own, 0 for none. Raises `RequestError` if it fails.
        """
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        request = self.engine.submit(
            *bound, partial(_resolve, future), arrived=arrived, within_s=within_s, trace=trace
        )
        try:
            return await future
        except asyncio.CancelledError:
            self.engine.close(request, ClientGone())
            raise

    async def tensors(
        self, model: ModelSpec, answer: Answer, outputs: Sequence[RequestedOutput]
    ) -> list[OutputTensor]:
        """The tensors of an answer (`output_tensors`), made in a thread if that takes long."""
        if not takes_long(model, answer, outputs):
            return output_tensors(model, answer, outputs)
        compute = partial(output_tensors, model, answer, outputs)
        return await asyncio.get_running_loop().run_in_executor(self._threads, compute)


def _resolve(future: asyncio.Future[Answer], outcome: Outcome) -> None:
    if future.done():
        return  # the task was cancelled
    if isinstance(outcome, Answer):
        future.set_result(outcome)
    else:
        future.set_exception(outcome)
