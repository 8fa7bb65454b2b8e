"""All calls: how many there may be, how long they may wait for their clients, what they may hold.

Runs in the front-end's event loop, between gRPC and the methods. A call's message is received when
the call was let in, not before. A sweep ends calls whose message does not come, and connections on
which an answer is not taken: so calls need no timers of their own.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from server.engine.memory_budget import COUNTED_BYTES, MemoryBudget
from server.errors import InvalidRequest, QueueFull, RequestError, RequestTimeout
from server.grpc_api.core import Call
from server.grpc_api.entrance import Entrance
from server.grpc_api.metadata import echoed
from server.grpc_api.peers import end_connections
from server.grpc_api.status import fail
from server.inference.spec import ClientLimits
from server.inference.unread_responses import UnreadResponses

__all__ = ["Calls", "Unary", "UnsentAnswers"]

_log = logging.getLogger(__name__)
_LONGEST_PAUSE_S = 2.0
_LOOKS = 4


class Unary:
    """A call with one message and one answer, from its beginning to when that is written.

    It ends with `succeed`, `fail` or `leave`, whichever comes first.

    Args:
        calls: all of them.
        call: this one.
        method: its name.
        handle: called with this and the message, once that is there.

    Attributes:
        call: as given.
        on_cancelled: called if the client goes before there is an answer; then, too, one of the
            three must follow.
    """

    __slots__ = (
        "_calls",
        "_client",
        "_handle",
        "_has_left",
        "_held_bytes",
        "_unsent",
        "call",
        "on_cancelled",
    )

    def __init__(self, calls: Calls, call: Call, method: str, handle: Handler) -> None:
        self.call = call
        self.on_cancelled: Callable[[], object] | None = None
        self._calls = calls
        self._client = ""
        self._handle = handle
        self._has_left = False
        self._held_bytes = 0
        self._unsent: UnsentAnswers | None = None
        calls.open += 1
        call.trailing = echoed(call.metadata)
        call.on_cancelled = self._cancel
        try:
            self._client = calls.entrance.admit(method, call)
            calls.admit()
        except RequestError as error:
            self.fail(error)
            return
        calls.receiving[self] = time.monotonic()
        call.receive(self._take)

    def succeed(self, answer: bytes) -> None:
        """Send the answer."""
        self.leave()
        call, calls = self.call, self._calls
        if call.is_cancelled:
            return
        calls.writing[call] = time.monotonic()
        if len(answer) >= COUNTED_BYTES:
            self._unsent = calls.unsent_answers(call)
            self._unsent.hold(len(answer))
        call.answer(answer, self._written)

    def fail(self, error: Exception) -> None:
        """Send the status of an error."""
        self.leave()
        fail(self.call, error)

    def leave(self) -> None:
        """Let go of all that the call has taken."""
        if self._has_left:
            return
        self._has_left = True
        self.on_cancelled = None
        calls = self._calls
        calls.open -= 1
        if self._held_bytes:
            calls.budget.give(self._held_bytes)
        if self._client:
            calls.entrance.leave(self._client)

    def _take(self, message: bytes | None) -> None:
        if self._calls.receiving.pop(self, None) is None:
            return  # too late, or nobody waits for an answer
        try:
            if message is None:
                raise InvalidRequest("the call ends without a message")
            if len(message) >= COUNTED_BYTES:
                self._calls.take_memory(len(message))
                self._held_bytes = len(message)
            self._handle(self, message)
        except Exception as error:
            self.fail(error)

    def _cancel(self) -> None:
        if self._calls.receiving.pop(self, None) is not None:
            self.leave()
        elif self.on_cancelled is not None:
            self.on_cancelled()

    def _written(self, _: object) -> None:
        del self._calls.writing[self.call]
        if self._unsent is not None:
            self._unsent.go()


Handler = Callable[[Unary, bytes], None]


class UnsentAnswers:
    """The answers of one call that were not sent yet, among all that clients do not read.

    Args:
        unread: what all of them may hold together.
        end: ends the client's connection.
    """

    __slots__ = ("_answers", "_end", "_has_gone", "_nbytes", "_unread")

    def __init__(self, unread: UnreadResponses, end: Callable[[], None]) -> None:
        self._unread = unread
        self._end = end
        self._nbytes = self._answers = 0
        self._has_gone = False

    def hold(self, nbytes: int) -> None:
        """An answer of so many bytes is there."""
        self._nbytes += nbytes
        self._answers += 1
        if not self._has_gone:
            self._unread.hold(self)

    def take(self, nbytes: int) -> None:
        """An answer of so many bytes was sent."""
        self._nbytes -= nbytes
        self._answers -= 1
        if not self._answers:
            self._unread.let_go(self)

    def go(self) -> None:
        """The call is over."""
        self._has_gone = True
        self._unread.let_go(self)

    def unsent_bytes(self) -> int:
        """How many bytes are there."""
        return self._nbytes

    def has_several(self) -> bool:
        """Whether there are some answers."""
        return self._answers > 1

    def end_unread(self) -> None:
        """End the connection: others need the memory."""
        self._has_gone = True
        self._end()


class Calls:
    """The calls of all connections.

    Args:
        limits: what clients may take.
        budget: what all messages may hold together.
        unread: what all answers that clients do not read may hold together.
        entrance: lets calls in, before their messages are received.
        on_refused: told when a call came and what became of it, if it was not read.

    Attributes:
        open: how many there are that have no answer yet, streams included.
        streams: how many streams there are: at most half of the calls that there may be, because a
            stream that says nothing is no offence, and calls must get their turn beside them.
        ended: connections whose clients did not take an answer.
        receiving: calls whose message has not come, since when.
        writing: calls with an answer that was not taken, since when.
        budget, entrance: as given.
    """

    def __init__(
        self,
        limits: ClientLimits,
        budget: MemoryBudget,
        unread: UnreadResponses,
        entrance: Entrance,
        on_refused: Callable[[float, BaseException], None],
    ) -> None:
        self.open = self.streams = self.ended = 0
        self.receiving: dict[Unary, float] = {}
        self.writing: dict[Call, float] = {}
        self.budget = budget
        self.entrance = entrance
        self._limits = limits
        self._unread = unread
        self._on_refused = on_refused

    def unary(self, method: str, handle: Handler) -> Callable[[Call], None]:
        """What takes a method's calls, with one message and one answer."""

        def take(call: Call) -> None:
            Unary(self, call, method, handle)

        return take

    def stream(self, run: Callable[[Call], Awaitable[None]]) -> Callable[[Call], None]:
        """What takes calls with many messages; `run` sends the status unless it raises."""

        def take(call: Call) -> None:
            task = asyncio.get_running_loop().create_task(self._run(run, call))
            call.on_cancelled = task.cancel

        return take

    async def _run(self, run: Callable[[Call], Awaitable[None]], call: Call) -> None:
        self.open += 1
        self.streams += 1
        call.trailing = echoed(call.metadata)
        try:
            self.admit(is_stream=True)
            await run(call)
        except Exception as error:
            fail(call, error)
        finally:
            self.open -= 1
            self.streams -= 1

    def admit(self, *, is_stream: bool = False) -> None:
        """Look whether there may be one more call, which is counted already.

        Raises:
            QueueFull: if not.
        """
        most = self._limits.calls
        if self.open + len(self.writing) > most or (is_stream and self.streams > most // 2):
            error = QueueFull("too many calls are open", reason="calls")
            self._on_refused(time.monotonic(), error)
            raise error

    def take_memory(self, nbytes: int) -> None:
        """Hold what a message takes of the budget.

        Raises:
            QueueFull: if that is too much.
        """
        try:
            self.budget.take(nbytes)
        except QueueFull as error:
            self._on_refused(time.monotonic(), error)
            raise

    @contextmanager
    def holding(self, nbytes: int) -> Iterator[None]:
        """Hold what a message takes of the budget, for the length of a block.

        Raises:
            QueueFull: if that is too much.
        """
        if nbytes < COUNTED_BYTES:
            yield
            return
        self.take_memory(nbytes)
        try:
            yield
        finally:
            self.budget.give(nbytes)

    async def write(self, answer: bytes, call: Call) -> None:
        """Write an answer to a stream."""
        self.writing[call] = time.monotonic()
        try:
            await call.write(answer)
        finally:
            del self.writing[call]

    def unsent_answers(self, call: Call) -> UnsentAnswers:
        """To count the answers of a call that were not sent yet."""

        def end() -> None:
            self.ended += end_connections({call.peer()})

        return UnsentAnswers(self._unread, end)

    async def sweep(self) -> None:
        """End for ever what waits for too long for its client."""
        limits = self._limits
        pause_s = min(_LONGEST_PAUSE_S, limits.body_s / _LOOKS, limits.write_s / _LOOKS)
        while True:
            await asyncio.sleep(pause_s)
            try:
                self._look(time.monotonic())
            except Exception:  # the next look may go better
                _log.exception("looking after calls failed")

    def _look(self, now: float) -> None:
        body_s, write_s = self._limits.body_s, self._limits.write_s
        for unary, began in list(self.receiving.items()):
            if now - began > body_s:
                del self.receiving[unary]
                late = RequestTimeout(f"the message did not come within {body_s:g} s")
                self._on_refused(began, late)
                unary.fail(late)
        slow = {call.peer() for call, began in self.writing.items() if now - began > write_s}
        if slow:
            self.ended += end_connections(slow)
