"""Calls with a context that does what a test wants; the clock is asyncio's, limits are tiny."""

import asyncio
import time
from contextlib import asynccontextmanager

import grpc
import pytest

from server.engine.memory_budget import COUNTED_BYTES, MemoryBudget
from server.front_end_spec import ClientLimits
from server.grpc_api import calls as module
from server.grpc_api.calls import Calls
from server.grpc_api.entrance import Entrance
from server.inference.unread_answers import UnreadAnswers
from server.security.doorkeeper import Doorkeeper
from server.security.spec import SecuritySpec

LIMITS = ClientLimits(body_s=0.02, write_s=0.02, calls=2)


class Context:
    """A call whose message comes when the test says so."""

    def __init__(self, data=None):
        self.message = asyncio.get_running_loop().create_future()
        if data is not None:
            self.message.set_result(data)
        self.status = self.details = None
        self.trailing = ()
        self.taken = asyncio.Event()

    async def read(self):
        return await self.message

    async def write(self, _):
        await self.taken.wait()

    def set_code(self, status):
        self.status = status

    def set_details(self, details):
        self.details = details

    def trailing_metadata(self):
        return self.trailing

    def set_trailing_metadata(self, trailing):
        self.trailing = trailing

    def peer(self):
        return "ipv4:127.0.0.1:1"


@asynccontextmanager
async def calls_of(limits=LIMITS, budget=None):
    refused = []
    entrance = Entrance(Doorkeeper(SecuritySpec(), lambda *_: None))
    calls = Calls(
        limits,
        budget or MemoryBudget(),
        UnreadAnswers(limits.unread_bytes),
        entrance,
        lambda _, error: refused.append(error),
    )
    sweeping = asyncio.create_task(calls.sweep())
    yield calls, refused
    sweeping.cancel()


async def echo(data, _):
    return data


def echoing(calls):
    return calls.unary("ModelInfer", echo)


def test_a_message_and_its_answer():
    async def run():
        async with calls_of() as (calls, _):
            method = echoing(calls).stream_unary
            assert await method(None, Context(b"abc")) == b"abc"
            assert calls.open == 0

    asyncio.run(run())


def test_a_message_that_does_not_come():
    async def run():
        async with calls_of() as (calls, refused):
            context = Context()
            assert await echoing(calls).stream_unary(None, context) is None
            assert context.status is grpc.StatusCode.DEADLINE_EXCEEDED
            assert "did not come within 0.02 s" in context.details
            assert [error.outcome for error in refused] == ["body_timeout"]
            assert calls.open == 0

    asyncio.run(run())


def test_a_call_without_a_message():
    async def run():
        async with calls_of() as (calls, _):
            context = Context(grpc.aio.EOF)
            assert await echoing(calls).stream_unary(None, context) is None
            assert context.status is grpc.StatusCode.INVALID_ARGUMENT

    asyncio.run(run())


def test_a_client_that_gives_up():
    async def run():
        async with calls_of(ClientLimits()) as (calls, refused):
            call = asyncio.create_task(echoing(calls).stream_unary(None, Context()))
            await asyncio.sleep(0)
            assert calls.open == 1
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert (calls.open, refused) == (0, [])

    asyncio.run(run())


def test_calls_beyond_the_limit_are_refused_and_not_read():
    async def run():
        async with calls_of(ClientLimits(calls=2)) as (calls, refused):
            method = echoing(calls).stream_unary
            contexts = [Context(), Context()]
            first = [asyncio.create_task(method(None, context)) for context in contexts]
            await asyncio.sleep(0)
            for handler in (method, calls.stream(echo).stream_stream):
                context = Context()
                assert await handler(None, context) is None
                assert context.status is grpc.StatusCode.RESOURCE_EXHAUSTED
                assert dict(context.trailing) == {"retry-after": "1"}
            for context in contexts:
                context.message.set_result(b"abc")
            assert await asyncio.gather(*first) == [b"abc", b"abc"]
            assert [error.reason for error in refused] == ["calls"] * 2
            assert await method(None, Context(b"x")) == b"x"

    asyncio.run(run())


