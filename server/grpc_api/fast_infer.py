"""ModelInfer for requests of a known kind: from their bytes to the engine and back, without a task.

Runs in the front-end. Most requests of a client are alike, byte for byte, but for the contents of
their tensors, which come last: what the rest says is known then, and so is the answer but for its
values. Everything else goes the ordinary way (`service`), where the same request is answered in the
same way, only slower.
"""

from __future__ import annotations

import time
from functools import partial

import msgspec

from allocator.dispatch.flows import NORMAL
from server.engine.request import Answer, Outcome, Prepared, Request, StoredInput
from server.errors import ClientGone
from server.grpc_api.answers import encode_answer
from server.grpc_api.calls import Unary
from server.grpc_api.codec import Asked
from server.grpc_api.entrance import Entrance
from server.grpc_api.fields import RAW_INPUT_CONTENTS, field_prefix
from server.grpc_api.metadata import about
from server.inference.generational_cache import GenerationalCache
from server.inference.inference import Endpoint, Inference
from server.inference.outputs import COMBINED, member_names, output_tensors
from server.inference.requests import BoundRequest, RequestedOutput

__all__ = ["FastInfer", "answer_within_s"]

_LENGTHS = 256  # of a generation
_PLANS_EACH = 8
_MAX_HEAD_BYTES = 4096
_USUAL = ((RequestedOutput(COMBINED),), (RequestedOutput(COMBINED, binary=True),))
#: A deadline is the client's: the answer must be there by then. So it is given earlier, by this
#: part of the time that is left, but not by more than so much.
_MARGIN, _MAX_MARGIN_S = 0.1, 0.1
#: Of a call whose deadline has passed.
_NO_TIME_S = 1e-9


def answer_within_s(left_s: float | None) -> float:
    """How long a request may take whose call has so much time left; 0 for ever."""
    if left_s is None:
        return 0.0
    return max(left_s - min(left_s * _MARGIN, _MAX_MARGIN_S), _NO_TIME_S)


_Pieces = tuple[tuple[int, bytes], ...]


class Plan(msgspec.Struct, frozen=True):
    """A request but for its payload.

    Attributes:
        fixed: its other bytes, each piece with where it starts.
        slices: which view's rows are where, from start to stop.
        rows: of every input.
        endpoint: of the model that it names.
        prepared: what is asked.
        heads: of answers, but for their values, by the members used and whether degraded.
    """

    fixed: _Pieces
    slices: tuple[tuple[int, int, int], ...]
    rows: int
    endpoint: Endpoint
    prepared: Prepared
    heads: dict[tuple[int, bool], bytes] = {}

    def fits(self, message: bytes) -> bool:
        """Whether a message of the same length is such a request."""
        return all([message.startswith(piece, start) for start, piece in self.fixed])

    def inputs(self, message: bytes) -> list[StoredInput]:
        """What goes into the arena of such a message: no copy."""
        data = memoryview(message)
        return [(view, data[start:stop]) for view, start, stop in self.slices]

    def encode(self, answer: Answer) -> bytes:
        """The message of an answer."""
        key = answer.used, answer.degraded
        head = self.heads.get(key)
        if head is None:
            model = self.endpoint.model
            members = ",".join(member_names(model, answer.used))
            outputs = output_tensors(model, answer, (RequestedOutput(COMBINED),))
            whole = encode_answer(model.served.name, "", members, answer.degraded, outputs)
            head = self.heads[key] = whole[: len(whole) - len(answer.values)]
        return head + answer.values


