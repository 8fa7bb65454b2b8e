"""Infer requests of a known kind: from their bytes to the engine and back, without a task.

Runs in the front-end, under every HTTP connection. A binary request whose JSON header was seen
before (`incoming`) is not parsed: its payload goes to the engine as it is. One that equals the
connection's last up to the payload needs no HTTP parser either. All else is left to the ASGI
application, which answers the same requests in the same way (`infer_route`), only slower.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import NamedTuple

from ensembled_client.wire import BINARY_CONTENT_TYPE

from allocator.dispatch.flows import NORMAL
from server.engine.memory_budget import COUNTED_BYTES, MemoryBudget, Reservation
from server.engine.request import Answer, Request
from server.errors import ClientGone, InternalFault, QueueFull, RequestError, Unauthenticated
from server.http_api.asgi_call import ClientConnection, response_head
from server.http_api.incoming import (
    HEADER_LENGTH_NAME,
    IncomingInfer,
    InferHead,
    InferPath,
    InferPlan,
    read_infer_head,
)
from server.http_api.protocol import encode_answer
from server.http_api.request_context import REQUEST_ID
from server.http_api.request_parser import RequestHead
from server.http_api.responses import LEAST_COMPRESSED_BYTES, error_response
from server.inference.inference import Inference
from server.security.authentication import Authenticator, Scope

__all__ = ["FastCall", "FastInfer", "RepeatedRequest"]

_OK = b"HTTP/1.1 200 OK\r\n"
_CLOSE = b"connection: close\r\n"
_BINARY = b"content-type: %b\r\n" % BINARY_CONTENT_TYPE.encode()
_JSON = b"content-type: application/json\r\n"
_VARY = b"vary: accept-encoding\r\n"


class RepeatedRequest(NamedTuple):
    """A request of `nbytes` that may come again, equal in `prefix`: all before the payload.

    Its body, with the JSON header that is part of `prefix`, begins at `start`.
    """

    prefix: bytes
    nbytes: int
    start: int
    head: InferHead
    plan: InferPlan


class FastCall:
    """An infer request that goes to the engine."""

    __slots__ = (
        "_arrived",
        "_client",
        "_connection",
        "_fast",
        "_head",
        "_reservation",
        "_is_admitted",
        "_plan",
        "_request",
        "keep_alive",
    )

    def __init__(
        self,
        fast: FastInfer,
        connection: ClientConnection,
        head: InferHead,
        plan: InferPlan,
        reservation: Reservation | None = None,
    ) -> None:
        self.keep_alive = head.keep_alive
        self._fast = fast
        self._connection = connection
        self._head = head
        self._plan = plan
        self._reservation = reservation
        self._arrived = time.monotonic()
        self._request: Request | None = None
        self._is_admitted = False
        self._client = ""

    def submit(self, body: bytes | memoryview, start: int = 0) -> None:
        """Submit the body from `start`; a refusal is sent in the next iteration of the loop."""
        fast = self._fast
        try:
            if fast.authenticator.is_enabled:
                client = self._connection.client
                self._client = fast.authenticator.admit(
                    Scope.INFER,
                    self._head.authorization,
                    self._connection.certificate_name,
                    client[0] if client else "",
                )
            self._is_admitted = True
            plan = self._plan
            self._request = fast.engine.submit(
                plan.prepared,
                plan.inputs(body, start),
                plan.rows,
                self._done,
                arrived=self._arrived,
            )
        except Exception as error:
            asyncio.get_running_loop().call_soon(self._done, error)

    def as_repeated(self, data: bytes) -> RepeatedRequest | None:
        """How to recognize another request like it, if this came as these bytes and no others."""
        head = self._head
        start = len(data) - head.body_bytes
        if start <= 0 or not self.keep_alive or head.request_id:
            return None
        prefix = data[: start + head.header_length]
        return RepeatedRequest(prefix, len(data), start, head, self._plan)

    def disconnect(self, *, cancel: bool = False) -> None:
        """The client has gone: its rows are given up."""
        del cancel
        if self._request is not None:
            self._fast.engine.close(self._request, ClientGone())

    def _done(self, outcome: Answer | Exception) -> None:
        fast = self._fast
        values: bytes | bytearray = b""
        try:
            if isinstance(outcome, Answer):
                head, values = self._encode(outcome)
                self._head.path.endpoint.counters.succeed(self._arrived, outcome)
            else:
                head = self._encode_error(outcome)
        except Exception as error:  # a fault of ours, for which the client gets an error
            head, values = self._encode_error(error), b""
        if self._reservation is not None:
            self._reservation.resize(0)
        if self._client:
            fast.authenticator.limiter.release(self._client)
        self._request = None
        self._connection.send_answer(self, head, values)

    def _more_headers(self) -> bytes:
        lines = b"" if self.keep_alive else _CLOSE
        if self._fast.inference.is_leaving:
            self.keep_alive, lines = False, _CLOSE
        if self._head.request_id:
            lines += b"%b: %b\r\n" % (REQUEST_ID, self._head.request_id.encode())
        return lines

    def _encode(self, answer: Answer) -> tuple[bytes, bytes | bytearray]:
        plan = self._plan
        common = self._connection.common_headers() + self._more_headers()
        if not plan.is_usual:
            return _OK + common + self._encode_rest(answer), b""
        return _OK + common + plan.head(answer, self._encode_rest), answer.values

    def _encode_rest(self, answer: Answer) -> bytes:
        """The rest of the response's head, and its body."""
        model = self._head.path.endpoint.model
        body, json_length = encode_answer(model, answer, "", self._plan.outputs)
        if json_length is None:
            lines = _JSON
        else:
            lines = b"%b%b: %d\r\n" % (_BINARY, HEADER_LENGTH_NAME, json_length)
        if len(body) >= LEAST_COMPRESSED_BYTES:
            lines += _VARY
        return b"%bcontent-length: %d\r\n\r\n%b" % (lines, len(body), body)

    def _encode_error(self, error: Exception) -> bytes:
        """The response to a request that has failed, which is counted and logged."""
        head, fast = self._head, self._fast
        public = error if isinstance(error, RequestError) else None
        if self._is_admitted or public is None:  # the authenticator counts what it refuses
            client = self._connection.client
            public = head.path.count_failure(error, self._arrived, client, head.request_id)
        error.__traceback__ = None  # its frames hold the request, which holds the error
        response = error_response(public)
        request_id = public.request_id if isinstance(public, InternalFault) else head.request_id
        if request_id:
            response.headers[REQUEST_ID.decode()] = request_id
        if isinstance(public, Unauthenticated) or fast.inference.is_leaving:
            self.keep_alive = False
        if not self.keep_alive:
            response.headers["connection"] = "close"
        common = self._connection.common_headers()
        body = bytes(response.body)
        return response_head(response.status_code, common, response.raw_headers) + body


