"""gRPC core's server in this process, asked by gRPC's own client."""

import asyncio
import gc
import os
import socket
from contextlib import asynccontextmanager

import grpc
import pytest

from server.grpc_api import core
from server.grpc_api.core import CoreServer, end_connections

METHOD = "/service/Method"
INTERNAL = grpc.StatusCode.INTERNAL


@asynccontextmanager
async def serving(on_call, grace_s=30):
    server = CoreServer("127.0.0.1:0", None, [("grpc.so_reuseport", 0)], on_call)
    server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        try:
            yield channel
        finally:
            await server.stop(grace_s)
    assert not server._thread.is_alive()


def echo(call):
    call.receive(lambda message: call.respond(message, lambda _: None))


def test_attributes_of_a_call():
    async def run():
        calls = []

        def on_call(call):
            calls.append(call)
            call.trailing = (("said", "this"),)
            echo(call)

        async with serving(on_call) as channel:
            call = channel.unary_unary(METHOD)(
                b"abc", metadata=(("x-text", "a"), ("x-bin", b"\0")), timeout=100
            )
            assert await call == b"abc"
            assert tuple(await call.trailing_metadata()) == (("said", "this"),)
            (call,) = calls
            assert call.path == METHOD.encode()
            assert {("x-text", "a"), ("x-bin", b"\0")} <= set(call.metadata)
            assert call.peer().startswith("ipv4:127.0.0.1:")
            assert 0 < call.time_remaining() <= 100
            assert not call.certificate_names()
            assert (call.is_over, call.is_cancelled) == (True, False)
            assert await channel.unary_unary(METHOD)(b"") == b""
            assert calls[1].time_remaining() is None

    asyncio.run(run())


def test_more_calls_at_once_than_are_awaited(monkeypatch):
    monkeypatch.setattr(core, "_AWAITED_CALLS", 3)
    monkeypatch.setattr(core, "_EVENTS_AT_ONCE", 2)

    async def run():
        async with serving(echo) as channel:
            method = channel.unary_unary(METHOD)
            messages = [str(number).encode() for number in range(200)]
            assert await asyncio.gather(*map(method, messages)) == messages

    asyncio.run(run())


def test_a_call_that_ends_with_a_status():
    async def run():
        async with serving(lambda call: call.end(INTERNAL.value[0], "straße")) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary(METHOD)(b"abc")
            assert (caught.value.code(), caught.value.details()) == (INTERNAL, "straße")

    asyncio.run(run())


def test_many_messages():
    async def run():
        tasks = []

        async def answer(call):
            async for message in call.messages():
                await call.write(message)
            call.end()

        def on_call(call):
            tasks.append(asyncio.create_task(answer(call)))

        async with serving(on_call) as channel:
            messages = [bytes([number]) for number in range(100)]
            call = channel.stream_stream(METHOD)(iter(messages))
            assert [message async for message in call] == messages
            await tasks[0]

    asyncio.run(run())


def test_a_failing_event_handler(caplog):
    async def run():
        def on_call(call):
            echo(call)
            raise ZeroDivisionError

        async with serving(on_call) as channel:
            assert await channel.unary_unary(METHOD)(b"abc") == b"abc"

    asyncio.run(run())
    assert "could not be handled" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("goes", ["by cancelling", "by its deadline"])
def test_a_client_that_disconnects(goes):
    async def run():
        cancelled, calls = asyncio.Event(), []
        came = asyncio.Event()

        def on_call(call):
            calls.append(call)
            call.on_cancelled = cancelled.set
            came.set()

        async with serving(on_call) as channel:
            method = channel.unary_unary(METHOD)
            call = method(b"abc", timeout=2 if goes == "by its deadline" else None)
            await asyncio.wait_for(came.wait(), 30)
            if goes == "by cancelling":
                call.cancel()
            await asyncio.wait_for(cancelled.wait(), 30)
            assert calls[0].is_cancelled
            calls[0].end(INTERNAL.value[0], "nobody is told")
            assert not calls[0].is_over
            with pytest.raises((asyncio.CancelledError, grpc.aio.AioRpcError)):
                await call

    asyncio.run(run())


@pytest.mark.parametrize("grace_s", [1000, 0])
def test_stop_waits_for_calls_at_most_the_grace_period(grace_s):
    async def run():
        calls, came, cancelled = [], asyncio.Event(), asyncio.Event()

        def on_call(call):
            calls.append(call)
            call.on_cancelled = cancelled.set
            came.set()

        server = CoreServer("127.0.0.1:0", None, [], on_call)
        server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            asked = asyncio.ensure_future(channel.unary_unary(METHOD)(b""))
            await asyncio.wait_for(came.wait(), 30)
            stopping = asyncio.create_task(server.stop(grace_s))
            if grace_s:
                await asyncio.sleep(0)
                calls[0].respond(b"in time", lambda _: None)
                assert await asked == b"in time"
            else:
                with pytest.raises(grpc.aio.AioRpcError):
                    await asked
            await stopping
            assert cancelled.is_set() is not bool(grace_s)

    asyncio.run(run())


def test_a_port_that_is_taken():
    async def run():
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            with pytest.raises(OSError, match=f"can't listen on 127.0.0.1:{port}"):
                CoreServer(f"127.0.0.1:{port}", None, [("grpc.so_reuseport", 0)], echo)

    asyncio.run(run())


def test_calls_leave_no_garbage():
    """Nothing that only the collector of garbage would find."""

    def left_behind():
        return sum(type(one) is core.ServerCall for one in gc.get_objects())

    async def run():
        before = left_behind()
        async with serving(echo) as channel:
            for _ in range(20):
                assert await channel.unary_unary(METHOD)(b"abc") == b"abc"
        return left_behind() - before

    gc.collect()
    gc.disable()
    try:
        assert asyncio.run(run()) == 0
    finally:
        gc.enable()


@pytest.fixture(params=["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def pair(request):
    """Both ends of a connection, and gRPC's name of the client's."""
    host = request.param
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, 0), family=family)
    except OSError:
        pytest.skip(f"there is no {host}")
    with listening, socket.create_connection(listening.getsockname()[:2]) as client:
        port = client.getsockname()[1]
        with listening.accept()[0] as accepted:
            peer = {
                "127.0.0.1": f"ipv4:127.0.0.1:{port}",
                "::1": f"ipv6:%5B::1%5D:{port}",
                "::ffff:127.0.0.1": f"ipv4:127.0.0.1:{port}",
            }
            yield client, accepted, peer[host], port


def test_a_connection_is_ended(pair):
    client, accepted, peer, port = pair
    client.setblocking(False)
    end_connections({f"ipv4:127.0.0.2:{port}", "ipv6:%5B::2%5D:1"})
    with pytest.raises(BlockingIOError):
        client.recv(1)
    client.settimeout(10)
    end_connections({peer})
    assert client.recv(1) == b""
    assert accepted.recv(1) == b""


def test_ending_connections_leaves_no_descriptor_open(pair):
    before = os.listdir("/proc/self/fd")
    end_connections({pair[2]})
    assert len(os.listdir("/proc/self/fd")) == len(before)
