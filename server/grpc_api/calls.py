"""All calls: how many there may be, how long they may wait for their clients, what they may hold.

Runs in the front-end's event loop, between gRPC and the methods. gRPC would receive the message of
a call before it asks anybody; so here every call is taken as a stream, of which one message is
read. A sweep ends calls whose message does not come, and connections on which an answer is not
taken: so calls need no timers of their own.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import grpc

from server.engine.memory_budget import COUNTED_BYTES, MemoryBudget
from server.errors import InvalidRequest, QueueFull, RequestTimeout
from server.front_end_spec import ClientLimits
from server.grpc_api.endings import fail
from server.grpc_api.entrance import Entrance
from server.grpc_api.peers import end_connections
from server.grpc_api.taker import Taker
from server.inference.unread_answers import UnreadAnswers

__all__ = ["Answer", "Calls"]

_log = logging.getLogger(__name__)
_LONGEST_PAUSE_S = 2.0
_LOOKS = 4

Context = Any
Answer = Callable[[bytes, Context], Awaitable[bytes]]


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
    """

    def __init__(
        self,
        limits: ClientLimits,
        budget: MemoryBudget,
        unread: UnreadAnswers,
        entrance: Entrance,
        on_refused: Callable[[float, BaseException], None],
    ) -> None:
        self.open = self.streams = self.ended = 0
        self._limits = limits
        self._budget = budget
        self._unread = unread
        self._entrance = entrance
        self._on_refused = on_refused
        self._receiving: dict[asyncio.Task[Any], float] = {}
        self._late: set[asyncio.Task[Any]] = set()
        self._written: dict[asyncio.Task[Any], tuple[float, Context]] = {}

    def unary(self, name: str, answer: Answer) -> Any:
        """A handler of a method's calls, with one message and one answer."""
        take = self._entrance.guarded(name, self._answer)

        async def method(_: Any, context: Context) -> bytes | None:
            task = asyncio.current_task()
            assert task is not None
            self.open += 1
            try:
                answered = await take(answer, context)
            except Exception as error:
                fail(context, error)
                return None
            finally:
                self.open -= 1
            # gRPC writes it when this returns, and ends the task when it is written.
            self._written[task] = time.monotonic(), context
            task.add_done_callback(self._written.pop)
            if len(answered) >= COUNTED_BYTES:
                taker = self.taker(context)
                taker.hold(len(answered))
                task.add_done_callback(taker.go)
            return answered

        return grpc.stream_unary_rpc_method_handler(method)

    def stream(self, run: Callable[[AsyncIterator[bytes], Context], Awaitable[None]]) -> Any:
        """A handler of calls with many messages."""

        async def method(messages: AsyncIterator[bytes], context: Context) -> None:
            self.open += 1
            self.streams += 1
            try:
                self._admit(time.monotonic(), is_stream=True)
                await run(messages, context)
            except QueueFull as error:
                fail(context, error)
            finally:
                self.open -= 1
                self.streams -= 1

        return grpc.stream_stream_rpc_method_handler(method)

    def taker(self, context: Context) -> Taker:
        """Who takes the answers of a call."""
        return Taker(self._unread, partial(self._end, context))

    def _end(self, context: Context) -> None:
        self.ended += end_connections({context.peer()})

    async def write(self, answer: bytes, context: Context) -> None:
        """Write an answer to a stream."""
        task = asyncio.current_task()
        assert task is not None
        self._written[task] = time.monotonic(), context
        try:
            await context.write(answer)
        finally:
            del self._written[task]

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
        for task, began in self._receiving.items():
            if now - began > self._limits.body_s:
                self._late.add(task)
                task.cancel()
        limit_s = self._limits.write_s
        slow = [context for began, context in self._written.values() if now - began > limit_s]
        if slow:
            self.ended += end_connections({context.peer() for context in slow})

    def _admit(self, began: float, *, is_stream: bool = False) -> None:
        most = self._limits.calls
        if self.open + len(self._written) > most or (is_stream and self.streams > most // 2):
            error = QueueFull("too many calls are open", reason="calls")
            self._on_refused(began, error)
            raise error

    async def _answer(self, answer: Answer, context: Context) -> bytes:
        data = await self._receive(context)
        if len(data) < COUNTED_BYTES:
            return await answer(data, context)
        with self.holding(len(data)):
            return await answer(data, context)

    @contextmanager
    def holding(self, nbytes: int) -> Iterator[None]:
        """Hold what a message takes of the budget, for the length of a block.

        Raises:
            QueueFull: if that is too much; this is counted.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(self._budget.holding(nbytes))
            except QueueFull as error:
                self._on_refused(time.monotonic(), error)
                raise
            yield

    async def _receive(self, context: Context) -> bytes:
        """The message of a call, which is counted already.

        Raises:
            QueueFull: if there are too many calls.
            RequestTimeout: if it does not come in time.
            InvalidRequest: if there is none.
        """
        began = time.monotonic()
        self._admit(began)
        task = asyncio.current_task()
        assert task is not None
        self._receiving[task] = began
        try:
            data = await context.read()
        except asyncio.CancelledError:
            if task not in self._late:
                raise
            self._late.discard(task)
            task.uncancel()
            late = RequestTimeout(f"the message did not come within {self._limits.body_s:g} s")
            self._on_refused(began, late)
            raise late from None
        finally:
            del self._receiving[task]
        if data is grpc.aio.EOF:
            raise InvalidRequest("the call ends without a message")
        return data  # type: ignore[no-any-return]
