"""What to do with a body whose JSON header has been seen before: no parsing, only slicing.

Runs in the front-end. A client that sends the same kind of request again sends the same header,
byte for byte; all that its tensors' names, types, shapes and sizes say is then known already.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from server.engine.request import PreparedRequest, StoredInput
from server.errors import RequestError
from server.inference.access_log import AccessLog
from server.inference.generational_cache import GenerationalCache
from server.inference.inference import Endpoint
from server.inference.requests import BoundRequest, InferRequest, RequestedOutput

__all__ = ["BIG_ANSWER_BYTES", "InferPath", "Plan", "PlanCache"]

_PLANS = 512  # of a generation
_MAX_HEADER_BYTES = 4096
#: What describes an answer, about.
_JSON_BYTES = 512
#: Numbers of more bytes are written as JSON in steps.
BIG_ANSWER_BYTES = 1 << 15


class _Slice(msgspec.Struct, frozen=True):
    view: int
    start: int
    stop: int


class Plan(msgspec.Struct, frozen=True):
    """A request but for its payload.

    Attributes:
        body_bytes: the length of the whole body.
        rows: of every input.
        slices: where in the body which view's rows are.
        outputs: how the answer is wanted.
        answer_bytes: at most so large is the answer, about.
        is_usual: whether that is the combined output in binary, and nothing else.
        is_slow: whether it takes long enough to encode that others must not wait for it.
        heads: of usual answers, but for their values, by the members used and whether degraded.
        prepared: what is asked.
    """

    body_bytes: int
    rows: int
    slices: tuple[_Slice, ...]
    outputs: tuple[RequestedOutput, ...]
    prepared: PreparedRequest
    answer_bytes: int
    is_usual: bool
    is_slow: bool
    heads: dict[tuple[int, bool], bytes] = {}

    def inputs(self, body: bytes | bytearray | memoryview, start: int = 0) -> list[StoredInput]:
        """What goes into the arena of a body of `body_bytes` that begins at `start`: no copy."""
        view = memoryview(body)
        return [(item.view, view[start + item.start : start + item.stop]) for item in self.slices]

    def bind(self, body: bytes | bytearray) -> BoundRequest:
        """What such a body asks."""
        return BoundRequest(self.prepared, self.inputs(body), self.rows)


class PlanCache:
    """The plans of one model, by header: those in use; bounded.

    Args:
        inputs: the names of the model's inputs, in its order.
    """

    def __init__(self, inputs: Sequence[str]) -> None:
        self._inputs = inputs
        self._plans: GenerationalCache[bytes, Plan] = GenerationalCache(_PLANS)

    def find(self, body: bytes | bytearray | memoryview, header_length: int) -> Plan | None:
        """The plan of a body, if its header was seen lately."""
        if header_length > _MAX_HEADER_BYTES:  # to hash a long one would take longer than it saves
            return None
        plan = self._plans.get(bytes(body[:header_length]))
        return plan if plan is not None and plan.body_bytes == len(body) else None

    def remember(
        self,
        body: bytes | bytearray,
        header_length: int,
        request: InferRequest,
        bound: BoundRequest,
    ) -> None:
        """Make a plan of a request that was parsed and bound.

        Not if the client gave it an id, which makes its header unlike any other, nor if a tensor
        is in the header itself.
        """
        if request.id or header_length > _MAX_HEADER_BYTES:
            return
        views = {name: view for name, (view, _) in zip(self._inputs, bound.inputs, strict=True)}
        slices: list[_Slice] = []
        start = header_length
        for tensor in request.tensors:
            assert tensor.array is not None, "a bound tensor is one"
            stop = start + tensor.array.nbytes
            slices.append(_Slice(views[tensor.name], start, stop))
            start = stop
        if start == len(body):
            outputs = request.outputs
            answer_bytes = bound.rows * bound.prepared.row_bytes * len(outputs)
            plan = Plan(
                len(body),
                bound.rows,
                tuple(slices),
                outputs,
                bound.prepared,
                answer_bytes + _JSON_BYTES,
                outputs == (RequestedOutput(binary=True),),
                any(output.classes for output in outputs)
                or (
                    answer_bytes > BIG_ANSWER_BYTES and not all(output.binary for output in outputs)
                ),
            )
            self._plans.put(bytes(body[:header_length]), plan)


class InferPath:
    """Where a model is asked over HTTP.

    Attributes:
        endpoint: the model.
        plans: of the requests that it has seen.
    """

    def __init__(self, endpoint: Endpoint, access: AccessLog) -> None:
        self.endpoint = endpoint
        self.plans = PlanCache([spec.name for spec in endpoint.model.inputs])
        self._access = access

    def count_failure(
        self, error: Exception, began: float, client: tuple[str, int] | None, request_id: str
    ) -> RequestError:
        """Count a request that has failed; what its client is told."""
        self.endpoint.counters.fail(began, error)

        def about() -> dict[str, str]:
            return {
                "protocol": "http",
                "model": self.endpoint.model.served.name,
                "client": f"{client[0]}:{client[1]}" if client else "",
                "request_id": request_id,
                "trace_id": "",
            }

        return self._access.failed(began, error, about)
