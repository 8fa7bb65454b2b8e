"""Binary infer requests as they arrive: heads, the memory for bodies, and plans by JSON header.

Runs in the front-end, between connections and `fast_infer`. A body of announced length is received
into one piece of memory, from which the engine copies it into the arena: all of it is reserved, but
the kernel provides pages as they are filled, and the budget counts what has arrived. Requests of
the same kind have the same JSON header, byte for byte; its plan says what the tensors are.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np
from ensembled_client.wire import HEADER_LENGTH

from server.engine.memory_budget import COUNTED_BYTES, MemoryBudget, Reservation
from server.errors import ClientGone, QueueFull, RequestError, RequestTimeout
from server.http_api.asgi_call import AsgiCall, ClientAddress, ClientConnection
from server.http_api.body import is_length
from server.http_api.request_context import REQUEST_ID
from server.http_api.request_parser import RequestHead
from server.inference.access_log import AccessLog, valid_request_id
from server.inference.endpoint import Endpoint
from server.inference.generational_cache import GenerationalCache
from server.inference.outputs import is_main_alone
from server.inference.plans import RequestPlan, slice_inputs
from server.inference.requests import BoundRequest, InferRequest, RequestedOutput

__all__ = [
    "BIG_ANSWER_BYTES",
    "HEADER_LENGTH_NAME",
    "IncomingInfer",
    "InferHead",
    "InferPath",
    "InferPlan",
    "PlanCache",
    "read_infer_head",
]

#: As the parser gives the header's name.
HEADER_LENGTH_NAME = HEADER_LENGTH.lower().encode()
#: Headers of requests that are left to the application.
_UNUSUAL = {b"transfer-encoding", b"content-encoding", b"expect"}
_SINGLE = {b"content-length", HEADER_LENGTH_NAME, b"authorization", REQUEST_ID, b"host"}

_PLANS = 512  # of a generation
_MAX_PLAN_HEADER_BYTES = 4096
#: What describes an answer, about.
_ANSWER_JSON_BYTES = 512
#: Larger arrays are encoded as JSON in slices.
BIG_ANSWER_BYTES = 1 << 15


class InferPlan(RequestPlan, frozen=True, kw_only=True):
    """A known kind of body.

    `answer_bytes` is about the largest size of the answer. `is_usual`: only the combined output is
    wanted, in binary. `is_slow`: encoding the answer must be sliced.
    """

    body_bytes: int
    outputs: tuple[RequestedOutput, ...]
    answer_bytes: int
    is_usual: bool
    is_slow: bool


class PlanCache:
    """The plans of one model, by header: those in use; bounded."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._plans: GenerationalCache[bytes, InferPlan] = GenerationalCache(_PLANS)

    def find(self, body: bytes | bytearray | memoryview, header_length: int) -> InferPlan | None:
        """The plan of a body, if its header was seen recently."""
        if header_length > _MAX_PLAN_HEADER_BYTES:  # hashing a long one takes longer than it saves
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
        """Make a plan, unless the header has an id, which makes it unlike others, or a tensor."""
        if request.id or header_length > _MAX_PLAN_HEADER_BYTES:
            return
        spans: list[tuple[str, int, int]] = []
        start = header_length
        for tensor in request.tensors:
            assert tensor.array is not None, "a bound tensor has an array"
            spans.append((tensor.name, start, start + tensor.array.nbytes))
            start += tensor.array.nbytes
        if start != len(body):
            return
        outputs = request.outputs
        value_bytes = bound.rows * bound.prepared.row_bytes * len(outputs)
        is_large_json = value_bytes > BIG_ANSWER_BYTES and not all(one.binary for one in outputs)
        self._plans.put(
            bytes(body[:header_length]),
            InferPlan(
                endpoint=self._endpoint,
                prepared=bound.prepared,
                rows=bound.rows,
                slices=slice_inputs(self._endpoint, bound, spans),
                body_bytes=len(body),
                outputs=outputs,
                answer_bytes=value_bytes + _ANSWER_JSON_BYTES,
                is_usual=outputs[0].binary and is_main_alone(self._endpoint.model, outputs),
                is_slow=is_large_json or any(output.classes for output in outputs),
            ),
        )


class InferPath:
    """The URL path of a model's infer route, with plans of its recent requests.

    `version` is empty if the path names none.
    """

    def __init__(self, endpoint: Endpoint, access: AccessLog, version: str = "") -> None:
        self.endpoint = endpoint
        self.version = version
        self.plans = PlanCache(endpoint)
        self._access = access

    def count_failure(
        self, error: Exception, began: float, client: ClientAddress, request_id: str
    ) -> RequestError:
        """Count and log a request that has failed; returns the error to send to the client."""
        self.endpoint.counters.fail(began, error)

        def describe() -> dict[str, str]:
            return {
                "protocol": "http",
                "model": self.endpoint.model.served.name,
                "client": f"{client[0]}:{client[1]}" if client else "",
                "request_id": request_id,
                "trace_id": "",
            }

        return self._access.failed(began, error, describe)


