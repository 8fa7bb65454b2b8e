"""Calls that do what a test wants; the clock is asyncio's, limits are tiny."""

import asyncio
import time
from contextlib import asynccontextmanager

import grpc
import pytest

from server.engine.memory_budget import COUNTED_BYTES, MemoryBudget
from server.errors import InvalidRequest
from server.grpc_api import calls as module
from server.grpc_api.calls import Calls, UnaryCall
from server.inference.spec import ClientLimits
from server.inference.unread_responses import UnreadResponses
from server.security.authentication import Authenticator
from server.security.spec import ApiKey, SecuritySpec

LIMITS = ClientLimits(body_s=0.02, write_s=0.02, calls=2)
EXHAUSTED, INVALID, LATE, UNAUTHENTICATED = (
    grpc.StatusCode[name].value[0]
    for name in ("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "UNAUTHENTICATED")
)


class Call:
    """A call whose client does what the test says."""

    def __init__(self):
        self.metadata = self.trailing = ()
        self.on_cancelled = None
        self.is_cancelled = self.is_over = False
        self.on_message = self.answered = self.on_written = self.code = self.text = None
        self.ended = asyncio.Event()
        self.taken = asyncio.Event()

    def receive(self, on_message):
        self.on_message = on_message

    def respond(self, data, on_written):
        self.answered, self.on_written, self.is_over = data, on_written, True
        self.ended.set()

    def end(self, code, text):
        if not self.is_cancelled and not self.is_over:
            self.code, self.text, self.is_over = code, text, True
            self.ended.set()

    async def write(self, _):
        await self.taken.wait()

    def cancel(self):
        self.is_cancelled = True
        self.on_cancelled()

    def peer(self):
        return "ipv4:127.0.0.1:1"

    def certificate_names(self):
        return ()


@asynccontextmanager
async def calls_of(limits=LIMITS, budget=None, security=None):
    refused = []
    authenticator = Authenticator(security or SecuritySpec(), lambda *_: None)
    calls = Calls(
        limits,
        budget or MemoryBudget(),
        UnreadResponses(limits.unread_bytes),
        authenticator,
        lambda _, error: refused.append(error),
    )
    sweeping = asyncio.create_task(calls.sweep())
    yield calls, refused
    sweeping.cancel()


def begin(calls, message=None, handle=lambda unary, message: unary.succeed(message)):
    """A call of ModelInfer, and its message if that is given."""
    call = Call()
    UnaryCall(calls, call, "ModelInfer", handle)
    if message is not None:
        call.on_message(message)
    return call


def test_a_message_and_its_response():
    async def run():
        async with calls_of() as (calls, _):
            call = begin(calls, b"abc")
            assert call.answered == b"abc"
            assert (calls.open, len(calls.writing)) == (0, 1)
            call.on_written(None)
            assert not calls.writing

    asyncio.run(run())


def test_a_message_that_does_not_arrive():
    async def run():
        async with calls_of() as (calls, refused):
            call = begin(calls)
            await asyncio.wait_for(call.ended.wait(), 30)
            assert call.code == LATE
            assert "did not come within 0.02 s" in call.text
            assert [error.outcome for error in refused] == ["body_timeout"]
            assert (calls.open, calls.receiving) == (0, {})
            call.on_message(b"too late")
            assert call.answered is None

    asyncio.run(run())


def test_a_call_without_a_message():
    async def run():
        async with calls_of() as (calls, _):
            call = begin(calls)
            call.on_message(None)
            assert call.code == INVALID
            assert calls.open == 0

    asyncio.run(run())


def test_a_client_that_cancels():
    async def run():
        async with calls_of(ClientLimits()) as (calls, refused):
            call = begin(calls)
            assert calls.open == 1
            call.cancel()
            call.on_message(None)
            assert (calls.open, refused, calls.receiving) == (0, [], {})
            assert not call.is_over

    asyncio.run(run())


def test_a_client_that_cancels_while_its_request_runs():
    async def run():
        async with calls_of(ClientLimits()) as (calls, _):
            cancelled = []

            def handle(unary, _):
                unary.on_cancelled = lambda: cancelled.append(unary)

            call = begin(calls, b"abc", handle)
            assert calls.open == 1
            call.cancel()
            (unary,) = cancelled
            unary.succeed(b"nobody reads it")
            assert (calls.open, calls.writing, call.answered) == (0, {}, None)

    asyncio.run(run())


@pytest.mark.parametrize("error", [InvalidRequest("no"), ZeroDivisionError("oh")])
def test_a_method_that_fails(error):
    async def run():
        async with calls_of() as (calls, _):

            def handle(unary, message):
                raise error

            call = begin(calls, b"abc", handle)
            assert call.text == "no" or "internal error" in call.text
            assert calls.open == 0

    asyncio.run(run())


def test_unauthenticated_calls_are_refused_unread():
    async def run():
        security = SecuritySpec(keys=(ApiKey("a", bytes(32), ("infer",)),))
        async with calls_of(security=security) as (calls, _):
            call = begin(calls)
            assert (call.code, call.on_message) == (UNAUTHENTICATED, None)
            assert calls.open == 0

    asyncio.run(run())


def test_calls_beyond_the_limit_are_refused_unread():
    async def run():
        async with calls_of(ClientLimits(calls=2)) as (calls, refused):
            first = [begin(calls), begin(calls)]
            unary, stream = begin(calls), Call()
            calls.stream(None, stream)
            await asyncio.wait_for(stream.ended.wait(), 30)
            for call in (unary, stream):
                assert call.on_message is None
                assert call.code == EXHAUSTED
                assert dict(call.trailing) == {"retry-after": "1"}
            for call in first:
                call.on_message(b"abc")
                call.on_written(None)
            assert [call.answered for call in first] == [b"abc", b"abc"]
            assert [error.reason for error in refused] == ["calls"] * 2
            assert begin(calls, b"x").answered == b"x"

    asyncio.run(run())


def test_responses_being_written_count_as_calls():
    async def run():
        async with calls_of(ClientLimits(calls=2)) as (calls, _):
            written = [begin(calls, b"abc") for _ in range(2)]
            assert begin(calls).code == EXHAUSTED
            written[0].on_written(None)
            assert begin(calls).code is None

    asyncio.run(run())


def test_streams_are_limited_to_half_of_the_calls():
    async def run():
        async with calls_of() as (calls, refused):
            over = asyncio.Event()

            async def wait(call):
                await over.wait()
                call.end(0, "")

            first, second = Call(), Call()
            for call in (first, second):
                calls.stream(wait, call)
            await asyncio.wait_for(second.ended.wait(), 30)
            assert second.code == EXHAUSTED
            assert [error.reason for error in refused] == ["calls"]
            assert begin(calls, b"abc").answered == b"abc"
            over.set()
            await asyncio.wait_for(first.ended.wait(), 30)
            assert (calls.open, calls.streams, first.code) == (0, 0, 0)

    asyncio.run(run())


def test_messages_count_until_they_are_answered():
    async def run():
        budget = MemoryBudget(COUNTED_BYTES)
        async with calls_of(ClientLimits(), budget=budget) as (calls, refused):
            held = []

            def handle(unary, message):
                held.append(budget.held_bytes)
                unary.succeed(message)

            big = bytes(COUNTED_BYTES)
            assert begin(calls, big, handle).answered == big
            assert begin(calls, big[1:], handle).answered == big[1:]
            assert (held, budget.held_bytes) == ([COUNTED_BYTES, 0], 0)
            call = begin(calls, big + b"x", handle)
            assert call.code == EXHAUSTED
            assert [error.reason for error in refused] == ["memory"]
            with pytest.raises(Exception, match="already hold"), calls.holding(2 * COUNTED_BYTES):
                pass
            with calls.holding(COUNTED_BYTES):
                assert budget.held_bytes == COUNTED_BYTES
            assert budget.held_bytes == 0

    asyncio.run(run())


@pytest.mark.parametrize("streams", [False, True])
def test_an_unread_response_ends_the_connection(monkeypatch, streams):
    async def run():
        ended, times = asyncio.Event(), []

        def end(peers):
            assert peers == {"ipv4:127.0.0.1:1"}
            times.append(time.monotonic())
            ended.set()

        monkeypatch.setattr(module, "end_connections", end)
        async with calls_of() as (calls, _):
            if streams:
                call = Call()
                writing = asyncio.create_task(calls.write(b"abc", call))
            else:
                call = begin(calls, b"abc")
            await asyncio.wait_for(ended.wait(), 30)
            if streams:
                call.taken.set()
                await writing
            else:
                call.on_written(None)
            before = len(times)
            assert before >= 1
            calls._sweep(time.monotonic() + 1000)
            assert len(times) == before

    asyncio.run(run())


def test_unread_responses_share_a_limit(monkeypatch):
    async def run():
        ended = []

        monkeypatch.setattr(module, "end_connections", ended.append)
        async with calls_of(ClientLimits(unread_bytes=3 * COUNTED_BYTES)) as (calls, _):
            all_calls = [begin(calls, bytes(COUNTED_BYTES)) for _ in range(4)]
            assert len(ended) == 1
            assert calls._unread.held_bytes == 3 * COUNTED_BYTES
            for call in all_calls:
                call.on_written(None)
            assert calls._unread.held_bytes == 0

    asyncio.run(run())


def test_responses_of_a_stream_count_once_they_are_ready():
    async def run():
        async with calls_of() as (calls, _):
            unsent = calls.unsent_responses(Call())
            unsent.add(100)
            unsent.add(50)
            unsent.sent(100)
            unsent.add(7)
            assert calls._unread.held_bytes == 57
            unsent.close()
            unsent.add(1000)  # an answer that came too late for anybody
            assert calls._unread.held_bytes == 0

    asyncio.run(run())