class FastInfer:
    """Decides which requests take the fast way, for all connections."""

    def __init__(
        self,
        inference: Inference,
        paths: Mapping[str, InferPath],
        *,
        max_request_bytes: int,
        budget: MemoryBudget,
        authenticator: Authenticator,
    ) -> None:
        self.inference = inference
        self.engine = inference.engine
        self.authenticator = authenticator
        self._budget = budget
        self._paths = paths
        self._max_bytes = max_request_bytes
        # The application traces requests, and logs successful ones.
        self._is_off = inference.tracer is not None or inference.access.logs_all

    def is_infer(self, head: RequestHead) -> bool:
        """Whether a request is an infer request to a model that exists."""
        return head.path in self._paths and head.method == b"POST"

    def receive(self, connection: ClientConnection, head: RequestHead) -> IncomingInfer | None:
        """Begin to receive a request; None if it is for the application."""
        path = self._paths.get(head.path)
        if path is None or self._is_off or head.method != b"POST":
            return None
        infer_head = read_infer_head(head, path)
        if infer_head is None or not self.engine.is_open or infer_head.body_bytes > self._max_bytes:
            return None
        if infer_head.body_bytes >= COUNTED_BYTES:
            try:
                self._budget.check(infer_head.body_bytes)
            except QueueFull:
                return None
        if self.authenticator.is_enabled:
            name, credentials = connection.certificate_name, infer_head.authorization
            try:
                self.authenticator.authenticate(Scope.INFER, credentials, name, "")
            except RequestError:
                return None
        return IncomingInfer(head, infer_head, self._budget, connection.client)

    def begin(self, connection: ClientConnection, incoming: IncomingInfer) -> FastCall | None:
        """Make a call of a request that is complete, if it is of a known kind."""
        head = incoming.infer_head
        plan = head.path.plans.find(incoming.body, head.header_length)
        if plan is None or not plan.endpoint.is_open or not self._is_fast(head, plan):
            return None
        call = FastCall(self, connection, head, plan, incoming.take_reservation())
        call.keep_alive = incoming.keep_alive
        return call

    def _is_fast(self, head: InferHead, plan: InferPlan) -> bool:
        may_be_compressed = head.accepts_encoding and plan.answer_bytes >= LEAST_COMPRESSED_BYTES
        if plan.is_slow or may_be_compressed:
            return False
        return plan.prepared.options.priority == NORMAL or not self.authenticator.restricts_urgent

    def repeat(self, connection: ClientConnection, repeated: RepeatedRequest) -> FastCall | None:
        """A call of a request that equals an earlier one; None if that must be checked again."""
        if (
            self.authenticator.restricts_urgent
            or not self.engine.is_open
            or not repeated.plan.endpoint.is_open
        ):
            return None
        return FastCall(self, connection, repeated.head, repeated.plan)
