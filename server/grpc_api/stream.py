"""One ModelStreamInfer call: requests are worked on side by side and answered in their order.

Runs in the front-end's event loop. A request that fails gets an answer that says so, and the
stream lives on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from server.grpc_api.answers import encode_error, encode_streamed
from server.grpc_api.calls import Calls
from server.grpc_api.codec import Asked
from server.grpc_api.core import Call
from server.grpc_api.status import text_of

__all__ = ["Stream"]

#: So many requests of a stream are worked on at once; the others are not read yet.
_AT_ONCE = 64


class Stream:
    """A call.

    Args:
        calls: all of them.
        call: this one.
        read: from a serialized request to a request.
        answer: from a request to a serialized ModelInferResponse.

    Attributes:
        was_ended: whether the server did not read on.
    """

    def __init__(
        self,
        calls: Calls,
        call: Call,
        read: Callable[[bytes], Awaitable[Asked]],
        answer: Callable[[Asked, Call], Awaitable[bytes]],
    ) -> None:
        self._calls = calls
        self._call = call
        self._read_request = read
        self._answer = answer
        self._unsent = calls.unsent_answers(call)
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._answers: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue()
        self._reader: asyncio.Task[None] | None = None
        self.was_ended = False

    def end(self) -> None:
        """Read no more; what was read is answered."""
        self.was_ended = True
        if self._reader is not None:
            self._reader.cancel()

    async def run(self) -> None:
        """Answer until the client has said its last."""
        self._reader = asyncio.create_task(self._read())
        try:
            while (task := await self._answers.get()) is not None:
                answer = await task
                await self._calls.write(answer, self._call)
                self._unsent.take(len(answer))
                self._places.release()
        finally:
            self._reader.cancel()
            self._unsent.go()
            while not self._answers.empty():
                if (task := self._answers.get_nowait()) is not None:
                    task.cancel()

    async def _read(self) -> None:
        try:
            async for data in self._call.messages():
                await self._places.acquire()
                self._answers.put_nowait(asyncio.create_task(self._answer_one(data)))
        finally:
            self._answers.put_nowait(None)

    async def _answer_one(self, data: bytes) -> bytes:
        answer = await self._answer_or_refuse(data)
        self._unsent.hold(len(answer))
        return answer

    async def _answer_or_refuse(self, data: bytes) -> bytes:
        request_id = ""
        try:
            with self._calls.holding(len(data)):
                asked = await self._read_request(data)
                request_id = asked.id
                return encode_streamed(await self._answer(asked, self._call))
        except Exception as error:
            return encode_error(text_of(error), request_id)
