"""Infer requests of a known kind: from their bytes to the engine and back, without a task.

Runs in the front-end, under every HTTP connection. A binary request whose JSON header was seen
before (`plans`) needs no parsing: its payload goes to the engine as it lies, and the answer's head
is known but for a few numbers. One that is like the connection's last, byte for byte up to the
payload, needs no HTTP parser either. Everything else is left to the ASGI application, where the
same request is answered in the same way (`infer_route`), only slower.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import NamedTuple, Protocol

from ensembled_client.wire import HEADER_LENGTH

from allocator.dispatch.flows import NORMAL
from server.engine.memory_budget import COUNTED_BYTES, MemoryBudget, Reservation
from server.engine.request import Answer, Request
from server.errors import (
    ClientGone,
    InternalFault,
    QueueFull,
    RequestError,
    Unauthenticated,
)
from server.http_api import asker
from server.http_api.answers import RAW, VARY, error_answer
from server.http_api.asgi_call import Writer, response_head
from server.http_api.compression import LEAST_BYTES
from server.http_api.framing import Head
from server.http_api.incoming import Asked, Client, Incoming, read_head
from server.http_api.plans import InferPath, Plan
from server.http_api.protocol import encode_answer
from server.inference.inference import Inference
from server.security.authentication import Authenticator, Scope

__all__ = ["FastCall", "FastInfer", "Repeat"]

_LENGTH = HEADER_LENGTH.lower().encode()
_OK = b"HTTP/1.1 200 OK\r\n"
_CLOSE = b"connection: close\r\n"


class Connection(Writer, Protocol):
    """What the calls here know of their connection."""

    client: Client
    certified: str

    def answer(self, call: FastCall, head: bytes, values: bytes | bytearray) -> None:
        """Send the whole answer, which may end with values that are not copied again."""
        ...


class Repeat(NamedTuple):
    """A request that may come again.

    Attributes:
        prefix: its bytes, but for the payload.
        nbytes: how many it has altogether.
        start: where its body begins.
        asked: what its head says.
        plan: what to do with its body.
    """

    prefix: bytes
    nbytes: int
    start: int
    asked: Asked
    plan: Plan


class FastCall:
    """An infer request that goes to the engine.

    Attributes:
        keep_alive: whether the connection stays when it is answered.
    """

    __slots__ = (
        "_arrived",
        "_asked",
        "_client",
        "_connection",
        "_fast",
        "_hold",
        "_is_admitted",
        "_plan",
        "_request",
        "keep_alive",
    )

    def __init__(
        self,
        fast: FastInfer,
        connection: Connection,
        asked: Asked,
        plan: Plan,
        hold: Reservation | None = None,
    ) -> None:
        self.keep_alive = asked.keep_alive
        self._fast = fast
        self._connection = connection
        self._asked = asked
        self._plan = plan
        self._hold = hold
        self._arrived = time.monotonic()
        self._request: Request | None = None
        self._is_admitted = False
        self._client = ""

    def submit(self, body: bytes | memoryview, start: int = 0) -> None:
        """Have it answered; a refusal comes in the next turn.

        Args:
            body: holds the request's body.
            start: where that begins.
        """
        fast = self._fast
        try:
            if fast.authenticator.is_enabled:
                client = self._connection.client
                self._client = fast.authenticator.admit(
                    Scope.INFER,
                    self._asked.authorization,
                    self._connection.certified,
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

    def repeat(self, data: bytes) -> Repeat | None:
        """How to know another request like it, if this came as these bytes and no others."""
        asked = self._asked
        start = len(data) - asked.length
        if start <= 0 or not self.keep_alive or asked.request_id:
            return None
        prefix = data[: start + asked.header_length]
        return Repeat(prefix, len(data), start, asked, self._plan)

    def disconnect(self, *, cancel: bool = False) -> None:
        """The client has gone: its rows are given up."""
        del cancel
        if self._request is not None:
            self._fast.engine.close(self._request, ClientGone())

    def _done(self, outcome: Answer | Exception) -> None:
        asked, fast = self._asked, self._fast
        values: bytes | bytearray = b""
        try:
            if isinstance(outcome, Answer):
                head, values = self._encode(outcome)
                asked.path.endpoint.counters.succeed(self._arrived, outcome)
            else:
                head = self._refusal(outcome)
        except Exception as error:  # a fault of ours: the client is told so
            head, values = self._refusal(error), b""
        if self._hold is not None:
            self._hold.resize(0)
        if self._client:
            fast.authenticator.limiter.release(self._client)
        self._request = None
        self._connection.answer(self, head, values)

    def _more_headers(self) -> bytes:
        lines = b"" if self.keep_alive else _CLOSE
        if self._fast.inference.is_leaving:
            self.keep_alive, lines = False, _CLOSE
        if self._asked.request_id:
            lines += b"%b: %b\r\n" % asker.echo(self._asked.request_id)
        return lines

    def _encode(self, answer: Answer) -> tuple[bytes, bytes | bytearray]:
        plan = self._plan
        common = self._connection.common_headers() + self._more_headers()
        if not plan.is_usual:
            return _OK + common + self._described(answer), b""
        key = answer.used, answer.degraded
        heads = plan.heads
        head = heads.get(key)
        if head is None:
            described = self._described(answer)
            head = heads[key] = described[: len(described) - len(answer.values)]
        return _OK + common + head, answer.values

    def _described(self, answer: Answer) -> bytes:
        """The rest of the response's head, and its body."""
        model = self._asked.path.endpoint.model
        body, json_length = encode_answer(model, answer, "", self._plan.outputs)
        if json_length is None:
            lines = b"content-type: application/json\r\n"
        else:
            lines = b"%b: %b\r\n%b: %d\r\n" % (*RAW, _LENGTH, json_length)
        if len(body) >= LEAST_BYTES:
            lines += b"%b: %b\r\n" % VARY
        return b"%bcontent-length: %d\r\n\r\n%b" % (lines, len(body), body)

    def _refusal(self, error: Exception) -> bytes:
        """The response to a request that has failed; it is counted, and told in the log."""
        asked, fast = self._asked, self._fast
        told = error if isinstance(error, RequestError) else None
        if self._is_admitted or told is None:  # the door counts whom it refuses
            client = self._connection.client
            told = asked.path.count_failure(error, self._arrived, client, asked.request_id)
        error.__traceback__ = None  # it holds the request, which holds the error
        answer = error_answer(told)
        headers = [*answer.headers, (b"content-length", b"%d" % len(answer.body))]
        named = told.request_id if isinstance(told, InternalFault) else asked.request_id
        if named:
            headers.append(asker.echo(named))
        if isinstance(told, Unauthenticated) or fast.inference.is_leaving:
            self.keep_alive = False
        if not self.keep_alive:
            headers = [header for header in headers if header[0] != b"connection"]
            headers.append((b"connection", b"close"))
        return (
            response_head(answer.status, self._connection.common_headers(), headers) + answer.body
        )


