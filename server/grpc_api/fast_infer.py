"""The fast path of ModelInfer: from a message's bytes to the engine and back, without a task.

Runs in the front-end, on the hot path. Most requests of a client are alike, byte for byte, except
for their tensors, which come last: the decoded rest is known then, and so is the response except
for its values. Everything else takes the slow path (`service`), with the same result.
"""

from __future__ import annotations

import time
from functools import partial

from allocator.dispatch.flows import NORMAL
from server.engine.request import Answer, Outcome, Request
from server.errors import ClientGone
from server.grpc_api.calls import UnaryCall
from server.grpc_api.codec import DecodedRequest, encode_response
from server.grpc_api.status import log_fields
from server.grpc_api.wire_format import RAW_INPUT_CONTENTS, field_prefix
from server.inference.endpoint import Endpoint
from server.inference.generational_cache import GenerationalCache
from server.inference.inference import Inference
from server.inference.outputs import is_main_alone, member_names, output_tensors
from server.inference.plans import RequestPlan, slice_inputs
from server.inference.requests import BoundRequest, RequestedOutput
from server.security.authentication import Authenticator

__all__ = ["FastUnaryInfer", "remaining_timeout_s"]

_LENGTHS = 256  # of a generation of the cache
_PLANS_PER_LENGTH = 8
_MAX_HEAD_BYTES = 4096
#: A call's deadline is the client's: the response must have arrived by then. So the engine gets
#: less, by this share of the remaining time, but at most by so many seconds.
_MARGIN, _MAX_MARGIN_S = 0.1, 0.1
#: For a call whose deadline has passed.
_MIN_TIMEOUT_S = 1e-9


def remaining_timeout_s(remaining_s: float | None) -> float:
    """The engine's timeout for a call with so much time left; 0 for none."""
    if remaining_s is None:
        return 0.0
    return max(remaining_s - min(remaining_s * _MARGIN, _MAX_MARGIN_S), _MIN_TIMEOUT_S)


_Pieces = tuple[tuple[int, bytes], ...]


class UnaryPlan(RequestPlan, frozen=True, kw_only=True):
    """A known message; `fixed` are its bytes but for raw tensors, each piece with its offset.

    `output` is the main one, by the name that the client calls it.
    """

    fixed: _Pieces
    output: RequestedOutput

    def matches(self, message: bytes) -> bool:
        """Whether a message of the same length is such a request."""
        return all([message.startswith(piece, offset) for offset, piece in self.fixed])

    def encode(self, answer: Answer) -> bytes:
        """Encode the response."""
        return self.head(answer, self._encode_whole) + answer.values

    def _encode_whole(self, answer: Answer) -> bytes:
        model = self.endpoint.model
        members = ",".join(member_names(model, answer.used))
        outputs = output_tensors(model, answer, (self.output,))
        return encode_response(
            model.public,
            "",
            members,
            answer.degraded,
            outputs,
            generation=model.generation,
            variants=model.variants_text,
        )