class InferHead(NamedTuple):
    """What the head of an infer request says; `header_length` is that of the JSON in the body.

    `request_id` is "" if the client gives none; the response may be compressed if
    `accepts_encoding`.
    """

    path: InferPath
    body_bytes: int
    header_length: int
    authorization: str | None
    accepts_encoding: bool
    request_id: str
    keep_alive: bool


def read_infer_head(head: RequestHead, path: InferPath) -> InferHead | None:
    """What a head says, if it is that of a plain binary request."""
    found: dict[bytes, bytes] = {}
    for name, value in head.headers:
        if name in _UNUSUAL or (name in _SINGLE and name in found):
            return None
        found[name] = value
    if b"host" not in found:
        return None
    length, header_length = found.get(b"content-length", b""), found.get(HEADER_LENGTH_NAME, b"")
    if not (is_length(length) and is_length(header_length)) or int(header_length) > int(length):
        return None
    authorization = found.get(b"authorization")
    return InferHead(
        path,
        int(length),
        int(header_length),
        None if authorization is None else authorization.decode("latin-1"),
        b"accept-encoding" in found,
        valid_request_id(found.get(REQUEST_ID, b"").decode("latin-1")),
        head.keep_alive,
    )


class IncomingInfer:
    """An infer request while its `body` arrives, which is set once `more_body` is false."""

    __slots__ = (
        "_began",
        "_budget",
        "_buffer",
        "_client",
        "_filled",
        "_head",
        "_reservation",
        "_parts",
        "body",
        "infer_head",
        "is_timed_out",
        "keep_alive",
        "more_body",
    )

    def __init__(
        self,
        head: RequestHead,
        infer_head: InferHead,
        budget: MemoryBudget,
        client: ClientAddress,
    ) -> None:
        self._head = head
        self.infer_head = infer_head
        self._began = time.monotonic()
        self.body: bytes | memoryview = b""
        self.more_body = True
        self.keep_alive = infer_head.keep_alive
        self.is_timed_out = False
        self._budget = budget
        self._client = client
        self._reservation: Reservation | None = None
        self._parts: list[bytes] = []
        self._buffer = memoryview(b"")
        self._filled = 0

    @property
    def missing_bytes(self) -> int:
        """How much of the body is still to come."""
        return self.infer_head.body_bytes - self._filled

    def feed(self, data: bytes) -> None:
        """Add a part of the body that came together with the head."""
        self._parts.append(data)

    def allocate(self) -> bool:
        """Allocate memory for the rest of the body; False if it, or the budget, is exhausted."""
        arrived = b"".join(self._parts)
        self._parts.clear()
        self._reservation = Reservation(self._budget)
        try:
            self._buffer = _allocate_untouched(self.infer_head.body_bytes)
        except MemoryError:  # many have announced much
            self._buffer, self._filled = memoryview(arrived), len(arrived)
            return False
        self._buffer[: len(arrived)] = arrived
        return self.fill(len(arrived))

    def free_buffer(self) -> memoryview:
        """Where the rest of the body goes."""
        return self._buffer[self._filled :]

    def fill(self, nbytes: int) -> bool:
        """Note bytes written to `free_buffer`; False if that exceeds the budget of bodies."""
        self._filled += nbytes
        assert self._reservation is not None
        try:
            self._reservation.resize(self._filled)
        except QueueFull:
            return False
        return True

    def end_body(self) -> None:
        """The body is complete."""
        self.more_body = False
        if self._reservation is None:
            parts = self._parts
            self.body = parts[0] if len(parts) == 1 else b"".join(parts)
            if len(self.body) >= COUNTED_BYTES:
                self._reservation = Reservation(self._budget)
                self._reservation.charge(len(self.body))
        else:
            self.body = self._buffer
            if len(self.body) < COUNTED_BYTES:
                self._reservation.resize(0)

    def take_reservation(self) -> Reservation | None:
        """Transfer what it holds of the budget to the caller."""
        reservation, self._reservation = self._reservation, None
        return reservation

    def as_asgi(self, connection: ClientConnection) -> AsgiCall:
        """The same request as a call of the application."""
        call = AsgiCall(self._head, connection, is_infer=True)
        call.keep_alive = self.keep_alive
        self._release()
        if self.more_body:
            call.feed(self._buffer[: self._filled])
        else:
            call.feed(self.body)
            call.end_body()
        return call

    def disconnect(self, *, cancel: bool = False) -> None:
        """The client has gone, or took too long."""
        del cancel  # nothing runs yet
        self._release()
        is_late = self.is_timed_out
        error = RequestTimeout("the body did not come in time") if is_late else ClientGone()
        head = self.infer_head
        head.path.count_failure(error, self._began, self._client, head.request_id)

    def _release(self) -> None:
        if self._reservation is not None:
            self._reservation.resize(0)
            self._reservation = None


def _allocate_untouched(nbytes: int) -> memoryview:
    """Memory of which the kernel provides only what is written to."""
    return np.empty(nbytes, np.uint8).data