class FastInfer:
    """The way of requests of a known kind.

    Args:
        inference: knows the models.
        entrance: knows who may go before others.
    """

    def __init__(self, inference: Inference, entrance: Entrance) -> None:
        self._inference = inference
        self._entrance = entrance
        self._plans: GenerationalCache[int, list[Plan]] = GenerationalCache(_LENGTHS)
        # Who wants to know all of every request has it answered in the ordinary way.
        self._is_off = inference.tracer is not None or inference.access.logs_all

    def begin(self, unary: Unary, message: bytes) -> bool:
        """Have a request answered; false if it is of no known kind."""
        for plan in self._plans.get(len(message)) or ():
            if plan.fits(message):
                if plan.prepared.wish.level != NORMAL and self._entrance.keeps_urgent:
                    return False
                _FastCall(self._inference, unary, plan).submit(message)
                return True
        return False

    def remember(
        self, message: bytes, asked: Asked, endpoint: Endpoint, bound: BoundRequest
    ) -> None:
        """Make a plan of a request that was answered, if others may be like it.

        Not if it has an id, which makes it unlike any other, nor if a tensor is in its head, or
        something follows its tensors.
        """
        is_raw = asked.raw and not endpoint.model.takes_images
        if self._is_off or asked.id or not is_raw or asked.head.outputs not in _USUAL:
            return
        plans = self._plans.get(len(message)) or []
        found = _locate(message, asked)
        if found is None or any(plan.fits(message) for plan in plans):
            return
        fixed, spans = found
        names = [tensor.name for tensor in asked.head.inputs]
        inputs = zip(endpoint.model.inputs, endpoint.model.views, strict=True)
        views = {tensor.name: view for tensor, view in inputs}
        slices = tuple([(views[name], *span) for name, span in zip(names, spans, strict=True)])
        plan = Plan(fixed, slices, bound.rows, endpoint, bound.prepared)
        self._plans.put(len(message), [plan, *plans][:_PLANS_EACH])


class _FastCall:
    """A request that goes to the engine."""

    __slots__ = ("_arrived", "_inference", "_plan", "_request", "_unary")

    def __init__(self, inference: Inference, unary: Unary, plan: Plan) -> None:
        self._arrived = time.monotonic()
        self._inference = inference
        self._unary = unary
        self._plan = plan
        self._request: Request | None = None

    def submit(self, message: bytes) -> None:
        """Have it answered."""
        plan, unary = self._plan, self._unary
        try:
            self._request = self._inference.engine.submit(
                plan.prepared,
                plan.inputs(message),
                plan.rows,
                self._done,
                arrived=self._arrived,
                within_s=answer_within_s(unary.call.time_remaining()),
            )
        except Exception as error:
            self._fail(error)
        else:
            unary.on_cancelled = self._cancel

    def _cancel(self) -> None:
        """The client has gone: its rows are given up."""
        if self._request is not None:
            self._inference.engine.close(self._request, ClientGone())

    def _done(self, outcome: Outcome) -> None:
        self._request = None
        if not isinstance(outcome, Answer):
            self._fail(outcome)
            return
        try:
            message = self._plan.encode(outcome)
        except Exception as error:  # a fault of ours: the client is told so
            self._fail(error)
            return
        self._plan.endpoint.counters.succeed(self._arrived, outcome)
        self._unary.succeed(message)

    def _fail(self, error: Exception) -> None:
        plan, call = self._plan, self._unary.call
        plan.endpoint.counters.fail(self._arrived, error)
        name = plan.endpoint.model.served.name
        told = self._inference.access.failed(self._arrived, error, partial(about, call, name, ""))
        error.__traceback__ = None  # it holds the request, which holds the error
        self._unary.fail(told)


def _locate(message: bytes, asked: Asked) -> tuple[_Pieces, list[tuple[int, int]]] | None:
    """A message's bytes but for its raw tensors, and where these start and stop.

    None if they aren't the last fields.
    """
    spans: list[tuple[int, int]] = []
    end = len(message)
    for data in reversed(asked.raw):
        start, stop = end - len(data), end
        prefix = field_prefix(RAW_INPUT_CONTENTS, len(data))
        end = start - len(prefix)
        if end < 0 or not message.startswith(prefix, end):
            return None
        spans.insert(0, (start, stop))
    if end != asked.head_bytes or spans[0][0] > _MAX_HEAD_BYTES:
        return None
    before = [0, *(stop for _, stop in spans[:-1])]
    fixed = [(at, message[at:start]) for at, (start, _) in zip(before, spans, strict=True)]
    return tuple(fixed), spans