class FastUnaryInfer:
    """The fast path; the authenticator knows whether urgent requests are restricted."""

    def __init__(self, inference: Inference, authenticator: Authenticator) -> None:
        self._inference = inference
        self._authenticator = authenticator
        # Traces and full logs need the slow path.
        self._is_off = inference.tracer is not None or inference.access.logs_all
        self._forget()
        inference.deployments.on_routes(self._forget)

    def _forget(self) -> None:
        """Names may mean other endpoints than before."""
        self._plans: GenerationalCache[int, list[UnaryPlan]] = GenerationalCache(_LENGTHS)

    def begin(self, unary: UnaryCall, message: bytes) -> bool:
        """Begin a request if it matches a plan."""
        for plan in self._plans.get(len(message)) or ():
            if plan.matches(message):
                if not plan.endpoint.is_open or (
                    plan.prepared.options.priority != NORMAL
                    and self._authenticator.restricts_urgent
                ):
                    return False
                _FastUnaryCall(self._inference, unary, plan).submit(message)
                return True
        return False

    def remember(
        self,
        message: bytes,
        decoded: DecodedRequest,
        endpoint: Endpoint,
        bound: BoundRequest,
        outputs: tuple[RequestedOutput, ...],
    ) -> None:
        """Make a plan of an answered request, if later ones may match it.

        None may if it has an id, which is unique, or a tensor in its head, or if anything follows
        its raw tensors.
        """
        is_raw = decoded.raw and not endpoint.model.takes_bytes
        is_usual = is_main_alone(endpoint.model, outputs)
        if self._is_off or decoded.id or not is_raw or not is_usual:
            return
        plans = self._plans.get(len(message)) or []
        located = _locate_tensors(message, decoded)
        if located is None or any(plan.matches(message) for plan in plans):
            return
        fixed, spans = located
        names = [tensor.name for tensor in decoded.head.inputs]
        named = [(name, *span) for name, span in zip(names, spans, strict=True)]
        plan = UnaryPlan(
            endpoint=endpoint,
            prepared=bound.prepared,
            rows=bound.rows,
            slices=slice_inputs(endpoint, bound, named),
            fixed=fixed,
            output=outputs[0],
        )
        self._plans.put(len(message), [plan, *plans][:_PLANS_PER_LENGTH])


class _FastUnaryCall:
    """A request on the fast path."""

    __slots__ = ("_arrived", "_inference", "_plan", "_request", "_unary")

    def __init__(self, inference: Inference, unary: UnaryCall, plan: UnaryPlan) -> None:
        self._arrived = time.monotonic()
        self._inference = inference
        self._unary = unary
        self._plan = plan
        self._request: Request | None = None

    def submit(self, message: bytes) -> None:
        """Submit the request to the engine."""
        plan, unary = self._plan, self._unary
        try:
            self._request = self._inference.engine.submit(
                plan.prepared,
                plan.inputs(message),
                plan.rows,
                self._done,
                arrived=self._arrived,
                within_s=remaining_timeout_s(unary.call.time_remaining()),
            )
        except Exception as error:
            self._fail(error)
        else:
            unary.on_cancelled = self._cancel

    def _cancel(self) -> None:
        """The client has gone: cancel the rows."""
        if self._request is not None:
            self._inference.engine.close(self._request, ClientGone())

    def _done(self, outcome: Outcome) -> None:
        self._request = None
        if not isinstance(outcome, Answer):
            self._fail(outcome)
            return
        try:
            response = self._plan.encode(outcome)
        except Exception as error:  # an internal error, which the client must see
            self._fail(error)
            return
        self._plan.endpoint.counters.succeed(self._arrived, outcome)
        self._unary.succeed(response)

    def _fail(self, error: Exception) -> None:
        plan, call = self._plan, self._unary.call
        plan.endpoint.counters.fail(self._arrived, error)
        fields = partial(log_fields, call, plan.endpoint.model.served.name, "")
        request_error = self._inference.access.failed(self._arrived, error, fields)
        error.__traceback__ = None  # its frames hold the request, which holds the error
        self._unary.fail(request_error)


def _locate_tensors(
    message: bytes, decoded: DecodedRequest
) -> tuple[_Pieces, list[tuple[int, int]]] | None:
    """A message's bytes except for its raw tensors, and the start and stop of each tensor.

    None if the tensors aren't the last fields.
    """
    spans: list[tuple[int, int]] = []
    end = len(message)
    for data in reversed(decoded.raw):
        start, stop = end - len(data), end
        prefix = field_prefix(RAW_INPUT_CONTENTS, len(data))
        end = start - len(prefix)
        if end < 0 or not message.startswith(prefix, end):
            return None
        spans.insert(0, (start, stop))
    if end != decoded.head_bytes or spans[0][0] > _MAX_HEAD_BYTES:
        return None
    offsets = [0, *(stop for _, stop in spans[:-1])]
    fixed = [
        (offset, message[offset:start]) for offset, (start, _) in zip(offsets, spans, strict=True)
    ]
    return tuple(fixed), spans
