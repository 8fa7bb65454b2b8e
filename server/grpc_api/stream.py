"""One ModelStreamInfer call: requests run concurrently and are answered in order.

Runs in the front-end's event loop. A request that fails gets an error response, and the stream
goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from server.grpc_api.calls import Calls
from server.grpc_api.codec import DecodedRequest, encode_error, encode_streamed
from server.grpc_api.core import ServerCall
from server.grpc_api.status import error_text

__all__ = ["InferStream"]

#: Requests of a stream that run at once; the others are not read yet.
_MAX_CONCURRENT = 64


class InferStream:
    """A stream of infer requests; `infer` returns a serialized ModelInferResponse."""

    def __init__(
        self,
        calls: Calls,
        call: ServerCall,
        decode: Callable[[bytes], Awaitable[DecodedRequest]],
        infer: Callable[[DecodedRequest, ServerCall], Awaitable[bytes]],
    ) -> None:
        self._calls = calls
        self._call = call
        self._decode = decode
        self._infer = infer
        self._unsent = calls.unsent_responses(call)
        self._free = asyncio.Semaphore(_MAX_CONCURRENT)
        self._responses: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue()
        self._reader: asyncio.Task[None] | None = None
        self.was_stopped = False

    def stop(self) -> None:
        """Stop reading; requests already read are answered."""
        self.was_stopped = True
        if self._reader is not None:
            self._reader.cancel()

    async def run(self) -> None:
        """Answer requests until the client sends no more."""
        self._reader = asyncio.create_task(self._read())
        try:
            while (task := await self._responses.get()) is not None:
                response = await task
                await self._calls.write(response, self._call)
                self._unsent.sent(len(response))
                self._free.release()
        finally:
            self._reader.cancel()
            self._unsent.close()
            while not self._responses.empty():
                if (task := self._responses.get_nowait()) is not None:
                    task.cancel()

    async def _read(self) -> None:
        try:
            async for message in self._call.messages():
                await self._free.acquire()
                self._responses.put_nowait(asyncio.create_task(self._respond(message)))
        finally:
            self._responses.put_nowait(None)

    async def _respond(self, message: bytes) -> bytes:
        request_id = ""
        try:
            with self._calls.holding(len(message)):
                request = await self._decode(message)
                request_id = request.id
                response = encode_streamed(await self._infer(request, self._call))
        except Exception as error:
            response = encode_error(error_text(error), request_id)
        self._unsent.add(len(response))
        return response
