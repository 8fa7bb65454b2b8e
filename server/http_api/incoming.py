"""Infer requests with a binary body, while it comes: what their heads say, and where bodies go.

Runs in the front-end, under every HTTP connection. Heads and bytes flow in, whole bodies flow out.
A body that is announced with its length is received into one piece of memory, from which the engine
copies it into the arena. Memory is taken for all that is announced, but the kernel gives it page by
page, as it is filled; the budget counts what has come.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np
from ensembled_client.wire import HEADER_LENGTH

from server.engine.memory_budget import COUNTED_BYTES, MemoryBudget, Reservation
from server.errors import ClientGone, QueueFull, RequestTimeout
from server.http_api import asker
from server.http_api.asgi_call import AsgiCall, Writer
from server.http_api.framing import Head
from server.http_api.plans import InferPath
from server.inference.access_log import valid_request_id

__all__ = ["Asked", "Client", "Incoming", "read_head"]

_LENGTH = HEADER_LENGTH.lower().encode()
_MAX_LENGTH_DIGITS = 18
#: Headers of requests that are left to the application.
_UNUSUAL = {b"transfer-encoding", b"content-encoding", b"expect"}
_ONCE = {b"content-length", _LENGTH, b"authorization", asker.HEADER}


Client = tuple[str, int] | None


class Asked(NamedTuple):
    """What the head of an infer request says.

    Attributes:
        path: of which model.
        length: of the body.
        header_length: of the JSON in it.
        authorization: what the client shows, if anything.
        takes_encoded: whether the answer may be compressed.
        request_id: what the client calls it, "" for nothing.
        keep_alive: whether the connection stays.
    """

    path: InferPath
    length: int
    header_length: int
    authorization: str | None
    takes_encoded: bool
    request_id: str
    keep_alive: bool


class Incoming:
    """An infer request while its body comes.

    Args:
        head: of the request.
        asked: what that says.
        budget: what all bodies may hold together.
        client: whose it is.

    Attributes:
        asked: what its head says.
        body: all of it, once `more_body` is false.
        more_body: whether it is not there as a whole.
        keep_alive: whether the connection stays when it is answered.
        is_late: whether its client took too long.
    """

    __slots__ = (
        "_budget",
        "_buffer",
        "_client",
        "_filled",
        "_hold",
        "_parts",
        "asked",
        "began",
        "body",
        "head",
        "is_late",
        "keep_alive",
        "more_body",
    )

    def __init__(self, head: Head, asked: Asked, budget: MemoryBudget, client: Client) -> None:
        self.head = head
        self.asked = asked
        self.began = time.monotonic()
        self.body: bytes | memoryview = b""
        self.more_body = True
        self.keep_alive = asked.keep_alive
        self.is_late = False
        self._budget = budget
        self._client = client
        self._hold: Reservation | None = None
        self._parts: list[bytes] = []
        self._buffer = memoryview(b"")
        self._filled = 0

    @property
    def left(self) -> int:
        """How many bytes are still to come."""
        return self.asked.length - self._filled

    def feed(self, data: bytes) -> None:
        """Some of it has come together with the head."""
        self._parts.append(data)

    def expect_rest(self) -> bool:
        """Make room for the rest, which goes to `free`.

        Returns:
            Whether there is room, and bodies may hold what has come.
        """
        came = b"".join(self._parts)
        self._parts.clear()
        self._hold = Reservation(self._budget)
        try:
            self._buffer = _memory(self.asked.length)
        except MemoryError:  # many have announced much
            self._buffer, self._filled = memoryview(came), len(came)
            return False
        self._buffer[: len(came)] = came
        return self.took(len(came))

    def free(self) -> memoryview:
        """Where the rest goes."""
        return self._buffer[self._filled :]

    def took(self, nbytes: int) -> bool:
        """So much more of it is there; whether bodies may hold that."""
        self._filled += nbytes
        assert self._hold is not None
        try:
            self._hold.resize(self._filled)
        except QueueFull:
            return False
        return True

    def end_body(self) -> None:
        """All of it is there."""
        self.more_body = False
        if self._hold is None:
            parts = self._parts
            self.body = parts[0] if len(parts) == 1 else b"".join(parts)
            if len(self.body) >= COUNTED_BYTES:
                self._hold = Reservation(self._budget)
                self._hold.charge(len(self.body))
        else:
            self.body = self._buffer
            if len(self.body) < COUNTED_BYTES:
                self._hold.resize(0)

    def take_hold(self) -> Reservation | None:
        """What it holds of the budget, for whoever has the body from now on."""
        hold, self._hold = self._hold, None
        return hold

    def as_asgi(self, writer: Writer) -> AsgiCall:
        """Leave it to the application."""
        call = AsgiCall(self.head, writer, is_infer=True)
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
        error = RequestTimeout("the body did not come in time") if self.is_late else ClientGone()
        asked = self.asked
        asked.path.count_failure(error, self.began, self._client, asked.request_id)

    def _release(self) -> None:
        if self._hold is not None:
            self._hold.resize(0)
            self._hold = None


def _memory(nbytes: int) -> memoryview:
    """Memory that was touched by nobody yet: what is never filled is never taken."""
    return np.empty(nbytes, np.uint8).data


def read_head(head: Head, path: InferPath) -> Asked | None:
    """What a head says, if it is that of a plain binary request."""
    found: dict[bytes, bytes] = {}
    for name, value in head.headers:
        if name in _UNUSUAL or (name in _ONCE and name in found):
            return None
        found[name] = value
    length, header_length = found.get(b"content-length", b""), found.get(_LENGTH, b"")
    for given in (length, header_length):
        if not given.isdigit() or len(given) > _MAX_LENGTH_DIGITS:
            return None
    if int(header_length) > int(length):
        return None
    authorization = found.get(b"authorization")
    return Asked(
        path,
        int(length),
        int(header_length),
        None if authorization is None else authorization.decode("latin-1"),
        b"accept-encoding" in found,
        valid_request_id(found.get(asker.HEADER, b"").decode("latin-1")),
        head.keep_alive,
    )