class FastInfer:
    """The way of requests of a known kind, for all connections.

    Args:
        inference: knows the models.
        paths: where they are asked.
        max_request_bytes: of a body.
        budget: what all bodies may hold together.
        authenticator: authenticates clients.

    Attributes:
        engine: where rows go.
        inference, budget, authenticator: as given.
    """

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
        self.budget = budget
        self.authenticator = authenticator
        self._paths = paths
        self._max_bytes = max_request_bytes
        # Who wants to know all of every request has it answered by the application.
        self._is_off = inference.tracer is not None or inference.access.logs_all

    def is_infer(self, head: Head) -> bool:
        """Whether a request is to a model that there is."""
        return head.path in self._paths and head.method == b"POST"

    def receive(self, connection: Connection, head: Head) -> Incoming | None:
        """A request begins whose body may come as a whole; None if it is for the application."""
        path = self._paths.get(head.path)
        if path is None or self._is_off or head.method != b"POST":
            return None
        asked = read_head(head, path)
        if asked is None or not self.engine.is_open or asked.length > self._max_bytes:
            return None
        if asked.length >= COUNTED_BYTES:
            try:
                self.budget.check(asked.length)
            except QueueFull:
                return None
        if self.authenticator.is_enabled:
            try:
                self.authenticator.authenticate(
                    Scope.INFER, asked.authorization, connection.certified, ""
                )
            except RequestError:
                return None
        return Incoming(head, asked, self.budget, connection.client)

    def begin(self, connection: Connection, incoming: Incoming) -> FastCall | None:
        """Make a call of a request that is there as a whole, if it is of a known kind."""
        asked = incoming.asked
        plan = asked.path.plans.find(incoming.body, asked.header_length)
        if plan is None or not self._may_take(asked, plan):
            return None
        call = FastCall(self, connection, asked, plan, incoming.take_hold())
        call.keep_alive = incoming.keep_alive
        return call

    def _may_take(self, asked: Asked, plan: Plan) -> bool:
        if plan.is_slow or (asked.takes_encoded and plan.answer_bytes >= LEAST_BYTES):
            return False
        return plan.prepared.options.priority == NORMAL or not self.authenticator.restricts_urgent

    def repeat(self, connection: Connection, repeat: Repeat) -> FastCall | None:
        """A call of a request that is like another; None if that is not known any more."""
        if self.authenticator.restricts_urgent or not self.engine.is_open:
            return None
        return FastCall(self, connection, repeat.asked, repeat.plan)