def test_streams_take_no_more_than_half_of_the_calls():
    async def run():
        async with calls_of() as (calls, refused):
            over = asyncio.Event()
            method = calls.stream(lambda *_: over.wait()).stream_stream
            first, second = Context(), Context()
            silent = asyncio.create_task(method(None, first))
            await asyncio.sleep(0)
            await method(None, second)
            assert second.status is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert [error.reason for error in refused] == ["calls"]
            assert await echoing(calls).stream_unary(None, Context(b"abc")) == b"abc"
            over.set()
            await silent
            assert (calls.open, calls.streams, first.status) == (0, 0, None)

    asyncio.run(run())


def test_messages_count_until_they_are_answered():
    async def run():
        budget = MemoryBudget(COUNTED_BYTES)
        async with calls_of(budget=budget) as (calls, refused):
            held = []

            async def answer(data, context):
                held.append(budget.held_bytes)
                return data

            method = calls.unary("ModelInfer", answer).stream_unary
            big = bytes(COUNTED_BYTES)
            assert await method(None, Context(big)) == big
            assert await method(None, Context(big[1:])) == big[1:]
            assert (held, budget.held_bytes) == ([COUNTED_BYTES, 0], 0)
            context = Context(big + b"x")
            assert await method(None, context) is None
            assert context.status is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert [error.reason for error in refused] == ["memory"]
            assert budget.held_bytes == 0

    asyncio.run(run())


@pytest.mark.parametrize("streams", [False, True])
def test_an_answer_that_is_not_taken_ends_the_connection(monkeypatch, streams):
    async def run():
        ended = asyncio.Event()

        def end(peers):
            assert peers == {"ipv4:127.0.0.1:1"}
            ended.set()
            return 1

        monkeypatch.setattr(module, "end_connections", end)
        async with calls_of() as (calls, _):
            context = Context(b"abc")

            async def call():  # as gRPC does, in a task that ends when the answer is written
                if streams:
                    await calls.write(b"abc", context)
                else:
                    await context.write(await echoing(calls).stream_unary(None, context))

            task = asyncio.create_task(call())
            await asyncio.wait_for(ended.wait(), 30)
            context.taken.set()
            await task
            await asyncio.sleep(0)
            before = calls.ended
            assert before >= 1
            calls._look(time.monotonic() + 1000)
            assert calls.ended == before

    asyncio.run(run())


def test_answers_that_are_not_taken_share_a_bound(monkeypatch):
    async def run():
        ended = []

        def end(peers):
            ended.append(peers)
            return 1

        monkeypatch.setattr(module, "end_connections", end)
        async with calls_of(ClientLimits(unread_bytes=3 * COUNTED_BYTES)) as (calls, _):
            contexts = [Context(bytes(COUNTED_BYTES)) for _ in range(4)]

            async def call(context):
                await context.write(await echoing(calls).stream_unary(None, context))

            tasks = [asyncio.create_task(call(context)) for context in contexts]
            for _ in range(10):
                await asyncio.sleep(0)
            assert (len(ended), calls.ended) == (1, 1)
            assert calls._unread.held_bytes == 3 * COUNTED_BYTES
            for context in contexts:
                context.taken.set()
            await asyncio.gather(*tasks)
            await asyncio.sleep(0)
            assert calls._unread.held_bytes == 0

    asyncio.run(run())


def test_the_answers_of_a_stream_count_from_when_they_are_there():
    async def run():
        async with calls_of() as (calls, _):
            taker = calls.taker(Context())
            taker.hold(100)
            taker.hold(50)
            taker.take(100)
            taker.hold(7)
            assert calls._unread.held_bytes == 57
            taker.go()
            taker.hold(1000)  # an answer that came too late for anybody
            assert calls._unread.held_bytes == 0

    asyncio.run(run())
